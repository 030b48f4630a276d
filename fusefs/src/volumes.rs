//! Packs together with the indexes that describe them.
//!
//! Invariant: a valid block's bytes have the chunk id that every present index claims for it. A
//! blob's digest alone does not ensure this: a hostile index may name somebody else's blob and
//! claim other chunks for it, which bytes of its own would then fulfil. So an index is attached to
//! a pack only if it agrees with all others on every frame they share; one that does not gets a
//! pack of its own for the same blob. And when an index goes, blocks that no other one describes
//! are given up.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lacewing_format::limits::BLOCK;
use lacewing_format::{Chunk, Index};

use crate::error::Result;
use crate::follow::Follow;
use crate::indexes::MappedIndex;
use crate::readahead::Streams;
use crate::record::Recorder;
use crate::report::LayerId;
use crate::store::pack::{Pack, PackNumber};
use crate::windows::Windows;

/// An index's view of one pack.
pub(crate) struct Description {
    /// The layer whose index it is.
    pub(crate) layer: LayerId,
    /// The index.
    pub(crate) index: Arc<MappedIndex>,
    /// Which of the index's devices the pack is.
    pub(crate) device: usize,
}

impl Description {
    /// Blocks of a frame.
    pub(crate) fn blocks(&self, frame: usize) -> Range<u32> {
        frame_blocks(&self.index.view(), frame)
    }
}

/// Blocks of a frame in its device.
pub(crate) fn frame_blocks(index: &Index<'_>, frame: usize) -> Range<u32> {
    let start = index.frame_block(frame);
    start..start.saturating_add(index.frame_plain_len(frame) / BLOCK as u32)
}

/// A pack with all that describes it.
pub(crate) struct Volume {
    /// The bytes.
    pub(crate) pack: Pack,
    descriptions: RwLock<Vec<Arc<Description>>>,
    /// The readers of the pack.
    pub(crate) streams: Mutex<Streams>,
}

impl Volume {
    /// Makes a volume that nothing describes yet.
    pub(crate) fn new(pack: Pack) -> Volume {
        Volume {
            pack,
            descriptions: RwLock::default(),
            streams: Mutex::default(),
        }
    }

    fn all(&self) -> Vec<Arc<Description>> {
        self.descriptions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Finds a frame that covers a block, in whichever index lists it.
    pub(crate) fn frame_at(&self, block: u32) -> Option<(Arc<Description>, usize)> {
        let descriptions = self.descriptions.read().unwrap_or_else(PoisonError::into_inner);
        descriptions.iter().find_map(|of| {
            let frame = of.index.view().frame_at(of.device, block)?;
            Some((of.clone(), frame))
        })
    }

    /// Where the file that has a byte ends, if that is at most `most` bytes behind it. A chunk that does not fill its last block
    /// ends its file; one file in 4096 has no such chunk, and seems to go on.
    pub(crate) fn end_of_file(&self, offset: u64, most: u64) -> Option<u64> {
        let (of, frame) = self.frame_at(u32::try_from(offset / BLOCK as u64).ok()?)?;
        let view = of.index.view();
        let end = |chunk: &Chunk| u64::from(chunk.block().saturating_add(chunk.blocks())) * BLOCK as u64;
        (frame..view.device_frames(of.device).end)
            .flat_map(|frame| view.frame_chunks(frame))
            .skip_while(|chunk| end(chunk) <= offset)
            .take_while(|chunk| end(chunk) <= offset.saturating_add(most))
            .find(|chunk| !(chunk.len() as usize).is_multiple_of(BLOCK))
            .map(end)
    }

    /// Attaches an index that [`Volume::agrees`] with the others.
    pub(crate) fn attach(&self, description: Arc<Description>) {
        self.descriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(description);
    }

    /// Whether an index says the same of this pack as all others do, wherever they overlap.
    pub(crate) fn agrees(&self, index: &Index<'_>, device: usize) -> bool {
        self.all()
            .iter()
            .all(|of| same_frames(&of.index.view(), of.device, index, device))
    }

    /// Takes a layer's index off and gives up what no other index describes.
    pub(crate) fn detach(&self, layer: LayerId) -> Result<()> {
        let mut all = self.descriptions.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|of| of.layer != layer);
        let empty = all.is_empty();
        drop(all);
        if empty { Ok(()) } else { self.give_up_undescribed() }
    }

    /// Gives up valid blocks that no index describes.
    pub(crate) fn give_up_undescribed(&self) -> Result<()> {
        let blocks = self.pack.identity().blocks;
        let mut orphans: Vec<Range<u32>> = Vec::new();
        let mut at = self.pack.bits().next_set(0..blocks);
        while at < blocks {
            let end = match self.frame_at(at) {
                Some((of, frame)) => of.blocks(frame).end.max(at + 1),
                None => {
                    match orphans.last_mut() {
                        Some(last) if last.end == at => last.end = at + 1,
                        _ => orphans.push(at..at + 1),
                    }
                    at + 1
                }
            };
            at = self.pack.bits().next_set(end.min(blocks)..blocks);
        }
        if orphans.is_empty() {
            return Ok(());
        }
        self.pack.give_up(&orphans)
    }

