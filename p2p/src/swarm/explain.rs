//! What a swarm tells about itself: for `lacewing explain`, `lacewing top` and metrics.

use super::demand;
use super::flight::AtOrigin;
use super::{PeerId, Swarm, TreeId};
use crate::piece::PieceId;

/// Who would be asked for a piece, and what is going on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The piece's tree; `None` as long as no members are known.
    pub tree: Option<TreeId>,
    /// This node's place in the tree's order, from 0; counts members that are no leaves.
    pub rank: u32,
    /// Whom this node would ask, nearest first. Empty: the origin.
    pub candidates: Vec<Candidate>,
    /// Whether this node may go to the origin at once.
    pub origin_at_once: bool,
    /// Whom it is waiting for now.
    pub asked: Vec<PeerId>,
    /// Whether it is waiting for the origin now.
    pub at_origin: bool,
    /// How many peers wait for the piece here.
    pub waiting: u32,
}

/// A node that could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// What speaks against it.
    pub standing: Standing,
}

/// How this node thinks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It would be asked.
    Good,
    /// It did not answer lately and is passed over.
    PassedOver,
    /// It sent wrong bytes and is cut off.
    CutOff,
}

/// Counters since the swarm was made, and what is going on now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Pieces in flight to this node.
    pub flights: u32,
    /// Requests of peers that wait for a piece or for their turn.
    pub queued: u32,
    /// Uploads going on.
    pub uploading: u32,
    /// Requests sent to peers.
    pub asked: u64,
    /// Requests sent to origins.
    pub asked_origin: u64,
    /// Second requests for the same piece because the first was slow.
    pub hedged: u64,
    /// Those of them that went to an origin.
    pub hedged_origin: u64,
    /// Peers passed over because they did not answer.
    pub passed_over: u64,
    /// Peers that others were asked before for a while, because they were slower.
    pub late: u64,
    /// Requests of peers that were redirected.
    pub redirected: u64,
    /// Requests of peers that were refused.
    pub refused: u64,
    /// Pieces received from peers.
    pub received: u64,
    /// Pieces received from origins.
    pub received_origin: u64,
    /// Pieces uploaded.
    pub uploaded: u64,
    /// Pieces received that this node did not want itself.
    pub relayed: u64,
    /// Pieces that came with wrong bytes.
    pub corrupt: u64,
    /// Measured upload rate in KiB a second; 0 if unknown.
    pub rate: u32,
    /// Whether this node is a leaf by its own measure.
    pub leaf: bool,
}

impl Swarm {
    /// Tells whom this node would ask for a piece, in order, and what is going on with it now.
    pub fn explain(&self, piece: &PieceId) -> Explanation {
        let tree = self.view.tree_of(piece);
        let wanted = self.demand_of(&piece.blob, tree, false);
        let limit = demand::asked(wanted, self.view.members().len(), self.config.relay_ratio);
        let mut peers = Vec::new();
        self.view.ancestors(self.me, tree, limit, &mut peers);
        let order = self.view.order(self.me, tree);
        let flight = self.by_piece.get(piece).and_then(|at| self.flights[*at].as_ref());
        let candidate = |peer| Candidate {
            peer,
            standing: self.standing(peer),
        };
        Explanation {
            tree: (!self.view.members().is_empty()).then_some(tree),
            rank: order.map_or(0, |order| order.rank(tree.distance(self.me)) as u32),
            candidates: peers.into_iter().map(candidate).collect(),
            origin_at_once: self.near_origin(tree, &[]),
            asked: flight.map_or_else(Vec::new, |flight| {
                flight.asks.iter().map(|ask| ask.peer).collect()
            }),
            at_origin: flight.is_some_and(|flight| flight.at_origin == AtOrigin::Asked),
            waiting: flight.map_or(0, |flight| flight.waiters.len() as u32),
        }
    }

    /// Who stands at the beginning of a piece's tree, earliest first, and whether that is earlier than this node; without
    /// this node and those it has cut off. What nothing else proves is believed on their word.
    pub fn firsts(&self, piece: &PieceId, count: usize) -> Vec<(PeerId, bool)> {
        let tree = self.view.tree_of(piece);
        if !self.view.knows(tree) {
            return Vec::new();
        }
        let mine = tree.distance(self.me);
        let firsts = self.view.firsts(self.me, tree, count).into_iter();
        let trusted = firsts.filter(|peer| self.standing(*peer) != Standing::CutOff);
        trusted.map(|peer| (peer, tree.distance(peer) < mine)).collect()
    }

    /// Counts what is going on now and what happened so far.
    pub fn status(&self) -> Status {
        let (queued, uploading) = self.uploads.counts();
        Status {
            flights: self.by_piece.len() as u32,
            queued: queued as u32,
            uploading: uploading as u32,
            rate: self.rate.kib_per_second(),
            leaf: self.leaf.announced,
            ..self.counts
        }
    }
}
