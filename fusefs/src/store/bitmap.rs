//! Which blocks of a pack are valid: one bit per block, read without locks.
//!
//! Bits live in pages of 4 KiB that are made when their first bit is set, so a pack costs memory
//! for what is present, not for what an index claims its size to be.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words in a page: 4 KiB of bits.
const PAGE_WORDS: usize = 512;

/// Bytes in a page, in memory and in files.
pub(crate) const PAGE_BYTES: usize = PAGE_WORDS * 8;

/// Blocks that one page speaks of: 128 MiB of plain bytes.
const PAGE_BLOCKS: u32 = (PAGE_WORDS * 64) as u32;

type Page = Box<[AtomicU64]>;

/// A bit for each block; starts with no bit set.
pub(crate) struct Bitmap {
    blocks: u32,
    pages: Box<[OnceLock<Page>]>,
}

/// One word's share of a range of bits.
struct Part {
    page: usize,
    word: usize,
    mask: u64,
}

/// Splits a range of bits into words.
fn parts(range: Range<u32>) -> impl Iterator<Item = Part> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let word_start = at & !63;
        let word_end = u64::from(word_start) + 64;
        let stop = u64::from(range.end).min(word_end);
        let low = u64::MAX << (at - word_start);
        let high = if stop == word_end {
            u64::MAX
        } else {
            (1 << (stop - u64::from(word_start))) - 1
        };
        let part = Part {
            page: (at / PAGE_BLOCKS) as usize,
            word: ((at % PAGE_BLOCKS) / 64) as usize,
            mask: low & high,
        };
        at = u32::try_from(stop).unwrap_or(u32::MAX);
        Some(part)
    })
}

impl Bitmap {
    /// Makes a map in which no block is valid.
    pub(crate) fn new(blocks: u32) -> Bitmap {
        let pages = (0..blocks.div_ceil(PAGE_BLOCKS))
            .map(|_| OnceLock::new())
            .collect();
        Bitmap { blocks, pages }
    }

    fn word(&self, part: &Part) -> u64 {
        let page = self.pages.get(part.page).and_then(OnceLock::get);
        page.and_then(|page| page.get(part.word))
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Whether all blocks of the range are valid. Blocks beyond the pack never are.
    pub(crate) fn all(&self, range: Range<u32>) -> bool {
        range.end <= self.blocks && parts(range).all(|part| self.word(&part) & part.mask == part.mask)
    }

    /// First block of the range that is not valid, or the range's end.
    pub(crate) fn next_unset(&self, range: Range<u32>) -> u32 {
        self.scan(range, |bits| !bits)
    }

    /// First block of the range that is valid, or the range's end.
    pub(crate) fn next_set(&self, range: Range<u32>) -> u32 {
        self.scan(range, |bits| bits)
    }

    fn scan(&self, range: Range<u32>, wanted: impl Fn(u64) -> u64) -> u32 {
        let mut word_start = range.start & !63;
        for part in parts(range.clone()) {
            let hits = wanted(self.word(&part)) & part.mask;
            if hits != 0 {
                return word_start + hits.trailing_zeros();
            }
            word_start = word_start.saturating_add(64);
        }
        range.end.max(range.start)
    }

    /// Rows of valid blocks.
    pub(crate) fn ranges(&self) -> Vec<Range<u32>> {
        let mut ranges = Vec::new();
        for page in self.used_pages() {
            let start = page.saturating_mul(PAGE_BLOCKS);
            let end = start.saturating_add(PAGE_BLOCKS).min(self.blocks);
            let mut at = self.next_set(start..end);
            while at < end {
                let stop = self.next_unset(at..end);
                ranges.push(at..stop);
                at = self.next_set(stop..end);
            }
        }
        ranges
    }

    /// Counts the valid blocks of a range.
    pub(crate) fn count(&self, range: Range<u32>) -> u32 {
        parts(range)
            .map(|part| (self.word(&part) & part.mask).count_ones())
            .sum()
    }

    /// Marks blocks as valid. Everything written before is seen by who sees the bits.
    pub(crate) fn set(&self, range: Range<u32>) {
        let end = range.end.min(self.blocks);
        for part in parts(range.start..end) {
            let Some(slot) = self.pages.get(part.page) else {
                continue;
            };
            let page = slot.get_or_init(|| (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect());
            if let Some(word) = page.get(part.word) {
                word.fetch_or(part.mask, Ordering::AcqRel);
            }
        }
    }

    /// Marks blocks as not valid.
    pub(crate) fn clear(&self, range: Range<u32>) {
        for part in parts(range) {
            let page = self.pages.get(part.page).and_then(OnceLock::get);
            if let Some(word) = page.and_then(|page| page.get(part.word)) {
                word.fetch_and(!part.mask, Ordering::AcqRel);
            }
        }
    }

    /// The bytes of the words that hold a range, with their offset among the map's bytes.
    pub(crate) fn bytes(&self, range: Range<u32>) -> (u64, Vec<u8>) {
        let start = range.start & !63;
        let mut bytes = Vec::with_capacity((range.len() / 64 + 2) * 8);
        for part in parts(start..range.end) {
            bytes.extend_from_slice(&self.word(&part).to_le_bytes());
        }
        (u64::from(start / 8), bytes)
    }

    /// Numbers of the pages that may have bits.
    pub(crate) fn used_pages(&self) -> impl Iterator<Item = u32> {
        let used = self
            .pages
            .iter()
            .enumerate()
            .filter(|(_, page)| page.get().is_some());
        used.map(|(number, _)| number as u32)
    }

    /// The bytes of a page.
    pub(crate) fn page(&self, number: u32) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_BYTES];
        if let Some(page) = self.pages.get(number as usize).and_then(OnceLock::get) {
            for (to, word) in bytes.chunks_exact_mut(8).zip(page.iter()) {
                to.copy_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
            }
        }
        bytes
    }

