//! What an engine tells of itself.

use std::fmt;
use std::path::PathBuf;

use lacewing_format::Digest;

/// A layer's number on this node: kept on disk, never used again for another layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a layer is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The directory.
    pub path: PathBuf,
    /// Whether it works without any process: all bytes are in plain files.
    pub direct: bool,
}

/// One layer, for people and monitors.
#[derive(Clone, Debug)]
pub struct LayerStatus {
    /// Its number.
    pub id: LayerId,
    /// Digest of its stored index.
    pub index: Digest,
    /// Digest of the original layer.
    pub layer: Digest,
    /// Plain bytes that are here.
    pub present: u64,
    /// Plain bytes in all.
    pub total: u64,
    /// Whether all bytes are here.
    pub complete: bool,
    /// Where it is mounted, incomplete and direct.
    pub mounts: Vec<PathBuf>,
    /// Why its completion does not get on, if it does not.
    pub trouble: Option<String>,
}

/// Running totals since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// READ requests answered.
    pub reads: u64,
    /// Plain bytes of these answers.
    pub read_bytes: u64,
    /// READ requests that had to wait for bytes.
    pub misses: u64,
    /// READ requests that failed.
    pub read_errors: u64,
    /// Requests that the kernel sent again after a change of process.
    pub resent: u64,
    /// Stored bytes that the source delivered.
    pub source_bytes: u64,
    /// Calls of the source.
    pub source_reads: u64,
    /// Plain bytes decoded and verified.
    pub decoded_bytes: u64,
    /// Plain bytes taken from packs already here.
    pub dedup_bytes: u64,
    /// Chunks or frames whose bytes were not what the index says.
    pub corrupt: u64,
    /// Frames that could not be kept, for want of space or for a failing disk.
    pub unstored: u64,
    /// Plain bytes given up, to be fetched again when they are read.
    pub evicted_bytes: u64,
}

/// The store on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Bytes of disk that it takes.
    pub used: u64,
    /// Of these, bytes that are never given up: layers that are read as plain files.
    pub whole: u64,
    /// The bound on `used`, if there is one.
    pub quota: Option<u64>,
    /// Bytes that must stay free on its disk, if that is asked for.
    pub free_floor: Option<u64>,
}

/// What [`crate::Engine::clean_up`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes of disk given back.
    pub bytes: u64,
}
