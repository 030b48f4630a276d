//! Where `lacewing mount` keeps what it fetched.
//!
//! The default store is kept for next time and belongs to one mount at a time; a second mount gets a temporary one.
//! What a killed mount left (dead mounts, temporary stores) is tidied up by the next.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lacewing_fusefs::Engine;
use rustix::mount::UnmountFlags;

use crate::lock::{self, Lock};
use crate::mountinfo::{self, Mount};

/// The default store's name. Temporary ones append a dot and the process's pid.
const NAME: &str = "mount";

/// A store that is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct StoreDir {
    root: PathBuf,
    temporary: bool,
    _lock: Lock,
}

impl StoreDir {
    /// Takes the store the user named, or the default one, or a temporary one.
    ///
    /// # Errors
    /// The directory cannot be made, or another mount uses the one the user named.
    pub(crate) fn open(named: Option<&Path>) -> Result<StoreDir> {
        if let Some(dir) = named {
            let dir = std::path::absolute(dir).context("--store")?;
            return match take(&dir, false)? {
                Some(store) => Ok(store),
                None => bail!(
                    "process {} uses the store {}",
                    lock::holder(&lock_path(&dir)),
                    dir.display()
                ),
            };
        }
        let parent = &crate::places::root();
        remove_abandoned(parent);
        if let Some(store) = take(&parent.join(NAME), false)? {
            return Ok(store);
        }
        let own = parent.join(format!("{NAME}.{}", std::process::id()));
        take(&own, true)?.with_context(|| format!("{} is in use", own.display()))
    }

    /// The store's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes a temporary store; another stays.
    ///
    /// # Errors
    /// The removal's.
    pub(crate) fn close(self) -> Result<()> {
        if self.temporary {
            std::fs::remove_dir_all(&self.root)
                .with_context(|| format!("removing {}", self.root.display()))?;
        }
        Ok(())
    }
}

fn lock_path(root: &Path) -> PathBuf {
    root.join("mount.lock")
}

/// Whether a directory is a store of ours.
pub(crate) fn is_store(root: &Path) -> bool {
    lock_path(root).exists()
}

/// Whether a mount that lives uses the store.
///
/// # Errors
/// The store's lock cannot be looked at.
pub(crate) fn is_used(root: &Path) -> Result<bool> {
    Ok(root.is_dir() && Lock::try_take(&lock_path(root))?.is_none())
}

fn take(root: &Path, temporary: bool) -> Result<Option<StoreDir>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .with_context(|| format!("making directory {}", root.display()))?;
    let root = root.canonicalize()?;
    let Some(lock) = Lock::try_take(&lock_path(&root))? else {
        return Ok(None);
    };
    if Path::new(&root).join("metadata.redb").exists() {
        bail!("{} is a daemon's root, not a store for mounts", root.display());
    }
    detach_all(&root)?;
    Ok(Some(StoreDir {
        root,
        temporary,
        _lock: lock,
    }))
}

/// Temporary stores whose process was killed. Failing to remove one is no reason not to mount.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME)?.strip_prefix('.'));
        if pid.is_some_and(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
            && let Ok(Some(store)) = take(&entry.path(), true)
        {
            let _ = store.close();
        }
    }
}

/// Detaches the layers' mounts, and the trees they may be part of.
///
/// # Errors
/// The kernel's.
pub(crate) fn detach_layers(root: &Path) -> Result<()> {
    detach(&[root.join("l"), root.join("trees")])
}

/// Detaches every mount below the store; none of them can be anybody's but ours or a dead process's.
///
/// # Errors
/// The kernel's.
pub(crate) fn detach_all(root: &Path) -> Result<()> {
    detach(&[root.join("l"), root.join("trees"), Engine::data_dir(root)])
}

/// Detaches the mounts below some directories, the latest first. The table is read once: a node may have a thousand mounts.
fn detach(dirs: &[PathBuf]) -> Result<()> {
    let below = |mount: &Mount| dirs.iter().any(|dir| mount.point.starts_with(dir));
    for mount in mountinfo::mounts()?.into_iter().rev().filter(below) {
        rustix::mount::unmount(&mount.point, UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", mount.point.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_named_store_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreDir::open(Some(dir.path())).unwrap();
        let error = StoreDir::open(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        first.close().unwrap();
        StoreDir::open(Some(dir.path())).unwrap();
    }

    #[test]
    fn abandoned_stores_are_removed_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["mount.1", "mount.2", "mount", "mount.x", "mount.3.d"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let held = take(&dir.path().join("mount.2"), true).unwrap();
        remove_abandoned(dir.path());
        let left = |name: &str| dir.path().join(name).exists();
        assert!(!left("mount.1") && left("mount.2") && left("mount") && left("mount.x") && left("mount.3.d"));
        drop(held);
    }

    #[test]
    fn a_daemons_root_is_no_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("metadata.redb"), "").unwrap();
        assert!(StoreDir::open(Some(dir.path())).is_err());
    }
}
