//! OCI layers in, indexes and data blobs out; and back again, to prove that nothing was lost.
//!
//! ```text
//!  blob ─ decompress ─ tar ─ apply ──────────► tree ─┐
//!          (thread)           │ contents             ├─ index
//!                             └ chunk ─ dedup ─ frame┤
//!                                         (workers)  └─ blob
//! ```
//!
//! Non-goals: peers, mounts, what a node does with the result. What a tar means is decided by containerd: [`apply`]
//! makes the tree that its unpack makes, and refuses what that refuses.
//!
//! Invariant: the same layers, options and earlier images give the same bytes on every machine.
//! Invariant: memory does not grow with a layer's bytes, only with its count of files and chunks.

pub mod apply;
mod blob;
mod chunker;
mod compress;
pub mod decompress;
mod earlier;
mod early;
pub mod error;
mod finish;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hot;
mod image;
mod index;
mod inspect;
mod known;
mod layer;
pub mod limits;
mod load;
mod manifest;
mod output;
pub mod progress;
pub mod record;
pub mod report;
#[cfg(test)]
mod roundtrip;
mod small;
mod spool;
mod stream;
pub mod tar;
mod verify;

use lacewing_oci::Reference;

pub use error::Error;
pub use image::convert;
pub use inspect::{
    BlobInspection, ImageInspection, Inspection, LayerInspection, export, inspect, inspect_file,
};
pub use load::{LayerIndex, find_indexes, load_indexes, load_indexes_of};
pub use progress::{Event, NoProgress, Progress};
pub use record::Record;
pub use report::{ImageReport, LayerReport, Report};
pub use verify::{Difference, check};

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Bytes per chunk: a power of two from 64 KiB to 1 MiB.
    pub chunk_size: u32,
    /// zstd level of frames, 1 to 19.
    pub level: i32,
    /// Earlier images whose blobs may be pointed to; they must be in the target's repository.
    pub dedup_against: Vec<Reference>,
    /// Look for earlier images at the target by itself.
    pub auto_dedup: bool,
    /// Leave the original layers out.
    pub native: bool,
    /// Convert, report, write nothing.
    pub dry_run: bool,
    /// Threads that compress; 0: as many as there are cores.
    pub jobs: usize,
    /// `linux/amd64` and the like; empty: all platforms of the image.
    pub platforms: Vec<String>,
    /// Where spool files go; none: the target, if it is a layout or archive, else the system's folder for temporary files.
    pub spool_dir: Option<std::path::PathBuf>,
    /// What a start reads: comes first, and is fetched before it is asked for.
    pub record: Option<std::sync::Arc<Record>>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            chunk_size: 256 << 10,
            level: 5,
            dedup_against: Vec::new(),
            auto_dedup: true,
            native: false,
            dry_run: false,
            jobs: 0,
            platforms: Vec::new(),
            spool_dir: None,
            record: None,
        }
    }
}
