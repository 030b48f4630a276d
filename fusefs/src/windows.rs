//! Read-ahead for packs that are read past the page cache.
//!
//! A walk over many small files asks for some kilobytes at a time, in an order that is near the
//! pack's own but not the same. Where a read comes near an earlier one, all of its window of the
//! pack is read at once, and its neighbours are answered from memory: a fixed amount for the whole
//! node, instead of page cache that grows with what is read.
//!
//! Who reads a large file in order need not wait for the disk: the thread that has answered from one window reads the
//! next, while another thread answers from the first.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use lacewing_format::limits::BLOCK;

use crate::buffer::AlignedBuffer;
use crate::store::pack::{Pack, PackNumber};

/// Bytes of the pack that are read at once: forty small files, or four of the kernel's reads of a
/// large one. Eight took as much CPU, part of it in the kernel's threads, since the disk's queue filled up.
const WINDOW: u64 = 512 << 10;

/// Longest read that is answered from a window; the kernel's usual read-ahead. Longer ones gain
/// nothing.
const LONGEST_READ: u64 = WINDOW / 4;

/// Windows in memory, so many readers at a time: 5 MiB, with the end of a read that begins in one.
const WINDOWS: usize = 8;

/// Reads that are remembered: few, so that a random reader seldom comes near one of them by chance
/// (one read in fifty over 200 MiB).
const RECENT: usize = 3;

/// Which part of which pack a window holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    pack: PackNumber,
    /// Windows of a pack that gave blocks up since are not believed.
    epoch: u64,
    range: Range<u64>,
    seen: u64,
}

/// What is known of all windows. Locked for as long as it takes to look at it.
#[derive(Default)]
struct Directory {
    held: [Held; WINDOWS],
    /// Pack and window number of the last reads.
    recent: [(PackNumber, u64); RECENT],
    clock: u64,
}

impl Directory {
    /// The window that holds a range, if one does.
    fn find(&mut self, pack: PackNumber, epoch: u64, range: &Range<u64>) -> Option<usize> {
        self.clock += 1;
        let holds = |held: &Held| {
            held.pack == pack
                && held.epoch == epoch
                && held.range.start <= range.start
                && range.end <= held.range.end
        };
        let found = self.held.iter().position(holds)?;
        self.held[found].seen = self.clock;
        Some(found)
    }

    /// The window to give up for one that nobody has asked for yet, if it has been of no use for a while: with many
    /// readers at a time, each would take the window of another.
    fn spare(&self) -> bool {
        let oldest = self.held.iter().map(|held| held.seen).min().unwrap_or(0);
        self.clock - oldest > 2 * WINDOWS as u64
    }

    /// Notes a read; whether it is near an earlier one.
    fn near(&mut self, pack: PackNumber, window: u64) -> bool {
        let near = |(of, at): &(PackNumber, u64)| *of == pack && at.abs_diff(window) <= 1;
        let found = self.recent.iter().position(near);
        // The most recent stands first.
        self.recent[..=found.unwrap_or(RECENT - 1)].rotate_right(1);
        self.recent[0] = (pack, window);
        found.is_some()
    }

    /// The window to give up, now holding `range`.
    fn claim(&mut self, pack: PackNumber, epoch: u64, range: Range<u64>) -> usize {
        let oldest = (0..WINDOWS).min_by_key(|at| self.held[*at].seen).unwrap_or(0);
        self.held[oldest] = Held {
            pack,
            epoch,
            range,
            seen: self.clock,
        };
        oldest
    }
}

/// Whether a read is as long as the kernel makes those of a file that is read in order.
fn streams(range: &Range<u64>) -> bool {
    range.end - range.start == LONGEST_READ
}

/// A window's bytes, and whose they are.
#[derive(Default)]
struct Window {
    pack: PackNumber,
    epoch: u64,
    range: Range<u64>,
    buffer: AlignedBuffer,
}

impl Window {
    /// The bytes of a range, if this window holds them.
    fn bytes(&self, pack: PackNumber, epoch: u64, range: &Range<u64>) -> Option<&[u8]> {
        if self.pack != pack || self.epoch != epoch {
            return None;
        }
        let from = range.start.checked_sub(self.range.start)?;
        let to = range.end.checked_sub(self.range.start)?;
        self.buffer.bytes().get(from as usize..to as usize)
    }
}

