//! Rate limits that can change at any time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::transport::Pace;

/// A bucket holds what may pass in this time: short enough that a limit is felt at once.
const BURST: Duration = Duration::from_millis(100);

/// Longest time for which one write that somebody waits for holds the others back: who takes his bytes so slowly leaves the
/// link free.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// Smallest bucket, so that one part of a piece always fits.
const LEAST: f64 = 128.0 * 1024.0;

/// A bucket of bytes that refills itself. Those with a blocked reader go first.
#[derive(Debug)]
pub struct Bucket {
    state: Mutex<State>,
    /// How many wait on behalf of blocked readers.
    urgent: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    tokens: f64,
    at: Instant,
}

impl State {
    /// Takes `len` bytes out, or says how long to wait for them.
    fn take(&mut self, len: usize, now: Instant) -> Option<Duration> {
        let rate = self.rate? as f64;
        let size = (rate * BURST.as_secs_f64()).max(LEAST);
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + rate * since).min(size);
        self.at = now;
        // What is larger than the bucket passes when it is full, and leaves a debt.
        let needed = (len as f64).min(size);
        if self.tokens >= needed {
            self.tokens -= len as f64;
            return None;
        }
        Some(Duration::from_secs_f64(
            ((needed - self.tokens) / rate.max(1.0)).min(1.0),
        ))
    }
}

impl Bucket {
    /// `rate`: bytes a second; `None`: no limit.
    pub fn new(rate: Option<u64>) -> Bucket {
        Bucket {
            state: Mutex::new(State {
                rate,
                tokens: LEAST,
                at: Instant::now(),
            }),
            urgent: AtomicUsize::new(0),
        }
    }

    /// Changes the limit; who waits now feels it within a second.
    pub fn set(&self, rate: Option<u64>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rate = rate;
    }

    /// Waits until `len` bytes may pass.
    pub async fn take(&self, blocking: bool, len: usize) {
        let _urgent = blocking.then(|| Urgent::new(&self.urgent));
        loop {
            let behind = !blocking && self.urgent.load(Ordering::Relaxed) > 0;
            let wait = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if behind && state.rate.is_some() {
                    Some(Duration::from_millis(5))
                } else {
                    state.take(len, Instant::now())
                }
            };
            match wait {
                None => return,
                Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
            }
        }
    }
}

struct Urgent<'a>(&'a AtomicUsize);

impl Urgent<'_> {
    fn new(count: &AtomicUsize) -> Urgent<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Urgent(count)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace for Bucket {
    fn pass(&self, blocking: bool, len: usize) -> BoxFuture<'_, ()> {
        self.take(blocking, len).boxed()
    }
}

/// Limits on what goes to other nodes: to all together, and to each.
#[derive(Debug)]
pub(super) struct Uploads {
    all: Bucket,
    each: Mutex<Each>,
    lane: Lane,
    me: Weak<Uploads>,
}

/// Holds back what nobody waits for while the link is busy with what somebody waits for, over whatever connection.
#[derive(Debug, Default)]
struct Lane(Mutex<Option<tokio::time::Instant>>);

impl Lane {
    /// Bytes that somebody waits for have gone out, which took so long.
    fn wrote(&self, took: Duration) {
        let until = tokio::time::Instant::now() + (2 * took).min(LONGEST_HOLD);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Some(state.map_or(until, |before| before.max(until)));
    }

    /// Waits until the next such bytes would have gone out.
    async fn free(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > tokio::time::Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }
}

#[derive(Debug)]
struct Each {
    rate: Option<u64>,
    /// Those of connections; a node asks over one.
    buckets: Vec<Weak<Bucket>>,
}

impl Uploads {
    /// Bytes a second; `None`: no limit.
    pub(super) fn new(all: Option<u64>, each: Option<u64>) -> Arc<Uploads> {
        Arc::new_cyclic(|me| Uploads {
            all: Bucket::new(all),
            each: Mutex::new(Each {
                rate: each,
                buckets: Vec::new(),
            }),
            lane: Lane::default(),
            me: me.clone(),
        })
    }

    /// Changes the limits, for connections that stand, too.
    pub(super) fn set(&self, all: Option<u64>, each: Option<u64>) {
        self.all.set(all);
        let mut state = self.each();
        state.rate = each;
        for bucket in state.buckets.iter().filter_map(Weak::upgrade) {
            bucket.set(each);
        }
    }

