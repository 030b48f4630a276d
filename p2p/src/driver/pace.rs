//! Rate limits that can change at any time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::transport::Pace;

/// A bucket holds what may pass in this time: short enough that a limit is felt at once.
const BURST: Duration = Duration::from_millis(100);

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
