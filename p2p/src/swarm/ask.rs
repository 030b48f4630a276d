//! Whom a piece is asked of next.

use std::time::Duration;

use super::demand;
use super::explain::Standing;
use super::flight::{Ask, AtOrigin, NEVER};
use super::patience::{LOOK, MOST_HEDGES};
use super::{Action, Hint, PeerId, RequestId, Swarm, TreeId};
use crate::piece::PieceId;

/// Requests to peers under way for one piece.
const MOST_ASKS: usize = 2;
/// Pause before all are asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Earliest members that stand in when all ancestors fail, and later ones asked whether they hold a piece.
pub(super) const STAND_INS: usize = 16;
/// Earliest members that a node asks that is behind.
const FIRSTS: usize = 3;
/// The lower bits of a request's name tell the flight.
pub(super) const FLIGHT_BITS: u32 = 24;

impl Swarm {
    /// Asks the next source there is. If there is none, and nothing is under way, looks again later.
    pub(super) fn advance(&mut self, at: usize, actions: &mut Vec<Action>) {
        if let Some(peer) = self.next_peer(at) {
            self.ask(at, peer, false, actions);
            return;
        }
        if self.ask_firsts(at, actions) {
            return;
        }
        let Some(flight) = self.flights[at].as_ref() else {
            return;
        };
        let pausing = flight.origin_failed && flight.retry_at != NEVER && flight.retry_at > self.now;
        if flight.at_origin == AtOrigin::No && (pausing || !self.try_origin(at, actions)) {
            self.ask_holders(at, actions);
            let pause = self.jittered(ROUND_PAUSE);
            if let Some(flight) = self.flights[at].as_mut().filter(|flight| flight.idle()) {
                let patient = Some(flight.patient_until).filter(|until| *until > self.now);
                let again = self.now.after(pause).min(patient.unwrap_or(NEVER));
                flight.retry_at = flight.retry_at.min(again);
            }
        }
        self.schedule(at);
    }

    /// Who is asked next: the nearest ancestor that was not asked yet, then the earliest members of the zone, and the first ones of
    /// the others.
    pub(super) fn next_peer(&mut self, at: usize) -> Option<PeerId> {
        let flight = self.flights[at].as_ref()?;
        if !self.view.knows(flight.tree) {
            return None;
        }
        let (tree, blob) = (flight.tree, flight.piece.blob);
        let wanted = self.demand_of(&blob, tree, false);
        let limit = demand::asked(wanted, self.view.members().len(), self.config.relay_ratio);
        let mut ancestors = std::mem::take(&mut self.scratch);
        ancestors.clear();
        self.view.ancestors(self.me, tree, limit, &mut ancestors);
        let usable = |peer: &PeerId| !flight.tried.contains(peer) && self.standing(*peer) == Standing::Good;
        let swift = |peer: &PeerId| usable(peer) && !self.peers.is_late(*peer, self.now);
        let mut found = ancestors.iter().copied().find(swift);
        // Before a slow one is asked who stands before this node, the origin is.
        let slow_too = found.is_none()
            && (flight.origin.is_none() || flight.origin_failed || !self.near_origin(tree, &[]));
        if slow_too {
            found = ancestors.iter().copied().find(usable);
        }
        if slow_too && found.is_none() && (flight.idle() || flight.asks.len() >= MOST_ASKS) {
            let order = self.view.order(self.me, tree);
            let rank = order.map_or(0, |order| order.rank(tree.distance(self.me)));
            let earliest = (0..rank.min(STAND_INS)).filter_map(|rank| order?.at(rank));
            let mine = tree.distance(self.me);
            let roots = self.view.roots(tree).iter().take_while(|root| root.0 < mine);
            let of_zones = roots.take(STAND_INS).map(|root| root.1);
            found = earliest.chain(of_zones).find(usable);
        }
        self.scratch = ancestors;
        found
    }

