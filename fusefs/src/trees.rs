//! The seam between showing a layer and supplying its bytes.

use std::path::{Path, PathBuf};

use crate::error::Result;

/// What a tree is made of: an index, and for each of its devices a file with the plain bytes. The
/// files are packs of the FUSE mount, whose bytes come when they are read, or plain files.
pub(crate) struct TreeParts<'a> {
    /// The index file; its first part is the EROFS image.
    pub(crate) index: &'a Path,
    /// One file for each device, in the index's order.
    pub(crate) devices: &'a [PathBuf],
}

/// Shows layers as directories. The kernel does it by EROFS mounts; a FUSE server of whole trees
/// can stand beside it for kernels that cannot.
pub(crate) trait Trees: Send + Sync {
    /// Why layers cannot be shown on this node, if they cannot.
    fn obstacle(&self) -> Option<&str>;
    /// Shows a tree on `target`. The directory is made if it is not there.
    fn show(&self, tree: &TreeParts<'_>, target: &Path) -> Result<()>;
    /// Whether a tree of this kind is shown on `target`.
    fn shown(&self, target: &Path) -> bool;
    /// Takes a tree away; who uses it keeps it. Does nothing if none is there.
    fn hide(&self, target: &Path) -> Result<()>;
}
