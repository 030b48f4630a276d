//! The snapshotter: metadata, directories and layers put together.

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::layers::Layers;
use crate::restore::Restored;

/// How a snapshotter behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave the directories of removed snapshots to Cleanup, as containerd's `asynchronous_remove`.
    pub async_remove: bool,
}

/// One layer that containerd was given, for status.
#[derive(Clone, Debug)]
pub struct LayerEntry {
    /// The committed snapshot's name.
    pub snapshot: String,
    /// The containerd namespace that asked for it, if it said.
    pub namespace: Option<String>,
    /// The lazy layer's number, or why the layer is an ordinary one.
    pub layer: Result<u64, String>,
    /// The snapshot's labels: `cri.image-ref`, `cri.layer-digest`, our annotations, `snapshot.ref`.
    pub labels: std::collections::BTreeMap<String, String>,
    /// When it was committed, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Active and view snapshots that stand on it, at any height.
    pub users: u64,
}

/// Containerd's snapshots on this node. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Snapshotter {
    #[allow(dead_code)]
    layers: Arc<dyn Layers>,
}

impl Snapshotter {
    /// Opens the snapshots under `root`, creating what is missing.
    ///
    /// # Errors
    /// [`Error`] if the root cannot be written, is on a file system that overlayfs cannot use, or its
    /// metadata is corrupt or open in another process.
    pub fn open(_root: &Path, _layers: Arc<dyn Layers>, _options: Options) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Shows again every layer that active and view snapshots need, removes what a crash left, releases
    /// layers that nothing uses. Blocking; local state only. Call it once, before serving.
    ///
    /// # Errors
    /// [`Error`] if the metadata cannot be read. A layer that cannot be shown is no error: its snapshots are
    /// listed in the answer, and answer an error themselves until the layer can be shown.
    pub async fn restore(&self) -> Result<Restored, Error> {
        unimplemented!()
    }

    /// Lists the committed snapshots for status, by name.
    ///
    /// # Errors
    /// [`Error`] if the metadata cannot be read.
    pub fn layers(&self) -> Result<Vec<LayerEntry>, Error> {
        unimplemented!()
    }
}
