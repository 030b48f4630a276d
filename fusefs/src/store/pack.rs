//! A pack: the plain bytes of one data blob, as far as they are here.
//!
//! ```text
//! packs/<n>          sparse file in the blob's plain address space
//! packs/<n>.bits     header (with the boot id) and a bit per 4 KiB block, written after the data
//! packs/<n>.durable  checkpoint: the bits whose data is known to be on the disk
//! ```
//!
//! What is believed after which failure:
//! - *The process dies*: data and bits were given to the kernel in this order, and it keeps both.
//!   Nothing is lost.
//! - *The machine dies*: the kernel may have written the bits and not the data. The header names
//!   the boot in which the bits were written; bits of another boot are not looked at, the
//!   checkpoint is taken in their place. A checkpoint is a copy of the bits, then fdatasync of the
//!   data, then the copy to disk by write, fsync, rename, fsync of the directory.
//! - *Blocks are given up* (`giving`): bits first, in memory, in the file and in the checkpoint; the
//!   hole is punched last. Readers notice by the epoch ([`Pack::read`]), writers keep off by claims.
//!
//! Bits are kept on the heap and written by pwrite, not mapped: a store to a mapped page of a file
//! on a full disk would kill the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use lacewing_format::limits::BLOCK;
use rustix::fs::Advice;

use super::atomic::replace_file;
use super::bitmap::Bitmap;
use super::claims::Claims;
use super::direct::Direct;
pub(crate) use super::pack_files::{BootId, Identity, PackNumber};
use super::pack_files::{HEADER, durable, is_whole, load_bits, load_durable, start_bits};
use super::space::Space;
use super::uses::Uses;
use crate::error::{IoContext, Result};

/// How often a read of blocks that stay valid is tried while others are given up.
const READ_TURNS: u32 = 8;

/// How often memory is given back before it is also taken from blocks that were written and not
/// read: neighbours of what was read, most of which are read soon, or never.
const AGE: u32 = 5;

/// An open pack.
pub(crate) struct Pack {
    pub(super) identity: Identity,
    pub(super) path: PathBuf,
    pub(super) data: File,
    direct: Direct,
    pub(super) bits: Bitmap,
    /// Serialises writers of bits, so that words reach the file in the order of their values.
    pub(super) bits_file: Mutex<File>,
    /// Blocks that were written a moment ago, and are in the page cache.
    written: Bitmap,
    /// How often memory was given back, and which blocks had been written by the last turn.
    aging: Mutex<(u32, Vec<Range<u32>>)>,
    /// Blocks that were read since their memory was last given back.
    served: Bitmap,
    /// When its regions were last of use.
    pub(crate) uses: Uses,
    pub(super) boot: BootId,
    /// Counts how often blocks were given up.
    pub(super) epoch: AtomicU64,
    /// Whether bits were set since the last checkpoint.
    pub(super) dirty: AtomicBool,
    /// Held while a checkpoint is taken, while blocks are given up, and while it is made whole.
    pub(super) checkpoint: Mutex<()>,
    /// Blocks that somebody is changing.
    pub(super) claims: Claims,
    /// Whether something reads the plain file itself: then no block is ever given up.
    pub(super) whole: AtomicBool,
    /// Room in the store.
    pub(super) space: Arc<Space>,
}

impl Pack {
    /// Path of a pack's plain file.
    pub(crate) fn path_in(dir: &Path, number: PackNumber) -> PathBuf {
        dir.join(number.to_string())
    }

    /// Opens a pack, making its files if they are not there.
    pub(crate) fn open(dir: &Path, identity: Identity, boot: BootId, space: &Arc<Space>) -> Result<Pack> {
        let path = Pack::path_in(dir, identity.number);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let data = options.open(&path).at("open", &path)?;
        let len = u64::from(identity.blocks) * BLOCK as u64;
        if data.metadata().at("stat", &path)?.len() != len {
            data.set_len(len).at("size", &path)?;
        }
        let bits = Bitmap::new(identity.blocks);
        let bits_path = path.with_extension("bits");
        let this_boot = load_bits(&bits_path, &identity, boot, &bits).at("read", &bits_path)?;
        if !this_boot {
            let checkpoint = path.with_extension("durable");
            load_durable(&checkpoint, &identity, &bits).at("read", &checkpoint)?;
            start_bits(&bits_path, &identity, boot, &bits).at("write", &bits_path)?;
        }
        let bits_file = OpenOptions::new()
            .write(true)
            .open(&bits_path)
            .at("open", &bits_path)?;
        let whole = is_whole(&path, boot);
        Ok(Pack {
            identity,
            direct: Direct::open(&path),
            path,
            data,
            bits,
            bits_file: Mutex::new(bits_file),
            written: Bitmap::new(identity.blocks),
            aging: Mutex::default(),
            served: Bitmap::new(identity.blocks),
            uses: Uses::default(),
            boot,
            epoch: AtomicU64::new(0),
            // The process that set these bits may have died before its checkpoint.
            dirty: AtomicBool::new(this_boot),
            checkpoint: Mutex::new(()),
            claims: Claims::default(),
            whole: AtomicBool::new(whole),
            space: space.clone(),
        })
    }

