//! One read-only overlay of layers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::store_dir;
use crate::mountinfo;

/// Begins the overlay's name in the mount table; the store's path follows.
const SOURCE: &str = "lacewing:";

/// What the mount table calls the overlay; names the store, so that a dead mount is told from a live one.
fn source(store: &Path) -> OsString {
    let mut source = OsString::from(SOURCE);
    source.push(store);
    source
}

/// Takes away what a killed mount left on `dir`. A live one is left alone.
///
/// # Errors
/// A live one is there, or the kernel's.
pub(crate) fn remove_dead(dir: &Path) -> Result<()> {
    while let Some(mount) = mountinfo::mount_at(dir)? {
        let Some(store) = mount.source.as_bytes().strip_prefix(SOURCE.as_bytes()) else {
            break;
        };
        if store_dir::is_used(Path::new(OsStr::from_bytes(store)))? {
            bail!("an image is mounted on {} already", dir.display());
        }
        rustix::mount::unmount(dir, UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", dir.display()))?;
    }
    Ok(())
}

/// Mounts `layers` (bottom first) on `dir`.
///
/// Each layer is given by an option of its own (`lowerdir+`, Linux 6.5; layers themselves need 6.12), so that neither
/// count nor length meets mount(2)'s page of options. `empty` goes below all, because an overlay wants two
/// directories, and because one layer alone would show its whiteouts as devices.
///
/// A layer that comes twice is given once, at its upper place: overlayfs refuses one directory twice, and whatever the
/// lower one has, the upper one has too.
///
/// # Errors
/// The kernel's.
pub(crate) fn mount(layers: &[PathBuf], store: &Path, empty: &Path, dir: &Path) -> Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("the kernel has no overlayfs")?;
    fsconfig_set_string(&overlay, "source", source(store)).context("overlay")?;
    let mut given: Vec<&Path> = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev().map(PathBuf::as_path).chain([empty]) {
        if given.contains(&layer) {
            continue;
        }
        given.push(layer);
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