    fn each(&self) -> MutexGuard<'_, Each> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace for Uploads {
    fn pass(&self, blocking: bool, len: usize) -> BoxFuture<'_, ()> {
        async move {
            if !blocking {
                self.lane.free().await;
            }
            self.all.take(blocking, len).await;
        }
        .boxed()
    }

    fn wrote(&self, took: Duration) {
        self.lane.wrote(took);
    }

    fn of_link(&self) -> Option<Arc<dyn Pace>> {
        let all = self.me.upgrade()?;
        let mut state = self.each();
        state.buckets.retain(|bucket| bucket.strong_count() > 0);
        let own = Arc::new(Bucket::new(state.rate));
        state.buckets.push(Arc::downgrade(&own));
        Some(Arc::new(OfLink {
            own,
            all: all.clone(),
        }))
    }
}

/// The limits of one connection: its own, then the one it shares.
struct OfLink {
    own: Arc<Bucket>,
    all: Arc<Uploads>,
}

impl Pace for OfLink {
    fn pass(&self, blocking: bool, len: usize) -> BoxFuture<'_, ()> {
        async move {
            self.own.take(blocking, len).await;
            self.all.pass(blocking, len).await;
        }
        .boxed()
    }

    fn wrote(&self, took: Duration) {
        self.all.wrote(took);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bucket_lets_pass_what_its_rate_says() {
        let start = Instant::now();
        let mut state = State {
            rate: Some(10 << 20),
            tokens: 0.0,
            at: start,
        };
        let mut passed = 0_u64;
        for step in 0..10_000_u32 {
            let now = start + Duration::from_millis(1) * step;
            while state.take(64 << 10, now).is_none() {
                passed += 64 << 10;
            }
        }
        let expected = 10 * (10 << 20);
        assert!(
            passed.abs_diff(expected) <= 2 << 20,
            "{passed} in place of {expected}"
        );
    }

    #[test]
    fn a_connection_has_the_limit_that_holds_now() {
        let uploads = Uploads::new(None, Some(1000));
        let links = [uploads.of_link().unwrap(), uploads.of_link().unwrap()];
        let rates = |uploads: &Uploads| -> Vec<Option<u64>> {
            let state = uploads.each();
            let buckets = state.buckets.iter().filter_map(Weak::upgrade);
            buckets.map(|bucket| bucket.state.lock().unwrap().rate).collect()
        };
        assert_eq!(rates(&uploads), [Some(1000), Some(1000)]);
        uploads.set(None, Some(50));
        assert_eq!(rates(&uploads), [Some(50), Some(50)]);
        drop(links);
        let _third = uploads.of_link().unwrap();
        assert_eq!(rates(&uploads), [Some(50)], "the others are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_at_its_limit_leaves_the_others_alone() {
        let uploads = Uploads::new(None, Some(1 << 20));
        let (slow, other) = (uploads.of_link().unwrap(), uploads.of_link().unwrap());
        slow.pass(false, 4 << 20).await;
        let mut waits = slow.pass(false, 4 << 20);
        assert!((&mut waits).now_or_never().is_none());
        assert!(other.pass(false, 4 << 20).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_leaves_the_link_to_the_rest_on_every_connection() {
        let uploads = Uploads::new(None, None);
        let (one, other) = (uploads.of_link().unwrap(), uploads.of_link().unwrap());
        one.wrote(Duration::from_millis(10));
        let begun = tokio::time::Instant::now();
        other.pass(true, 1).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        other.pass(false, 1).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(19),
            "as long as two of its writes"
        );
        one.wrote(Duration::from_secs(10));
        let begun = tokio::time::Instant::now();
        other.pass(false, 1).await;
        assert!(
            begun.elapsed() <= LONGEST_HOLD + Duration::from_millis(2),
            "he takes it slowly"
        );
    }

    #[test]
    fn no_limit_is_no_wait_and_a_large_piece_passes_a_small_bucket() {
        let now = Instant::now();
        let state = |rate| State {
            rate,
            tokens: LEAST,
            at: now,
        };
        assert_eq!(state(None).take(usize::MAX, now), None);
        assert_eq!(state(Some(1)).take(64 << 20, now), None);
        assert!(state(Some(1)).take(64 << 20, now).is_none());
    }
}
