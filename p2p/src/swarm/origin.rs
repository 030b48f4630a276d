//! When this node goes to the origin, and what follows.

use std::time::Duration;

use super::ask::STAND_INS;
use super::explain::Standing;
use super::flight::{AtOrigin, Flight};
use super::patience::LOST;
use super::{Action, OriginId, PeerId, Swarm, TreeId};
use crate::error::FetchError;
use crate::piece::{Class, PieceId};

/// So many earlier members may stand before a node that goes to the origin at once: the first of the tree goes, the second
/// goes when the first is slow, and the others leave it alone for a while.
const BUDGETED_RANKS: usize = 2;
/// Earlier members that are looked at to find out, which are those a node would ask.
const LOOK_AT: usize = STAND_INS;
/// Of the fetches from origins that may be under way at once, one in so many may be of what nobody waits for.
const PREFETCH_SHARE: u32 = 4;
/// From so many members on each node has one such fetch at a time. Together they fill the origin's link, which a reader's fetch
/// shares with all of them; fewer nodes might not fill a long one, and each has more to lose by one that is slow.
const CLUSTER: usize = 8;
/// Tries of an origin whose bytes are wrong.
const CORRUPT_TRIES: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_millis(100);

impl Swarm {
    /// Whether this node is the first or the second of the tree, but for those that may not read at the origin. Those that do not
    /// answer count: a node that reaches nobody would take everything from the registry, and two that are gone at once are no
    /// members soon.
    pub(super) fn near_origin(&self, tree: TreeId, forbidden: &[PeerId]) -> bool {
        let mine = tree.distance(self.me);
        let good = |peer| self.standing(peer) != Standing::CutOff && !forbidden.contains(&peer);
        let mut before = 0;
        if let Some(order) = self.view.order(self.me, tree) {
            let rank = order.rank(mine);
            let looked_at = (0..rank.min(LOOK_AT)).filter_map(|at| order.at(at));
            before = looked_at.filter(|peer| good(*peer)).take(BUDGETED_RANKS).count();
            if rank > LOOK_AT && before == 0 && forbidden.is_empty() {
                return false;
            }
        }
        let own_zone = self.zone(self.me);
        let roots = self.view.roots(tree).iter().take_while(|root| root.0 < mine);
        let others = roots.filter(|root| self.zone(root.1) != own_zone && good(root.1));
        before + others.take(BUDGETED_RANKS).count() < BUDGETED_RANKS
    }

    /// Sends the flight to its origin if it may go there now; tells whether that is so.
    pub(super) fn try_origin(&mut self, at: usize, actions: &mut Vec<Action>) -> bool {
        let Some(flight) = self.flights[at].as_ref() else {
            return false;
        };
        let (Some(origin), tree) = (flight.origin, flight.tree) else {
            return false;
        };
        // Whoever is at work on it may only be busy, or the registry slow, which it would be to this node, too.
        let (patience, pause) = (self.patience(at), self.idle_pause(at));
        let Some(flight) = self.flights[at].as_ref() else {
            return false;
        };
        let (busy, class) = (!flight.idle(), flight.class);
        let near =
            self.near_origin(tree, &flight.forbidden) && (!busy || self.is_in_vain(flight, patience, pause));
        let no_progress = !busy
            || !self.arrivals.flows(self.now, self.config.origin_patience)
            || self.now.since(flight.started) > patience.saturating_mul(LOST);
        if !(near || self.now >= flight.patient_until && no_progress) {
            return false;
        }
        if !self.origin_has_room(class) {
            self.origin_queue.push_back(at);
            self.set_origin(at, AtOrigin::Queued);
            return true;
        }
        self.go_to_origin(at, origin, actions)
    }

    fn go_to_origin(&mut self, at: usize, origin: OriginId, actions: &mut Vec<Action>) -> bool {
        let admitted = self.breakers.admit(origin, self.now);
        let pause = self.jittered(Duration::from_millis(10));
        let Some(flight) = self.flights[at].as_mut() else {
            return false;
        };
        if let Err(until) = admitted {
            flight.at_origin = AtOrigin::No;
            flight.origin_failed = true;
            flight.retry_at = until.after(pause);
            return false;
        }
        flight.at_origin = AtOrigin::Asked;
        let (piece, class) = (flight.piece, flight.class);
        self.at_origins += 1;
        self.counts.asked_origin += 1;
        actions.push(Action::AskOrigin { piece, origin, class });
        true
    }

