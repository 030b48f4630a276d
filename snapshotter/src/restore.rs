//! What is done once at start.

use crate::layers::MountError;

/// What [`crate::Snapshotter::restore`] did.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Layers shown again.
    pub shown: usize,
    /// Left-over directories removed.
    pub removed: usize,
    /// Snapshots with a layer that could not be shown, by key.
    pub broken: Vec<(String, MountError)>,
}
