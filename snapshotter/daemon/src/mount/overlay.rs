//! Layers as one read-only tree, as containerd would show them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::store_dir;
use crate::mountinfo::{self, Mount};

/// What mount(2) takes of options.
const PAGE: usize = 4096;

/// Begins the overlay's name in the mount table; the store's path follows.
const SOURCE: &str = "lacewing:";

/// What the mount table calls the overlay; names the store, so that a dead mount is told from a live one.
fn source(store: &Path) -> OsString {
    let mut source = OsString::from(SOURCE);
    source.push(store);
    source
}

/// The store of a mount that is ours: named by the overlay, or where the layer's index lies.
fn store_of(mount: &Mount) -> Option<PathBuf> {
    if let Some(store) = mount.source.as_bytes().strip_prefix(SOURCE.as_bytes()) {
        return Some(PathBuf::from(OsStr::from_bytes(store)));
    }
    let indexes = Path::new(&mount.source)
        .parent()
        .filter(|_| mount.kind == "erofs")?;
    let store = indexes.parent().filter(|_| indexes.ends_with("indexes"))?;
    store_dir::is_store(store).then(|| store.to_owned())
}

/// Takes away what a killed mount left on `dir`. A live one is left alone, and so is what is not ours.
///
/// # Errors
/// A live one is there, or the kernel's.
pub(crate) fn remove_dead(dir: &Path) -> Result<()> {
    while let Some(store) = mountinfo::mount_at(dir)?.as_ref().and_then(store_of) {
        if store_dir::is_used(&store)? {
            bail!("an image is mounted on {} already", dir.display());
        }
        rustix::mount::unmount(dir, UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", dir.display()))?;
    }
    Ok(())
}

/// Mounts `layers` (bottom first) on `dir`.
///
/// A single layer is bound as it is: an overlay wants two directories.
///
/// # Errors
/// The kernel's; an image without layers.
pub(crate) fn mount(layers: &[PathBuf], store: &Path, dir: &Path) -> Result<()> {
    match layers {
        [] => bail!("the image has no layers"),
        [layer] => bind(layer, dir),
        _ => overlay(layers, store, dir),
    }
    .with_context(|| format!("mounting on {}", dir.display()))
}

/// Each layer is given by an option of its own (`lowerdir+`, Linux 6.5; layers themselves need 6.12), so that neither
/// count nor length meets mount(2)'s page of options.
fn overlay(layers: &[PathBuf], store: &Path, dir: &Path) -> Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("the kernel has no overlayfs")?;
    fsconfig_set_string(&overlay, "source", source(store)).context("overlay")?;
    for layer in layers.iter().rev() {
        match fsconfig_set_string(&overlay, "lowerdir+", layer) {
            // Older than Linux 6.5.
            Err(Errno::INVAL) => return overlay_by_options(layers, store, dir),
            set => set.with_context(|| format!("overlay: lower directory {}", layer.display()))?,
        }
    }
    if lacewing_fusefs::in_user_namespace() {
        fsconfig_set_flag(&overlay, "userxattr").context("overlay")?;
    }
    fsconfig_create(&overlay).context("overlay")?;
    // An image is somebody else's: to be looked at, not to be trusted with privileges outside a container.
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context("overlay")?;
    Ok(move_mount(
        &mount,
        "",
        CWD,
        dir,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// As [`overlay`], by mount(2), whose options are one page of text.
fn overlay_by_options(layers: &[PathBuf], store: &Path, dir: &Path) -> Result<()> {
    let text = |layer: &PathBuf| {
        let text = layer.to_str().filter(|text| !text.contains([':', ',', '\\']));
        text.map(str::to_owned)
            .with_context(|| format!("{} cannot stand in mount options", layer.display()))
    };
    let lower = layers.iter().rev().map(text).collect::<Result<Vec<String>>>()?;
    let userxattr = if lacewing_fusefs::in_user_namespace() {
        ",userxattr"
    } else {
        ""
    };
    let options = format!("lowerdir={}{userxattr}", lower.join(":"));
    if options.len() >= PAGE {
        bail!("the kernel takes {PAGE} bytes of options, too few for these layers; choose a shorter --store");
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount(
        source(store),
        dir,
        "overlay",
        flags,
        options.as_c_str(),
    )?)
}

fn bind(layer: &Path, dir: &Path) -> Result<()> {
    rustix::mount::mount_bind(layer, dir)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount_remount(dir, flags, "")?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_mounts_tell_their_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_dir::StoreDir::open(Some(dir.path())).unwrap();
        let root = store.root().to_str().unwrap();
        let mount = |kind: &str, source: String| Mount {
            id: 1,
            device: "0:1".to_owned(),
            point: "/mnt".into(),
            kind: kind.to_owned(),
            source: source.into(),
        };
        for (kind, source, is_ours) in [
            ("overlay", format!("lacewing:{root}"), true),
            ("erofs", format!("{root}/indexes/0123"), true),
            ("erofs", format!("{root}/elsewhere/indexes/0123"), false),
            ("erofs", "/dev/loop0".to_owned(), false),
            ("ext4", format!("{root}/indexes/0123"), false),
            ("overlay", "overlay".to_owned(), false),
        ] {
            let found = store_of(&mount(kind, source.clone()));
            assert_eq!(
                found.as_deref(),
                is_ours.then_some(store.root()),
                "{kind} {source}"
            );
        }
    }
}
