//! Who may change which blocks of a pack: a writer that stores, or an eviction, never both.
//!
//! Between a store's write of the data and its setting of the bits, and between an eviction's
//! clearing of the bits and its hole, the blocks are in nobody else's hands. Without this a hole
//! could be punched behind bits that were set a moment before.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ranges of blocks that are being changed. A handful at a time: one for each decoding thread, and
/// those of one eviction.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Vec<Range<u32>>>);

/// A claimed range; free again when dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    range: Range<u32>,
}

impl Claims {
    /// Claims a range, unless part of it is claimed already.
    pub(super) fn take(&self, range: Range<u32>) -> Option<Claim<'_>> {
        let mut taken = self.lock();
        let free = |other: &Range<u32>| other.end <= range.start || range.end <= other.start;
        if !taken.iter().all(free) {
            return None;
        }
        taken.push(range.clone());
        drop(taken);
        Some(Claim { claims: self, range })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Range<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// The range.
    pub(super) fn range(&self) -> Range<u32> {
        self.range.clone()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut taken = self.claims.lock();
        if let Some(at) = taken.iter().position(|range| *range == self.range) {
            taken.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_overlaps_is_refused_until_it_is_free() {
        let claims = Claims::default();
        let first = claims.take(10..20).unwrap();
        for range in [10..20, 0..11, 19..30, 12..13, 0..100] {
            assert!(claims.take(range.clone()).is_none(), "{range:?}");
        }
        let beside = (claims.take(0..10).unwrap(), claims.take(20..21).unwrap());
        assert_eq!(first.range(), 10..20);
        drop(first);
        assert!(claims.take(10..20).is_some());
        drop(beside);
        assert!(claims.take(0..100).is_some());
    }
}
