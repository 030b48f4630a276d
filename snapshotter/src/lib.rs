//! containerd's snapshots contract: what `containerd` calls on the socket of a proxy snapshotter.
//!
//! ```text
//!            service   gRPC: the ten methods
//!               │
//!          snapshotter ─────► metastore   which snapshots there are (redb)
//!            │  │  │  ├─────► dirs        <root>/snapshots/<id>/{fs,work}
//!            │  │  │  └─────► clones      <root>/m/<id>/<n>: layers as a user namespace sees them
//!            │  │  └────────► mounts      which mounts make one of them a directory (pure)
//!            │  └───────────► lazy        layers that need not be fetched
//!            └──────────────► layers      port: who has them and shows them
//! ```
//!
//! A snapshot is an ordinary overlay snapshot, laid out and mounted as by containerd's own overlayfs
//! snapshotter; or it is lazy: committed from the start, without a directory of its own, its lower directory a
//! mount that [`Layers`] supplies. Both may stand on both.
//!
//! Non-goals: fetching, showing layers, knowing what is in one.
//!
//! Invariant: a committed or active snapshot survives kill -9 at any instant: one durable transaction a change.
//! Invariant: the mounts of a snapshot are the same for its whole life, restarts and reboots included.
//! Invariant: restoring needs local state only, and one broken layer breaks only the snapshots that stand on it.
//! Invariant: a layer is released only when no snapshot uses it and no offer of it is under way.
//! Invariant: calls may come without a namespace, and keys are never taken apart.

mod clones;
mod connection;
mod dirs;
mod error;
mod filter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod idmap;
mod layer_ref;
mod layers;
mod lazy;
mod limits;
mod metastore;
mod mounts;
mod probe;
mod restore;
mod service;
mod snapshot;
mod snapshotter;
mod usage;
mod userns;

pub use connection::{Connection, connections};
pub use error::Error;
pub use layer_ref::{
    CHAIN_ID_LABEL, IMAGE_LABEL, IMAGE_LAYERS_LABEL, LAYER_LABEL, LayerRef, LayerRefError, MANIFEST_LABEL,
    REMOTE_LABEL, SOURCE_LABEL_PREFIX,
};
pub use layers::{LayerRequest, Layers, MountError, Offer, ShownLayer};
pub use restore::Restored;
pub use service::{Service, service};
pub use snapshot::Usage;
pub use snapshotter::{LayerEntry, Options, Snapshotter};
