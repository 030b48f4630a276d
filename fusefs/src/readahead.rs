//! How much to fetch beyond what is read: nothing for random readers, a growing window for
//! sequential ones. Pure: offsets in, ranges out.

use std::ops::Range;

/// Readers of one pack that are told apart. A container start-up has few at once; a stream that is
/// forgotten starts again with a small window.
const STREAMS: usize = 4;

/// Window after the second read in a row: one frame of the default size.
const FIRST_WINDOW: u64 = 256 << 10;

/// How far a read may start before or behind the place where it was expected and still count as
/// the same stream. Readers of many small files skip some, and the kernel's requests overtake each
/// other.
const SLACK: u64 = 128 << 10;

/// What is known about the readers of one pack.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Where it began.
    begun: u64,
    /// Where the next read is expected.
    next: u64,
    /// Up to where was fetched ahead.
    ahead: u64,
    /// Where the file ends in which it began, once it is near.
    file_end: Option<u64>,
    /// When it was last seen; 0: never.
    seen: u64,
}

impl Streams {
    /// Notes a read and says what to fetch ahead of it, if anything: at most `largest` bytes, and nothing beyond the end of the
    /// file for a reader that has not yet gone from one to the next. `end_of_file` tells of a byte where its file ends, if that is near.
    pub(crate) fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        largest: u64,
        end_of_file: impl Fn(u64) -> Option<u64>,
    ) -> Option<Range<u64>> {
        self.clock += 1;
        let end = offset.saturating_add(len);
        let clock = self.clock;
        // What the kernel still has from an earlier reader is passed over, be it a whole file: whoever goes on within what was read
        // ahead for it is the same.
        let fits = |stream: &&mut Stream| {
            stream.seen != 0
                && offset.saturating_add(SLACK) >= stream.next
                && offset <= stream.next.saturating_add(SLACK).max(stream.ahead)
        };
        if let Some(stream) = self.streams.iter_mut().find(fits) {
            stream.seen = clock;
            return stream.advance(end, largest, end_of_file);
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.seen) {
            *oldest = Stream {
                begun: offset,
                next: end,
                ahead: end,
                file_end: None,
                seen: clock,
            };
        }
        None
    }
}

impl Stream {
    fn advance(
        &mut self,
        end: u64,
        largest: u64,
        end_of_file: impl Fn(u64) -> Option<u64>,
    ) -> Option<Range<u64>> {
        if end <= self.next {
            return None;
        }
        self.next = end;
        // As far again as it has come.
        let window = end.saturating_sub(self.begun).clamp(FIRST_WINDOW, largest);
        // Half a window is left: time to ask for the next one.
        if self.ahead.saturating_sub(end) > window / 2 {
            return None;
        }
        let start = self.ahead.max(end);
        self.file_end = self.file_end.or_else(|| end_of_file(self.ahead.checked_sub(1)?));
        let window = end.saturating_add(window);
        let until = match self.file_end {
            Some(file_end) if end <= file_end => window.min(file_end),
            _ => window,
        };
        (start < until).then(|| {
            self.ahead = until;
            start..until
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const LARGEST: u64 = 8 << 20;

    #[test]
    fn a_sequential_reader_gets_a_window_that_doubles_up_to_its_bound() {
        let mut streams = Streams::default();
        let mut asked = Vec::new();
        for n in 0..400 {
            asked.extend(streams.on_read(n * 131_072, 131_072, LARGEST, |_| None));
        }
        assert_eq!(asked[0].end - asked[0].start, FIRST_WINDOW);
        assert!(
            asked.windows(2).all(|pair| pair[0].end == pair[1].start),
            "{asked:?}"
        );
        let last = asked.last().unwrap();
        assert!(last.end - 400 * 131_072 <= LARGEST + 131_072);
        assert!(asked.len() < 30, "{} requests", asked.len());
    }

    #[test]
    fn no_more_is_fetched_beyond_a_file_than_was_read_of_it() {
        for reads in 2..400 {
            let mut streams = Streams::default();
            let asked = (0..reads).filter_map(|n| streams.on_read(n * 131_072, 131_072, LARGEST, |_| None));
            let (ahead, read) = (asked.last().unwrap().end, reads * 131_072);
            assert!(ahead <= (2 * read).max(read + FIRST_WINDOW), "{ahead} of {read}");
        }
    }

    #[test]
    fn nothing_beyond_its_file_is_fetched_for_a_reader_that_has_not_gone_beyond_one() {
        let file = |offset: u64| Some((offset / 1_000_000 + 1) * 1_000_000);
        let mut streams = Streams::default();
        for number in [0, 7, 3] {
            for at in (0..1_000_000).step_by(125_000) {
                let ahead = streams.on_read(number * 1_000_000 + at, 125_000, LARGEST, file);
                assert!(ahead.is_none_or(|ahead| ahead.end <= (number + 1) * 1_000_000));
            }
        }
        let onward = streams.on_read(4_000_000, 125_000, LARGEST, file).unwrap();
        assert!(onward.end > 5_000_000, "it reads one file after the other");
    }

    /// The story: a program reads some files when it starts, later something reads all. Each of those files, which the kernel still
    /// had, began a new stream with a small window, and nodes of a rollout never asked far ahead.
    #[test]
    fn who_passes_over_what_the_kernel_has_keeps_the_window() {
        let mut streams = Streams::default();
        let mut ahead = 0;
        for n in (0..400).filter(|n| n % 40 > 7) {
            let asked = streams.on_read(n * 131_072, 131_072, LARGEST, |_| None);
            ahead = asked.map_or(ahead, |range| range.end);
            assert!(
                n < 100 || ahead - (n + 1) * 131_072 >= LARGEST / 2,
                "at {n}: {ahead}"
            );
        }
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut streams = Streams::default();
        let mut at = 1_u64;
        for _ in 0..1000 {
            at = at
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let offset = (at >> 16) % (1 << 36);
            assert_eq!(streams.on_read(offset & !4095, 4096, LARGEST, |_| None), None);
        }
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        let mut streams = Streams::default();
        let mut asked = [0_u64; 2];
        for n in 0..64 {
            for reader in 0..2_u64 {
                let base = reader << 40;
                let ahead = streams.on_read(base + n * 65_536, 65_536, LARGEST, |_| None);
                asked[reader as usize] += ahead.map_or(0, |range| range.end - range.start);
            }
        }
        assert_eq!(asked[0], asked[1]);
        assert!(asked[0] >= 64 * 65_536);
    }

    #[test]
    fn a_jump_resets_the_window() {
        let mut streams = Streams::default();
        for n in 0..100 {
            streams.on_read(n * 131_072, 131_072, LARGEST, |_| None);
        }
        assert_eq!(streams.on_read(1 << 40, 4096, LARGEST, |_| None), None);
        let ahead = streams
            .on_read((1 << 40) + 4096, 4096, LARGEST, |_| None)
            .unwrap();
        assert_eq!(ahead.end - ahead.start, FIRST_WINDOW);
    }

    proptest! {
        #[test]
        fn windows_are_bounded_and_lie_ahead(reads in proptest::collection::vec((0u64..1 << 26, 1u64..1 << 20), 1..200)) {
            let mut streams = Streams::default();
            for (offset, len) in reads {
                if let Some(ahead) = streams.on_read(offset, len, LARGEST, |_| None) {
                    prop_assert!(ahead.start >= offset + len);
                    prop_assert!(ahead.end - ahead.start <= LARGEST);
                    prop_assert!(ahead.end <= offset + len + LARGEST);
                }
            }
        }
    }
}