    /// Whole frames, as far as they are valid, that start in a range of blocks: what is evicted together, since part of
    /// a frame is no easier to fetch than all of it.
    pub(crate) fn frames_in(&self, blocks: Range<u32>) -> Vec<Range<u32>> {
        let mut frames: Vec<Range<u32>> = Vec::new();
        let mut at = self.pack.bits().next_set(blocks.clone());
        while at < blocks.end {
            let Some((of, frame)) = self.frame_at(at) else {
                at = self.pack.bits().next_set(at + 1..blocks.end.max(at + 1));
                continue;
            };
            let found = of.blocks(frame);
            at = found.end.max(at + 1);
            if found.start >= blocks.start {
                frames.push(found);
            }
            at = self.pack.bits().next_set(at..blocks.end.max(at));
        }
        frames
    }

    /// The layers whose indexes describe it.
    pub(crate) fn layers(&self) -> Vec<LayerId> {
        self.all().iter().map(|of| of.layer).collect()
    }

    /// Keeps a frame by `store`, unless no index that is present describes it any more.
    pub(crate) fn keep(
        &self,
        of: &Arc<Description>,
        frame: usize,
        store: impl FnOnce(&Pack) -> io::Result<()>,
    ) -> io::Result<()> {
        // Held while the bits are set, so that a description cannot go in between.
        let all = self.descriptions.read().unwrap_or_else(PoisonError::into_inner);
        let block = of.index.view().frame_block(frame);
        let described = |other: &Arc<Description>| {
            Arc::ptr_eq(other, of) || other.index.view().frame_at(other.device, block).is_some()
        };
        if all.iter().any(described) {
            store(&self.pack)
        } else {
            Ok(())
        }
    }
}

/// Whether two indexes say the same of a blob, wherever their frames overlap.
fn same_frames(a: &Index<'_>, device_a: usize, b: &Index<'_>, device_b: usize) -> bool {
    let whole = |index: &Index<'_>, device: usize| {
        let device = index.devices().get(device)?;
        Some((device.blob(), device.stored_len(), device.blocks()))
    };
    if whole(a, device_a) != whole(b, device_b) {
        return false;
    }
    let (mut frames_a, mut frames_b) = (a.device_frames(device_a), b.device_frames(device_b));
    while !frames_a.is_empty() && !frames_b.is_empty() {
        let (at_a, at_b) = (frame_blocks(a, frames_a.start), frame_blocks(b, frames_b.start));
        if at_a.end <= at_b.start {
            frames_a.start += 1;
        } else if at_b.end <= at_a.start {
            frames_b.start += 1;
        } else {
            if !same_frame(a, frames_a.start, b, frames_b.start) {
                return false;
            }
            frames_a.start += 1;
            frames_b.start += 1;
        }
    }
    true
}

fn same_frame(a: &Index<'_>, frame_a: usize, b: &Index<'_>, frame_b: usize) -> bool {
    let stored = |index: &Index<'_>, frame: usize| {
        let frame = index.frames().get(frame)?;
        Some((frame.stored_offset(), frame.stored_len(), frame.codec()))
    };
    stored(a, frame_a) == stored(b, frame_b) && a.frame_chunks(frame_a) == b.frame_chunks(frame_b)
}

/// All packs of the node, by number.
#[derive(Default)]
pub(crate) struct Volumes {
    map: RwLock<HashMap<PackNumber, Arc<Volume>>>,
    /// Read-ahead from the disk, for all connections.
    pub(crate) windows: Windows,
    /// Who asks, on all connections.
    pub(crate) follow: Follow,
    /// Who records what is read, on all connections.
    pub(crate) recorder: Arc<Recorder>,
}

impl Volumes {
    /// Finds a pack. Taken for reading on every request; written to only when layers come or go.
    pub(crate) fn get(&self, number: PackNumber) -> Option<Arc<Volume>> {
        self.map
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned()
    }

    /// Adds a pack.
    pub(crate) fn insert(&self, volume: Arc<Volume>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(volume.pack.number(), volume);
    }

    /// Takes a pack out.
    pub(crate) fn remove(&self, number: PackNumber) {
        self.map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
    }

    /// All packs, sorted by number.
    pub(crate) fn all(&self) -> Vec<Arc<Volume>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<Volume>> = map.values().cloned().collect();
        all.sort_unstable_by_key(|volume| volume.pack.number());
        all
    }
}
