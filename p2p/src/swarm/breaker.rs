//! Leaves an origin alone that asked for it or keeps failing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::OriginId;
use super::time::Time;

/// Failures in a row that open a breaker although the origin did not ask for it.
const FAILURES: u32 = 5;
/// First and longest pause after such failures; it doubles in between.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause an origin can ask for. A day in `Retry-After` is a mistake or malice.
const LONGEST_WISH: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(crate) struct Breakers(BTreeMap<OriginId, Breaker>);

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    until: Time,
    /// After a pause one request goes first; the others wait for what becomes of it.
    trying: bool,
}

impl Breakers {
    /// Whether a request may go out now; if not, when to ask again.
    pub(crate) fn admit(&mut self, origin: OriginId, now: Time) -> Result<(), Time> {
        let Some(breaker) = self.0.get_mut(&origin) else {
            return Ok(());
        };
        if now < breaker.until {
            return Err(breaker.until);
        }
        if breaker.failures >= FAILURES {
            if breaker.trying {
                return Err(now.after(PAUSE));
            }
            breaker.trying = true;
        }
        Ok(())
    }

    pub(crate) fn succeeded(&mut self, origin: OriginId) {
        self.0.remove(&origin);
    }

    /// A request that went out will have no outcome.
    pub(crate) fn cancelled(&mut self, origin: OriginId) {
        if let Some(breaker) = self.0.get_mut(&origin) {
            breaker.trying = false;
        }
    }

    pub(crate) fn failed(&mut self, origin: OriginId, now: Time, wish: Option<Duration>) {
        let breaker = self.0.entry(origin).or_default();
        breaker.trying = false;
        breaker.failures = breaker.failures.saturating_add(1);
        if let Some(wish) = wish {
            breaker.failures = breaker.failures.max(FAILURES);
            breaker.until = breaker.until.max(now.after(wish.min(LONGEST_WISH)));
        } else if let Some(surplus) = breaker.failures.checked_sub(FAILURES) {
            let pause = PAUSE.saturating_mul(1 << surplus.min(6)).min(LONGEST_PAUSE);
            breaker.until = breaker.until.max(now.after(pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: OriginId = OriginId(1);
    const fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn an_origin_that_asks_for_a_pause_gets_it_and_then_one_request() {
        let mut breakers = Breakers::default();
        assert_eq!(breakers.admit(HOST, at(0)), Ok(()));
        breakers.failed(HOST, at(0), Some(Duration::from_secs(7)));
        assert_eq!(breakers.admit(HOST, at(6)), Err(at(7)));
        assert_eq!(
            breakers.admit(OriginId(2), at(6)),
            Ok(()),
            "others are not concerned"
        );
        assert_eq!(breakers.admit(HOST, at(7)), Ok(()));
        assert!(breakers.admit(HOST, at(7)).is_err(), "one goes first");
        breakers.succeeded(HOST);
        assert_eq!(breakers.admit(HOST, at(7)), Ok(()));
    }

    #[test]
    fn failures_in_a_row_open_it_for_longer_and_longer() {
        let mut breakers = Breakers::default();
        for _ in 1..FAILURES {
            breakers.failed(HOST, at(0), None);
            assert_eq!(breakers.admit(HOST, at(0)), Ok(()));
        }
        let mut now = at(0);
        let mut last = 0;
        for _ in 0..8 {
            breakers.failed(HOST, now, None);
            let until = breakers.admit(HOST, now).expect_err("open");
            assert!(until.0 - now.0 >= last);
            last = until.0 - now.0;
            now = until;
        }
        assert_eq!(last, 30_000_000_000);
    }

    #[test]
    fn a_wish_for_a_year_is_not_granted() {
        let mut breakers = Breakers::default();
        breakers.failed(HOST, at(0), Some(Duration::from_secs(31_536_000)));
        assert_eq!(breakers.admit(HOST, at(300)), Ok(()));
    }
}
