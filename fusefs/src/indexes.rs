//! Indexes on disk, mapped and never changed once they are in place.
//!
//! An index arrives in its stored form (one zstd frame), is decoded into a temporary file, checked
//! there as a whole, and only then given its name. So a file under its name has passed the checks,
//! and the kernel may be given it.

#![allow(unsafe_code)]
// JUSTIFICATION: indexes are read in place, since their size must not become memory of the process.
// Mapping a file is unsafe because another process could change or truncate it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lacewing_format::limits::MAX_INDEX;
use lacewing_format::{Digest, Index, Layout};
use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{Error, IoContext, Result};
use crate::store::atomic::sync_parent;

/// Largest zstd window that is accepted: what the format's own encoder uses at its highest level.
/// Bounds the decoder's memory to 128 MiB whatever the input claims.
const WINDOW_LOG_MAX: u32 = 27;

/// A mapped index whose tables are known to be sound.
pub(crate) struct MappedIndex {
    path: PathBuf,
    map: Mmap,
    layout: Layout,
}

impl MappedIndex {
    /// Maps an index. Cost: one pass over its bytes.
    fn map(path: &Path, digest: Digest) -> Result<MappedIndex> {
        let file = File::open(path).at("open", path)?;
        // SAFETY: index files lie in the engine's private root, are written once under a
        // temporary name and never changed or truncated under their own.
        let map = unsafe { Mmap::map(&file) }.at("map", path)?;
        let layout = Index::parse(&map)
            .map_err(|error| invalid(digest, error))?
            .layout();
        Ok(MappedIndex {
            path: path.to_owned(),
            map,
            layout,
        })
    }

    /// The index.
    pub(crate) fn view(&self) -> Index<'_> {
        #[allow(clippy::expect_used)]
        Index::with_layout(&self.map, self.layout).expect("the layout comes from these bytes")
    }

    /// The index's file, whose first part is the EROFS image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the pages that were looked at back to the kernel; they come again when needed.
    pub(crate) fn relax(&self) {
        // SAFETY: the mapping is of a file, private and never written to, so dropped pages are
        // read from the file again and no change can be lost.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

fn invalid(digest: Digest, reason: impl ToString) -> Error {
    Error::Invalid {
        digest,
        reason: reason.to_string(),
    }
}

/// The directory of indexes.
pub(crate) struct Indexes {
    dir: PathBuf,
    /// Makes temporary names unique.
    counter: AtomicU64,
}

impl Indexes {
    /// Opens the directory and removes what an earlier process left half done.
    pub(crate) fn open(dir: &Path) -> Result<Indexes> {
        std::fs::create_dir_all(dir).at("make", dir)?;
        for entry in std::fs::read_dir(dir).at("list", dir)? {
            let entry = entry.at("list", dir)?;
            if entry.file_name().to_string_lossy().starts_with("new-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(Indexes {
            dir: dir.to_owned(),
            counter: AtomicU64::new(0),
        })
    }

    fn path_of(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Takes in a stored index: decode, check, put in place.
    pub(crate) fn add(&self, stored: &[u8], digest: Digest) -> Result<MappedIndex> {
        let temporary = self
            .dir
            .join(format!("new-{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        let placed = self.check_and_place(stored, digest, &temporary);
        if placed.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        placed
    }

    fn check_and_place(&self, stored: &[u8], digest: Digest, temporary: &Path) -> Result<MappedIndex> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut file = options.open(temporary).at("create", temporary)?;
        decode(stored, &mut file, digest, temporary)?;
        let mut index = MappedIndex::map(temporary, digest)?;
        index
            .view()
            .check_tree()
            .map_err(|error| invalid(digest, error))?;
        index.relax();
        file.sync_all().at("flush", temporary)?;
        let path = self.path_of(&digest);
        std::fs::rename(temporary, &path).at("rename to", &path)?;
        sync_parent(&path)?;
        index.path = path;
        Ok(index)
    }

    /// Maps an index that was taken in before. `checked`: its tree has passed the checks of this
    /// release already.
    pub(crate) fn load(&self, digest: Digest, plain_len: u64, checked: bool) -> Result<MappedIndex> {
        let path = self.path_of(&digest);
        let len = std::fs::metadata(&path).at("stat", &path)?.len();
        if len != plain_len {
            let reason = format!("it has {len} bytes in place of {plain_len}");
            return Err(Error::Store { path, reason });
        }
        let index = MappedIndex::map(&path, digest)?;
        if !checked {
            index
                .view()
                .check_tree()
                .map_err(|error| invalid(digest, error))?;
        }
        index.relax();
        Ok(index)
    }

    /// Deletes indexes that are not wanted.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            if !wanted(&entry.file_name().to_string_lossy()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Deletes an index. Mounts of it keep their file.
    pub(crate) fn remove(&self, digest: &Digest) {
        let _ = std::fs::remove_file(self.path_of(digest));
    }
}

/// Decodes a stored index into a file, at most [`MAX_INDEX`] bytes of it.
fn decode(stored: &[u8], file: &mut File, digest: Digest, path: &Path) -> Result<()> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)
        .at("decode", path)?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).at("decode", path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0_u64;
    loop {
        let len = decoder
            .read(&mut buffer)
            .map_err(|error: io::Error| invalid(digest, error))?;
        if len == 0 {
            break;
        }
        total += len as u64;
        if total > MAX_INDEX {
            return Err(invalid(
                digest,
                format!("it decodes to more than {MAX_INDEX} bytes"),
            ));
        }
        file.write_all(&buffer[..len]).at("write", path)?;
    }
    if !decoder.finish().is_empty() {
        return Err(invalid(digest, "bytes follow its zstd frame"));
    }
    Ok(())
}
