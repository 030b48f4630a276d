//! The readers of frames and of a node's own files, for fuzz targets. Not an interface: nothing else uses it.

use std::path::Path;
use std::sync::Arc;

use lacewing_format::{ChunkId, Digest, Index};

use crate::error::Result;
use crate::indexes::Indexes;
use crate::store::pack::{BootId, Identity, Pack};
use crate::store::places::Places;
use crate::store::space::Space;

/// Reads a catalogue and writes it again; nothing if it is refused.
#[must_use]
pub fn catalogue(text: &str) -> Option<String> {
    crate::catalogue::reread(text)
}

/// Takes in a stored index and loads it again; its plain length.
///
/// # Errors
/// [`crate::Error::Invalid`]: it is refused.
pub fn index(dir: &Path, stored: &[u8]) -> Result<u64> {
    let digest = Digest::of(stored);
    let indexes = Indexes::open(dir)?;
    let len = indexes.add(stored, digest)?.view().erofs_len();
    let plain_len = std::fs::metadata(dir.join(digest.hex())).map_or(0, |file| file.len());
    let loaded = indexes.load(digest, plain_len, false);
    assert_eq!(loaded.map(|index| index.view().erofs_len()).ok(), Some(len));
    indexes.remove(&digest);
    Ok(plain_len)
}

/// What [`pack`] opens: its number, its blob, its boot.
pub const PACK: (u32, [u8; 32], [u8; 16]) = (7, [3; 32], [9; 16]);

/// Opens pack 7 in a folder with whatever files are there; which of its blocks are valid.
///
/// # Errors
/// Those of the files.
pub fn pack(dir: &Path, blocks: u32) -> Result<Vec<bool>> {
    let identity = Identity {
        number: PACK.0,
        blob: Digest(PACK.1),
        blocks,
    };
    let pack = Pack::open(dir, identity, BootId(PACK.2), &Arc::new(Space::unbounded()))?;
    let valid = (0..blocks).map(|block| pack.bits().all(block..block + 1));
    let valid: Vec<bool> = valid.collect();
    let count = valid.iter().filter(|valid| **valid).count();
    assert_eq!(pack.bits().count(0..blocks) as usize, count);
    assert!(!pack.bits().all(0..blocks.saturating_add(1)));
    pack.checkpoint()?;
    let again = Pack::open(dir, identity, BootId([0xff; 16]), &Arc::new(Space::unbounded()))?;
    assert_eq!(
        again.bits().count(0..blocks) as usize,
        count,
        "a checkpoint keeps all"
    );
    Ok(valid)
}

/// How many places a table of chunks knows for a chunk.
///
/// # Errors
/// Those of the file.
pub fn places(path: &Path, id: &ChunkId) -> Result<usize> {
    let places = Places::open(path)?;
    Ok(places.find(id).count())
}

/// An index's frame, decoded and verified.
#[must_use]
pub fn decoded(index: &Index<'_>, number: usize, stored: &[u8]) -> Option<Vec<u8>> {
    crate::fetch::decoded(index, number, stored)
}
