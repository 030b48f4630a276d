//! Disk usage of a directory, counted as containerd counts it.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::snapshot::Usage;

/// `st_blocks` counts in this unit whatever the file system's block size (stat(2)).
const BLOCK: u64 = 512;

/// Adds up what is allocated under `dir`, itself included, each inode once (continuity's `fs.DiskUsage`).
///
/// Blocking: one lstat per entry. What vanishes during the walk is not counted.
///
/// # Errors
/// [`Error::Io`] if a directory cannot be read.
pub(crate) fn disk_usage(dir: &Path) -> Result<Usage, Error> {
    let mut counter = Counter::default();
    counter.count(&fs::symlink_metadata(dir).map_err(Error::io("stat", dir))?);
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        counter
            .count_entries(&dir, &mut dirs)
            .map_err(Error::io("read", &dir))?;
    }
    Ok(counter.usage)
}

#[derive(Default)]
struct Counter {
    usage: Usage,
    /// Inodes with several names that were counted; others cannot be met twice.
    linked: HashSet<(u64, u64)>,
}

impl Counter {
    fn count_entries(&mut self, dir: &Path, dirs: &mut Vec<PathBuf>) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => {
                    self.count(&metadata);
                    if metadata.is_dir() {
                        dirs.push(entry.path());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn count(&mut self, metadata: &Metadata) {
        let several = !metadata.is_dir() && metadata.nlink() > 1;
        if several && !self.linked.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.usage.inodes = self.usage.inodes.saturating_add(1);
        self.usage.size = self
            .usage
            .size
            .saturating_add(metadata.blocks().saturating_mul(BLOCK));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_each_inode_once() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(sub.join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("c")).unwrap();
        let usage = disk_usage(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4, "the directory, sub, a = b, c");
        let alone = fs::metadata(sub.join("a")).unwrap().blocks() * BLOCK;
        assert!(usage.size >= alone && usage.size < 2 * alone, "{usage:?}");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(disk_usage(Path::new("/nonexistent/lacewing")).is_err());
    }
}
