//! Running estimates of how long things take.

use std::time::Duration;

use super::time::{Time, nanos};
use super::view::PeerId;

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

/// How fast this node uploads when it has something to upload: the median over those it uploaded to lately. One that is slow
/// to take things is one of many; a slow node is slow to all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    /// Nanoseconds that a mebibyte takes to each of them, the latest last.
    to: Vec<(PeerId, u64)>,
    /// The median of these; of two the faster.
    per_mebibyte: u64,
    last: Time,
}

/// So many of those it uploaded to count.
const RECEIVERS: usize = 16;
/// Shorter pieces say more about latency than about rate.
const SMALLEST_SAMPLE: u64 = 16 << 10;

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
        let known = self.to.iter().position(|(peer, _)| *peer == to);
        let mean = match known.map(|at| self.to.remove(at).1) {
            Some(mean) => mean - mean / 8 + sample / 8,
            None => sample,
        };
        self.to.push((to, mean));
        if self.to.len() > RECEIVERS {
            self.to.remove(0);
        }
        let mut means: Vec<u64> = self.to.iter().map(|(_, mean)| *mean).collect();
        means.sort_unstable();
        self.per_mebibyte = means.get((means.len() - 1) / 2).copied().unwrap_or_default();
    }

    /// How long `len` bytes take; zero before the first sample.
    pub(crate) fn time_for(&self, len: u64) -> Duration {
        let nanos = (u128::from(self.per_mebibyte) * u128::from(len)) >> 20;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// KiB a second; 0 before the first sample.
    pub(crate) fn kib_per_second(&self) -> u32 {
        match self.per_mebibyte {
            0 => 0,
            nanos => u32::try_from(1_024_000_000_000 / nanos)
                .unwrap_or(u32::MAX)
                .max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uploads of a mebibyte one after the other; what each receiver takes, in milliseconds.
    fn after(uploads: &[(u64, u64)]) -> u32 {
        let (mut rate, mut now) = (Rate::default(), Time(0));
        for (to, took) in uploads {
            let took = Duration::from_millis(*took);
            now = now.after(took);
            rate.add(now, PeerId(*to), 1 << 20, took);
        }
        rate.kib_per_second()
    }

    #[test]
    fn a_slow_receiver_makes_no_slow_sender() {
        assert_eq!(after(&[]), 0);
        let healthy = after(&[(1, 100), (2, 100), (3, 100)]);
        assert_eq!(healthy, 10_240);
        assert_eq!(after(&[(1, 100), (9, 2000)]), healthy);
        assert_eq!(
            after(&[(1, 100), (2, 100), (9, 2000), (9, 2000), (9, 2000)]),
            healthy
        );
        assert_eq!(after(&[(1, 1000), (2, 1000), (9, 2000)]), healthy / 10);
    }
}
