//! What comes to this node, counted: whether a piece is late, or this node's own link is behind with all of them.
//!
//! Behind a slow link everything takes long, whoever was asked. No clock tells that from a slow peer, but the order does: what
//! a slow peer owes is overtaken by what others were asked for later.

use std::time::Duration;

use super::ask::FLIGHT_BITS;
use super::flight::{Ask, Flight};
use super::time::Time;
use super::{RequestId, Swarm};

/// A piece may change places with half a window of others, or with so many, and nobody is slow for that.
const LEAST: u32 = 8;
/// So many more overtaken pieces than others make a peer slow. One that waits for a slow peer itself owes some as well, but gives
/// others in time.
const ENOUGH_OWED: u32 = 2;

/// Counts of what came.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// When some bytes came last.
    last: Time,
    /// When the latest request was sent that some peer has taken.
    taken: Time,
}

impl Arrivals {
    /// Some bytes have come, from wherever.
    pub(crate) fn bytes(&mut self, now: Time) {
        self.last = now;
    }

    /// A peer has taken a request that was sent then.
    pub(crate) fn taken(&mut self, sent: Time) {
        self.taken = self.taken.max(sent);
    }

    /// Whether anything has come yet.
    pub(crate) fn any(&self) -> bool {
        self.last != Time(0)
    }

    /// Whether anything has come in the last `pause`.
    pub(crate) fn flows(&self, now: Time, pause: Duration) -> bool {
        self.any() && now.since(self.last) < pause
    }

    /// Whether a request of `sent` that nobody has taken may well wait in a queue before this node's link: bytes come, and no
    /// later request was taken either.
    pub(crate) fn is_behind(&self, sent: Time, now: Time, pause: Duration) -> bool {
        self.taken < sent && self.flows(now, pause)
    }
}

impl Swarm {
    /// A piece has come that was asked for by this request: it has overtaken all that were asked for before it.
    pub(super) fn overtakes(&mut self, request: RequestId) {
        let number = request.0 >> FLIGHT_BITS;
        let asks = self
            .flights
            .iter_mut()
            .flatten()
            .flat_map(|flight| &mut flight.asks);
        for ask in asks.filter(|ask| ask.request.0 >> FLIGHT_BITS < number) {
            ask.overtaken += 1;
        }
    }

    /// Whether so many pieces have come that were asked for later that those who were asked for this one must be slow.
    pub(super) fn is_overtaken(&self, flight: &Flight) -> bool {
        let enough = (self.by_piece.len() as u32 / 2).max(LEAST);
        let mut asked = flight.asks.iter().filter(|ask| !ask.silent);
        asked.all(|ask| ask.overtaken >= enough)
    }

    /// Whether the piece is slow to come although other things do come, or because nothing does: not for this node's link.
    pub(super) fn is_held_up(&self, flight: &Flight, patience: Duration) -> bool {
        self.is_overtaken(flight) || !self.arrivals.flows(self.now, patience)
    }

    /// Whether all who were asked for a piece are slow, or silent.
    pub(super) fn is_owed_by_slow(&self, flight: &Flight) -> bool {
        let slow = |ask: &Ask| ask.silent || self.peers.is_late(ask.peer, self.now);
        flight.asks.iter().all(slow)
    }

    /// Counts against those who owe a piece that is held up, once for each. Whom more speaks against than for is slow: for a
    /// while others are asked in its place, and for what it owes, too. One that has given something since it was asked, or that
    /// uploads about as fast as others do, is only busy.
    pub(super) fn blame(&mut self, at: usize) {
        let usual = f64::from(self.usual_rate());
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let mut slow = Vec::new();
        for ask in flight.asks.iter_mut().filter(|ask| !ask.blamed) {
            let swift = f64::from(self.peers.rate(ask.peer)) > usual * self.config.leaf_below;
            if swift || self.peers.gave(ask.peer) > ask.sent {
                continue;
            }
            ask.blamed = true;
            if self.peers.owes(ask.peer) >= ENOUGH_OWED
                && self.peers.late(ask.peer, self.now, self.config.pass_over)
            {
                slow.push(ask.peer);
            }
        }
        for peer in slow {
            self.counts.late += 1;
            self.do_not_expect_of(peer);
        }
    }
}
