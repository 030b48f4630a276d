//! A piece's way to this node: how it begins, and what ends it.

use std::time::Duration;

use super::flight::{AtOrigin, Flight, NEVER};
use super::{Action, OriginId, Refusal, Swarm, TreeId};
use crate::error::FetchError;
use crate::limits::{MAX_FLIGHTS, MAX_PIECE_LEN};
use crate::piece::{Class, PieceId};

/// Clusters that have no crowd to fear.
const SMALL_CLUSTER: usize = 64;
/// Behind a slow link a piece may take so many times as long as it may otherwise.
const MOST_DEADLINES: u32 = 4;
/// Longest wait for the first answer about a blob.
const HOLD_BACK: Duration = Duration::from_millis(5);

impl Swarm {
    pub(super) fn wanted(
        &mut self,
        piece: PieceId,
        class: Class,
        origin: OriginId,
        actions: &mut Vec<Action>,
    ) {
        self.demand.want(&piece.blob, self.now);
        let at = match self.by_piece.get(&piece) {
            Some(at) => *at,
            None => match self.start(piece, self.view.tree_of(&piece), class) {
                Some(at) => at,
                None => {
                    let error = FetchError::Unavailable;
                    actions.push(Action::Fail { piece, error });
                    return;
                }
            },
        };
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.mine = true;
        flight.origin = flight.origin.or(Some(origin));
        if class == Class::Blocking && flight.class == Class::Prefetch {
            self.promote(at, actions);
        } else if flight.idle() && flight.retry_at == NEVER {
            let large = self.view.members().len() > SMALL_CLUSTER;
            if class == Class::Prefetch
                && large
                && self.demand.hold(&piece.blob, self.now, self.config.demand_memory)
            {
                flight.retry_at = self.now.after(HOLD_BACK);
                self.held.push(at);
                self.schedule(at);
            } else {
                self.advance(at, actions);
            }
        }
    }

    /// Lets the requests go that waited for the first answer.
    pub(super) fn release(&mut self, actions: &mut Vec<Action>) {
        for at in std::mem::take(&mut self.held) {
            let held =
                |flight: &&mut Flight| flight.idle() && flight.asks.is_empty() && flight.retry_at != NEVER;
            if let Some(flight) = self.flights[at].as_mut().filter(held) {
                flight.retry_at = NEVER;
                self.advance(at, actions);
            }
        }
    }

    pub(super) fn unwanted(&mut self, piece: &PieceId, actions: &mut Vec<Action>) {
        if let Some(at) = self.by_piece.get(piece).copied()
            && let Some(flight) = self.flights[at].as_mut()
        {
            flight.mine = false;
            self.abandon_if_unneeded(at, actions);
        }
    }

    /// Begins a flight; nobody is asked yet. `None` if there are too many or the piece is no piece.
    pub(super) fn start(&mut self, piece: PieceId, tree: TreeId, class: Class) -> Option<usize> {
        if self.by_piece.len() >= MAX_FLIGHTS || piece.len == 0 || piece.len > MAX_PIECE_LEN {
            return None;
        }
        let mut flight = Flight::new(piece, tree, class, self.now);
        // Patience is for pieces of a mebibyte; longer ones take longer without anything being wrong.
        let patience = self
            .config
            .origin_patience
            .saturating_mul((piece.len >> 20).max(1));
        flight.patient_until = self.now.after(self.jittered(patience));
        flight.deadline = self.now.after(self.config.deadline);
        flight.given_up = self
            .now
            .after(self.config.deadline.saturating_mul(MOST_DEADLINES));
        let at = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[at] = Some(flight);
        self.by_piece.insert(piece, at);
        Some(at)
    }

    /// The piece is here: everybody who waited gets it.
    pub(super) fn complete(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.end(at, actions) else {
            return;
        };
        self.arrivals.bytes(self.now);
        self.arrival[flight.manner as usize].add(self.now.since(flight.started));
        if flight.mine {
            let piece = flight.piece;
            actions.push(Action::Deliver { piece });
        } else {
            self.counts.relayed += 1;
        }
        for key in flight.waiters {
            self.uploads.ready(key);
        }
        self.pump(actions);
    }

    /// The piece cannot be had: everybody who waited is told.
    pub(super) fn fail(&mut self, at: usize, error: FetchError, actions: &mut Vec<Action>) {
        let Some(flight) = self.end(at, actions) else {
            return;
        };
        if flight.mine {
            let piece = flight.piece;
            actions.push(Action::Fail { piece, error });
        }
        let reason = match error {
            FetchError::Missing => Refusal::Missing,
            FetchError::Forbidden => Refusal::Forbidden,
            FetchError::Corrupt | FetchError::Unavailable => Refusal::Unavailable,
        };
        for (to, request) in flight.waiters {
            self.uploads.remove((to, request));
            self.counts.refused += 1;
            actions.push(Action::Refuse { to, request, reason });
        }
    }

    /// Ends a flight that nobody waits for any more.
    pub(super) fn abandon_if_unneeded(&mut self, at: usize, actions: &mut Vec<Action>) {
        let unneeded = |flight: &Flight| !flight.mine && flight.waiters.is_empty();
        if self.flights[at].as_ref().is_some_and(unneeded) {
            self.end(at, actions);
        }
    }

    /// Takes a flight out and calls off what is under way for it.
    pub(super) fn end(&mut self, at: usize, actions: &mut Vec<Action>) -> Option<Flight> {
        let flight = self.flights[at].take()?;
        self.by_piece.remove(&flight.piece);
        self.free.push(at);
        for ask in &flight.asks {
            let (peer, request) = (ask.peer, ask.request);
            actions.push(Action::Cancel { peer, request });
        }
        if flight.at_origin == AtOrigin::Asked {
            let piece = flight.piece;
            actions.push(Action::CancelOrigin { piece });
            if let Some(origin) = flight.origin {
                self.breakers.cancelled(origin);
            }
            self.leave_origin(actions);
        } else if flight.at_origin == AtOrigin::Queued {
            self.origin_queue.retain(|queued| *queued != at);
        }
        Some(flight)
    }
}
