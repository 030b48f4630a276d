//! Keeps the store within its quota and the disk above its floor, by giving up what was of use longest ago.
//!
//! ```text
//! stores ──take──► Space ──below `low`──► watch: measure ─► choose (pure) ─► Pack::evict ──► Space
//!                                            └── every second, whatever the disk's other users do
//! ```
//!
//! What is measured is what `du` would say, not what was counted: `st_blocks` of all files of the store.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use lacewing_format::limits::BLOCK;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::report::LayerId;
use crate::store::pack::PackNumber;
use crate::store::space::Space;
use crate::store::uses::REGION;
use crate::volumes::{Volume, Volumes};

/// How often the disk is looked at: what others write comes near a floor no faster than this.
const LOOK: Duration = Duration::from_secs(1);

/// Room that is made when room is short: an eighth of the bound, so that a flush of a checkpoint is paid for many
/// blocks, within these bounds.
const MARGIN: (u64, u64) = (1 << 20, 1 << 30);

/// Bounds of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Most bytes of disk that the store takes.
    pub(crate) quota: Option<u64>,
    /// Least bytes that stay free on its disk.
    pub(crate) free_floor: Option<u64>,
}

impl Bounds {
    /// Room that is made when room is short.
    fn margin(self) -> u64 {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let bound = least(self.quota, self.free_floor).unwrap_or(0);
        (bound / 8).clamp(MARGIN.0, MARGIN.1)
    }

    /// Room in a new store, before the first look.
    pub(crate) fn space(self) -> Space {
        if self == Bounds::default() {
            return Space::unbounded();
        }
        Space::below(0, signed(self.margin() / 2))
    }

    /// Room, from what is taken and what is free.
    fn room(self, used: u64, free: u64) -> i64 {
        let quota = self.quota.map_or(i64::MAX, |quota| signed(quota) - signed(used));
        let floor = self
            .free_floor
            .map_or(i64::MAX, |floor| signed(free) - signed(floor));
        quota.min(floor)
    }

    /// Whether layers with so many bytes may be read as plain files, from which nothing is ever evicted: half of the
    /// quota at most, so that the other half can follow what is read.
    pub(crate) fn allow_whole(self, bytes: u64, space: &Space) -> bool {
        self.quota.is_none_or(|quota| bytes <= quota / 2) && space.roomy()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A part of a pack that may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// When it was of use.
    used: u32,
    pack: PackNumber,
    region: u32,
    bytes: u64,
}

/// The oldest candidates that together have the bytes, by pack.
fn choose(mut candidates: Vec<Candidate>, bytes: u64) -> Vec<Candidate> {
    candidates.sort_unstable();
    let mut chosen = 0;
    let enough = candidates.iter().position(|candidate| {
        chosen += candidate.bytes;
        chosen >= bytes
    });
    candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
    candidates.sort_unstable_by_key(|candidate| (candidate.pack, candidate.region));
    candidates
}

/// Watches over the bounds.
pub(crate) struct Evictor {
    pub(crate) root: PathBuf,
    pub(crate) bounds: Bounds,
    pub(crate) space: Arc<Space>,
    pub(crate) volumes: Weak<Volumes>,
    pub(crate) pinned: Arc<RwLock<BTreeSet<LayerId>>>,
}

impl Evictor {
    /// Looks at the store once, before anything is stored.
    pub(crate) fn look(&self) {
        let (used, free) = (used(&self.root), free(&self.root));
        self.space.set(self.bounds.room(used, free));
    }

