//! Running estimates of how long things take.

use std::time::Duration;

use super::PeerId;
use super::time::{Time, nanos};

/// Mean and deviation of a time, as TCP keeps them (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Estimate {
    mean: u64,
    deviation: u64,
}

impl Estimate {
    pub(crate) fn add(&mut self, sample: Duration) {
        let sample = nanos(sample).max(1);
        if self.mean == 0 {
            (self.mean, self.deviation) = (sample, sample / 2);
        } else {
            let off = self.mean.abs_diff(sample);
            self.deviation = self.deviation - self.deviation / 4 + off / 4;
            self.mean = self.mean - self.mean / 8 + sample / 8;
        }
    }

    /// Mean plus four deviations; `None` before the first sample.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let patience = self.mean.saturating_add(self.deviation.saturating_mul(4));
        (self.mean > 0).then_some(Duration::from_nanos(patience))
    }
}

/// How fast this node uploads when it has something to upload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    /// Nanoseconds that a mebibyte takes.
    per_mebibyte: u64,
    /// The same of each of those it uploaded to lately, the latest last.
    to: Vec<(PeerId, u64)>,
    last: Time,
}

/// So many of those it uploaded to are told apart.
const RECEIVERS: usize = 16;
/// Shorter pieces tell nothing of the link: the kernel takes them whole into the connection's send buffer (`SEND_BUFFER`, which
/// it doubles), and they seem to have been sent the moment they were handed over.
const SMALLEST_SAMPLE: u64 = 128 << 10;

impl Rate {
    /// Takes in an upload of `len` bytes that ended at `now` and took `took`. Only the time since the last one ended
    /// counts: two that share the link each take twice as long.
    pub(crate) fn add(&mut self, now: Time, to: PeerId, len: u64, took: Duration) {
        let alone = nanos(took.min(now.since(self.last))).max(1);
        self.last = now;
        if len < SMALLEST_SAMPLE {
            return;
        }
        let sample = (u128::from(alone) << 20) / u128::from(len);
        let sample = u64::try_from(sample).unwrap_or(u64::MAX >> 8);
        let mixed = |mean: u64| {
            if mean == 0 {
                sample
            } else {
                mean - mean / 8 + sample / 8
            }
        };
        self.per_mebibyte = mixed(self.per_mebibyte);
        let known = self.to.iter().position(|(peer, _)| *peer == to);
        let mean = known.map_or(0, |at| self.to.remove(at).1);
        if self.to.len() >= RECEIVERS {
            self.to.remove(0);
        }
        self.to.push((to, mixed(mean)));
    }

    /// KiB a second to the median of them, of two to the faster: a slow node is slow to all, and a receiver that is slow to take
    /// things makes no slow sender. `None` before there are two.
    pub(crate) fn to_most(&self) -> Option<u32> {
        let mut means: Vec<u64> = self.to.iter().map(|(_, mean)| *mean).collect();
        means.sort_unstable();
        let median = means.get(means.len().saturating_sub(1) / 2)?;
        (means.len() > 1).then(|| kib_per_second(*median))
    }

    /// How long `len` bytes take; zero before the first sample.
    pub(crate) fn time_for(&self, len: u64) -> Duration {
        let nanos = (u128::from(self.per_mebibyte) * u128::from(len)) >> 20;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// KiB a second; 0 before the first sample.
    pub(crate) fn kib_per_second(&self) -> u32 {
        kib_per_second(self.per_mebibyte)
    }
}

fn kib_per_second(per_mebibyte: u64) -> u32 {
    let rate = 1_024_000_000_000_u64.checked_div(per_mebibyte);
    rate.map_or(0, |rate| u32::try_from(rate).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uploads of a mebibyte one after the other: to whom, and what each takes, in milliseconds.
    fn to_most(uploads: &[(u64, u64)]) -> Option<u32> {
        let (mut rate, mut now) = (Rate::default(), Time(0));
        for (to, took) in uploads {
            let took = Duration::from_millis(*took);
            now = now.after(took);
            rate.add(now, PeerId(*to), 1 << 20, took);
        }
        rate.to_most()
    }

    #[test]
    fn a_piece_that_fits_in_the_send_buffer_tells_nothing_of_the_link() {
        let mut rate = Rate::default();
        rate.add(Time(1_000_000), PeerId(1), 83 << 10, Duration::from_micros(200));
        assert_eq!(rate.kib_per_second(), 0);
        rate.add(Time(201_000_000), PeerId(1), 1 << 20, Duration::from_millis(200));
        assert_eq!(rate.kib_per_second(), 5120);
    }

    #[test]
    fn a_slow_receiver_makes_no_slow_sender() {
        assert_eq!(
            to_most(&[(9, 2000), (9, 2000)]),
            None,
            "the receiver may be slow, or this node"
        );
        let slow_receiver = [(1, 100), (2, 100), (9, 2000), (9, 2000), (9, 2000)];
        assert_eq!(to_most(&slow_receiver), Some(10_240));
        assert_eq!(to_most(&[(1, 1000), (2, 1000), (9, 2000)]), Some(1024));
    }
}
