//! Replacing small files so that a crash leaves the old or the new one.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{IoContext, Result};

/// Replaces a file: write beside it, fsync, rename, fsync of the directory.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push("-new");
    let new = Path::new(&new);
    // A full disk is not to be kept full by half a file.
    write_new(new, bytes).inspect_err(|_| drop(std::fs::remove_file(new)))?;
    std::fs::rename(new, path).at("rename to", path)?;
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).at("create", path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("flush", path)
}

/// Makes renames and removals in a file's directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).at("flush", dir)
}
