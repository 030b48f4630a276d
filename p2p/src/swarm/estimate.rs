//! Running estimates of how long things take.

use std::time::Duration;

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
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// Nanoseconds that a mebibyte takes.
    per_mebibyte: u64,
    last: Time,
}

/// Shorter pieces say more about latency than about rate.
const SMALLEST_SAMPLE: u64 = 16 << 10;

impl Rate {
    /// Takes in an upload of `len` bytes that ended at `now` and took `took`. Only the time since the last one ended
    /// counts: two that share the link each take twice as long.
    pub(crate) fn add(&mut self, now: Time, len: u64, took: Duration) {
        let alone = nanos(took.min(now.since(self.last))).max(1);
        self.last = now;
        if len < SMALLEST_SAMPLE {
            return;
        }
        let sample = (u128::from(alone) << 20) / u128::from(len);
        let sample = u64::try_from(sample).unwrap_or(u64::MAX >> 8);
        self.per_mebibyte = match self.per_mebibyte {
            0 => sample,
            mean => mean - mean / 8 + sample / 8,
        };
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