    /// Deletes a pack's files.
    pub(crate) fn delete(dir: &Path, number: PackNumber) {
        let path = Pack::path_in(dir, number);
        let beside = ["bits", "durable", "whole"].map(|extension| path.with_extension(extension));
        for name in beside.into_iter().chain([path]) {
            let _ = std::fs::remove_file(name);
        }
    }

    /// What never changes.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The pack's number.
    pub(crate) fn number(&self) -> PackNumber {
        self.identity.number
    }

    /// The plain file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the plain address space.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.identity.blocks) * BLOCK as u64
    }

    /// Which blocks are valid.
    pub(crate) fn bits(&self) -> &Bitmap {
        &self.bits
    }

    /// Reads valid bytes into `buf`; `false` if not all of them are valid. Leaves no copy in the
    /// page cache if `buf` is whole blocks in memory and in the pack.
    ///
    /// Blocks may be given up meanwhile: the epoch is the same before and after, or the bytes are
    /// not believed and are read again.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let blocks = blocks_of(offset, buf.len());
        // Each turn but the last saw blocks of this pack given up, which takes a flush each time.
        for _ in 0..READ_TURNS {
            let epoch = self.epoch();
            if !self.bits.all(blocks.clone()) {
                return Ok(false);
            }
            self.fill(offset, buf)?;
            if self.unchanged_since(epoch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fill(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        if !self.just_written(&range) && self.direct.read_exact_at(buf, offset)? {
            return Ok(());
        }
        self.data.read_exact_at(buf, offset)
    }

    /// Whether some of a range was written a moment ago. It is in the page cache, and reading past
    /// that would wait until it is on the disk.
    pub(crate) fn just_written(&self, range: &Range<u64>) -> bool {
        let blocks = blocks_of(range.start, (range.end - range.start) as usize);
        self.written.next_set(blocks.clone()) < blocks.end
    }

    /// Whether all of a range is valid.
    pub(crate) fn valid(&self, range: &Range<u64>) -> bool {
        self.bits
            .all(blocks_of(range.start, (range.end - range.start) as usize))
    }

    /// How often blocks were given up.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether no block was given up since the epoch was looked at, so that all reads of valid
    /// blocks since then are right.
    pub(crate) fn unchanged_since(&self, epoch: u64) -> bool {
        // What was read before must not be read after the epoch.
        fence(Ordering::SeqCst);
        self.epoch.load(Ordering::Acquire) == epoch
    }

    /// Notes that the kernel has been given bytes.
    pub(crate) fn note_served(&self, offset: u64, len: usize) {
        self.served.set(blocks_of(offset, len));
    }

    /// Gives back the memory of blocks that were read: who reads through EROFS keeps a copy of its
    /// own, and a second one in the pack's file helps nobody. Bytes that are not on the disk yet
    /// stay, so this is of use after a checkpoint.
    pub(crate) fn give_back(&self) {
        let mut at = self.served.next_set(0..self.identity.blocks);
        while at < self.identity.blocks {
            let end = self.served.next_unset(at..self.identity.blocks);
            self.served.clear(at..end);
            self.uses.note(at..end);
            self.forget(at..end);
            at = self.served.next_set(end..self.identity.blocks);
        }
        let mut aging = self.aging.lock().unwrap_or_else(PoisonError::into_inner);
        aging.0 += 1;
        if aging.0.is_multiple_of(AGE) {
            let old = std::mem::replace(&mut aging.1, self.written.ranges());
            old.into_iter().for_each(|range| self.forget(range));
        }
    }

    /// Drops blocks from the page cache, as far as they are on the disk.
    fn forget(&self, blocks: Range<u32>) {
        self.written.clear(blocks.clone());
        let offset = u64::from(blocks.start) * BLOCK as u64;
        let len = NonZeroU64::new(blocks.len() as u64 * BLOCK as u64);
        let _ = rustix::fs::fadvise(&self.data, offset, len, Advice::DontNeed);
    }

    /// Reads bytes whether they are valid or not. The caller verifies them.
    pub(crate) fn read_unverified(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(buf, offset)
    }

    /// Keeps verified bytes from `block` on: data first, bits after. Does nothing if somebody else
    /// is storing or giving up these blocks.
    ///
    /// # Errors
    /// The disk is full or failing, or the store's room is used up (`QuotaExceeded`). The blocks are
    /// as valid as before.
    pub(crate) fn store(&self, block: u32, plain: &[u8]) -> io::Result<()> {
        self.keep(block, plain.len(), || {
            self.data.write_all_at(plain, u64::from(block) * BLOCK as u64)
        })
    }

    /// Keeps verified bytes that were found in another pack, sharing disk space where the file
    /// system can. Blocks that the other pack does not hold any more are written.
    ///
    /// # Errors
    /// As [`Pack::store`].
    pub(crate) fn store_from(&self, block: u32, (from, at): (&Pack, u32), plain: &[u8]) -> io::Result<()> {
        self.keep(block, plain.len(), || {
            // In this order: an eviction that is counted already has cleared its bits before, so
            // blocks that are valid now are in nobody's hands, and stay so for as long as none is
            // counted.
            let seen = from.epoch();
            let held = from
                .bits
                .all(at..at.saturating_add(plain.len().div_ceil(BLOCK) as u32));
            let (mut to, mut source) = (u64::from(block) * BLOCK as u64, u64::from(at) * BLOCK as u64);
            let (start, end) = (to, to + plain.len() as u64);
            let mut shared = held;
            while shared && to < end {
                let left = usize::try_from(end - to).unwrap_or(usize::MAX);
                let copied = rustix::fs::copy_file_range(
                    &from.data,
                    Some(&mut source),
                    &self.data,
                    Some(&mut to),
                    left,
                );
                shared = matches!(copied, Ok(n) if n > 0);
            }
            if shared && from.unchanged_since(seen) {
                return Ok(());
            }
            self.data.write_all_at(plain, start)
        })
    }

    /// Writes blocks by `write`, in nobody else's way, and marks them.
    fn keep(&self, block: u32, len: usize, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let blocks = block..block.saturating_add(len.div_ceil(BLOCK) as u32);
        let Some(_claim) = self.claims.take(blocks.clone()) else {
            return Ok(());
        };
        let new = blocks.len() as u64 - u64::from(self.bits.count(blocks.clone()));
        self.space.take(new * BLOCK as u64)?;
        write().inspect_err(|_| self.space.wake())?;
        self.uses.note(blocks.clone());
        self.mark(blocks)
    }

    fn mark(&self, blocks: Range<u32>) -> io::Result<()> {
        let file = self.bits_file.lock().unwrap_or_else(PoisonError::into_inner);
        self.written.set(blocks.clone());
        self.bits.set(blocks.clone());
        self.dirty.store(true, Ordering::Release);
        let (offset, bytes) = self.bits.bytes(blocks);
        // The bits in memory are right whether or not the file takes them: after a restart the
        // blocks would be fetched again, no more.
        file.write_all_at(&bytes, HEADER as u64 + offset)
    }

    /// Takes a checkpoint if anything changed since the last one. Blocks for a disk flush.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let _one = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.checkpoint_now()
            .inspect_err(|_| self.dirty.store(true, Ordering::Release))
    }

    fn checkpoint_now(&self) -> Result<()> {
        let pages: Vec<(u32, Vec<u8>)> = self
            .bits
            .used_pages()
            .map(|number| (number, self.bits.page(number)))
            .collect();
        self.data.sync_data().at("flush", &self.path)?;
        let bytes = durable(&self.identity, self.boot, &pages);
        replace_file(&self.path.with_extension("durable"), &bytes)
    }
}

