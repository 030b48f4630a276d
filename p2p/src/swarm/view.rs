//! Who is in the cluster, and who asks whom: trees cut from rings of hashes.
//!
//! A tree orders all members by their distance from the tree's place on a ring. The order depends on nothing but names,
//! so nodes that know different members still agree on who is earlier: asking only earlier nodes can never come back.
//! (Karger et al. 1997, "Consistent hashing and random trees"; one ring for many trees as in SplitStream.)

use std::collections::BTreeSet;

use super::branches::Branches;
use super::tree::{PeerId, RINGS, STEP, STRIPES, TreeId, parent, position, slot};
use crate::limits::{MAX_MEMBERS, MAX_ZONES};
use crate::piece::PieceId;

/// Largest cluster that uses all rings. Clusters that differ about this for a moment choose different trees for a piece,
/// which costs a copy, not correctness: requests name their tree.
pub(crate) const ALL_RINGS_UP_TO: usize = 128;

/// A zone's number; the driver numbers zones by name, each node as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u16);

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub id: PeerId,
    /// Where it stands.
    pub zone: ZoneId,
    /// Whether it asks but is not to be asked: it said that it is slow, or is configured not to upload.
    pub leaf: bool,
}

/// The members at one moment, sorted for look-ups. Immutable, made to be shared.
#[derive(Debug)]
pub struct View {
    members: Vec<Member>,
    zones: Vec<Zone>,
    /// For each tree the first member of each zone, earliest first.
    roots: Vec<Vec<(u64, PeerId)>>,
    rings: u16,
}

#[derive(Debug)]
struct Zone {
    id: ZoneId,
    /// For each ring those who can be asked, by position.
    rings: Vec<Vec<(u64, PeerId)>>,
    /// Whom those ask, in a small cluster.
    branches: Option<Branches>,
}

/// The members of one zone in the order of one tree.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    ring: &'a [(u64, PeerId)],
    first: usize,
    tree: TreeId,
    branches: Option<&'a [u8]>,
}

impl View {
    /// Sorts the members; of two with the same id the first counts. Costs tens of milliseconds for 100,000: a driver
    /// gathers changes for a moment before it makes a new view. Members and zones beyond the limits are left out.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members.truncate(MAX_MEMBERS);
        let names: BTreeSet<ZoneId> = members
            .iter()
            .map(|member| member.zone)
            .take(MAX_MEMBERS)
            .collect();
        let rings = if members.len() <= ALL_RINGS_UP_TO {
            RINGS
        } else {
            1
        };
        let zones: Vec<Zone> = names
            .into_iter()
            .take(MAX_ZONES)
            .map(|id| Zone::new(id, &members, rings))
            .collect();
        let mut view = Self {
            members,
            zones,
            roots: Vec::new(),
            rings,
        };
        view.roots = (0..view.tree_count())
            .map(|tree| view.roots_of(TreeId(tree)))
            .collect();
        view
    }

    /// All members, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What is known of a member.
    pub fn member(&self, id: PeerId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        self.members.get(at)
    }

    /// The tree of a piece. Neighbours in a blob are in different trees, so that a window of them uses all, and those begin at
    /// different places of their rings: in a small cluster trees that begin near each other have the same first node.
    pub fn tree_of(&self, piece: &PieceId) -> TreeId {
        let mut word = [0; 8];
        word.copy_from_slice(&piece.blob.0[..8]);
        // About one on for each piece, also where their lengths differ.
        let ordinal = piece.offset >> u64::from(piece.len).next_power_of_two().trailing_zeros();
        let place = u64::from_le_bytes(word).wrapping_add(ordinal);
        let tree = place.wrapping_mul(STEP) % u64::from(self.tree_count());
        TreeId(tree as u16)
    }

    /// Whether this view can place members in the tree.
    pub fn knows(&self, tree: TreeId) -> bool {
        tree.0 < self.tree_count()
    }

    pub(crate) fn tree_count(&self) -> u16 {
        STRIPES * self.rings
    }

    fn roots_of(&self, tree: TreeId) -> Vec<(u64, PeerId)> {
        let mut roots: Vec<_> = (self.zones.iter())
            .filter_map(|zone| zone.order(tree)?.at(0))
            .map(|peer| (tree.distance(peer), peer))
            .collect();
        roots.sort_unstable();
        roots
    }

    /// The order of the zone that `me` belongs to; `None` if nobody in it can be asked.
    pub(crate) fn order(&self, me: PeerId, tree: TreeId) -> Option<Order<'_>> {
        let zone = self.member(me).map_or(ZoneId::default(), |member| member.zone);
        let at = self.zones.binary_search_by_key(&zone, |zone| zone.id).ok()?;
        self.zones.get(at)?.order(tree)
    }

    /// Who stands at the beginning of the tree, earliest first: of the zone of `me` at most `count`, and the first of each
    /// zone. Without `me`, at most `count`.
    pub(crate) fn firsts(&self, me: PeerId, tree: TreeId, count: usize) -> Vec<PeerId> {
        let mut firsts: Vec<(u64, PeerId)> = self.roots(tree).to_vec();
        if let Some(order) = self.order(me, tree) {
            let own = (0..count.saturating_add(1)).map_while(|rank| order.at(rank));
            firsts.extend(own.map(|peer| (tree.distance(peer), peer)));
        }
        firsts.sort_unstable();
        firsts.dedup();
        firsts.retain(|(_, peer)| *peer != me);
        firsts.truncate(count);
        firsts.into_iter().map(|(_, peer)| peer).collect()
    }

    /// The first members of all zones in the tree's order, earliest first.
    pub(crate) fn roots(&self, tree: TreeId) -> &[(u64, PeerId)] {
        self.roots.get(usize::from(tree.0)).map_or(&[], Vec::as_slice)
    }

    /// Appends whom `me` asks in the tree, nearest first: its ancestors in the zone, the second of the zone (who stands in
    /// for the first), then the zone's ancestors among the zones. Only the first `relays` of the zone are asked by those
    /// behind them. All are strictly earlier than `me`.
    pub(crate) fn ancestors(&self, me: PeerId, tree: TreeId, relays: usize, out: &mut Vec<PeerId>) {
        let mine = tree.distance(me);
        let mut zone_starts = mine;
        if let Some(order) = self.order(me, tree) {
            let rank = order.rank(mine);
            let relays = relays.max(1);
            let mut next = match rank {
                0 => None,
                rank if rank >= relays => Some(slot(me, tree, relays)),
                rank => order.parent(rank),
            };
            while let Some(at) = next {
                out.extend(order.at(at));
                next = order.parent(at);
            }
            let second = order.at(1).filter(|second| rank > 1 && !out.contains(second));
            out.extend(second);
            if rank > 0 {
                zone_starts = order.at(0).map_or(mine, |first| tree.distance(first));
            }
        }
        let roots = self.roots(tree);
        let mut next = parent(roots.partition_point(|root| root.0 < zone_starts));
        while let Some(at) = next {
            out.push(roots[at].1);
            next = parent(at);
        }
        debug_assert!(
            out.iter().all(|peer| tree.distance(*peer) < mine),
            "only earlier nodes are asked"
        );
    }
}

