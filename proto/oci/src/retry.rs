//! When to try again, and when to leave a host alone. Pure: time and chance come from the caller.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, Instant},
};

use crate::limits::{BREAKER_FAILURES, BREAKER_PAUSE, MAX_BACKOFF, MAX_RETRY_AFTER};

/// Growing waits with jitter, up to a time without progress.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    give_up_after: Duration,
    since: Instant,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, give_up_after: Duration, now: Instant) -> Backoff {
        Backoff {
            first,
            give_up_after,
            since: now,
            tries: 0,
        }
    }

    /// The operation got further: the clock starts anew.
    pub(crate) fn progressed(&mut self, now: Instant) {
        self.since = now;
        self.tries = 0;
    }

    /// How long to wait before the next try; `None`: give up. `asked` is the server's `Retry-After`.
    pub(crate) fn next(&mut self, now: Instant, asked: Option<Duration>, random: u64) -> Option<Duration> {
        let full = self
            .first
            .saturating_mul(1 << self.tries.min(16))
            .min(MAX_BACKOFF);
        self.tries = self.tries.saturating_add(1);
        // Half of the wait is chance, so that many clients do not come back at the same instant.
        let jitter = (full / 2).mul_f64((random % 1024) as f64 / 1024.0);
        let wait = match asked {
            Some(asked) => asked.min(MAX_RETRY_AFTER) + jitter,
            None => full / 2 + jitter,
        };
        let end = now.saturating_duration_since(self.since).saturating_add(wait);
        (end <= self.give_up_after).then_some(wait)
    }
}

/// A number that differs between calls and processes; enough for jitter.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn parse_retry_after(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)).min(MAX_RETRY_AFTER));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// Leaves a host alone for a while after failures in a row; then lets one request through to see.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    closed_until: Option<Instant>,
}

impl Breaker {
    /// May a request go to the host now? The first one after a pause may; the others wait for its outcome.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match self.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.closed_until = Some(now + self.pause());
                true
            }
            None => true,
        }
    }

    /// The host answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        *self = Breaker::default();
    }

    /// The host failed. True: it is left alone from now on, and was not before.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < BREAKER_FAILURES {
            return false;
        }
        let news = self.closed_until.is_none();
        self.closed_until = Some(now + self.pause());
        news
    }

    fn pause(&self) -> Duration {
        let (first, longest) = BREAKER_PAUSE;
        let doublings = self.failures.saturating_sub(BREAKER_FAILURES).min(16);
        first.saturating_mul(1 << doublings).min(longest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_grow_and_end() {
        let start = Instant::now();
        let mut backoff = Backoff::new(SECOND, 20 * SECOND, start);
        let waits: Vec<_> = (0..5)
            .map(|_| backoff.next(start, None, 0).unwrap().as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 2500, 2500]);
        assert_eq!(backoff.next(start, None, 1023).unwrap().as_millis(), 4997);
        assert_eq!(backoff.next(start + 18 * SECOND, None, 0), None);
        backoff.progressed(start + 18 * SECOND);
        assert_eq!(
            backoff.next(start + 18 * SECOND, None, 0).unwrap().as_millis(),
            500
        );
    }

    #[test]
    fn servers_may_ask_for_patience_but_not_for_all_of_it() {
        let start = Instant::now();
        let mut backoff = Backoff::new(SECOND, 20 * SECOND, start);
        assert_eq!(backoff.next(start, Some(7 * SECOND), 0), Some(7 * SECOND));
        assert_eq!(backoff.next(start, Some(21 * SECOND), 0), None);
        assert_eq!(backoff.next(start, Some(Duration::MAX), 0), None);
    }

    #[test]
    fn retry_after() {
        let now = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let rows = [
            ("3", Some(3)),
            (" 3 ", Some(3)),
            ("9999", Some(60)),
            ("99999999999999999999999", Some(60)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-3", None),
            ("", None),
            ("soon", None),
        ];
        for (text, expected) in rows {
            assert_eq!(
                parse_retry_after(text, now),
                expected.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn breaker_opens_and_tests_the_water() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(start) && !breaker.failed(start) && breaker.admits(start));
        assert!(breaker.failed(start), "the third failure in a row is news");
        assert!(!breaker.admits(start + SECOND));
        assert!(breaker.admits(start + 2 * SECOND), "one may look");
        assert!(!breaker.admits(start + 2 * SECOND), "only one");
        assert!(!breaker.failed(start + 2 * SECOND));
        assert!(!breaker.admits(start + 5 * SECOND), "the pause doubles");
        assert!(breaker.admits(start + 6 * SECOND));
        breaker.answered();
        assert!(breaker.admits(start + 6 * SECOND) && breaker.admits(start + 6 * SECOND));
        for _ in 0..100 {
            breaker.failed(start);
        }
        assert!(breaker.admits(start + BREAKER_PAUSE.1));
    }
}
