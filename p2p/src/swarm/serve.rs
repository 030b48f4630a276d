//! What this node does for others: takes requests, sends them elsewhere, serves them in turn.

use std::time::Duration;

use super::explain::Standing;
use super::flight::{AtOrigin, NEVER};
use super::uploads::{Key, Stage};
use super::{Action, Event, Hint, MOST_LET_DOWN, OriginId, PeerId, Refusal, Swarm, TreeId, demand, tree};
use crate::piece::{Class, PieceId};

/// A request as it came in.
#[derive(Clone, Copy)]
struct Incoming {
    key: Key,
    piece: PieceId,
    class: Class,
    tree: TreeId,
    redirects: u8,
    held_only: bool,
    origin: Option<OriginId>,
    hint: Hint,
    here: bool,
}

impl Swarm {
    /// An event about a request of a peer.
    pub(super) fn serve(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Requested {
                from,
                request,
                piece,
                class,
                tree,
                redirects,
                held_only,
                origin,
                hint,
                here,
            } => {
                let key = (from, request);
                self.requested(
                    &Incoming {
                        key,
                        piece,
                        class,
                        tree,
                        redirects,
                        held_only,
                        origin,
                        hint,
                        here,
                    },
                    actions,
                );
            }
            Event::RequestPromoted { from, request } => self.request_promoted((from, request), actions),
            Event::RequestCancelled { from, request } => {
                if let Some(stage) = self.drop_request((from, request), actions) {
                    self.let_down = (self.let_down + 1).min(MOST_LET_DOWN);
                    if let Stage::Active(_) = stage {
                        actions.push(Action::StopUpload { to: from, request });
                    }
                }
            }
            Event::Uploaded { to, request, took } => {
                if let Some(done) = self.uploads.remove((to, request)) {
                    self.counts.uploaded += 1;
                    self.let_down = self.let_down.saturating_sub(1);
                    self.rate.add(self.now, to, u64::from(done.piece.len), took);
                }
            }
            Event::UploadFailed { to, request, gone } => {
                let held = self.uploads.remove((to, request)).is_some();
                if held && gone {
                    self.refuse((to, request), Refusal::Unavailable, actions);
                }
            }
            _ => {}
        }
        self.pump(actions);
    }

    fn requested(&mut self, incoming: &Incoming, actions: &mut Vec<Action>) {
        let (key, piece) = (incoming.key, incoming.piece);
        if self.uploads.get(key).is_some() {
            return; // a name used twice: the first counts
        }
        self.peers.told_rate(key.0, self.zone(key.0), incoming.hint.rate);
        if let Some(reason) = self.objection(incoming) {
            self.refuse(key, reason, actions);
            return;
        }
        if !incoming.held_only {
            self.demand
                .asked(&piece, incoming.tree, incoming.hint.wants, self.now);
            if self.is_wanting_child(incoming) {
                self.demand
                    .child_asked(&piece.blob, incoming.tree, key.0, self.now);
            }
            if let Some(next) = self.elsewhere(incoming) {
                self.counts.redirected += 1;
                let (to, request) = key;
                let hint = self.hint(&piece, incoming.tree);
                actions.push(Action::Redirect {
                    to,
                    request,
                    next,
                    hint,
                });
                return;
            }
        }
        let (to, request) = key;
        let hint = self.hint(&piece, incoming.tree);
        actions.push(Action::Accept { to, request, hint });
        self.uploads.wait(key, piece, incoming.class);
        if incoming.here {
            self.uploads.ready(key);
        } else {
            self.join(incoming, actions);
        }
    }

    /// Why a request cannot be taken, if so.
    fn objection(&self, incoming: &Incoming) -> Option<Refusal> {
        if !self.uploads.has_room(incoming.key.0) {
            return Some(Refusal::Busy);
        }
        if incoming.here {
            return None;
        }
        let flight = self.by_piece.get(&incoming.piece);
        let flight = flight.and_then(|at| self.flights[*at].as_ref());
        if incoming.held_only {
            // From the origin it comes without waiting for anybody, so that there is no circle.
            let comes = flight.is_some_and(|flight| flight.at_origin != AtOrigin::No);
            return (!comes).then_some(Refusal::Unavailable);
        }
        let tree = incoming.tree;
        let later = tree.distance(incoming.key.0) > tree.distance(self.me);
        if tree.0 >= TreeId::COUNT || !self.view.knows(tree) || !later {
            return Some(Refusal::Order);
        }
        flight
            .is_some_and(|flight| flight.tree != tree)
            .then_some(Refusal::Order)
    }

    /// Who should answer instead of this node: the first of the tree if this node should not carry the blob, one of its own
    /// parents if its queue is long. `None` if the request stays here, as it does in doubt.
    fn elsewhere(&mut self, incoming: &Incoming) -> Option<PeerId> {
        if incoming.redirects >= self.config.redirects || !self.view.knows(incoming.tree) {
            return None;
        }
        if !incoming.here && !self.by_piece.contains_key(&incoming.piece) && !self.carries(incoming) {
            return self.carrier(incoming);
        }
        let wait = self.wait(incoming);
        if wait <= self.config.admit_wait || wait <= self.two_windows(&incoming.piece) {
            return None;
        }
        let mut parents = Vec::new();
        self.view
            .ancestors(self.me, incoming.tree, usize::MAX, &mut parents);
        if parents.is_empty() {
            // the first of the tree: those who should hang further down do not know yet how many they are
            let wanted = self.hint(&incoming.piece, incoming.tree).demand;
            let limit = demand::asked(wanted, self.view.members().len(), self.config.relay_ratio);
            self.view
                .ancestors(incoming.key.0, incoming.tree, limit, &mut parents);
            parents.truncate(1);
        }
        let other = |peer: &PeerId| *peer != self.me && *peer != incoming.key.0;
        parents
            .into_iter()
            .find(|peer| other(peer) && self.is_good(*peer))
    }

    /// Who carries the blob if this node does not: one of those who do by rank, or the first or second of the tree.
    fn carrier(&self, incoming: &Incoming) -> Option<PeerId> {
        let tree = incoming.tree;
        let order = self.view.order(self.me, tree)?;
        let carriers = demand::carriers(
            self.wanted_by(incoming),
            self.view.members().len(),
            self.config.relay_ratio,
        );
        let slot = tree::slot(incoming.key.0, tree, carriers);
        let earlier = |peer: &PeerId| tree.distance(*peer) < tree.distance(self.me);
        let by_rank = [slot, 0, 1].into_iter().filter_map(|rank| order.at(rank));
        by_rank
            .into_iter()
            .find(|peer| earlier(peer) && self.is_good(*peer))
    }

    /// How many want the blob, as far as this node or the asker knows; 0 if neither does.
    fn wanted_by(&self, incoming: &Incoming) -> u32 {
        let (blob, memory) = (&incoming.piece.blob, self.config.demand_memory);
        let (trees, members) = (usize::from(self.view.tree_count()), self.view.members().len());
        let sampled = self.demand.sampled(blob, trees, members, self.now, memory);
        let heard = self.demand_of(blob, incoming.tree, false);
        heard.max(incoming.hint.demand).max(sampled)
    }

    /// Whether the asker is one of those that ask this node first, and wants the blob: it stands too far back to carry it
    /// without.
    fn is_wanting_child(&mut self, incoming: &Incoming) -> bool {
        let ((asker, _), tree) = (incoming.key, incoming.tree);
        if incoming.redirects > 0 || !self.view.knows(tree) {
            return false;
        }
        let rank = self
            .view
            .order(asker, tree)
            .map_or(0, |order| order.rank(tree.distance(asker)));
        if rank < demand::carriers(0, self.view.members().len(), self.config.relay_ratio) {
            return false;
        }
        let mut parents = std::mem::take(&mut self.scratch);
        parents.clear();
        self.view.ancestors(asker, tree, usize::MAX, &mut parents);
        let child = parents.first() == Some(&self.me);
        self.scratch = parents;
        child
    }

    fn is_good(&self, peer: PeerId) -> bool {
        self.standing(peer) == Standing::Good
    }

    /// Whether this node gets the piece for others: it wants the blob itself, is the first of the tree, or enough want it.
    fn carries(&self, incoming: &Incoming) -> bool {
        let (blob, tree, memory) = (&incoming.piece.blob, incoming.tree, self.config.demand_memory);
        let rank = (self.view.order(self.me, tree)).map_or(0, |order| order.rank(tree.distance(self.me)));
        if rank == 0 || self.demand.wanted(blob, self.now, memory) {
            return true;
        }
        match self.wanted_by(incoming) {
            0 => self.demand.through(blob, tree, self.now, memory) >= demand::ENOUGH_WANTS,
            wanted => rank < demand::carriers(wanted, self.view.members().len(), self.config.relay_ratio),
        }
    }

    /// How long the request would wait here.
    fn wait(&self, incoming: &Incoming) -> Duration {
        let len = u64::from(incoming.piece.len);
        let before = self.uploads.bytes_before(incoming.class);
        let to_come = match (incoming.here, incoming.class) {
            (true, _) | (false, Class::Blocking) => 0,
            (false, Class::Prefetch) => len.saturating_mul(self.by_piece.len() as u64),
        };
        self.rate.time_for(before.saturating_add(to_come))
    }

    /// Lets a request wait for the piece's flight, which it begins if need be.
    fn join(&mut self, incoming: &Incoming, actions: &mut Vec<Action>) {
        let known = self.by_piece.get(&incoming.piece).copied();
        let Some(at) = known.or_else(|| self.start(incoming.piece, incoming.tree, incoming.class)) else {
            self.uploads.remove(incoming.key);
            self.refuse(incoming.key, Refusal::Busy, actions);
            return;
        };
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.waiters.push(incoming.key);
        flight.origin = flight.origin.or(incoming.origin);
        if incoming.class == Class::Blocking && flight.class == Class::Prefetch {
            self.promote(at, actions);
        } else if flight.idle() && flight.retry_at == NEVER && flight.at_origin == AtOrigin::No {
            self.advance(at, actions);
        }
    }

    fn request_promoted(&mut self, key: Key, actions: &mut Vec<Action>) {
        let piece = self.uploads.get(key).map(|request| request.piece);
        match (self.uploads.promote(key), piece) {
            (Some(Stage::Waiting), Some(piece)) => {
                let at = self.by_piece.get(&piece).copied();
                let prefetched = |at: &usize| {
                    (self.flights[*at].as_ref()).is_some_and(|flight| flight.class == Class::Prefetch)
                };
                if let Some(at) = at.filter(prefetched) {
                    self.promote(at, actions);
                }
            }
            (Some(Stage::Active(_)), _) => {
                let (to, request) = key;
                actions.push(Action::PromoteUpload { to, request });
            }
            _ => {}
        }
    }

    /// Lets go of a request; what nobody else waits for is called off.
    fn drop_request(&mut self, key: Key, actions: &mut Vec<Action>) -> Option<Stage> {
        let request = self.uploads.remove(key)?;
        if request.stage == Stage::Waiting
            && let Some(at) = self.by_piece.get(&request.piece).copied()
        {
            if let Some(flight) = self.flights[at].as_mut() {
                flight.waiters.retain(|waiter| *waiter != key);
            }
            self.abandon_if_unneeded(at, actions);
        }
        Some(request.stage)
    }

    /// The peer is gone, and so is what it asked for.
    pub(super) fn forget_requests_of(&mut self, peer: PeerId, actions: &mut Vec<Action>) {
        for key in self.uploads.of_peer(peer) {
            if let Some(Stage::Active(_)) = self.drop_request(key, actions) {
                let (to, request) = key;
                actions.push(Action::StopUpload { to, request });
            }
        }
        self.pump(actions);
    }

    /// Begins the uploads whose turn it is.
    pub(super) fn pump(&mut self, actions: &mut Vec<Action>) {
        let (places, patience) = (self.config.uploads, self.config.upload_patience);
        while let Some(((to, request), held)) = self.uploads.next(self.now, places, patience) {
            let (piece, class) = (held.piece, held.class);
            let tree = self.view.tree_of(&piece);
            let hint = self.hint(&piece, tree);
            actions.push(Action::Serve {
                to,
                request,
                piece,
                class,
                hint,
            });
        }
    }

    fn refuse(&mut self, (to, request): Key, reason: Refusal, actions: &mut Vec<Action>) {
        self.counts.refused += 1;
        actions.push(Action::Refuse { to, request, reason });
    }
}
