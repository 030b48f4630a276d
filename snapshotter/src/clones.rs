//! Idmapped clones of lower directories: `<root>/m/<snapshot>/<n>`, for containers in user namespaces.
//!
//! containerd can make such clones itself, if a mount has the options `uidmap=` and `gidmap=`. Since 2.0.7 it makes a
//! single one, of the folder that all lower directories lie in, and not of what is mounted inside: right for plain
//! directories, but a lazy layer is a mount, and its directory in that clone is empty. Older ones make one for
//! each lower directory, 1.6 knows no such options. So for snapshots on lazy layers the clones are made here, which works
//! with each of them.
//!
//! A clone is a mount of what its layer's mount shows; nothing is read. An overlay keeps clones of its own, so these need
//! to be there only while containerd mounts; they stay until the snapshot goes, since its mounts never change.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use crate::error::Error;
use crate::idmap::Maps;
use crate::userns::{map_owners, user_namespace};

/// The folder of clones.
#[derive(Debug)]
pub(crate) struct Clones {
    folder: PathBuf,
    /// One call at a time makes or removes clones.
    lock: Mutex<()>,
}

impl Clones {
    /// Nothing is made before the first clone.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            folder: root.join("m"),
            lock: Mutex::new(()),
        }
    }

    /// Shows lower directories with mapped owners, in the order given. Cheap if they are shown already. Blocking.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses the mappings or a file system cannot be mapped; nothing is left then.
    pub(crate) fn show(&self, id: u64, lowers: &[PathBuf], maps: &Maps) -> Result<Vec<PathBuf>, Error> {
        let _one = self.lock();
        let folder = self.folder.join(id.to_string());
        let targets: Vec<PathBuf> = (0..lowers.len()).map(|n| folder.join(n.to_string())).collect();
        let is_there = |(target, lower): (&PathBuf, &PathBuf)| is_clone(target, lower);
        if targets.iter().zip(lowers).all(is_there) {
            return Ok(targets);
        }
        self.remove_folder(&folder);
        let made = attach_all(&folder, lowers, &targets, maps);
        if made.is_err() {
            self.remove_folder(&folder);
        }
        made.map(|()| targets)
    }

    /// Removes a snapshot's clones, if it has any. What cannot be removed stays for Cleanup, with a warning.
    pub(crate) fn remove(&self, id: u64) {
        let _one = self.lock();
        self.remove_folder(&self.folder.join(id.to_string()));
    }

    /// Removes the clones of all snapshots but these. No snapshot may be made meanwhile.
    pub(crate) fn remove_others(&self, ids: &HashSet<u64>) {
        let _one = self.lock();
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if id.is_some_and(|id| !ids.contains(&id)) {
                self.remove_folder(&entry.path());
            }
        }
    }

    /// Never removes what is in a clone: a folder that is still a mount is busy, and one with something in it stays.
    fn remove_folder(&self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            while unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
            warn_unless_done(&path, fs::remove_dir(&path));
        }
        warn_unless_done(folder, fs::remove_dir(folder));
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn_unless_done(path: &Path, done: io::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "a mapped layer's folder cannot be removed");
    }
}

fn attach_all(folder: &Path, lowers: &[PathBuf], targets: &[PathBuf], maps: &Maps) -> Result<(), Error> {
    let namespace =
        user_namespace(maps).map_err(Error::io("make a user namespace for the mappings of", folder))?;
    let mut builder = DirBuilder::new();
    let builder = builder.mode(0o700).recursive(true);
    for (lower, target) in lowers.iter().zip(targets) {
        builder.create(target).map_err(Error::io("make", target))?;
        attach(lower, target, &namespace).map_err(Error::io("map the owners of", lower))?;
    }
    Ok(())
}

