//! Which parts of an image are taken: bit sets over 32-byte slots.

use std::ops::Range;

use crate::erofs::ISLOT;

/// A fixed set of small numbers.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Makes an empty set for numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self {
            words: vec![0; count.div_ceil(64)],
        }
    }

    pub(super) fn get(&self, number: usize) -> bool {
        self.words
            .get(number / 64)
            .is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// Puts a number in; tells whether it was new and in range.
    pub(super) fn set(&mut self, number: usize) -> bool {
        self.set_in_word(number / 64, 1 << (number % 64))
    }

    /// Puts a range in; tells whether all of it was new and in range.
    fn set_range(&mut self, range: Range<usize>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let bit = at % 64;
            let count = (64 - bit).min(range.end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if !self.set_in_word(at / 64, mask) {
                return false;
            }
            at += count;
        }
        true
    }

    fn set_in_word(&mut self, word: usize, mask: u64) -> bool {
        let Some(word) = self.words.get_mut(word) else {
            return false;
        };
        let new = *word & mask == 0;
        *word |= mask;
        new
    }
}

/// Parts of an image that something has been found in, and where inodes start.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    taken: Bits,
    inodes: Bits,
}

const SLOT: usize = ISLOT as usize;

impl Claims {
    /// Makes the claims on an image whose first `head` bytes are taken by other things.
    pub(super) fn new(image_len: usize, head: usize) -> Self {
        let mut claims = Self {
            taken: Bits::new(image_len / SLOT),
            inodes: Bits::new(image_len / SLOT),
        };
        claims.take(0..head);
        claims
    }

    /// Takes a range of bytes that starts on a slot; tells whether all of it was free.
    pub(super) fn take(&mut self, bytes: Range<usize>) -> bool {
        self.taken.set_range(bytes.start / SLOT..bytes.end.div_ceil(SLOT))
    }

    /// Marks an inode as found; tells whether it was not before.
    pub(super) fn find_inode(&mut self, nid: u64) -> bool {
        usize::try_from(nid).is_ok_and(|nid| self.inodes.set(nid))
    }

    /// Tells whether an inode has been found before.
    pub(super) fn is_found(&self, nid: u64) -> bool {
        usize::try_from(nid).is_ok_and(|nid| self.inodes.get(nid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_once() {
        let mut claims = Claims::new(4096 * 2, 1152);
        assert!(!claims.take(1120..1152));
        assert!(claims.take(1152..1153));
        assert!(!claims.take(1152..1184));
        assert!(claims.take(1184..4096));
        assert!(claims.take(4096..8192));
        assert!(!claims.take(4064..4096));
        assert!(!claims.take(8192..8193), "outside");
    }

    #[test]
    fn inodes_are_found_once() {
        let mut claims = Claims::new(4096, 1152);
        assert!(!claims.is_found(40));
        assert!(claims.find_inode(40));
        assert!(!claims.find_inode(40));
        assert!(claims.is_found(40));
        assert!(!claims.find_inode(u64::MAX));
    }
}
