//! What the worker measures beside the store's own totals: how long things take, and which took longest.
//!
//! Counting takes an atomic addition; the two lists have a lock each, taken once per fetch from outside or per pull,
//! never on a read that finds its bytes here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lacewing_rpc::control::{Fetch, Pull};

/// Upper bounds of the histograms' buckets, in seconds: from a read of a disk near by to the longest that a read waits.
pub(crate) const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];
/// As many slow fetches as a person looks at.
const SLOWEST: usize = 10;
/// Pulls under way that are listed; containerd asks for a few at a time.
const MAX_PULLS: usize = 1000;

/// Milliseconds since 1970, 0 for earlier times.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

/// Durations by size, as Prometheus counts them.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One per bound, and one for what is beyond; not cumulative.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many there were up to each bound, then in all.
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0_u64;
        std::array::from_fn(|at| {
            sum = sum.saturating_add(self.counts[at].load(Ordering::Relaxed));
            sum
        })
    }

    /// Seconds in all.
    pub(crate) fn seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// How a fetch from outside ended. The four ways to fail are those of the store's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Missing,
    Corrupt,
    Unavailable,
    Forbidden,
    /// Nobody needs the bytes any more, or they took longer than a read may wait.
    Abandoned,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Outcome; 6] = [
        Outcome::Ok,
        Outcome::Missing,
        Outcome::Corrupt,
        Outcome::Unavailable,
        Outcome::Forbidden,
        Outcome::Abandoned,
    ];

    /// Its name in metrics and status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Missing => "missing",
            Outcome::Corrupt => "corrupt",
            Outcome::Unavailable => "unavailable",
            Outcome::Forbidden => "forbidden",
            Outcome::Abandoned => "abandoned",
        }
    }
}

/// Everything measured since the worker began.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// Fetches from outside by outcome.
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Fetches that a process waited for.
    pub(crate) blocking: Histogram,
    /// Read-ahead and background completion.
    pub(crate) prefetch: Histogram,
    /// How long containerd waited for the answer whether a layer is lazy.
    pub(crate) offers: Histogram,
    /// Layers answered to be lazy.
    pub(crate) lazy: AtomicU64,
    /// Layers left to containerd.
    pub(crate) ordinary: AtomicU64,
    /// Layers shown, which is mounted where they were not.
    pub(crate) shows: Histogram,
    /// The slowest fetches.
    pub(crate) slowest: Slowest,
    /// Layers that somebody asks for at this moment.
    pub(crate) pulls: Pulls,
}

impl Meters {
    /// Counts a fetch of `bytes` of `blob` from `offset`, which ended now.
    pub(crate) fn fetched(&self, fetch: Fetch, outcome: Outcome, took: Duration) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        match fetch.blocking {
            true => self.blocking.record(took),
            false => self.prefetch.record(took),
        }
        self.slowest.enter(Fetch {
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            at_ms: milliseconds(SystemTime::now()),
            outcome: outcome.name().to_owned(),
            ..fetch
        });
    }

    /// How many fetches ended so.
    pub(crate) fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }
}

/// The slowest fetches, the slowest first.
#[derive(Debug, Default)]
pub(crate) struct Slowest(Mutex<Vec<Fetch>>);

impl Slowest {
    fn enter(&self, fetch: Fetch) {
        let mut list = lock(&self.0);
        let at = list.partition_point(|other| other.took_ms >= fetch.took_ms);
        if at < SLOWEST {
            list.insert(at, fetch);
            list.truncate(SLOWEST);
        }
    }

    /// A copy.
    pub(crate) fn list(&self) -> Vec<Fetch> {
        lock(&self.0).clone()
    }
}

/// Layers that are being looked for.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<(u64, BTreeMap<u64, Pull>)>);

impl Pulls {
    /// Lists a pull until the answer is dropped.
    pub(crate) fn begin(&self, image: &str, layer_digest: &str) -> Under<'_> {
        let mut list = lock(&self.0);
        let number = list.0;
        list.0 = list.0.wrapping_add(1);
        if list.1.len() < MAX_PULLS {
            let pull = Pull {
                image: image.to_owned(),
                layer_digest: layer_digest.to_owned(),
                since_ms: milliseconds(SystemTime::now()),
            };
            list.1.insert(number, pull);
        }
        Under { pulls: self, number }
    }

    /// A copy, the oldest first.
    pub(crate) fn list(&self) -> Vec<Pull> {
        lock(&self.0).1.values().cloned().collect()
    }
}

/// A pull that is under way as long as this lives.
#[derive(Debug)]
pub(crate) struct Under<'a> {
    pulls: &'a Pulls,
    number: u64,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        lock(&self.pulls.0).1.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_from_its_bound_on() {
        let histogram = Histogram::default();
        for ms in [1, 2, 700, 3_600_000] {
            histogram.record(Duration::from_millis(ms));
        }
        let counts = histogram.cumulative();
        assert_eq!(counts[0], 1, "a bound belongs to its bucket");
        assert_eq!(counts[1], 2);
        assert_eq!(counts[BOUNDS.len() - 1], 3);
        assert_eq!(counts[BOUNDS.len()], 4);
        assert!((histogram.seconds() - 3600.703).abs() < 1e-6);
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let meters = Meters::default();
        for ms in [5, 900, 30, 1, 2, 3, 4, 6, 7, 8, 9, 10, 900] {
            meters.fetched(Fetch::default(), Outcome::Unavailable, Duration::from_millis(ms));
        }
        let took: Vec<u64> = meters.slowest.list().iter().map(|fetch| fetch.took_ms).collect();
        assert_eq!(took, [900, 900, 30, 10, 9, 8, 7, 6, 5, 4]);
        assert_eq!(meters.outcome(Outcome::Unavailable), 13);
        assert_eq!(meters.outcome(Outcome::Ok), 0);
    }

    #[test]
    fn a_pull_is_listed_while_it_lasts() {
        let pulls = Pulls::default();
        let first = pulls.begin("a", "x");
        let second = pulls.begin("b", "y");
        drop(first);
        assert_eq!(pulls.list().len(), 1);
        assert_eq!(pulls.list()[0].image, "b");
        drop(second);
        assert!(pulls.list().is_empty());
    }
}
