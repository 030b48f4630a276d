//! What is read of packs, noted as long as somebody asks for it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::store::pack::PackNumber;

/// Most recordings at a time; who records watches a start, and seldom two.
const MAX_RECORDINGS: usize = 4;

/// Most reads that a recording notes, neighbours counting as one: 16 MiB of memory.
const MAX_READS: usize = 1 << 20;

/// A range of a file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// Absolute path in the layer.
    pub path: Vec<u8>,
    /// Bytes of the file.
    pub range: Range<u64>,
}

/// A read of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackRead {
    pub(crate) pack: PackNumber,
    pub(crate) range: Range<u64>,
}

/// What one recording has noted.
#[derive(Default)]
struct Noted {
    number: usize,
    reads: Vec<PackRead>,
}

/// Notes reads for whoever records.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Recordings under way: all that a read looks at while there is none.
    count: AtomicUsize,
    all: Mutex<Vec<Noted>>,
    next: AtomicUsize,
}

impl Recorder {
    fn all(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a read of a pack.
    pub(crate) fn note(&self, pack: PackNumber, range: Range<u64>) {
        if self.count.load(Ordering::Relaxed) == 0 || range.is_empty() {
            return;
        }
        for noted in self.all().iter_mut() {
            let full = noted.reads.len() >= MAX_READS;
            match noted.reads.last_mut() {
                Some(last) if last.pack == pack && last.range.end == range.start => {
                    last.range.end = range.end;
                }
                _ if !full => noted.reads.push(PackRead {
                    pack,
                    range: range.clone(),
                }),
                _ => {}
            }
        }
    }

    /// Begins one more recording.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Recording> {
        let mut all = self.all();
        if all.len() >= MAX_RECORDINGS {
            return Err(Error::TooManyRecordings);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        all.push(Noted {
            number,
            reads: Vec::new(),
        });
        self.count.store(all.len(), Ordering::Relaxed);
        Ok(Recording {
            recorder: self.clone(),
            number,
        })
    }
}

/// Notes what is read until it is dropped.
pub struct Recording {
    recorder: Arc<Recorder>,
    number: usize,
}

impl Recording {
    /// Takes what was noted so far.
    pub(crate) fn take(&self) -> Vec<PackRead> {
        let mut all = self.recorder.all();
        let noted = all.iter_mut().find(|noted| noted.number == self.number);
        noted
            .map(|noted| std::mem::take(&mut noted.reads))
            .unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut all = self.recorder.all();
        all.retain(|noted| noted.number != self.number);
        self.recorder.count.store(all.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_are_noted_while_somebody_records() {
        let recorder = Arc::new(Recorder::default());
        recorder.note(1, 0..4096);
        let first = recorder.begin().unwrap();
        recorder.note(1, 0..4096);
        let second = recorder.begin().unwrap();
        recorder.note(1, 4096..8192);
        recorder.note(2, 8192..9000);
        recorder.note(2, 7..7);
        let read = |pack, range| PackRead { pack, range };
        assert_eq!(first.take(), [read(1, 0..8192), read(2, 8192..9000)]);
        drop(first);
        recorder.note(3, 0..1);
        assert_eq!(
            second.take(),
            [read(1, 4096..8192), read(2, 8192..9000), read(3, 0..1)]
        );
        drop(second);
        assert_eq!(recorder.count.load(Ordering::Relaxed), 0);
        let all: Vec<_> = (0..MAX_RECORDINGS).map(|_| recorder.begin().unwrap()).collect();
        assert!(matches!(recorder.begin(), Err(Error::TooManyRecordings)));
        drop(all);
        assert!(recorder.begin().is_ok());
    }
}
