//! Trees, and where members stand in them: by distance on rings of hashes, so that all nodes agree whatever they know.

use super::rng::mix;

/// Children of a node in a tree. 3 and 4 are as fast, 2 is deeper, 8 is uneven.
pub(crate) const ARITY: usize = 4;

/// Trees cut from one ring, evenly spaced. With 32 every node is inner in about 8 and has about 64 connections.
pub(crate) const STRIPES: u16 = 32;

/// From the tree of a piece to that of the next one: about 0.6 of a ring, and of the rings. Odd, so that every tree has its turn.
pub(super) const STEP: u64 = 179;

/// Rings of small clusters. One ring of few members has gaps of very different lengths, and whoever stands behind a long
/// one uploads twice the mean; eight rings even that out. They cost connections, of which a small cluster has few.
pub(crate) const RINGS: u16 = 8;

/// A member's position on the first ring: a 64-bit hash of its name, the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// Names a tree, and by that an order of all possible members. The same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u16);

impl TreeId {
    /// All trees there can be.
    pub const COUNT: u16 = STRIPES * RINGS;

    /// A member's place in the tree's order: smaller is earlier. No two members have the same.
    pub fn distance(self, peer: PeerId) -> u64 {
        position(self.ring(), peer).wrapping_sub(self.start())
    }

    pub(super) fn ring(self) -> usize {
        usize::from(self.0 / STRIPES)
    }

    pub(super) fn start(self) -> u64 {
        u64::from(self.0 % STRIPES) << (64 - STRIPES.trailing_zeros())
    }
}

/// Where a member stands on a ring. A bijection, so that no two members share a position on any ring.
pub(super) fn position(ring: usize, peer: PeerId) -> u64 {
    match ring {
        0 => peer.0,
        ring => mix(peer.0 ^ mix(ring as u64)),
    }
}

/// Which of the first `relays` a member asks that stands behind them.
pub(super) fn slot(peer: PeerId, tree: TreeId, relays: usize) -> usize {
    (mix(peer.0 ^ mix(u64::from(tree.0))) % relays.max(1) as u64) as usize
}

/// The rank that `rank` asks in a large cluster; `None` for the first.
pub(super) fn parent(rank: usize) -> Option<usize> {
    rank.checked_sub(1).map(|before| before / ARITY)
}