fn attach(lower: &Path, target: &Path, namespace: &std::os::fd::OwnedFd) -> io::Result<()> {
    use std::os::fd::AsFd;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, lower, flags)?;
    map_owners(clone.as_fd(), namespace)?;
    move_mount(&clone, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Tells whether `target` is a mount that shows what `lower` does. After a restart it may show an earlier mount of the
/// same layer, whose device is dead.
fn is_clone(target: &Path, lower: &Path) -> bool {
    let look = |path: &Path| statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO);
    let same = || -> Result<bool, Errno> {
        let (target, lower) = (look(target)?, look(lower)?);
        let place = |stat: &rustix::fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
        let mounted = target.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(mounted && place(&target) == place(&lower))
    };
    same().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const ONE: &str = "0 100000 65536\n";

    fn maps() -> Maps {
        Maps {
            uids: ONE.to_owned(),
            gids: ONE.to_owned(),
        }
    }

    /// A root that can be mapped, or none: that takes privilege and a file system which can.
    fn root() -> Option<tempfile::TempDir> {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let lower = root.path().join("probe");
        fs::create_dir(&lower).unwrap();
        let clones = Clones::new(root.path());
        let shown = clones.show(0, &[lower], &maps());
        clones.remove(0);
        shown.is_ok().then_some(root)
    }

    fn lowers(root: &Path) -> Vec<PathBuf> {
        let lowers: Vec<PathBuf> = ["a", "b"].iter().map(|name| root.join(name)).collect();
        for lower in &lowers {
            fs::create_dir(lower).unwrap();
            fs::write(lower.join("file"), "precious").unwrap();
        }
        lowers
    }

    #[test]
    fn owners_are_mapped_and_nothing_can_be_written() {
        let Some(root) = root() else { return };
        let (clones, lowers) = (Clones::new(root.path()), lowers(root.path()));
        let shown = clones.show(7, &lowers, &maps()).unwrap();
        assert_eq!(shown, [root.path().join("m/7/0"), root.path().join("m/7/1")]);
        for (clone, lower) in shown.iter().zip(&lowers) {
            assert_eq!(fs::metadata(clone.join("file")).unwrap().uid(), 100_000);
            assert_eq!(fs::metadata(lower.join("file")).unwrap().uid(), 0);
            assert!(fs::write(clone.join("file"), "").is_err());
        }
        clones.remove(7);
        assert!(!root.path().join("m/7").exists());
        assert_eq!(fs::read(lowers[0].join("file")).unwrap(), b"precious");
    }

    #[test]
    fn shown_again_they_are_the_same_unless_their_layer_is_another() {
        let Some(root) = root() else { return };
        let (clones, lowers) = (Clones::new(root.path()), lowers(root.path()));
        let shown = clones.show(7, &lowers, &maps()).unwrap();
        let mount_id = |path: &Path| {
            let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).unwrap();
            stat.stx_mnt_id
        };
        let before = mount_id(&shown[0]);
        // As by a daemon after this one.
        let again = Clones::new(root.path());
        again.show(7, &lowers, &maps()).unwrap();
        assert_eq!(mount_id(&shown[0]), before);
        fs::rename(&lowers[0], root.path().join("old")).unwrap();
        fs::create_dir(&lowers[0]).unwrap();
        again.show(7, &lowers, &maps()).unwrap();
        assert!(!shown[0].join("file").exists() && shown[1].join("file").exists());
        again.remove(7);
    }

    #[test]
    fn those_of_no_snapshot_are_left_over() {
        let Some(root) = root() else { return };
        let (clones, lowers) = (Clones::new(root.path()), lowers(root.path()));
        clones.show(7, &lowers, &maps()).unwrap();
        clones.show(8, &lowers, &maps()).unwrap();
        clones.remove_others(&HashSet::from([8]));
        assert!(!root.path().join("m/7").exists() && root.path().join("m/8/1/file").exists());
        clones.remove_others(&HashSet::new());
        assert!(!root.path().join("m/8").exists());
    }

    #[test]
    fn a_refused_mapping_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let lowers = lowers(root.path());
        let maps = Maps {
            uids: "nonsense".to_owned(),
            gids: ONE.to_owned(),
        };
        let error = Clones::new(root.path()).show(7, &lowers, &maps).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(!root.path().join("m/7").exists());
    }
}