    /// Sets the bits of a page as `bytes` say; bits beyond the last block are ignored.
    pub(crate) fn load_page(&self, number: u32, bytes: &[u8]) {
        let Some(first) = number.checked_mul(PAGE_BLOCKS) else {
            return;
        };
        for (at, chunk) in bytes.chunks_exact(8).take(PAGE_WORDS).enumerate() {
            let mut bits = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
            while bits != 0 {
                let low = bits.trailing_zeros();
                let run = (bits >> low).trailing_ones();
                let start = u64::from(first) + at as u64 * 64 + u64::from(low);
                let end = (start + u64::from(run)).min(u64::from(self.blocks));
                if start < end {
                    self.set(start as u32..end as u32);
                }
                bits &= if low + run == 64 {
                    0
                } else {
                    u64::MAX << (low + run)
                };
            }
        }
    }

    /// Count of pages, used or not.
    pub(crate) fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_map_has_nothing_and_ends_are_kept() {
        let map = Bitmap::new(100);
        assert!(!map.all(0..1));
        assert_eq!(map.next_unset(5..50), 5);
        assert_eq!(map.next_set(5..50), 50);
        map.set(0..200);
        assert!(map.all(0..100));
        assert!(!map.all(0..101));
        assert_eq!(map.count(0..100), 100);
    }

    #[test]
    fn hostile_sizes_cost_little() {
        let map = Bitmap::new(u32::MAX - 1);
        map.set(u32::MAX - 3..u32::MAX - 1);
        assert!(map.all(u32::MAX - 3..u32::MAX - 1));
        assert_eq!(map.used_pages().count(), 1);
        assert_eq!(map.next_set(u32::MAX - 100..u32::MAX - 1), u32::MAX - 3);
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_flags(
            steps in proptest::collection::vec((0u32..70_000, 0u32..500, any::<bool>()), 1..40),
            ask in 0u32..70_000, len in 0u32..40_000,
        ) {
            let map = Bitmap::new(70_000);
            let mut flags = vec![false; 70_000];
            for (start, len, on) in steps {
                let end = (start + len).min(70_000);
                if on { map.set(start..end) } else { map.clear(start..end) }
                flags[start as usize..end as usize].fill(on);
            }
            let end = (ask + len).min(70_000);
            let part = &flags[ask as usize..end as usize];
            prop_assert_eq!(map.all(ask..end), part.iter().all(|f| *f));
            prop_assert_eq!(map.count(ask..end) as usize, part.iter().filter(|f| **f).count());
            let unset = part.iter().position(|f| !f).map_or(end, |p| ask + p as u32);
            prop_assert_eq!(map.next_unset(ask..end), unset);
            let set = part.iter().position(|f| *f).map_or(end, |p| ask + p as u32);
            prop_assert_eq!(map.next_set(ask..end), set);
            let copy = Bitmap::new(70_000);
            for page in map.used_pages() { copy.load_page(page, &map.page(page)); }
            let rows: Vec<u32> = map.ranges().into_iter().flatten().collect();
            let flagged: Vec<u32> = (0..70_000).filter(|at| flags[*at as usize]).collect();
            prop_assert_eq!(rows, flagged);
            for page in 0..map.page_count() { prop_assert_eq!(copy.page(page), map.page(page)); }
            if ask < end {
                let (offset, bytes) = map.bytes(ask..end);
                let page = map.page((offset / PAGE_BYTES as u64) as u32);
                let within = (offset % PAGE_BYTES as u64) as usize;
                let n = bytes.len().min(PAGE_BYTES - within);
                prop_assert_eq!(&bytes[..n], &page[within..within + n]);
            }
        }
    }
}
