//! Reads straight from the disk into the caller's memory.
//!
//! Who reads a pack through FUSE keeps a copy of its own. Read through the page cache, the pack's
//! file would keep a second one, and the disk's read-ahead (8 MiB at a time on some machines) would
//! add what nobody asked for; and each page would be allocated, copied from and freed again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lacewing_format::limits::BLOCK;

/// A second descriptor of a file, if its file system can do without the page cache.
#[derive(Debug)]
pub(crate) struct Direct {
    file: Option<File>,
    refused: AtomicBool,
}

impl Direct {
    /// Opens a file once more. Does not fail: what cannot be read directly is read otherwise.
    pub(crate) fn open(path: &Path) -> Direct {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(path);
        Direct {
            file: file.ok(),
            refused: AtomicBool::new(false),
        }
    }

    /// Fills `buf` from `offset` on; `false` if that is not possible, because the file system
    /// refuses or because address, offset and length are not all multiples of a block.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let whole =
            (buf.as_ptr().addr() | buf.len()).is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64);
        if !whole || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match file.read_exact_at(buf, offset) {
            Ok(()) => Ok(true),
            // Accepted at open and refused now, or a disk with blocks larger than ours.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
