//! One supervisor and one worker per root: lock files that the kernel releases when their holder dies.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Between two tries of a lock whose holder is dying.
const RETRY: Duration = Duration::from_millis(10);

/// A lock held until dropped, or until the process dies in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Lock {
    /// A lock that another program took and handed on: it is held by whoever has the open file.
    pub(crate) fn adopt(file: OwnedFd) -> Lock {
        Lock { file: file.into() }
    }

    /// Takes the lock, or returns None if another process holds it. The file then names the holder's pid.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Lock>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("lock file {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
        }
        // The pid is for people; nothing relies on it.
        let _ = file.set_len(0);
        let _ = file.seek(SeekFrom::Start(0));
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Some(Lock { file }))
    }

    /// Takes the lock, waiting at most `patience` for its holder to go. None: it did not.
    ///
    /// # Errors
    /// As [`Lock::try_take`].
    pub(crate) fn take(path: &Path, patience: Duration) -> Result<Option<Lock>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// The pid a lock file names, for messages.
pub(crate) fn holder(path: &Path) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_is_held_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(Lock::take(&path, Duration::from_millis(20)).unwrap().is_none());
        assert_eq!(holder(&path), std::process::id().to_string());
        drop(first);
        assert!(Lock::take(&path, Duration::ZERO).unwrap().is_some());
    }
}
