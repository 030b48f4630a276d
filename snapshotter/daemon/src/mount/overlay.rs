//! One read-only overlay of layers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

/// Mounts `layers` (bottom first) on `dir`.
///
/// Each layer is given by an option of its own (`lowerdir+`, Linux 6.5; layers themselves need 6.12), so that neither
/// count nor length meets mount(2)'s page of options. `empty` goes below all, because an overlay wants two
/// directories, and because one layer alone would show its whiteouts as devices.
///
/// # Errors
/// The kernel's.
pub(crate) fn mount(layers: &[PathBuf], empty: &Path, dir: &Path) -> Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("the kernel has no overlayfs")?;
    fsconfig_set_string(&overlay, "source", "lacewing").context("overlay")?;
    for layer in layers.iter().rev().map(PathBuf::as_path).chain([empty]) {
        fsconfig_set_string(&overlay, "lowerdir+", layer)
            .with_context(|| format!("overlay: lower directory {}", layer.display()))?;
    }
    fsconfig_create(&overlay).context("overlay")?;
    // An image is somebody else's: to be looked at, not to be trusted with privileges outside a container.
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context("overlay")?;
    move_mount(&mount, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .with_context(|| format!("mounting on {}", dir.display()))
}
