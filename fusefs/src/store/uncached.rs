//! Reads that leave no copy in the page cache.
//!
//! Who reads through the FUSE mount keeps a copy of its own. One in the pack's file beside it, and
//! what the disk's read-ahead adds to that (8 MiB at a time on some machines), would more than
//! double what a container's files take.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

/// Read through the page cache, and drop what the read brought there (`RWF_DONTCACHE`,
/// uapi/linux/fs.h; Linux 6.14). What was there before stays.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// How a file is read: uncached until its file system refuses.
#[derive(Debug, Default)]
pub(crate) struct Uncached {
    refused: AtomicBool,
}

impl Uncached {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// As [`FileExt::read_exact_at`].
    pub(crate) fn read_exact_at(&self, file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() && !self.refused.load(Ordering::Relaxed) {
            let parts = &mut [IoSliceMut::new(&mut buf[done..])];
            match rustix::io::preadv2(file, parts, offset + done as u64, DONTCACHE) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                // The kernel or the file system does not know how.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        file.read_exact_at(&mut buf[done..], offset + done as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_are_those_of_an_ordinary_read_whatever_the_file_system_knows() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        for refused in [false, true] {
            let uncached = Uncached {
                refused: AtomicBool::new(refused),
            };
            for (from, to) in [(0, 70_000), (4096, 8192), (1, 69_999), (70_000, 70_000)] {
                let mut found = vec![0; to - from];
                uncached.read_exact_at(&file, &mut found, from as u64).unwrap();
                assert_eq!(found, bytes[from..to]);
            }
            let error = uncached.read_exact_at(&file, &mut [0; 2], 69_999).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
