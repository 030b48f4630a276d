//! Running totals, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::report::Counters;

/// The counters behind [`Counters`]; meanings and units stand there.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) source_bytes: AtomicU64,
    pub(crate) source_reads: AtomicU64,
    pub(crate) decoded_bytes: AtomicU64,
    pub(crate) dedup_bytes: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) unstored: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Tally {
    /// The totals so far.
    pub(crate) fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            misses: get(&self.misses),
            read_errors: get(&self.read_errors),
            resent: get(&self.resent),
            source_bytes: get(&self.source_bytes),
            source_reads: get(&self.source_reads),
            decoded_bytes: get(&self.decoded_bytes),
            dedup_bytes: get(&self.dedup_bytes),
            corrupt: get(&self.corrupt),
            unstored: get(&self.unstored),
            evicted_bytes: 0,
        }
    }
}
