//! Giving blocks of a pack up, under readers and writers and before any failure.
//!
//! Invariant: a hole is punched only behind bits that are cleared, in memory, in the bits file and in
//! the checkpoint, and only in blocks that nobody stores meanwhile; never in a pack whose plain file
//! somebody else reads. So no reader, of this process, of the next one or after a power failure, takes
//! a hole for bytes:
//!
//! | who | why |
//! |---|---|
//! | a reader at the same time | the epoch grows between bits and hole ([`Pack::read`]) |
//! | a copy into another pack | the same epoch, looked at before the bits ([`Pack::store_from`]) |
//! | a writer of the same blocks | claims: it does not store, or nothing is given up |
//! | a checkpoint at the same time | one lock for both |
//! | a mount of the plain file | such packs are marked whole first, under the same lock |
//! | the next process | bits file written before the hole |
//! | the next boot | checkpoint flushed, or removed, before the hole |

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use lacewing_format::limits::BLOCK;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::atomic::{replace_file, sync_parent};
use super::bitmap::Bitmap;
use super::claims::Claim;
use super::pack::Pack;
use super::pack_files::{HEADER, WHOLE, durable, load_durable};
use crate::error::{IoContext, Result};

impl Pack {
    /// Gives blocks up: they must be fetched again. Their space goes back to the disk. Blocks that
    /// are being stored at this moment are left out. Blocks for a flush of a small file.
    ///
    /// # Errors
    /// The disk fails. Blocks may be invalid then whose space is not given back; see [`Pack::sweep`].
    pub(crate) fn give_up(&self, ranges: &[Range<u32>]) -> Result<()> {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        self.give_up_now(ranges).map(drop)
    }

    /// As [`Pack::give_up`], but gives up nothing if somebody reads the plain file. Returns the bytes
    /// of the blocks that are gone.
    pub(crate) fn evict(&self, ranges: &[Range<u32>]) -> Result<u64> {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if self.whole.load(Ordering::Acquire) {
            return Ok(0);
        }
        self.give_up_now(ranges)
    }

    fn give_up_now(&self, ranges: &[Range<u32>]) -> Result<u64> {
        let claims: Vec<Claim<'_>> = ranges
            .iter()
            .filter_map(|range| self.claims.take(range.clone()))
            .collect();
        let valid: u64 = claims
            .iter()
            .map(|claim| u64::from(self.bits.count(claim.range())))
            .sum();
        self.clear(&claims)?;
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.forget_checkpointed(&claims)?;
        for claim in &claims {
            self.punch(&claim.range())?;
            self.uses.forget(claim.range());
        }
        self.space.evicted(valid * BLOCK as u64);
        Ok(valid * BLOCK as u64)
    }

    /// Clears bits in memory and in the bits file.
    fn clear(&self, claims: &[Claim<'_>]) -> Result<()> {
        let file = self.bits_file.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in claims {
            self.bits.clear(claim.range());
            let (offset, bytes) = self.bits.bytes(claim.range());
            clear_bits(&file, HEADER as u64 + offset, &bytes).at("write", &self.path)?;
        }
        Ok(())
    }

    /// Takes blocks out of the checkpoint. What the checkpoint says of others stays true, so the data
    /// need not be flushed. A full disk has no room for another checkpoint: then there is none.
    fn forget_checkpointed(&self, claims: &[Claim<'_>]) -> Result<()> {
        let path = self.path.with_extension("durable");
        let known = Bitmap::new(self.identity.blocks);
        load_durable(&path, &self.identity, &known).at("read", &path)?;
        if claims.iter().all(|claim| known.count(claim.range()) == 0) {
            return Ok(());
        }
        claims.iter().for_each(|claim| known.clear(claim.range()));
        let pages: Vec<(u32, Vec<u8>)> = known
            .used_pages()
            .map(|number| (number, known.page(number)))
            .collect();
        let bytes = durable(&self.identity, self.boot, &pages);
        if replace_file(&path, &bytes).is_ok() {
            return Ok(());
        }
        std::fs::remove_file(&path).at("remove", &path)?;
        self.dirty.store(true, Ordering::Release);
        sync_parent(&path)
    }

    fn punch(&self, range: &Range<u32>) -> Result<()> {
        let offset = u64::from(range.start) * BLOCK as u64;
        let len = u64::from(range.end.saturating_sub(range.start)) * BLOCK as u64;
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.data, flags, offset, len) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error).at("punch a hole in", &self.path),
        }
    }

    /// Gives space back that no valid block uses: what was written before a crash and not marked,
    /// and what an eviction could not finish.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn sweep(&self) -> Result<()> {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while let Some(extent) = self.next_extent(at) {
            at = u64::from(extent.end) * BLOCK as u64;
            let mut block = self.bits.next_unset(extent.clone());
            while block < extent.end {
                let end = self.bits.next_set(block..extent.end);
                if let Some(claim) = self.claims.take(block..end) {
                    // Stored between the look and the claim: left for next time.
                    if self.bits.count(block..end) == 0 {
                        self.punch(&claim.range())?;
                    }
                }
                block = self.bits.next_unset(end..extent.end);
            }
        }
        Ok(())
    }

    /// The next run of blocks, from a byte on, that take space.
    fn next_extent(&self, at: u64) -> Option<Range<u32>> {
        let start = seek(&self.data, SeekFrom::Data(at)).ok()?;
        let end = seek(&self.data, SeekFrom::Hole(start)).ok()?;
        let block = |offset: u64| u32::try_from(offset).ok();
        let blocks = block(start / BLOCK as u64)?..block(end.div_ceil(BLOCK as u64))?;
        (!blocks.is_empty()).then(|| blocks.start..blocks.end.min(self.identity.blocks))
    }

    /// Promises that from now on nothing is given up, because somebody is going to read the plain
    /// file itself. Waits for what is being given up. Whether all is valid must be looked at after.
    /// Returns whether the promise is new.
    ///
    /// # Errors
    /// The promise could not be written down for the next process.
    pub(crate) fn make_whole(&self) -> Result<bool> {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if self.whole.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mark = self.path.with_extension(WHOLE);
        std::fs::write(&mark, self.boot.0).at("write", &mark)?;
        self.whole.store(true, Ordering::Release);
        Ok(true)
    }

    /// Takes the promise back: nobody has read the plain file.
    pub(crate) fn make_evictable(&self) {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = std::fs::remove_file(self.path.with_extension(WHOLE));
        self.whole.store(false, Ordering::Release);
    }

    /// Whether nothing may be given up.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Bytes of disk that its data takes.
    pub(crate) fn allocated(&self) -> u64 {
        // stat(2): `st_blocks` counts 512 bytes whatever the file system's block size.
        self.data.metadata().map_or(0, |found| found.blocks() * 512)
    }
}

/// Writes words of a bitmap in which bits were only cleared. A word that lies in a hole of the file
/// has no bits there, so that a full disk does no harm.
fn clear_bits(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    if file.write_all_at(bytes, offset).is_ok() {
        return Ok(());
    }
    for (word, at) in bytes.chunks(8).zip((offset..).step_by(8)) {
        let mut found = [0; 8];
        let known = file.read_exact_at(&mut found[..word.len()], at);
        if known.is_ok() && found[..word.len()] != *word {
            file.write_all_at(word, at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
