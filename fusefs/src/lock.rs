//! One process at a time uses a store.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::error::{Error, IoContext, Result};
use crate::signal::being_killed;

/// How often and how long an earlier process is waited for.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the store for this process, as long as the file is kept.
///
/// A process that is being killed does not count, though it may hold the lock for long: one that
/// was mounting waits for an answer on the FUSE connection, which only its successor can make the
/// kernel ask for again. Waiting for it would be waiting for ever.
pub(crate) fn take(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).at("open", path)?;
    for _ in 0..TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return sign(file, path),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error).at("lock", path),
        }
        let mut holder = String::new();
        let mut other = File::open(path).at("open", path)?;
        other.read_to_string(&mut holder).at("read", path)?;
        if holder.trim().parse().is_ok_and(being_killed) {
            return sign(file, path);
        }
        std::thread::sleep(PAUSE);
    }
    let reason = "another process uses this store".into();
    Err(Error::Store {
        path: path.to_owned(),
        reason,
    })
}

/// Notes who holds the lock.
fn sign(mut file: File, path: &Path) -> Result<File> {
    file.set_len(0).at("size", path)?;
    writeln!(file, "{}", std::process::id()).at("write", path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_that_is_given_up_can_be_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = take(&path).unwrap();
        drop(first);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        take(&path).unwrap();
    }
}
