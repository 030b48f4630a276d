//! The port through which the snapshotter gets lazy layers: it knows snapshots, whoever implements
//! [`Layers`] knows indexes, registries and mounts.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::snapshot::Usage;

/// What containerd said about the layer that it is about to unpack.
#[derive(Clone, Debug, Default)]
pub struct LayerRequest {
    /// The containerd namespace of the call; `None` if the call named none.
    pub namespace: Option<String>,
    /// The chain id that containerd will look for: the label `containerd.io/snapshot.ref`.
    pub chain_id: String,
    /// This snapshotter's name of the layer below; empty for the lowest.
    pub parent: String,
    /// All labels of the call, [`crate::LayerRef::from_labels`] reads them.
    pub labels: HashMap<String, String>,
    /// The caller's span, if it sent one: `traceparent` as W3C's Trace Context has it, unchecked.
    pub traceparent: Option<String>,
}

/// The answer to the question whether a layer can be lazy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It can: its index is on this node, checked, and [`Layers::show`] may be called.
    Lazy {
        /// The layer's number, the same whenever the same index is offered while it is held.
        layer: u64,
    },
    /// It cannot: containerd fetches and unpacks it.
    Ordinary {
        /// Why, in one line for people; kept and told by status.
        reason: String,
    },
}

/// A layer as a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownLayer {
    /// A mounted directory, usable as a lower directory of an overlay.
    pub path: PathBuf,
    /// Whether the layer's bytes are read without the daemon.
    pub direct: bool,
}

/// A layer could not be made a directory.
///
/// No state has changed. Trying again helps once the cause is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer} cannot be shown: {reason}")]
pub struct MountError {
    /// The layer's number.
    pub layer: u64,
    /// Why, in one line for people.
    pub reason: String,
}

/// Lazy layers, as the snapshotter needs them.
///
/// The synchronous methods may block for as long as a mount takes (milliseconds), never on a network;
/// they are called from threads where that is allowed.
#[tonic::async_trait]
pub trait Layers: Send + Sync + 'static {
    /// Tells whether a layer can be lazy, and gets what showing it takes. It may fetch the index and so
    /// take as long as a registry does. Offering the same index twice, also at the same time, gives the
    /// same number. It never fails: what is in the way is the reason of [`Offer::Ordinary`].
    async fn offer(&self, request: &LayerRequest) -> Offer;

    /// Shows a layer in the best way there is now. Called often, cheap if the layer is shown already.
    ///
    /// Each `copy` (0, 1, ...) is a file system of its own: overlayfs refuses the same one twice, and an image may hold
    /// a layer several times.
    ///
    /// # Errors
    /// [`MountError`] if the layer is unknown or cannot be mounted.
    fn show(&self, layer: u64, copy: u32) -> Result<ShownLayer, MountError>;

    /// Shows a copy of a layer in the given way, for a snapshot that had it so: after a restart and on every call
    /// of Mounts, so cheap if the layer is shown already. Local state only.
    ///
    /// # Errors
    /// [`MountError`] if the layer is unknown or cannot be mounted.
    fn show_as(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError>;

    /// Forgets a layer that no snapshot uses any more. Never called while an offer is under way.
    /// May be called again for the same layer after a crash; then it does nothing.
    async fn release(&self, layer: u64);

    /// Tells what a layer takes on this node's disk now.
    fn usage(&self, layer: u64) -> Usage;

    /// Lists the layers held, so that those which a crash left without a snapshot can be released at
    /// start. Layers that others than the snapshotter hold must not be in it.
    fn known(&self) -> Vec<u64> {
        Vec::new()
    }
}