    fn set_origin(&mut self, at: usize, state: AtOrigin) {
        if let Some(flight) = self.flights[at].as_mut() {
            flight.at_origin = state;
        }
    }

    /// Whether one more fetch from an origin may begin. Of what nobody waits for yet few at a time: those that share a narrow link all
    /// come late, and until the first of them is here nobody has anything to give on.
    fn origin_has_room(&self, class: Class) -> bool {
        let most = match class {
            Class::Blocking => self.config.origin_limit,
            Class::Prefetch if self.view.members().len() >= CLUSTER => 1,
            Class::Prefetch => (self.config.origin_limit / PREFETCH_SHARE).max(1),
        };
        self.at_origins < most
    }

    /// A fetch from an origin is over: the next one may begin.
    pub(super) fn leave_origin(&mut self, actions: &mut Vec<Action>) {
        self.at_origins = self.at_origins.saturating_sub(1);
        self.start_queued(actions);
    }

    /// Begins what has waited for a free place among the fetches from origins, blocking ones first.
    pub(super) fn start_queued(&mut self, actions: &mut Vec<Action>) {
        let queued = |swarm: &Self, at: usize| {
            let flight = swarm.flights[at].as_ref()?;
            (flight.at_origin == AtOrigin::Queued).then_some(flight.class)
        };
        loop {
            let blocking =
                (self.origin_queue.iter()).position(|at| queued(self, *at) == Some(Class::Blocking));
            let class = blocking.map_or(Class::Prefetch, |_| Class::Blocking);
            if !self.origin_has_room(class) {
                return;
            }
            let Some(at) = self.origin_queue.remove(blocking.unwrap_or(0)) else {
                return;
            };
            let origin = self.flights[at].as_ref().and_then(|flight| flight.origin);
            let (Some(_), Some(origin)) = (queued(self, at), origin) else {
                continue;
            };
            self.set_origin(at, AtOrigin::No);
            if !self.ask_firsts(at, actions) && !self.go_to_origin(at, origin, actions) {
                self.advance(at, actions);
            }
        }
    }

    pub(super) fn origin_received(&mut self, piece: &PieceId, actions: &mut Vec<Action>) {
        let Some(at) = self.flight_at_origin(piece) else {
            return;
        };
        self.set_origin(at, AtOrigin::No);
        self.counts.received_origin += 1;
        if let Some(origin) = self.flights[at].as_ref().and_then(|flight| flight.origin) {
            self.breakers.succeeded(origin);
        }
        self.complete(at, actions);
        self.leave_origin(actions);
    }

    pub(super) fn origin_failed(
        &mut self,
        piece: &PieceId,
        error: FetchError,
        retry_after: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let Some(at) = self.flight_at_origin(piece) else {
            return;
        };
        let backoff = self.jittered(FIRST_RETRY);
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.at_origin = AtOrigin::No;
        flight.last_error = error;
        flight.rounds += 1;
        let (origin, rounds) = (flight.origin, flight.rounds);
        let final_word = match error {
            FetchError::Missing | FetchError::Forbidden => true,
            FetchError::Corrupt => rounds >= CORRUPT_TRIES,
            FetchError::Unavailable => false,
        };
        if !final_word {
            flight.origin_failed = true;
            flight.retry_at = self.now.after(backoff.saturating_mul(1 << rounds.min(4)));
        }
        if let Some(origin) = origin {
            if error == FetchError::Unavailable {
                self.breakers.failed(origin, self.now, retry_after);
            } else {
                self.breakers.succeeded(origin); // it answers
            }
        }
        if final_word {
            self.fail(at, error, actions);
        } else {
            self.ask_holders(at, actions);
            self.schedule(at);
        }
        self.leave_origin(actions);
    }

    fn flight_at_origin(&self, piece: &PieceId) -> Option<usize> {
        let at = *self.by_piece.get(piece)?;
        let asked = |flight: &Flight| flight.at_origin == AtOrigin::Asked;
        self.flights[at].as_ref().is_some_and(asked).then_some(at)
    }

    /// A duration between the given one and one and a half of it.
    pub(super) fn jittered(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(1.0 + self.rng.fraction() / 2.0)
    }
}