    /// A node that is behind asks those at the beginning of the tree whether they have the piece, or get it from the origin, before
    /// it goes there itself. Tells whether it does.
    pub(super) fn ask_firsts(&mut self, at: usize, actions: &mut Vec<Action>) -> bool {
        let Some(flight) = self.flights[at].as_ref() else {
            return false;
        };
        let tree = flight.tree;
        if !self.is_behind_others(flight.class)
            || flight.asks.len() >= MOST_ASKS
            || flight.at_origin != AtOrigin::No
            || !self.view.knows(tree)
        {
            return false;
        }
        let first = self.view.order(self.me, tree).and_then(|order| {
            let firsts = (0..FIRSTS).filter_map(|rank| order.at(rank));
            let usable =
                |peer: &PeerId| !flight.tried.contains(peer) && self.standing(*peer) == Standing::Good;
            let swift =
                |peer: &PeerId| *peer != self.me && usable(peer) && !self.peers.is_late(*peer, self.now);
            firsts.into_iter().find(swift)
        });
        if let Some(first) = first {
            self.ask(at, first, true, actions);
        }
        first.is_some()
    }

    /// Asks a later member whether it holds the piece, when the origin does not deliver. It answers from its store or not
    /// at all, so that nobody waits for anybody later.
    pub(super) fn ask_holders(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_ref() else {
            return;
        };
        if !flight.origin_failed || !flight.asks.is_empty() {
            return;
        }
        let tree = flight.tree;
        let found = self.view.order(self.me, tree).and_then(|order| {
            let rank = order.rank(tree.distance(self.me));
            let later = (rank..order.len().min(rank + STAND_INS)).filter_map(|rank| order.at(rank));
            let usable = |peer: &PeerId| {
                *peer != self.me && !flight.tried.contains(peer) && self.standing(*peer) == Standing::Good
            };
            later.into_iter().find(usable)
        });
        if let Some(peer) = found {
            self.ask(at, peer, true, actions);
        }
    }

    pub(super) fn ask(&mut self, at: usize, peer: PeerId, held_only: bool, actions: &mut Vec<Action>) {
        let Some((tree, piece, class)) = self.flights[at].as_ref().map(|f| (f.tree, f.piece, f.class)) else {
            return;
        };
        assert!(
            held_only || tree.distance(peer) < tree.distance(self.me),
            "only earlier nodes are asked to fetch"
        );
        self.last_request += 1;
        let request = RequestId(self.last_request << FLIGHT_BITS | at as u64);
        let hint = self.hint(&piece, tree);
        let (patience, ack_timeout) = (self.patience(at), self.ack_timeout());
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        if flight.asks.len() >= MOST_ASKS {
            let silent = flight.asks.iter().position(|ask| ask.silent);
            let dropped = flight.asks.remove(silent.unwrap_or(0));
            let (peer, request) = (dropped.peer, dropped.request);
            actions.push(Action::Cancel { peer, request });
        }
        flight.tried.push(peer);
        flight.asks.push(Ask {
            request,
            peer,
            sent: self.now,
            held_only,
            overtaken: 0,
            answer_by: self.now.after(ack_timeout),
            accepted: false,
            blamed: false,
            silent: false,
        });
        flight.hedge_at = self.now.after(patience);
        flight.look_at = self.now.after(LOOK);
        flight.retry_at = if flight.origin_failed {
            flight.retry_at
        } else {
            NEVER
        };
        self.counts.asked += 1;
        self.hedges_left = (self.hedges_left + self.config.hedge_budget).min(MOST_HEDGES);
        actions.push(Action::Ask {
            peer,
            request,
            piece,
            class,
            tree,
            redirects: flight.redirects,
            held_only,
            origin: flight.origin,
            hint,
        });
        self.schedule(at);
    }

    /// What this node tells along with a request or an answer.
    pub(super) fn hint(&self, piece: &PieceId, tree: TreeId) -> Hint {
        let memory = self.config.demand_memory;
        let order = self
            .view
            .knows(tree)
            .then(|| self.view.order(self.me, tree))
            .flatten();
        let first = order.is_none_or(|order| order.at(0).is_none_or(|first| first == self.me));
        Hint {
            demand: self.demand_of(&piece.blob, tree, first),
            wants: self.demand.through(&piece.blob, tree, self.now, memory),
            rate: self.rate.kib_per_second(),
        }
    }
}
