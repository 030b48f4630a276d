//! What comes to this node, counted: whether a piece is late, or this node's own link is behind with all of them.
//!
//! Behind a slow link everything takes long, whoever was asked. No clock tells that from a slow peer, but the order does: what
//! a slow peer owes is overtaken by what others were asked for later.

use std::time::Duration;

use super::ask::FLIGHT_BITS;
use super::flight::{Ask, Flight};
use super::time::Time;
use super::{Action, PeerId, RequestId, Swarm};

/// A piece may change places with a window of others, or with so many, and nobody is slow for that.
const LEAST: u32 = 8;
/// So many more overtaken pieces than others make a peer slow. One that waits for a slow peer itself owes some as well, but gives
/// others in time.
const ENOUGH_OWED: u32 = 2;

/// A peer that gives less than one in so many of the pieces that would be its part is slow.
const KEEPS_UP: u32 = 8;

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
    pub(super) fn overtakes(&mut self, request: RequestId, from: PeerId) {
        let number = request.0 >> FLIGHT_BITS;
        let asks = self
            .flights
            .iter_mut()
            .flatten()
            .flat_map(|flight| &mut flight.asks);
        for ask in asks.filter(|ask| ask.request.0 >> FLIGHT_BITS < number) {
            ask.overtaken += 1;
            ask.by_itself += u32::from(ask.peer == from);
        }
    }

    /// Whether so many pieces have come that were asked for later that those who were asked for this one must be slow.
    pub(super) fn is_overtaken(&self, flight: &Flight) -> bool {
        let enough = (self.by_piece.len() as u32).max(LEAST);
        let mut asked = flight.asks.iter().filter(|ask| !ask.silent);
        asked.all(|ask| ask.overtaken >= enough && !self.keeps_up(ask))
    }

    /// Whether the peer has given about its part of what has come since it was asked: then it is busy, or waits for somebody
    /// itself.
    fn keeps_up(&self, ask: &Ask) -> bool {
        let asks = self.flights.iter().flatten().flat_map(|flight| &flight.asks);
        let (mut all, mut of_peer) = (0, 0);
        for other in asks {
            all += 1;
            of_peer += u32::from(other.peer == ask.peer);
        }
        ask.by_itself * KEEPS_UP * all >= ask.overtaken * of_peer
    }

    /// Asks others for what has just been overtaken often enough.
    pub(super) fn hedge_overtaken(&mut self, actions: &mut Vec<Action>) {
        for at in 0..self.flights.len() {
            let overtaken =
                |flight: &Flight| flight.asks.iter().any(|ask| !ask.silent) && self.is_overtaken(flight);
            if self.flights[at].as_ref().is_some_and(overtaken) {
                self.hedge(at, actions);
                self.schedule(at);
            }
        }
    }

    /// Whether the piece is slow to come although other things do come, or because nothing does: not for this node's link.
    pub(super) fn is_held_up(&self, flight: &Flight, patience: Duration) -> bool {
        self.is_overtaken(flight) || !self.arrivals.flows(self.now, patience)
    }

    /// Counts against those who owe a piece that is held up, once for each. Whom more speaks against than for is slow: for a
    /// while others are asked before it, if there are any.
    pub(super) fn blame(&mut self, at: usize) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        for ask in flight.asks.iter_mut().filter(|ask| !ask.blamed) {
            ask.blamed = true;
            if self.peers.owes(ask.peer) >= ENOUGH_OWED
                && self.peers.late(ask.peer, self.now, self.config.pass_over)
            {
                self.counts.late += 1;
            }
        }
    }
}
