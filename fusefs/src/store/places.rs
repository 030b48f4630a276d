//! Where on this node a chunk may be: a lossy table, shared by all packs.
//!
//! An entry is a hint and never trusted: who follows it verifies the bytes it finds. So the table
//! needs no flushing, no locking against readers, and may forget.
//!
//! The file is a header block and sets of eight 16-byte entries: 8 bytes of the chunk's id, the
//! pack (0: empty) and the block. It is read and written by pread and pwrite of a set: only misses
//! come here, and a mapped table would count as memory of the process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use lacewing_format::ChunkId;
use lacewing_format::limits::BLOCK;

use super::pack::PackNumber;
use crate::error::{IoContext, Result};

const MAGIC: &[u8; 8] = b"LWPLACE1";

/// Entries in a set: full sets forget, and eight make that rare before the table is 3/4 full.
const WAYS: usize = 8;

/// Bytes of an entry.
const ENTRY: usize = 16;

const SET: usize = WAYS * ENTRY;

/// Sets in a new table: 2^20 entries, 16 MiB of sparse file. With chunks of 64 KiB on average it
/// knows where 64 GiB of content are.
const SETS: u64 = 1 << 17;

/// A place where a chunk may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In which pack.
    pub(crate) pack: PackNumber,
    /// From which block on.
    pub(crate) block: u32,
}

/// The table.
pub(crate) struct Places {
    file: File,
    sets: u64,
    /// One writer at a time, so that two new entries do not take the same slot.
    writer: Mutex<()>,
}

impl Places {
    /// Opens the table, making a new one if there is none or it is not understood.
    pub(crate) fn open(path: &Path) -> Result<Places> {
        Places::open_sized(path, SETS)
    }

    fn open_sized(path: &Path, sets: u64) -> Result<Places> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).at("open", path)?;
        let mut header = [0; 16];
        let known = file.read_exact_at(&mut header, 0).is_ok() && header[..8] == MAGIC[..];
        let found = u64::from_le_bytes(header[8..].try_into().unwrap_or_default());
        let len = BLOCK as u64 + sets * SET as u64;
        if !known || found != sets || file.metadata().at("stat", path)?.len() != len {
            file.set_len(0).at("size", path)?;
            file.set_len(len).at("size", path)?;
            header[..8].copy_from_slice(MAGIC);
            header[8..].copy_from_slice(&sets.to_le_bytes());
            file.write_all_at(&header, 0).at("write", path)?;
        }
        Ok(Places {
            file,
            sets,
            writer: Mutex::new(()),
        })
    }

    /// Offset of the set of a chunk, and the tag of its entries.
    fn locate(&self, id: &ChunkId) -> (u64, [u8; 8]) {
        let (set, rest) =
            id.0.split_first_chunk::<8>()
                .map_or(([0; 8], &id.0[..]), |(a, b)| (*a, b));
        let mut tag = [0; 8];
        tag.copy_from_slice(&rest[..8]);
        (
            BLOCK as u64 + u64::from_le_bytes(set) % self.sets * SET as u64,
            tag,
        )
    }

    fn read_set(&self, offset: u64) -> Option<[u8; SET]> {
        let mut set = [0; SET];
        self.file.read_exact_at(&mut set, offset).ok().map(|()| set)
    }

    /// Places where the chunk may be. An unreadable table knows nothing.
    pub(crate) fn find(&self, id: &ChunkId) -> impl Iterator<Item = Place> + use<> {
        let (offset, tag) = self.locate(id);
        let set = self.read_set(offset).unwrap_or([0; SET]);
        (0..WAYS).filter_map(move |way| {
            let (found, place) = entry(&set, way);
            (found == tag && place.pack != 0).then_some(place)
        })
    }

    /// Notes a place. An unwritable table forgets it.
    pub(crate) fn note(&self, id: &ChunkId, place: Place) {
        let (offset, tag) = self.locate(id);
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = self.read_set(offset) else { return };
        let mut slot = usize::from(tag[0]) % WAYS;
        for way in (0..WAYS).rev() {
            let (found, at) = entry(&set, way);
            if found == tag && at == place {
                return;
            }
            if at.pack == 0 {
                slot = way;
            }
        }
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&tag);
        bytes[8..12].copy_from_slice(&place.pack.to_le_bytes());
        bytes[12..].copy_from_slice(&place.block.to_le_bytes());
        let _ = self.file.write_all_at(&bytes, offset + (slot * ENTRY) as u64);
    }
}

fn entry(set: &[u8; SET], way: usize) -> ([u8; 8], Place) {
    let bytes = &set[way * ENTRY..][..ENTRY];
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let tag = bytes[..8].try_into().unwrap_or_default();
    (
        tag,
        Place {
            pack: word(8),
            block: word(12),
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(n: u32) -> ChunkId {
        ChunkId::of(&n.to_le_bytes())
    }

    #[test]
    fn finds_what_was_noted_also_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("places");
        let places = Places::open(&path).unwrap();
        for n in 0..1000 {
            places.note(
                &id(n),
                Place {
                    pack: n + 1,
                    block: n * 2,
                },
            );
        }
        drop(places);
        let places = Places::open(&path).unwrap();
        for n in 0..1000 {
            let found: Vec<Place> = places.find(&id(n)).collect();
            assert_eq!(
                found,
                [Place {
                    pack: n + 1,
                    block: n * 2
                }]
            );
        }
        assert_eq!(places.find(&id(5000)).count(), 0);
    }

    #[test]
    fn a_full_table_forgets_and_never_lies() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::open_sized(&dir.path().join("places"), 4).unwrap();
        for n in 0..200 {
            places.note(
                &id(n),
                Place {
                    pack: n + 1,
                    block: n,
                },
            );
        }
        let known: Vec<u32> = (0..200).filter(|n| places.find(&id(*n)).count() == 1).collect();
        assert!(known.len() <= 32 && !known.is_empty());
        for n in known {
            assert_eq!(places.find(&id(n)).next().unwrap().pack, n + 1);
        }
    }

    #[test]
    fn a_foreign_file_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("places");
        std::fs::write(&path, vec![0xff; 100_000]).unwrap();
        let places = Places::open(&path).unwrap();
        assert_eq!(places.find(&id(1)).count(), 0);
    }
}