    /// Watches until the store is closed. Returns at once where there is no bound.
    pub(crate) async fn watch(self) {
        if self.bounds == Bounds::default() {
            return;
        }
        let this = Arc::new(self);
        let (mut first, mut short) = (true, false);
        while this.volumes.strong_count() > 0 {
            let _ = timeout(LOOK, this.space.woken()).await;
            let turn = this.clone();
            let turned = tokio::task::spawn_blocking(move || turn.turn(first)).await;
            first = false;
            let still_short = turned.unwrap_or(false);
            if still_short && !short {
                warn!(
                    "the store is at its bound and nothing more can be given up; bytes are fetched on each read"
                );
            }
            short = still_short;
            if short {
                // Woken by every store that is refused: no more often than without.
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Measures, and makes room if there is little. Returns whether there still is none.
    fn turn(&self, sweep: bool) -> bool {
        let Some(volumes) = self.volumes.upgrade() else {
            return false;
        };
        if sweep {
            sweep_all(&volumes);
        }
        self.look();
        if self.space.roomy() {
            return false;
        }
        let margin = signed(self.bounds.margin());
        let wanted = margin.saturating_sub(self.space.room());
        let freed = self.make_room(&volumes, u64::try_from(wanted).unwrap_or(0));
        debug!(wanted, freed, "made room in the store");
        self.look();
        self.space.room() <= 0
    }

    fn make_room(&self, volumes: &Volumes, wanted: u64) -> u64 {
        let volumes = volumes.all();
        // What was read a moment ago has not been noted yet.
        volumes.iter().for_each(|volume| volume.pack.give_back());
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner).clone();
        let evictable = |volume: &&Arc<Volume>| {
            !volume.pack.is_whole() && !volume.layers().iter().any(|layer| pinned.contains(layer))
        };
        let candidates = volumes
            .iter()
            .filter(evictable)
            .flat_map(|volume| candidates(volume));
        let chosen = choose(candidates.collect(), wanted);
        let mut freed = 0;
        for group in chosen.chunk_by(|a, b| a.pack == b.pack) {
            let Some(volume) = volumes
                .iter()
                .find(|volume| volume.pack.number() == group[0].pack)
            else {
                continue;
            };
            let region = |candidate: &Candidate| region_of(volume, candidate.region);
            let frames: Vec<_> = group
                .iter()
                .flat_map(|one| volume.frames_in(region(one)))
                .collect();
            match volume.pack.evict(&frames) {
                Ok(bytes) => freed += bytes,
                Err(error) => warn!(%error, "giving up blocks of a pack"),
            }
        }
        freed
    }
}

fn region_of(volume: &Volume, region: u32) -> std::ops::Range<u32> {
    let start = region.saturating_mul(REGION);
    start..start.saturating_add(REGION).min(volume.pack.identity().blocks)
}

fn candidates(volume: &Volume) -> Vec<Candidate> {
    let bits = volume.pack.bits();
    let blocks = volume.pack.identity().blocks;
    let mut found = Vec::new();
    let mut at = bits.next_set(0..blocks);
    while at < blocks {
        let region = at / REGION;
        let range = region_of(volume, region);
        found.push(Candidate {
            used: volume.pack.uses.last(region),
            pack: volume.pack.number(),
            region,
            bytes: u64::from(bits.count(range.clone())) * BLOCK as u64,
        });
        at = bits.next_set(range.end..blocks);
    }
    found
}

/// Gives back space of all packs that no valid block uses.
pub(crate) fn sweep_all(volumes: &Volumes) {
    for volume in volumes.all() {
        if let Err(error) = volume.pack.sweep() {
            warn!(%error, "sweeping a pack");
        }
    }
}

/// Bytes of disk that the store takes.
pub(crate) fn used(root: &Path) -> u64 {
    let files = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = ["packs", "indexes"]
        .into_iter()
        .flat_map(|dir| files(root.join(dir)));
    let single = ["places", "catalogue"].map(|name| std::fs::metadata(root.join(name)));
    let all = below.map(|file| file.metadata()).chain(single);
    // stat(2): `st_blocks` counts 512 bytes whatever the file system's block size.
    all.flatten().map(|found| found.blocks() * 512).sum()
}

/// Bytes that are free on the disk of the store, for others than root.
fn free(root: &Path) -> u64 {
    match rustix::fs::statvfs(root) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            info!(%error, "the free space of the disk is not to be had");
            u64::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(used: u32, pack: PackNumber, region: u32) -> Candidate {
        Candidate {
            used,
            pack,
            region,
            bytes: 100,
        }
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        let all = vec![
            candidate(9, 1, 0),
            candidate(2, 2, 5),
            candidate(1, 1, 7),
            candidate(5, 2, 1),
        ];
        let chosen = |bytes| -> Vec<(u32, u32)> {
            let chosen = choose(all.clone(), bytes);
            chosen.iter().map(|one| (one.pack, one.region)).collect()
        };
        assert_eq!(chosen(100), [(1, 7)]);
        assert_eq!(chosen(101), [(1, 7), (2, 5)]);
        assert_eq!(chosen(300), [(1, 7), (2, 1), (2, 5)]);
        assert_eq!(chosen(10_000).len(), 4);
    }

    #[test]
    fn the_tighter_bound_counts() {
        let bounds = |quota, free_floor| Bounds { quota, free_floor };
        assert_eq!(bounds(Some(100), None).room(30, 5), 70);
        assert_eq!(bounds(Some(100), None).room(130, 5), -30);
        assert_eq!(bounds(None, Some(10)).room(30, 5), -5);
        assert_eq!(bounds(Some(100), Some(10)).room(30, 25), 15);
        let space = bounds(Some(100 << 20), None).space();
        space.set(50 << 20);
        assert!(bounds(Some(100 << 20), None).allow_whole(50 << 20, &space));
        assert!(!bounds(Some(100 << 20), None).allow_whole(51 << 20, &space));
        space.set(1 << 20);
        assert!(!bounds(Some(100 << 20), None).allow_whole(1 << 20, &space));
    }
}
