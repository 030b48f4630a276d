//! What is mounted on a path, and taking it away, without waiting for a server that may be dead.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::UnmountFlags;

use crate::error::{IoContext, Result};

/// How often mounts that lie on top of each other are taken away before giving up.
const MOST_STACKED: usize = 16;

/// What is known of a path without asking a file system's server, which may be dead.
pub(crate) struct Place {
    /// Whether a mount stands there.
    pub(crate) mounted: bool,
    /// Number of the file system's device.
    pub(crate) device: u64,
}

/// Looks at a path; nothing if there is no such path.
pub(crate) fn place(path: &Path) -> Option<Place> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) => Some(Place {
            mounted: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            device: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
        }),
        Err(rustix::io::Errno::NOENT) => None,
        // A dead FUSE mount answers ENOTCONN to everything.
        Err(_) => Some(Place {
            mounted: true,
            device: 0,
        }),
    }
}

/// Takes away every mount on a path.
pub(crate) fn unmount_all(path: &Path) -> Result<()> {
    for _ in 0..MOST_STACKED {
        match place(path) {
            Some(Place { mounted: true, .. }) => {}
            _ => return Ok(()),
        }
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error).at("unmount", path),
        }
    }
    Ok(())
}
