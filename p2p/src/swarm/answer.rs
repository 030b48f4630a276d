//! What peers answer to this node's requests, and what follows.

use super::ask::FLIGHT_BITS;
use super::explain::Standing;
use super::flight::Flight;
use super::{Action, Event, Failure, PeerId, Refusal, Swarm};
use crate::error::FetchError;

impl Swarm {
    /// An event about a request of this node.
    pub(super) fn answered(&mut self, event: Event, actions: &mut Vec<Action>) {
        let (Event::Accepted { request, .. }
        | Event::Progressed { request, .. }
        | Event::Received { request, .. }
        | Event::Redirected { request, .. }
        | Event::Refused { request, .. }
        | Event::AskFailed { request, .. }) = event
        else {
            return;
        };
        let at = (request.0 & ((1 << FLIGHT_BITS) - 1)) as usize;
        let Some(flight) = self.flights.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let Some(index) = flight.asks.iter().position(|ask| ask.request == request) else {
            return;
        };
        let (peer, blob) = (flight.asks[index].peer, flight.piece.blob);
        if let Event::Accepted { hint, .. } | Event::Received { hint, .. } | Event::Redirected { hint, .. } =
            event
        {
            self.demand.heard(&blob, hint.demand, self.now);
            self.peers.told_rate(peer, self.zone(peer), hint.rate);
        }
        match event {
            Event::Accepted { .. } => {
                self.accepted(at, index);
                if self.demand.answered(&blob, self.now) {
                    self.release(actions);
                }
            }
            Event::Progressed { .. } => {
                self.peers.lives(peer, self.now);
                self.arrivals.bytes(self.now);
            }
            Event::Received { .. } => self.received(at, index, actions),
            Event::Redirected { to, .. } => self.redirected(at, index, to, actions),
            Event::Refused { reason, .. } => self.refused(at, index, reason, actions),
            Event::AskFailed { failure, .. } => self.ask_failed(at, index, failure, actions),
            _ => {}
        }
    }

    pub(super) fn accepted(&mut self, at: usize, index: usize) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = &mut flight.asks[index];
        if !ask.accepted {
            self.acceptance.add(self.now.since(ask.sent));
        }
        (ask.accepted, ask.silent) = (true, false);
        self.arrivals.taken(ask.sent);
        self.peers.lives(ask.peer, self.now);
    }

    pub(super) fn received(&mut self, at: usize, index: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        if ask.held_only {
            self.asked_in_vain = 0;
        }
        self.peers.lives(ask.peer, self.now);
        self.arrivals.taken(ask.sent);
        self.peers.gives(ask.peer, self.now, !ask.blamed);
        self.counts.received += 1;
        self.overtakes(ask.request);
        self.complete(at, actions);
    }

    pub(super) fn redirected(&mut self, at: usize, index: usize, to: PeerId, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        flight.redirects = flight.redirects.saturating_add(1);
        self.peers.lives(ask.peer, self.now);
        let (tree, known) = (flight.tree, self.view.member(to).is_some());
        let earlier = tree.distance(to) < tree.distance(self.me);
        let tried = flight.tried.contains(&to);
        if known && earlier && !tried && self.standing(to) == Standing::Good {
            self.ask(at, to, false, actions);
        } else {
            self.go_on(at, actions);
        }
    }

    pub(super) fn refused(&mut self, at: usize, index: usize, reason: Refusal, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        if reason == Refusal::Forbidden && !flight.forbidden.contains(&ask.peer) {
            // Who sent this node there is asked once more, and has to see to it.
            flight.forbidden.push(ask.peer);
            let (forbidden, asks) = (&flight.forbidden, &flight.asks);
            (flight.tried)
                .retain(|peer| forbidden.contains(peer) || asks.iter().any(|ask| ask.peer == *peer));
            flight.redirects = u8::MAX;
        }
        self.asked_in_vain = self.asked_in_vain.saturating_add(u32::from(ask.held_only));
        self.peers.lives(ask.peer, self.now);
        self.go_on(at, actions);
    }

    pub(super) fn ask_failed(
        &mut self,
        at: usize,
        index: usize,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        match failure {
            Failure::Corrupt => {
                flight.last_error = FetchError::Corrupt;
                self.distrust(ask.peer, actions);
            }
            Failure::Unreachable | Failure::Stalled => self.pass_over(ask.peer, actions),
        }
        self.go_on(at, actions);
    }

    /// The peer gives wrong bytes: it is not asked for a while.
    pub(super) fn distrust(&mut self, peer: PeerId, actions: &mut Vec<Action>) {
        self.counts.corrupt += 1;
        self.peers.cut_off(peer, self.now, self.config.cut_off);
        actions.push(Action::Distrust(peer));
    }

    pub(super) fn pass_over(&mut self, peer: PeerId, actions: &mut Vec<Action>) {
        if !self.peers.pass_over(peer, self.now, self.config.pass_over) {
            return;
        }
        self.counts.passed_over += 1;
        actions.push(Action::Suspect(peer));
        self.do_not_expect_of(peer);
    }

    /// What the peer owes is asked of others.
    pub(super) fn do_not_expect_of(&mut self, peer: PeerId) {
        // what it took before is not to be expected either: the timer looks at those flights at once
        for at in 0..self.flights.len() {
            let Some(flight) = self.flights[at].as_mut() else {
                continue;
            };
            let mut owes = false;
            for ask in flight
                .asks
                .iter_mut()
                .filter(|ask| ask.peer == peer && !ask.silent)
            {
                (ask.silent, owes) = (true, true);
            }
            if owes {
                flight.hedge_at = self.now;
                self.schedule(at);
            }
        }
    }

    /// A source dropped out: asks the next one unless another is at work.
    pub(super) fn go_on(&mut self, at: usize, actions: &mut Vec<Action>) {
        if self.flights[at].as_ref().is_some_and(Flight::idle) {
            self.advance(at, actions);
        } else {
            self.schedule(at);
        }
    }

    /// Requests to those peers have failed: their connections are gone, or they are members no more.
    pub(super) fn fail_asks_of(&mut self, gone: impl Fn(PeerId) -> bool, actions: &mut Vec<Action>) {
        for at in 0..self.flights.len() {
            let find = |flight: &Flight| flight.asks.iter().position(|ask| gone(ask.peer));
            while let Some(index) = self.flights[at].as_ref().and_then(find) {
                self.ask_failed(at, index, Failure::Unreachable, actions);
            }
        }
    }
}