impl Zone {
    fn new(id: ZoneId, members: &[Member], rings: u16) -> Self {
        let of_ring = |ring: u16| {
            let asked = members.iter().filter(|member| member.zone == id && !member.leaf);
            let mut ring: Vec<_> = asked
                .map(|member| (position(usize::from(ring), member.id), member.id))
                .collect();
            ring.sort_unstable();
            ring
        };
        let mut zone = Self {
            id,
            rings: (0..rings).map(of_ring).collect(),
            branches: None,
        };
        let ids: Vec<PeerId> = members.iter().map(|member| member.id).collect();
        let numbers = |tree: TreeId| -> Vec<usize> {
            let order = zone.order(tree);
            let order = order
                .iter()
                .flat_map(|order| (0..order.len()).filter_map(|rank| order.at(rank)));
            order.filter_map(|peer| ids.binary_search(&peer).ok()).collect()
        };
        zone.branches =
            (ids.len() <= ALL_RINGS_UP_TO).then(|| Branches::new(ids.len(), STRIPES * rings, numbers));
        zone
    }

    fn order(&self, tree: TreeId) -> Option<Order<'_>> {
        let ring = self.rings.get(tree.ring())?.as_slice();
        let first = ring.partition_point(|entry| entry.0 < tree.start());
        let branches = self.branches.as_ref().and_then(|branches| branches.of(tree));
        (!ring.is_empty()).then_some(Order {
            ring,
            first,
            tree,
            branches,
        })
    }
}

impl Order<'_> {
    /// How many are earlier than `distance`.
    pub(crate) fn rank(&self, distance: u64) -> usize {
        let position = distance.wrapping_add(self.tree.start());
        let at = self.ring.partition_point(|entry| entry.0 < position);
        if position >= self.tree.start() {
            at - self.first
        } else {
            at + self.ring.len() - self.first
        }
    }

    /// Who has this rank.
    pub(crate) fn at(&self, rank: usize) -> Option<PeerId> {
        let wrapped = (self.first + rank) % self.ring.len();
        (rank < self.ring.len()).then(|| self.ring[wrapped].1)
    }

    /// The rank that `rank` asks; `None` for the first.
    fn parent(&self, rank: usize) -> Option<usize> {
        match self.branches {
            Some(branches) if rank > 0 => branches.get(rank).map(|parent| usize::from(*parent)),
            _ => parent(rank),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }
}
