//! The on-disk format of Lacewing: what two releases, or a converter and a node, must agree on.
//!
//! An *index* describes one layer: an EROFS metadata image (names, attributes, xattrs, chunk
//! addresses), tables that say where each chunk's stored bytes are and how they are verified, and
//! a trailer. `SPEC.md` beside this crate gives every byte.
//!
//! ```text
//!   +--------------------------------+ 0
//!   | EROFS image, whole 4 KiB blocks|   mounted by the kernel as it is
//!   +--------------------------------+ erofs_len
//!   | devices, frames, chunks,       |   fixed-size little-endian records
//!   | prefetch list                  |
//!   +--------------------------------+ len - TRAILER_LEN
//!   | trailer                        |   offsets, counts, layer digests, BLAKE3, version, magic
//!   +--------------------------------+ len
//! ```
//!
//! Non-goals: compression of the index (its stored form is one zstd frame, made by the callers),
//! files, sockets, clocks. Everything here is a pure function of bytes.
//!
//! Invariant: [`writer::write_index`] is deterministic, and what it writes passes
//! [`Index::parse`] and [`Index::check_tree`].
//! Invariant: no input makes the reader panic, loop, or allocate more than a small fraction of
//! the input's own length.

pub mod annotation;
mod digest;
mod erofs;
mod error;
#[cfg(test)]
mod golden;
pub mod limits;
pub mod media_type;
pub mod reader;
#[cfg(test)]
mod sample;
mod table_rules;
pub mod tables;
mod trailer;
pub mod tree;
pub mod writer;

pub use digest::{ChunkId, Digest, DigestParseError};
pub use error::FormatError;
pub use reader::{DirEntries, DirEntry, Extents, FileType, Index, InodeView, Layout, Nid, TreeSummary};
pub use tables::{Chunk, Codec, Device, Frame, Tables};
pub use tree::{Body, Extent, FileBody, Inode, InodeId, Time, Tree};
pub use writer::write_index;