/// Blocks that a run of bytes touches.
pub(crate) fn blocks_of(offset: u64, len: usize) -> Range<u32> {
    let end = offset.saturating_add(len as u64).div_ceil(BLOCK as u64);
    let clamp = |block: u64| u32::try_from(block).unwrap_or(u32::MAX);
    clamp(offset / BLOCK as u64)..clamp(end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lacewing_format::Digest;

    use super::*;

    const BOOT: BootId = BootId([1; 16]);
    const NEXT_BOOT: BootId = BootId([2; 16]);

    fn identity() -> Identity {
        Identity {
            number: 7,
            blob: Digest([9; 32]),
            blocks: 100_000,
        }
    }

    fn open(dir: &Path, boot: BootId) -> Pack {
        Pack::open(dir, identity(), boot, &Arc::new(Space::unbounded())).unwrap()
    }

    #[test]
    fn a_killed_process_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pack = open(dir.path(), BOOT);
        pack.store(40_000, &[5; 8192]).unwrap();
        drop(pack);
        let pack = open(dir.path(), BOOT);
        let mut buf = [0; 8192];
        assert!(pack.read(40_000 * 4096, &mut buf).unwrap());
        assert_eq!(buf, [5; 8192]);
        assert!(!pack.read(39_999 * 4096, &mut buf).unwrap());
    }

    #[test]
    fn another_boot_believes_the_checkpoint_only() {
        let dir = tempfile::tempdir().unwrap();
        let pack = open(dir.path(), BOOT);
        pack.store(3, &[5; 4096]).unwrap();
        pack.checkpoint().unwrap();
        pack.store(4, &[6; 4096]).unwrap();
        drop(pack);
        let pack = open(dir.path(), NEXT_BOOT);
        assert!(pack.bits().all(3..4));
        assert!(!pack.bits().all(4..5));
        pack.store(5, &[7; 4096]).unwrap();
        drop(pack);
        let pack = open(dir.path(), NEXT_BOOT);
        assert_eq!(pack.bits().count(0..100_000), 2);
    }

    /// The fuzz target `catalogue` found that bits which a killed process had set counted as checkpointed in the next
    /// one: a layer could be complete for weeks, and be fetched anew after a power failure.
    #[test]
    fn the_next_process_checkpoints_what_a_killed_one_has_set() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), BOOT).store(3, &[5; 4096]).unwrap();
        open(dir.path(), BOOT).checkpoint().unwrap();
        assert!(open(dir.path(), NEXT_BOOT).bits().all(3..4));
    }

    #[test]
    fn a_damaged_checkpoint_or_another_packs_files_mean_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pack = open(dir.path(), BOOT);
        pack.store(3, &[5; 4096]).unwrap();
        pack.checkpoint().unwrap();
        drop(pack);
        let path = dir.path().join("7.durable");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            if (70..4150).contains(&at) && at % 97 != 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let pack = open(dir.path(), NEXT_BOOT);
            assert_eq!(pack.bits().count(0..100_000), 0, "byte {at}");
            drop(pack);
            std::fs::remove_file(dir.path().join("7.bits")).unwrap();
        }
        std::fs::write(&path, &good).unwrap();
        let other = Identity {
            blob: Digest([8; 32]),
            ..identity()
        };
        let pack = Pack::open(dir.path(), other, NEXT_BOOT, &Arc::new(Space::unbounded())).unwrap();
        assert_eq!(pack.bits().count(0..100_000), 0);
    }

    #[test]
    fn memory_that_is_given_back_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let pack = open(dir.path(), BOOT);
        pack.store(10, &[5; 4096 * 4]).unwrap();
        pack.note_served(11 * 4096, 5000);
        pack.checkpoint().unwrap();
        pack.give_back();
        assert_eq!(pack.served.next_set(0..100_000), 100_000);
        assert!(!pack.just_written(&(11 * 4096..12 * 4096)));
        assert!(pack.just_written(&(10 * 4096..11 * 4096)), "not read yet");
        (0..2 * AGE).for_each(|_| pack.give_back());
        assert!(!pack.just_written(&(0..pack.len())));
        let mut buf = [0; 4096 * 4];
        assert!(pack.read(10 * 4096, &mut buf).unwrap());
        assert_eq!(buf, [5; 4096 * 4]);
    }

    #[test]
    fn copies_between_packs() {
        let dir = tempfile::tempdir().unwrap();
        let from = open(dir.path(), BOOT);
        from.store(1, &[5; 8192]).unwrap();
        let to = Pack::open(
            dir.path(),
            Identity {
                number: 8,
                ..identity()
            },
            BOOT,
            &Arc::new(Space::unbounded()),
        )
        .unwrap();
        to.store_from(50, (&from, 1), &[5; 8192]).unwrap();
        let mut buf = [0; 8192];
        assert!(to.read(50 * 4096, &mut buf).unwrap());
        assert_eq!(buf, [5; 8192]);
    }
}
