//! How many nodes want a blob, and therefore how many should carry it.
//!
//! A node that does not want a blob itself carries it for others only if it is among the first M of the tree's order, M
//! about an eighth of those who want it; otherwise ten users among ten thousand nodes would move four times the bytes.
//! Every request says how many want the blob through its sender, every answer how many want it in all.

use std::collections::BTreeMap;
use std::time::Duration;

use lacewing_format::Digest;

use super::time::Time;
use super::{PeerId, TreeId};
use crate::limits::{MAX_ASKERS, MAX_DEMANDS};

/// Of this many members one may be asked to carry a blob before anything is known of its demand, so that a rollout's first
/// requests do not all meet at one node.
const UNKNOWN_RATIO: usize = 64;
/// Fewer would be crowded in small clusters.
const UNKNOWN_FLOOR: usize = 16;
/// So many askers make a node carry a blob although nothing is known of its demand.
pub(crate) const ENOUGH_ASKERS: usize = 3;
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
    trees: Vec<(TreeId, Vec<Asker>)>,
    touched: Time,
    /// When a peer last took a request for it.
    answered: Option<Time>,
    /// Requests sent before any was taken.
    probes: u32,
}

#[derive(Debug)]
struct Asker {
    peer: PeerId,
    wants: u32,
    at: Time,
}

impl Demand {
    /// This node wants the blob itself.
    pub(crate) fn want(&mut self, blob: &Digest, now: Time) {
        self.entry(blob, now).wanted = Some(now);
    }

    /// A peer asked for a piece of the blob by this tree; `wants` nodes want it through that peer.
    pub(crate) fn asked(&mut self, blob: &Digest, tree: TreeId, peer: PeerId, wants: u32, now: Time) {
        let trees = &mut self.entry(blob, now).trees;
        let at = trees.iter().position(|entry| entry.0 == tree).unwrap_or_else(|| {
            trees.push((tree, Vec::new()));
            trees.len() - 1
        });
        let askers = &mut trees[at].1;
        let wants = wants.clamp(1, crate::limits::MAX_MEMBERS as u32);
        if let Some(asker) = askers.iter_mut().find(|asker| asker.peer == peer) {
            (asker.wants, asker.at) = (wants, now);
        } else if askers.len() < MAX_ASKERS {
            askers.push(Asker { peer, wants, at: now });
        }
    }

    /// An answer said that so many nodes want the blob.
    pub(crate) fn heard(&mut self, blob: &Digest, demand: u32, now: Time) {
        let blob = self.entry(blob, now);
        let fresh = now.since(blob.heard_at) < Duration::from_secs(1);
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

    /// How many nodes want the blob through this one by the tree, itself included, and how many peers of them asked
    /// directly.
    pub(crate) fn through(&self, blob: &Digest, tree: TreeId, now: Time, memory: Duration) -> (u32, usize) {
        let own = u32::from(self.wanted(blob, now, memory));
        let Some((_, askers)) =
            (self.blobs.get(blob)).and_then(|blob| blob.trees.iter().find(|entry| entry.0 == tree))
        else {
            return (own, 0);
        };
        let recent = askers.iter().filter(|asker| now.since(asker.at) < memory);
        recent.fold((own, 0), |(wants, count), asker| {
            (wants.saturating_add(asker.wants), count + 1)
        })
    }

    /// How many nodes want the blob as far as this one knows; 0 if it knows nothing. Only the `first` of a tree sees all
    /// askers; the others know what they heard from there.
    pub(crate) fn estimate(
        &self,
        blob: &Digest,
        tree: TreeId,
        first: bool,
        now: Time,
        memory: Duration,
    ) -> u32 {
        let heard = self
            .blobs
            .get(blob)
            .filter(|blob| now.since(blob.heard_at) < memory);
        let through = if first {
            self.through(blob, tree, now, memory).0
        } else {
            0
        };
        through.max(heard.map_or(0, |blob| blob.heard))
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
        demand if demand.saturating_mul(FEW) >= members => usize::MAX,
        _ => carriers(demand, members, ratio),
    }
}
