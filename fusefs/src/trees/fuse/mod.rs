//! Layers shown by this process: a FUSE server that reads the same index as the kernel's EROFS would.
//!
//! ```text
//!   <root>/trees/plain/7      FUSE, layers without a single xattr        bind mount
//!   <root>/trees/xattrs/8     FUSE, layers with xattrs or opaque marks ──────────► <root>/l/8
//!        │ LOOKUP, READDIRPLUS, READLINK, GETXATTR …: [`forest`] reads the mapped index
//!        └ READ: [`read`] finds the packs' blocks; a hit is a pread, a miss goes to the fetch
//! ```
//!
//! What makes it cheap and lets it survive this process:
//! - Node ids are places in indexes: layer number and EROFS inode number ([`forest`]). Nothing is kept per inode, LOOKUPs are
//!   not counted, FORGETs mean nothing, and every process gives the same answers. Inode numbers as programs see them hold the layer too: all layers
//!   share a superblock here, and in one overlay two files must never have one number.
//! - Two connections, since an answer ENOSYS is for a whole connection: on the plain one the kernel never asks again
//!   for xattrs, which overlayfs otherwise does for each file (three times the cost of a cold walk).
//! - OPEN and OPENDIR are answered ENOSYS: later ones cost no message. Times to live are for ever: nothing changes.

mod forest;
mod read;
mod requests;
mod xattrs;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fuse_backend_rs::abi::fuse_abi::FsOptions;
use rustix::mount::MountFlags;

pub(crate) use self::forest::Forest;
pub(crate) use self::requests::TreeServer;
use super::{TreeParts, Trees};
use crate::aside;
use crate::connection::{Connection, Terms, mount};
use crate::error::{Error, IoContext, Result};
use crate::mounted::{place, unmount_all};
use crate::options::Feature;

/// FUSE_ALLOW_IDMAP (uapi/linux/fuse.h, Linux 6.12), which the message types' crate does not name: idmapped clones of
/// the mount, for containers in user namespaces of their own.
pub(crate) const ALLOW_IDMAP: u64 = 1 << 40;

/// Which layers a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// Those without any xattr.
    Plain,
    /// Those with xattrs; opaque marks of directories are xattrs.
    Xattrs,
}

impl TreeKind {
    /// Both.
    pub const ALL: [TreeKind; 2] = [TreeKind::Plain, TreeKind::Xattrs];

    /// Name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            TreeKind::Plain => "plain",
            TreeKind::Xattrs => "xattrs",
        }
    }
}

/// The directory on which a connection for trees must be mounted.
pub fn tree_dir(root: &Path, kind: TreeKind) -> PathBuf {
    root.join("trees").join(kind.name())
}

/// Mounts a new connection for trees below `root`. What is mounted there already, dead or alive, is detached first.
/// `deny`: features to do without.
///
/// # Errors
/// The kernel's: no /dev/fuse, no FUSE, no right to mount.
pub fn mount_trees(root: &Path, kind: TreeKind, deny: &[Feature]) -> Result<Connection> {
    let mut wanted = FsOptions::DO_READDIRPLUS
        | FsOptions::ZERO_MESSAGE_OPEN
        | FsOptions::ZERO_MESSAGE_OPENDIR
        | FsOptions::CACHE_SYMLINKS;
    if kind == TreeKind::Xattrs {
        // The kernel then checks ACLs, as EROFS does, and keeps them.
        wanted |= FsOptions::POSIX_ACL;
    }
    let mut wanted = wanted.bits() | ALLOW_IDMAP;
    for (feature, flag) in [
        (Feature::Readdirplus, FsOptions::DO_READDIRPLUS.bits()),
        (Feature::NoOpendir, FsOptions::ZERO_MESSAGE_OPENDIR.bits()),
        (Feature::Idmap, ALLOW_IDMAP),
    ] {
        if deny.contains(&feature) {
            wanted &= !flag;
        }
    }
    let terms = Terms {
        // Lower directories are read by whoever runs in a container; files keep their own modes.
        options: ",allow_other",
        flags: MountFlags::empty(),
        wanted,
    };
    mount(&tree_dir(root, kind), &terms)
}

/// Trees shown by this process.
pub(crate) struct FuseTrees {
    /// Where everything is kept.
    pub(crate) root: PathBuf,
}

impl Trees for FuseTrees {
    /// Whether anybody serves is asked when a layer is shown.
    fn obstacle(&self) -> Option<&str> {
        None
    }

    fn direct(&self) -> bool {
        false
    }

    fn show(&self, tree: &TreeParts<'_>, target: &Path) -> Result<()> {
        let failed = |reason: String| Error::Mount {
            what: "bind on",
            path: target.to_owned(),
            reason,
        };
        // A mount of another way, or of a connection that is no more.
        unmount_all(target)?;
        std::fs::create_dir_all(target).at("make", target)?;
        let kind = forest::kind_of(&tree.view).map_err(|error| failed(error.to_string()))?;
        let source = tree_dir(&self.root, kind).join(target.file_name().unwrap_or_default());
        let cstring = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let (Ok(from), Ok(to)) = (cstring(&source), cstring(target)) else {
            return Err(failed("a path holds a NUL".into()));
        };
        // The source is looked up by this process's own threads.
        aside::run(None, || rustix::mount::mount_bind(from.as_c_str(), to.as_c_str()))
            .map_err(|errno| failed(format!("{} cannot be shown: {errno}", source.display())))
    }

    fn shown(&self, target: &Path) -> bool {
        let Some(place) = place(target).filter(|place| place.mounted && place.device != 0) else {
            return false;
        };
        let ours = |kind| self::place(&tree_dir(&self.root, kind));
        TreeKind::ALL
            .into_iter()
            .filter_map(ours)
            .any(|of| of.mounted && of.device == place.device)
    }

    fn hide(&self, target: &Path) -> Result<()> {
        super::hide(target)
    }
}
