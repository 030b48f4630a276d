//! The seam between showing a layer and supplying its bytes, and the two ways over it.
//!
//! - [`kernel`]: the kernel's EROFS mounts the index; user space supplies nothing but the bytes of packs. The better
//!   way, where the kernel has it (Linux 6.12 and later, in the initial user namespace).
//! - [`fuse`]: this process answers for directories, names and attributes too, out of the same mapped index.
//!
//! Both ways show the same: `tests/tests/fusefs/trees.rs` walks the same layers by both.

pub(crate) mod fuse;
pub(crate) mod kernel;

use std::path::{Path, PathBuf};

use lacewing_format::Index;

use crate::error::{IoContext, Result};
use crate::mounted::unmount_all;

/// What a tree is made of: an index, and for each of its devices a file with the plain bytes. The
/// files are packs of the FUSE mount, whose bytes come when they are read, or plain files.
pub(crate) struct TreeParts<'a> {
    /// The index file; its first part is the EROFS image.
    pub(crate) index: &'a Path,
    /// The same, mapped.
    pub(crate) view: Index<'a>,
    /// One file for each device, in the index's order.
    pub(crate) devices: &'a [PathBuf],
}

/// Shows layers as directories.
pub(crate) trait Trees: Send + Sync {
    /// Why layers cannot be shown on this node, if they cannot.
    fn obstacle(&self) -> Option<&str>;
    /// Whether a complete layer can be shown from plain files, with no process behind it.
    fn direct(&self) -> bool;
    /// Shows a tree on `target`, whose name is that of a [`crate::mount_point::MountPoint`]. The directory is made if it
    /// is not there.
    fn show(&self, tree: &TreeParts<'_>, target: &Path) -> Result<()>;
    /// Whether a tree of this kind is shown on `target`.
    fn shown(&self, target: &Path) -> bool;
    /// Takes a tree away; who uses it keeps it. Does nothing if none is there.
    fn hide(&self, target: &Path) -> Result<()>;
}

/// Takes away whatever is mounted on a layer's directory, and the directory.
fn hide(target: &Path) -> Result<()> {
    unmount_all(target)?;
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", target),
        _ => Ok(()),
    }
}