/// The node's windows.
#[derive(Default)]
pub(crate) struct Windows {
    directory: Mutex<Directory>,
    /// Who claims a window locks it before the directory is let go of, so that who finds it there waits until it is
    /// filled. Answers only share it: giving the kernel 128 KiB takes longer than all else, and a reader that is ahead
    /// of itself by two requests, as every mapped file's is, would have one thread wait for the other.
    windows: [RwLock<Window>; WINDOWS],
}

impl Windows {
    /// Gives `answer` the bytes of a range that is valid, if there is or should be a window for it;
    /// `false` if it must be read by itself.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn answer(
        &self,
        pack: &Pack,
        range: &Range<u64>,
        answer: impl FnOnce(&[u8]),
    ) -> io::Result<bool> {
        if range.end - range.start > LONGEST_READ {
            return Ok(false);
        }
        let epoch = pack.epoch();
        let mut directory = lock(&self.directory);
        let mut found = directory.find(pack.number(), epoch, range);
        if found.is_none() {
            let window = range.start / WINDOW;
            if !directory.near(pack.number(), window) {
                return Ok(false);
            }
            // Reads of a stream follow each other from wherever it began: none lies across the end of its window.
            let (start, end) = match streams(range) {
                true => (range.start, range.start + WINDOW),
                false => (window * WINDOW, ((window + 1) * WINDOW).max(range.end)),
            };
            let whole = start..end.min(pack.len());
            found = self.fill(directory, pack, epoch, whole)?;
        } else {
            drop(directory);
        }
        let Some(found) = found else { return Ok(false) };
        let answered = self.answer_from(found, pack, epoch, range, answer);
        if answered && streams(range) {
            self.go_on(found, pack, epoch);
        }
        Ok(answered)
    }

    /// Reads a range into a window; nothing if not all of it is on the disk.
    fn fill(
        &self,
        mut directory: MutexGuard<'_, Directory>,
        pack: &Pack,
        epoch: u64,
        whole: Range<u64>,
    ) -> io::Result<Option<usize>> {
        if !pack.valid(&whole) || pack.just_written(&whole) {
            return Ok(None);
        }
        let claimed = directory.claim(pack.number(), epoch, whole.clone());
        let mut filling = self.windows[claimed]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        drop(directory);
        (filling.pack, filling.epoch, filling.range) = (pack.number(), epoch, whole.clone());
        let read = pack.read(
            whole.start,
            filling.buffer.room((whole.end - whole.start) as usize),
        );
        if !matches!(read, Ok(true)) {
            filling.buffer.room(0);
        }
        Ok(read?.then_some(claimed))
    }

    /// Reads the window after one from which a stream was just answered, if nobody has.
    fn go_on(&self, window: usize, pack: &Pack, epoch: u64) {
        let mut directory = lock(&self.directory);
        let held = &directory.held[window];
        if held.pack != pack.number() {
            return; // another stream has it by now
        }
        let start = held.range.end;
        let next = start..(start + WINDOW).min(pack.len());
        let first = start..(start + BLOCK as u64).min(pack.len());
        if !next.is_empty() && directory.find(pack.number(), epoch, &first).is_none() && directory.spare() {
            // Who asks for it will see what is wrong.
            let _ = self.fill(directory, pack, epoch, next);
        }
    }

    /// The same from one window; `false` if it was not filled or holds something else by now, or blocks were given up.
    fn answer_from(
        &self,
        window: usize,
        pack: &Pack,
        epoch: u64,
        range: &Range<u64>,
        answer: impl FnOnce(&[u8]),
    ) -> bool {
        let window = self.windows[window]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let bytes = window.bytes(pack.number(), epoch, range);
        match bytes.filter(|_| pack.valid(range) && pack.epoch() == epoch) {
            Some(bytes) => {
                answer(bytes);
                true
            }
            None => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lacewing_format::Digest;

    use std::sync::Arc;

    use super::*;
    use crate::store::pack::{BootId, Identity};
    use crate::store::space::Space;

    const BLOCKS: u32 = 1024;

    fn pack(dir: &std::path::Path) -> Pack {
        let identity = Identity {
            number: 7,
            blob: Digest([9; 32]),
            blocks: BLOCKS,
        };
        let pack = Pack::open(dir, identity, BootId([1; 16]), &Arc::new(Space::unbounded())).unwrap();
        pack.store(0, &content()).unwrap();
        settle(&pack);
        pack
    }

    /// Brings all blocks to the disk and out of the page cache.
    fn settle(pack: &Pack) {
        pack.checkpoint().unwrap();
        pack.note_served(0, pack.len() as usize);
        pack.give_back();
    }

    fn content() -> Vec<u8> {
        (0..BLOCKS as usize * BLOCK)
            .map(|at| (at / 7 % 251) as u8)
            .collect()
    }

    /// What comes of a read: nothing if there is no window for it.
    fn read(windows: &Windows, pack: &Pack, range: Range<u64>) -> Option<Vec<u8>> {
        let mut found = None;
        let answered = windows.answer(pack, &range, |bytes| found = Some(bytes.to_vec()));
        assert_eq!(answered.unwrap(), found.is_some());
        found
    }

    #[test]
    fn neighbours_are_answered_from_a_window_and_lone_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, windows) = (pack(dir.path()), Windows::default());
        assert_eq!(read(&windows, &pack, 0..4096), None, "the first one");
        assert_eq!(
            read(&windows, &pack, 6 * WINDOW..6 * WINDOW + 4096),
            None,
            "far away"
        );
        for start in [8192, 4096, 300_000 / 4096 * 4096, WINDOW - 4096, WINDOW + 8192] {
            let range = start..start + 12_288;
            let expected = &content()[start as usize..][..12_288];
            assert_eq!(read(&windows, &pack, range).as_deref(), Some(expected), "{start}");
        }
    }

    #[test]
    fn the_next_window_of_a_stream_is_there_before_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, windows) = (pack(dir.path()), Windows::default());
        let content = content();
        let range = |n: u64| 4096 + n * LONGEST_READ..4096 + (n + 1) * LONGEST_READ;
        assert_eq!(read(&windows, &pack, range(0)), None);
        let held = |n: u64| lock(&windows.directory).find(7, 0, &range(n)).is_some();
        // A window is spared once there were reads enough to tell that nobody asks for it.
        for _ in 0..3 * WINDOWS {
            assert!(read(&windows, &pack, range(1)).is_some());
        }
        assert!(held(8) && !held(9), "one window");
        for n in 2..30 {
            let expected = &content[range(n).start as usize..range(n).end as usize];
            assert_eq!(read(&windows, &pack, range(n)).as_deref(), Some(expected), "{n}");
            assert!(held(n + 1), "{n}");
        }
    }

    #[test]
    fn answers_from_one_window_do_not_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, windows) = (pack(dir.path()), Windows::default());
        assert_eq!(read(&windows, &pack, 0..4096), None);
        assert!(read(&windows, &pack, 4096..8192).is_some());
        let answered = windows.answer(&pack, &(8192..12_288), |_| {
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(read(&windows, &pack, 12_288..16_384).is_some()));
            });
        });
        assert!(answered.unwrap());
    }

    #[test]
    fn a_window_is_not_believed_after_blocks_were_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, windows) = (pack(dir.path()), Windows::default());
        assert_eq!(read(&windows, &pack, 0..4096), None);
        assert!(read(&windows, &pack, 4096..8192).is_some());
        pack.give_up(std::slice::from_ref(&(1..2))).unwrap();
        assert_eq!(read(&windows, &pack, 4096..8192), None);
        pack.store(1, &[5; BLOCK]).unwrap();
        assert_eq!(read(&windows, &pack, 4096..8192), None, "in the page cache still");
        settle(&pack);
        assert_eq!(read(&windows, &pack, 4096..8192), Some(vec![5; BLOCK]));
    }

    #[test]
    fn the_window_used_longest_ago_is_given_up() {
        let mut directory = Directory::default();
        for n in 0..WINDOWS as u64 {
            directory.clock += 1;
            directory.claim(1, 0, n * WINDOW..(n + 1) * WINDOW);
        }
        assert!(directory.find(1, 0, &(0..4096)).is_some());
        directory.claim(2, 0, 0..WINDOW);
        assert!(directory.find(1, 0, &(0..4096)).is_some());
        assert!(directory.find(1, 0, &(WINDOW..WINDOW + 4096)).is_none());
        assert!(directory.find(2, 1, &(0..4096)).is_none(), "another epoch");
    }
}
