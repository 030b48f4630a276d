//! How many nodes want a blob, and therefore how many should carry it.
//!
//! A node that does not want a blob itself carries it for others only if it is among the first M of the tree's order, M
//! about an eighth of those who want it; otherwise ten users among ten thousand nodes would move four times the bytes.
//! Every request says how many want the blob through its sender, every answer how many want it in all.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lacewing_format::Digest;

use super::time::Time;
use super::{PeerId, Swarm, TreeId};
use crate::limits::MAX_DEMANDS;
use crate::piece::PieceId;

/// Of this many members one may be asked to carry a blob before anything is known of its demand, so that a rollout's first
/// requests do not all meet at one node.
const UNKNOWN_RATIO: usize = 64;
/// Fewer would be crowded in small clusters.
const UNKNOWN_FLOOR: usize = 16;
/// If so many want a piece through a node, it carries the blob although nothing is known of its demand.
pub(crate) const ENOUGH_WANTS: u32 = 3;
/// So few children that want a blob may be chance.
pub(crate) const ENOUGH_CHILDREN: usize = 2;
/// Those who asked first within this time are the measure of how fast a blob's demand grows.
const MOMENT: Duration = Duration::from_millis(10);
/// Such moments that are looked ahead: the nodes of a rollout start within some of them.
const AHEAD: u32 = 4;
/// What was heard of a demand is replaced by less after this time.
const HEARD_HOLDS: Duration = Duration::from_millis(100);
/// Pieces of a tree for which those who want them are counted: a window and a half of them, so that some are old enough to have
/// been asked for by all.
const PIECES: usize = 8;
/// Children in a tree, as those nodes see it; other views may have a few more.
const MAX_CHILDREN: usize = 16;
/// Requests for a blob that go out before the first answer.
const PROBES: u32 = 2;
/// Fewer than one of so many members are few.
const FEW: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Demand {
    blobs: BTreeMap<Digest, Blob>,
}

#[derive(Debug, Default)]
struct Blob {
    wanted: Option<Time>,
    heard: u32,
    heard_at: Time,
    trees: Vec<(TreeId, Wants)>,
    touched: Time,
    /// When a peer last took a request for it.
    answered: Option<Time>,
    /// Requests sent before any was taken.
    probes: u32,
}

/// What peers want of a blob by one tree.
#[derive(Debug, Default)]
struct Wants {
    /// The last pieces that were asked for.
    pieces: VecDeque<Asked>,
    /// How many wanted the blob at the begin of this moment, and of the one before.
    then: (u32, u32, Time),
    /// Those who ask this node first in this tree and want the blob: when they did so first, and last.
    children: Vec<(PeerId, Time, Time)>,
}

/// How many want a piece. Each of them asks for it once, by one way: so that nobody is counted twice, whoever carries the blob.
#[derive(Debug)]
struct Asked {
    offset: u64,
    wants: u32,
    at: Time,
}

impl Wants {
    fn now(&self, now: Time, memory: Duration) -> u32 {
        let recent = self.pieces.iter().filter(|asked| now.since(asked.at) < memory);
        recent.map(|asked| asked.wants).max().unwrap_or(0)
    }
}

impl Demand {
    /// This node wants the blob itself.
    pub(crate) fn want(&mut self, blob: &Digest, now: Time) {
        self.entry(blob, now).wanted = Some(now);
    }

    /// A request of a peer was taken; `wants` nodes want the piece through that peer.
    pub(crate) fn asked(&mut self, piece: &PieceId, tree: TreeId, wants: u32, now: Time) {
        let tree = self.tree(&piece.blob, tree, now);
        if now.since(tree.then.2) >= MOMENT {
            tree.then = (tree.now(now, HEARD_HOLDS), tree.then.0, now);
        }
        let wants = wants.clamp(1, crate::limits::MAX_MEMBERS as u32);
        if let Some(asked) = tree.pieces.iter_mut().find(|asked| asked.offset == piece.offset) {
            (asked.wants, asked.at) = (asked.wants.saturating_add(wants), now);
            return;
        }
        if tree.pieces.len() >= PIECES {
            tree.pieces.pop_front();
        }
        let (offset, at) = (piece.offset, now);
        tree.pieces.push_back(Asked { offset, wants, at });
    }

    /// A peer that asks this node first in the tree wants the blob.
    pub(crate) fn child_asked(&mut self, blob: &Digest, tree: TreeId, peer: PeerId, now: Time) {
        let children = &mut self.tree(blob, tree, now).children;
        if let Some(child) = children.iter_mut().find(|child| child.0 == peer) {
            child.2 = now;
        } else if children.len() < MAX_CHILDREN {
            children.push((peer, now, now));
        }
    }

    /// An answer said that so many nodes want the blob.
    pub(crate) fn heard(&mut self, blob: &Digest, demand: u32, now: Time) {
        let blob = self.entry(blob, now);
        let fresh = now.since(blob.heard_at) < HEARD_HOLDS;
        if demand > 0 && (demand >= blob.heard || !fresh) {
            (blob.heard, blob.heard_at) = (demand, now);
        }
    }

    /// Whether to wait for the answer to the first requests before sending more: they tell how many want the blob, and a
    /// whole window sent the wrong way crowds the first nodes of the trees.
    pub(crate) fn hold(&mut self, blob: &Digest, now: Time, memory: Duration) -> bool {
        let blob = self.entry(blob, now);
        if blob.answered.is_some_and(|at| now.since(at) < memory) {
            return false;
        }
        blob.probes += 1;
        blob.probes > PROBES
    }

