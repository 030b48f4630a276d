//! What waits to be written to one node: messages first, then pieces that somebody is blocked for, then the others.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::limits::{MAX_DATA, MAX_QUEUED};
use super::message::Message;
use crate::swarm::{Hint, RequestId};

/// A piece on its way out.
#[derive(Debug)]
struct Transfer {
    id: RequestId,
    bytes: Bytes,
    sent: usize,
    hint: Hint,
    begun: Option<Instant>,
}

/// The next thing to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A message of few bytes.
    Message(Message),
    /// A part of a piece.
    Part {
        /// `Data`.
        message: Message,
        /// Its bytes of the piece.
        len: usize,
        /// Whether somebody is blocked for it.
        blocking: bool,
    },
    /// All bytes of a piece were handed out; `Done`.
    End {
        /// The request.
        id: RequestId,
        /// What to tell at the end.
        hint: Hint,
        /// Bytes of the piece.
        len: usize,
        /// When the first of them was handed out.
        begun: Instant,
    },
}

/// The queue. Bounded: who reads so slowly that it fills is cut off.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Message>,
    lanes: [VecDeque<Transfer>; 2],
}

impl Outbox {
    /// Queues a message; `false` if there is no room, and the connection has to end.
    pub(super) fn push(&mut self, message: Message) -> bool {
        if self.messages.len() >= MAX_QUEUED {
            return false;
        }
        self.messages.push_back(message);
        true
    }

    /// Queues a piece.
    pub(super) fn push_piece(&mut self, id: RequestId, bytes: Bytes, blocking: bool, hint: Hint) {
        let lane = &mut self.lanes[usize::from(!blocking)];
        lane.push_back(Transfer {
            id,
            bytes,
            sent: 0,
            hint,
            begun: None,
        });
    }

    /// Takes a piece out that nobody wants any more.
    pub(super) fn cancel(&mut self, id: RequestId) {
        for lane in &mut self.lanes {
            lane.retain(|transfer| transfer.id != id);
        }
    }

    /// Puts a piece among those somebody is blocked for.
    pub(super) fn promote(&mut self, id: RequestId) {
        let [blocking, other] = &mut self.lanes;
        if let Some(place) = other.iter().position(|transfer| transfer.id == id) {
            blocking.extend(other.remove(place));
        }
    }

    /// What class of piece bytes is next, if no message is: whether somebody is blocked for it.
    pub(super) fn next_is_part(&self) -> Option<bool> {
        if !self.messages.is_empty() {
            return None;
        }
        let lane = self.lanes.iter().position(|lane| !lane.is_empty())?;
        Some(lane == 0)
    }

    /// Takes the next thing to write.
    pub(super) fn pop(&mut self) -> Option<Next> {
        if let Some(message) = self.messages.pop_front() {
            return Some(Next::Message(message));
        }
        let at = self.lanes.iter().position(|lane| !lane.is_empty())?;
        let transfer = self.lanes[at].front_mut()?;
        let (id, whole) = (transfer.id, transfer.bytes.len());
        let begun = *transfer.begun.get_or_insert_with(Instant::now);
        if transfer.sent == whole {
            let hint = transfer.hint;
            self.lanes[at].pop_front();
            return Some(Next::End {
                id,
                hint,
                len: whole,
                begun,
            });
        }
        let len = (whole - transfer.sent).min(MAX_DATA);
        let bytes = transfer.bytes.slice(transfer.sent..transfer.sent + len);
        let offset = transfer.sent as u32;
        transfer.sent += len;
        let message = Message::Data { id, offset, bytes };
        Some(Next::Part {
            message,
            len,
            blocking: at == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn piece(outbox: &mut Outbox, id: u64, len: usize, blocking: bool) {
        let bytes = Bytes::from(vec![0; len]);
        outbox.push_piece(RequestId(id), bytes, blocking, Hint::default());
    }

    fn order(outbox: &mut Outbox) -> Vec<(u64, usize)> {
        let next = std::iter::from_fn(|| outbox.pop());
        next.filter_map(|next| match next {
            Next::Part {
                message: Message::Data { id, offset, .. },
                ..
            } => Some((id.0, offset as usize)),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_blocked_reader_waits_for_one_part_of_a_prefetch_at_most() {
        let mut outbox = Outbox::default();
        piece(&mut outbox, 1, 3 * MAX_DATA, false);
        assert!(matches!(outbox.pop(), Some(Next::Part { blocking: false, .. })));
        piece(&mut outbox, 2, MAX_DATA, true);
        assert_eq!(outbox.next_is_part(), Some(true));
        assert_eq!(order(&mut outbox), [(2, 0), (1, MAX_DATA), (1, 2 * MAX_DATA)]);
    }

    #[test]
    fn a_promoted_piece_goes_on_where_it_was() {
        let mut outbox = Outbox::default();
        piece(&mut outbox, 1, MAX_DATA, false);
        piece(&mut outbox, 2, 2 * MAX_DATA, false);
        outbox.promote(RequestId(2));
        outbox.pop().unwrap();
        assert_eq!(order(&mut outbox), [(2, MAX_DATA), (1, 0)]);
    }

    #[test]
    fn a_cancelled_piece_is_not_sent_on() {
        let mut outbox = Outbox::default();
        piece(&mut outbox, 1, 2 * MAX_DATA, true);
        outbox.pop().unwrap();
        outbox.cancel(RequestId(1));
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn messages_overtake_pieces_and_are_bounded() {
        let mut outbox = Outbox::default();
        piece(&mut outbox, 1, 1, true);
        assert!(outbox.push(Message::Ping));
        assert_eq!(outbox.next_is_part(), None);
        assert_eq!(outbox.pop(), Some(Next::Message(Message::Ping)));
        assert!((0..MAX_QUEUED).all(|_| outbox.push(Message::Ping)));
        assert!(!outbox.push(Message::Ping));
    }
}
