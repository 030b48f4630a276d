//! Shows converted layers as read-only directories and supplies their bytes on demand.
//!
//! ```text
//!   <root>/l/7    EROFS mount, incomplete            <root>/l/7c   EROFS mount, complete
//!        │ device                                         │ device
//!   <root>/data/3   FUSE: fuse, packfs, wire         <root>/packs/3   a plain file
//!        │ READ                                           ▲
//!        ├─ hit: bitmap, pread, answer ───────────────────┤
//!        └─ miss: fetch::board ─► carry ─► decode ────────┘ data first, bits after
//!                                  │
//!                                  └─ places (another pack), else the port: source::BlobSource
//! ```
//!
//! The kernel does directories, names, attributes and caching; this crate supplies bytes. Two
//! seams keep the halves apart: [`source::BlobSource`], through which stored bytes come, and the
//! trait in `trees`, behind which layers become directories: by EROFS mounts, or by a FUSE server of
//! whole trees where the kernel or the user's rights do not allow these.
//!
//! # Layout of the root
//!
//! | path | holds |
//! |---|---|
//! | `catalogue` | layers and packs by number; replaced as a whole |
//! | `indexes/<hex>` | plain indexes by the digest of their stored form; checked, then named |
//! | `packs/<n>`, `.bits`, `.durable`, `.whole` | plain bytes, bitmap, checkpoint, mark of plain use (see `store::pack`, `store::giving`) |
//! | `places` | where chunks may be found on this node; hints only |
//! | `data/` | the FUSE mount: one file for each pack |
//! | `l/<n>`, `l/<n>c` | the layers, incomplete and complete; `.<copy>` behind it if there are several |
//! | `trees/plain`, `trees/xattrs` | FUSE mounts that show layers where the kernel cannot (see `trees`) |
//! | `connection`, `lock` | which FUSE mount `l/` stands on; which process uses the store |
//!
//! # Invariants
//!
//! - A valid bit is set only after bytes with the chunk id of every present index were written.
//!   Tested by `an_index_that_lies_about_another_blob_harms_itself_only` and the crash tests of
//!   `store::pack`.
//! - A reader gets the bytes of the layer or an error, never others: tests in `faults`.
//! - No read waits longer than [`Options::read_timeout`]; the next one starts afresh:
//!   `a_dead_source_is_an_error_in_time_and_forgotten_afterwards`.
//! - The process may be killed at any instant; readers wait for its successor and notice nothing
//!   else: `readers_do_not_notice_that_the_server_is_killed`.
//! - A full disk costs speed, not correctness: `a_full_disk_is_no_outage`.
//! - Nothing is given up behind a mount of plain files, and no reader takes a hole for bytes:
//!   `store::giving`, `quota`.
//! - A hit takes no lock that a fetch holds, allocates nothing and enters no runtime.
//! - Memory does not grow with the number of files: indexes are mapped, bitmaps cost a bit for
//!   each present 4 KiB.
//!
//! # Non-goals
//!
//! Registries, peers, credentials, containerd.

pub mod connection;
pub mod engine;
pub mod error;
mod mounted;
mod serving;
pub mod source;

mod aside;
mod background;
mod buffer;
mod call;
mod catalogue;
mod clock;
mod erofs;
mod evict;
mod fetch;
mod follow;
mod fuse;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod indexes;
mod layer;
mod lock;
mod mount_point;
mod options;
mod pace;
mod packfs;
mod packs;
mod policy;
mod probe;
mod probed;
mod readahead;
mod record;
mod report;
mod restore;
mod signal;
mod store;
mod tally;
mod trees;
mod volumes;
mod windows;
mod wire;

pub use clock::Clock;
pub use connection::{Connection, mount_data};
pub use engine::Engine;
pub use error::{Error, ReadError, Result};
pub use options::{Feature, Features, Options, Way};
pub use pace::{Pace, Window};
pub use probe::in_user_namespace;
pub use record::{FileRead, Recording};
pub use report::{Cleaned, Counters, LayerId, LayerStatus, Shown, StoreStatus};
pub use serving::Serving;
pub use source::{BlobSource, Class, SourceError};
pub use trees::fuse::{TreeKind, mount_trees, tree_dir};
