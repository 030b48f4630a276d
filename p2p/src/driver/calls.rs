//! Questions between nodes that are not about pieces: how are you, pull this image. Their words are the daemon's.
//!
//! They travel among the messages of members, told apart by their first bytes; a node that does not know them drops them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// No message of a membership begins so.
const MARK: &[u8; 8] = b"\xf5lwcall\x01";
const QUESTION: u8 = 0;
const ANSWER: u8 = 1;

/// Longest question or answer: counters, and traffic with thousands of members.
pub(super) const MAX_CALL: usize = 512 << 10;

/// Questions of others that are being answered; further ones are dropped. In a rollout all nodes ask the first of a tree
/// at once; an answer is small.
const MOST: usize = 1024;

/// Answers questions of other nodes, which are members but may say anything.
pub trait Calls: Send + Sync + 'static {
    /// Answers; nothing if there is nothing to say.
    fn answer(&self, from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

/// Questions under way, of this node and of others.
#[derive(Default)]
pub(super) struct Calling {
    pub(super) answers: Option<Arc<dyn Calls>>,
    waiting: HashMap<u64, (SocketAddr, oneshot::Sender<Bytes>)>,
    next: u64,
    answering: Arc<AtomicUsize>,
}

fn framed(kind: u8, id: u64, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(MARK.len() + 9 + body.len());
    bytes.put_slice(MARK);
    bytes.put_u8(kind);
    bytes.put_u64_le(id);
    bytes.put_slice(body);
    bytes.freeze()
}

impl Calling {
    /// Notes a question for a member; the answer may never come. Returns the message to it: none if the question is too long.
    pub(super) fn ask(
        &mut self,
        to: SocketAddr,
        question: &Bytes,
        reply: oneshot::Sender<Bytes>,
    ) -> Option<Bytes> {
        if question.len() > MAX_CALL {
            return None;
        }
        self.waiting.retain(|_, (_, waiting)| !waiting.is_closed());
        self.next += 1;
        self.waiting.insert(self.next, (to, reply));
        Some(framed(QUESTION, self.next, question))
    }

    /// There is no way to a member: nobody waits for what it would answer.
    pub(super) fn unanswered(&mut self, by: SocketAddr) {
        self.waiting.retain(|_, (asked, _)| *asked != by);
    }

    /// Takes a message if it is a question or an answer; `false` if it is neither. The message that answers a question
    /// goes to `say`, when it is ready. Needs a runtime around it.
    pub(super) fn take(
        &mut self,
        from: SocketAddr,
        bytes: &Bytes,
        say: impl FnOnce(Bytes) + Send + 'static,
    ) -> bool {
        if bytes.len() < MARK.len() + 9 || !bytes.starts_with(MARK) {
            return false;
        }
        let mut body = bytes.slice(MARK.len()..);
        let (kind, id) = (body.get_u8(), body.get_u64_le());
        match kind {
            _ if body.len() > MAX_CALL => {}
            QUESTION => self.answer(from, id, body, say),
            ANSWER => self.answered(from, id, body),
            _ => {}
        }
        true
    }

    /// Only whom it was asked may answer.
    fn answered(&mut self, from: SocketAddr, id: u64, answer: Bytes) {
        let asked = self.waiting.get(&id).map(|(asked, _)| *asked);
        if asked == Some(from)
            && let Some((_, waiting)) = self.waiting.remove(&id)
        {
            let _ = waiting.send(answer);
        }
    }

    fn answer(&self, from: SocketAddr, id: u64, question: Bytes, say: impl FnOnce(Bytes) + Send + 'static) {
        let Some(calls) = self.answers.clone() else {
            return;
        };
        let answering = Arc::clone(&self.answering);
        if answering.fetch_add(1, Ordering::Relaxed) >= MOST {
            answering.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            let answer = calls.answer(from, question).await;
            answering.fetch_sub(1, Ordering::Relaxed);
            if let Some(answer) = answer.filter(|answer| answer.len() <= MAX_CALL) {
                say(framed(ANSWER, id, &answer));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    /// Answers with the question, except that it has nothing to say to "what?".
    struct Echo;

    impl Calls for Echo {
        fn answer(&self, _from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
            async move { (question != b"what?"[..]).then_some(question) }.boxed()
        }
    }

    fn member(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 7070))
    }

    /// What a node says to a message of another.
    async fn said(calling: &mut Calling, message: &Bytes) -> Option<Bytes> {
        let (say, heard) = oneshot::channel();
        let taken = calling.take(member(1), message, |answer| say.send(answer).unwrap());
        assert!(taken);
        heard.await.ok()
    }

    #[tokio::test]
    async fn a_question_is_answered_by_whom_it_was_asked_alone() {
        let (mut asker, mut other) = (Calling::default(), Calling::default());
        other.answers = Some(Arc::new(Echo));
        let (reply, mut answered) = oneshot::channel();
        let question = asker
            .ask(member(2), &Bytes::from_static(b"how are you"), reply)
            .unwrap();
        let answer = said(&mut other, &question).await.unwrap();
        assert!(asker.take(member(3), &answer, |_| ()));
        assert!(answered.try_recv().is_err());
        assert!(asker.take(member(2), &answer, |_| ()));
        assert_eq!(answered.await.unwrap(), b"how are you"[..]);
    }

    #[tokio::test]
    async fn who_has_nothing_to_say_is_silent() {
        let (mut asker, mut other) = (Calling::default(), Calling::default());
        let (reply, _answered) = oneshot::channel();
        let question = asker
            .ask(member(2), &Bytes::from_static(b"what?"), reply)
            .unwrap();
        assert_eq!(said(&mut other, &question).await, None);
        other.answers = Some(Arc::new(Echo));
        assert_eq!(said(&mut other, &question).await, None);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_member_that_is_gone() {
        let mut asker = Calling::default();
        let (reply, answered) = oneshot::channel();
        asker.ask(member(2), &Bytes::new(), reply).unwrap();
        asker.unanswered(member(2));
        assert!(answered.await.is_err());
    }

    #[test]
    fn what_is_too_long_is_neither_asked_nor_taken() {
        let mut calling = Calling::default();
        let long = Bytes::from(vec![0; MAX_CALL + 1]);
        assert!(calling.ask(member(2), &long, oneshot::channel().0).is_none());
        let never = |_| panic!("it was answered");
        assert!(calling.take(member(2), &framed(QUESTION, 1, &long), never));
    }

    #[test]
    fn messages_of_members_are_left_to_them() {
        let mut calling = Calling::default();
        for message in [&b""[..], b"\x00gossip of some length", MARK] {
            assert!(
                !calling.take(member(2), &Bytes::from_static(message), |_| ()),
                "{message:?}"
            );
        }
    }
}
