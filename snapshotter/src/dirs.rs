//! The snapshots' directories: `<root>/snapshots/<id>/{fs,work}`, as containerd's overlayfs snapshotter
//! lays them out.
//!
//! A directory is made under a temporary name and renamed inside the transaction that records it, so the
//! store is right at every instant: what is on disk and not in the store is left over, and removed by
//! Cleanup and at start.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::idmap::Owner;
use crate::snapshot::Kind;

const TEMPORARY: &str = "new-";

/// The folder of snapshot directories.
#[derive(Debug)]
pub(crate) struct Dirs {
    snapshots: PathBuf,
    /// Names of temporary directories in use: not left over.
    in_use: Mutex<HashSet<String>>,
    next: AtomicU64,
}

/// A directory under its temporary name. Dropped before [`Temporary::publish`], it is removed.
#[derive(Debug)]
pub(crate) struct Temporary<'a> {
    dirs: &'a Dirs,
    name: String,
    published: bool,
}

impl Dirs {
    /// Opens the folder under `root`, making it if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let snapshots = root.join("snapshots");
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&snapshots);
        made.map_err(Error::io("make", &snapshots))?;
        Ok(Self {
            snapshots,
            in_use: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Where the files of a snapshot are.
    pub(crate) fn upper(&self, id: u64) -> PathBuf {
        self.snapshots.join(format!("{id}/fs"))
    }

    /// overlayfs's own directory of a snapshot.
    pub(crate) fn work(&self, id: u64) -> PathBuf {
        self.snapshots.join(format!("{id}/work"))
    }

    /// Makes a directory for a new snapshot, owned as told.
    ///
    /// The root's mode is 0755 whatever its parent's is: so does containerd, and the layer's own archive says
    /// otherwise if it wants to.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left then.
    pub(crate) fn make(&self, kind: Kind, owner: Option<Owner>) -> Result<Temporary<'_>, Error> {
        let temporary = self.temporary()?;
        let dir = temporary.path();
        let upper = dir.join("fs");
        make_dir(&upper, 0o755)?;
        if kind == Kind::Active {
            make_dir(&dir.join("work"), 0o711)?;
        }
        if let Some(Owner { uid, gid }) = owner {
            lchown(&upper, Some(uid), Some(gid)).map_err(Error::io("change the owner of", &upper))?;
        }
        Ok(temporary)
    }

    fn temporary(&self) -> Result<Temporary<'_>, Error> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY}{}-{number}", std::process::id());
            self.lock().insert(name.clone());
            let temporary = Temporary {
                dirs: self,
                name,
                published: false,
            };
            let path = temporary.path();
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(temporary),
                // Left over by an earlier process with the same id; dropping removes it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", &path)(error)),
            }
        }
    }

    /// Removes a snapshot's directory. What cannot be removed stays for Cleanup, with a warning.
    pub(crate) fn remove(&self, id: u64) {
        self.remove_named(&id.to_string());
    }

    /// Lists what belongs to none of the snapshots in `ids`. No snapshot may be made meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub(crate) fn left_over(&self, ids: &HashSet<u64>) -> Result<Vec<String>, Error> {
        let read = |error| Error::io("read", &self.snapshots)(error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(read)? {
            let entry = entry.map_err(|error| Error::io("read", &self.snapshots)(error))?;
            // Only names of our making are touched.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let of_no_snapshot = name.parse::<u64>().is_ok_and(|id| !ids.contains(&id));
            let temporary = name.starts_with(TEMPORARY) && !self.lock().contains(&name);
            if of_no_snapshot || temporary {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes what [`Self::left_over`] listed; answers how many there were.
    pub(crate) fn remove_left_over(&self, names: &[String]) -> usize {
        for name in names {
            self.remove_named(name);
        }
        names.len()
    }

    fn remove_named(&self, name: &str) {
        let path = self.snapshots.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a snapshot's directory cannot be removed");
            }
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // A set of names is whole after any panic.
        self.in_use
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Temporary<'_> {
    fn path(&self) -> PathBuf {
        self.dirs.snapshots.join(&self.name)
    }

    /// Gives the directory its final name, durably: a record must never be without its directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn publish(mut self, id: u64) -> Result<(), Error> {
        let path = self.path();
        fs::rename(&path, self.dirs.snapshots.join(id.to_string())).map_err(Error::io("rename", &path))?;
        self.published = true;
        let sync = File::open(&self.dirs.snapshots).and_then(|dir| dir.sync_all());
        sync.map_err(Error::io("sync", &self.dirs.snapshots))
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.published {
            self.dirs.remove_named(&self.name);
        }
        self.dirs.lock().remove(&self.name);
    }
}

/// Makes a directory with exactly this mode, whatever the process's umask.
fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir(path).map_err(Error::io("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("change the mode of", path))
}

/// Returns who owns a directory.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn owner_of(path: &Path) -> Result<Owner, Error> {
    let metadata = fs::metadata(path).map_err(Error::io("stat", path))?;
    Ok(Owner {
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_is_there_once_published_and_gone_if_not() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::open(root.path()).unwrap();
        dirs.make(Kind::Active, None).unwrap().publish(7).unwrap();
        assert_eq!(fs::metadata(dirs.upper(7)).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(dirs.work(7)).unwrap().mode() & 0o7777, 0o711);
        drop(dirs.make(Kind::Active, None).unwrap());
        let names = dirs.left_over(&HashSet::new()).unwrap();
        assert_eq!(names, ["7"]);
    }

    #[test]
    fn views_have_no_work_directory() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::open(root.path()).unwrap();
        dirs.make(Kind::View, None).unwrap().publish(1).unwrap();
        assert!(dirs.upper(1).is_dir() && !dirs.work(1).exists());
    }

    #[test]
    fn left_over_is_what_no_snapshot_and_no_call_has() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::open(root.path()).unwrap();
        for name in ["1", "2", "new-1-0", "operator's notes"] {
            fs::create_dir(root.path().join("snapshots").join(name)).unwrap();
        }
        let held = dirs.make(Kind::View, None).unwrap();
        let mut names = dirs.left_over(&HashSet::from([2])).unwrap();
        names.sort();
        assert_eq!(names, ["1", "new-1-0"]);
        assert_eq!(dirs.remove_left_over(&names), 2);
        held.publish(3).unwrap();
        assert!(dirs.left_over(&HashSet::from([2, 3])).unwrap().is_empty());
    }
}
