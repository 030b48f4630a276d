//! How a piece comes to this node: whom it asks, when it asks another one, and what ends it.

use std::time::Duration;

use super::demand;
use super::explain::Standing;
use super::flight::{Ask, AtOrigin, Flight, Manner, NEVER};
use super::{Action, Event, Failure, Hint, OriginId, PeerId, Refusal, RequestId, Swarm, TreeId};
use crate::error::FetchError;
use crate::limits::{MAX_FLIGHTS, MAX_PIECE_LEN};
use crate::piece::{Class, PieceId};

/// Hedges that may be saved up; a burst of stragglers needs them at once.
pub(super) const MOST_HEDGES: f64 = 16.0;
/// Of those, what is kept for blocked readers. A first window of prefetched pieces would spend all there is at once where
/// links are slow, when nobody can know yet how long a piece takes.
const FOR_READERS: f64 = 14.0;
/// A peer that takes so many times as long as it may is taken for dead, and another one asked whatever the budget. It has
/// taken the request, so that its silence shows nowhere else, and at the end of a blob no requests earn hedges any more.
const LOST: u32 = 4;
/// Requests to peers under way for one piece.
const MOST_ASKS: usize = 2;
/// Clusters that have no crowd to fear.
const SMALL_CLUSTER: usize = 64;
/// Longest wait for the first answer about a blob.
const HOLD_BACK: Duration = Duration::from_millis(5);
/// Before anything has arrived nobody knows how long it takes.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// Longest time a peer has to take a request, however slow they all were.
const LONGEST_ACK: Duration = Duration::from_secs(1);
/// Pause before all are asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Earliest members that stand in when all ancestors fail, and later ones asked whether they hold a piece.
const STAND_INS: usize = 16;
/// The lower bits of a request's name tell the flight.
const FLIGHT_BITS: u32 = 24;

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
    fn release(&mut self, actions: &mut Vec<Action>) {
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
        let at = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[at] = Some(flight);
        self.by_piece.insert(piece, at);
        Some(at)
    }

    /// Asks the next source there is. If there is none, and nothing is under way, looks again later.
    pub(super) fn advance(&mut self, at: usize, actions: &mut Vec<Action>) {
        if let Some(peer) = self.next_peer(at) {
            self.ask(at, peer, false, actions);
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

    /// Who is asked next: the nearest ancestor that was not asked yet, then the earliest members.
    fn next_peer(&mut self, at: usize) -> Option<PeerId> {
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
        let mut found = ancestors.iter().copied().find(usable);
        if found.is_none() && (flight.idle() || flight.asks.len() >= MOST_ASKS) {
            let order = self.view.order(self.me, tree);
            let rank = order.map_or(0, |order| order.rank(tree.distance(self.me)));
            let earliest = (0..rank.min(STAND_INS)).filter_map(|rank| order?.at(rank));
            found = earliest.into_iter().find(usable);
        }
        self.scratch = ancestors;
        found
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

    fn ask(&mut self, at: usize, peer: PeerId, held_only: bool, actions: &mut Vec<Action>) {
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
            answer_by: self.now.after(ack_timeout),
            accepted: false,
            silent: false,
        });
        flight.hedge_at = self.now.after(patience);
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

    /// How long a piece may take before another source is asked, too.
    fn patience(&mut self, at: usize) -> Duration {
        let Some((piece, manner)) = self.flights[at].as_ref().map(|f| (f.piece, f.manner)) else {
            return LONGEST_PATIENCE;
        };
        let least = match manner {
            Manner::Blocking | Manner::Promoted => self.config.hedge_blocking,
            Manner::Prefetch => self.config.hedge_prefetch.max(self.two_windows(&piece)),
        };
        // Before the first of a kind has arrived, others tell more than nothing does.
        let kinds = [manner, Manner::Blocking, Manner::Prefetch];
        let known = kinds
            .into_iter()
            .find_map(|kind| self.arrival[kind as usize].patience());
        // Of pieces of a mebibyte; longer ones take longer.
        let first = FIRST_PATIENCE.saturating_mul((piece.len >> 20).max(1));
        known.unwrap_or(first).min(LONGEST_PATIENCE).max(least)
    }

    /// How long a peer has to take a request.
    pub(super) fn ack_timeout(&self) -> Duration {
        let usual = self.acceptance.patience().unwrap_or_default();
        usual.min(LONGEST_ACK).max(self.config.ack_timeout)
    }

    pub(super) fn promote(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.class = Class::Blocking;
        flight.manner = Manner::Promoted;
        flight.started = self.now;
        let patience = self.patience(at);
        let hedge_at = self.now.after(patience);
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.hedge_at = flight.hedge_at.min(hedge_at);
        for ask in &flight.asks {
            let (peer, request) = (ask.peer, ask.request);
            actions.push(Action::Promote { peer, request });
        }
        if flight.at_origin == AtOrigin::Asked {
            let piece = flight.piece;
            actions.push(Action::PromoteOrigin { piece });
        }
        self.schedule(at);
    }

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
            Event::Progressed { .. } => self.peers.lives(peer, self.now),
            Event::Received { .. } => self.received(at, index, actions),
            Event::Redirected { to, .. } => self.redirected(at, index, to, actions),
            Event::Refused { reason, .. } => self.refused(at, index, reason, actions),
            Event::AskFailed { failure, .. } => self.ask_failed(at, index, failure, actions),
            _ => {}
        }
    }

    fn accepted(&mut self, at: usize, index: usize) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = &mut flight.asks[index];
        if !ask.accepted {
            self.acceptance.add(self.now.since(ask.sent));
        }
        (ask.accepted, ask.silent) = (true, false);
        self.peers.lives(ask.peer, self.now);
    }

    fn received(&mut self, at: usize, index: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        self.peers.lives(ask.peer, self.now);
        self.counts.received += 1;
        self.complete(at, Some(ask.peer), actions);
    }

    fn redirected(&mut self, at: usize, index: usize, to: PeerId, actions: &mut Vec<Action>) {
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

    fn refused(&mut self, at: usize, index: usize, reason: Refusal, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        flight.origin_at_once |= reason == Refusal::Forbidden;
        self.peers.lives(ask.peer, self.now);
        self.go_on(at, actions);
    }

    fn ask_failed(&mut self, at: usize, index: usize, failure: Failure, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        let ask = flight.asks.remove(index);
        match failure {
            Failure::Corrupt => {
                flight.last_error = FetchError::Corrupt;
                self.counts.corrupt += 1;
                self.peers.cut_off(ask.peer, self.now, self.config.cut_off);
                actions.push(Action::Distrust(ask.peer));
            }
            Failure::Unreachable | Failure::Stalled => self.pass_over(ask.peer, actions),
        }
        self.go_on(at, actions);
    }

    fn pass_over(&mut self, peer: PeerId, actions: &mut Vec<Action>) {
        if !self.peers.pass_over(peer, self.now, self.config.pass_over) {
            return;
        }
        self.counts.passed_over += 1;
        actions.push(Action::Suspect(peer));
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
    fn go_on(&mut self, at: usize, actions: &mut Vec<Action>) {
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

    /// The timer came to this flight: passes over who did not answer, hedges, tries again, gives up.
    pub(super) fn look_at(&mut self, at: usize, actions: &mut Vec<Action>) {
        let (now, ack_timeout) = (self.now, self.ack_timeout());
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        if now >= flight.deadline {
            let error = flight.last_error;
            self.fail(at, error, actions);
            return;
        }
        let mut silent = Vec::new();
        for ask in &mut flight.asks {
            if ask.accepted || ask.silent || now < ask.answer_by {
                continue;
            }
            // Whoever gives other things meanwhile is only busy; whether it is too slow is the hedge's matter.
            let heard = self.peers.heard(ask.peer).max(ask.sent);
            ask.answer_by = heard.after(ack_timeout);
            if ask.answer_by <= now {
                ask.silent = true;
                silent.push(ask.peer);
            }
        }
        let (hedge, retry) = (now >= flight.hedge_at, now >= flight.retry_at);
        for peer in silent {
            self.pass_over(peer, actions);
        }
        if retry && let Some(flight) = self.flights[at].as_mut() {
            flight.retry_at = NEVER;
            flight.tried.clear();
        }
        if self.flights[at].as_ref().is_some_and(Flight::idle) {
            let patience = self.patience(at);
            if hedge && let Some(flight) = self.flights[at].as_mut() {
                flight.hedge_at = now.after(patience); // somebody else is asked now, or nobody can be
            }
            self.advance(at, actions);
        } else if hedge {
            self.hedge(at, actions);
        }
    }

    /// Asks a second source because the first is slow, if the budget allows.
    fn hedge(&mut self, at: usize, actions: &mut Vec<Action>) {
        let patience = self.patience(at);
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        // More is known by now of how long it takes than when it was asked for.
        let enough = flight.waits_since().after(patience);
        let soon = self.now < enough;
        flight.hedge_at = if soon { enough } else { self.now.after(patience) };
        let lost = flight.waits_since().after(patience.saturating_mul(LOST)) <= self.now;
        let kept = if flight.class == Class::Prefetch {
            FOR_READERS
        } else {
            0.0
        };
        if soon || !lost && self.hedges_left - kept < 1.0 {
            return;
        }
        let before = (self.counts.asked, self.counts.asked_origin);
        self.advance(at, actions);
        if before != (self.counts.asked, self.counts.asked_origin) {
            self.hedges_left = (self.hedges_left - 1.0).max(0.0);
            self.counts.hedged += 1;
            self.counts.hedged_origin += u64::from(before.1 != self.counts.asked_origin);
        } else if let Some(flight) = self.flights[at].as_mut() {
            // all were asked: those that are not being asked now may be asked again
            let asks = &flight.asks;
            (flight.tried).retain(|peer| asks.iter().any(|ask| ask.peer == *peer));
        }
    }

    /// The piece is here: everybody who waited gets it.
    pub(super) fn complete(&mut self, at: usize, _from: Option<PeerId>, actions: &mut Vec<Action>) {
        let Some(flight) = self.end(at, actions) else {
            return;
        };
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
    fn end(&mut self, at: usize, actions: &mut Vec<Action>) -> Option<Flight> {
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