    /// A peer took a request; tells whether others were held back for that.
    pub(crate) fn answered(&mut self, blob: &Digest, now: Time) -> bool {
        let blob = self.entry(blob, now);
        blob.answered = Some(now);
        std::mem::take(&mut blob.probes) > PROBES
    }

    /// Whether this node wants the blob itself.
    pub(crate) fn wanted(&self, blob: &Digest, now: Time, memory: Duration) -> bool {
        let wanted = self.blobs.get(blob).and_then(|blob| blob.wanted);
        wanted.is_some_and(|at| now.since(at) < memory)
    }

    /// How many nodes want the blob through this one by the tree, itself included.
    pub(crate) fn through(&self, blob: &Digest, tree: TreeId, now: Time, memory: Duration) -> u32 {
        let own = u32::from(self.wanted(blob, now, memory));
        let wants = self.known_tree(blob, tree);
        own.saturating_add(wants.map_or(0, |wants| wants.now(now, memory)))
    }

    /// How many of all `members` want the blob, to judge by this node's children: a sample, of which every node has
    /// about one for each of the `trees`. 0 if that may be chance.
    pub(crate) fn sampled(
        &self,
        blob: &Digest,
        trees: usize,
        members: usize,
        now: Time,
        memory: Duration,
    ) -> u32 {
        let known = self.blobs.get(blob).map_or(&[][..], |blob| &blob.trees);
        let children = known.iter().flat_map(|(_, wants)| &wants.children);
        let (mut all, mut new) = (0, 0);
        for (_, since, _) in children.filter(|child| now.since(child.2) < memory) {
            all += 1;
            new += usize::from(now.since(*since) < MOMENT);
        }
        let of_all = |children: usize| (children * members / trees.max(1)) as u32;
        if all < ENOUGH_CHILDREN {
            return 0;
        }
        foreseen(of_all(all), of_all(new), members)
    }

    /// How many of all `members` want the blob as far as this one knows; 0 if it knows nothing. Only the `first` of a tree
    /// sees all who ask; the others know what they heard from there.
    fn estimate(
        &self,
        blob: &Digest,
        tree: TreeId,
        first: bool,
        members: usize,
        now: Time,
        memory: Duration,
    ) -> u32 {
        let known = self
            .blobs
            .get(blob)
            .filter(|blob| now.since(blob.heard_at) < memory);
        let heard = known.map_or(0, |blob| blob.heard);
        if !first {
            return heard;
        }
        let through = self.through(blob, tree, now, memory);
        let before = self.known_tree(blob, tree).map_or(0, |wants| wants.then.1);
        foreseen(through, through.saturating_sub(before), members).max(heard)
    }

    fn known_tree(&self, blob: &Digest, tree: TreeId) -> Option<&Wants> {
        let trees = &self.blobs.get(blob)?.trees;
        trees.iter().find(|entry| entry.0 == tree).map(|entry| &entry.1)
    }

    fn tree(&mut self, blob: &Digest, tree: TreeId, now: Time) -> &mut Wants {
        let trees = &mut self.entry(blob, now).trees;
        let at = trees.iter().position(|entry| entry.0 == tree).unwrap_or_else(|| {
            trees.push((tree, Wants::default()));
            trees.len() - 1
        });
        &mut trees[at].1
    }

    fn entry(&mut self, blob: &Digest, now: Time) -> &mut Blob {
        if self.blobs.len() >= MAX_DEMANDS && !self.blobs.contains_key(blob) {
            let oldest = self
                .blobs
                .iter()
                .min_by_key(|entry| entry.1.touched)
                .map(|entry| *entry.0);
            oldest.and_then(|oldest| self.blobs.remove(&oldest));
        }
        let entry = self.blobs.entry(*blob).or_default();
        entry.touched = now;
        entry
    }
}

impl Swarm {
    /// How many want the blob as far as this node knows; 0 if it knows nothing. As the `first` of the tree it sees all who ask.
    pub(super) fn demand_of(&self, blob: &Digest, tree: TreeId, first: bool) -> u32 {
        let members = self.view.members().len();
        (self.demand).estimate(blob, tree, first, members, self.now, self.config.demand_memory)
    }
}

/// How many of all `members` want a blob, for what is to be decided now, if so many are known to and `new` of them do since
/// a moment ago. Fast growth is taken for the start of a rollout, unless that would still be few.
fn foreseen(wanted: u32, new: u32, members: usize) -> u32 {
    let soon = wanted.saturating_add(new.saturating_mul(AHEAD));
    if is_few(soon, members) { wanted } else { soon }
}

fn is_few(demand: u32, members: usize) -> bool {
    (demand as usize).saturating_mul(FEW) < members
}

/// How many members, from the first of the order on, carry a blob without wanting it, if `demand` (0: unknown) of all
/// `members` want it.
pub(crate) fn carriers(demand: u32, members: usize, ratio: u32) -> usize {
    match demand as usize {
        0 => (members / UNKNOWN_RATIO).max(UNKNOWN_FLOOR),
        demand if demand.saturating_mul(2) >= members => usize::MAX,
        demand => (demand / ratio.max(1) as usize).max(1),
    }
}

/// How many members, from the first of the order on, are asked at all. If few want a blob, only those who carry it; if many
/// do, the usual parent mostly is one of them, and sends others on if it is not.
pub(crate) fn asked(demand: u32, members: usize, ratio: u32) -> usize {
    match demand as usize {
        0 => usize::MAX,
        _ if !is_few(demand, members) => usize::MAX,
        _ => carriers(demand, members, ratio),
    }
}
