//! When to start, kill and give up on a worker: the supervisor's decisions, without its system calls.
//!
//! A worker's death must go unnoticed, so the next one starts at once. Only a worker that keeps dying is started
//! with growing pauses, because then starting it again at once would do nothing but burn a core.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths older than this no longer count.
const MEMORY: Duration = Duration::from_secs(10);
/// So many deaths within [`MEMORY`] are followed by an immediate start: whoever strikes that fast is a test.
const FREE_DEATHS: usize = 60;
/// Longest pause before a worker whose predecessors served: a start costs some 20 ms of CPU, so this burns little, and
/// readers who wait for each of them still get on.
const LONGEST_AFTER_SERVICE: Duration = Duration::from_millis(250);
/// So many in a row that never came to serve are followed by an immediate start: their cause may be gone (a full
/// disk, a moment without memory), but most likely it is not.
const FREE_FAILURES: u32 = 2;
/// First pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a worker whose predecessors never came to serve.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How patient the supervisor is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without a serving worker for so long, the FUSE connection is aborted.
    pub(crate) watchdog: Duration,
    /// A serving worker that is silent for so long is killed.
    pub(crate) silence: Duration,
}

/// What the supervisor has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a worker.
    Start,
    /// The worker hangs: SIGKILL.
    Kill,
    /// Nobody will answer the readers: end the FUSE connection.
    Abort,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// No worker; one is to be started then.
    Waiting { until: Instant },
    /// A worker runs but does not serve yet.
    Starting { since: Instant },
    /// A worker serves; last sign of life.
    Serving { heard: Instant },
    /// Told to die, not yet dead.
    Dying,
}

/// Watches over one worker at a time.
#[derive(Debug)]
pub(crate) struct Oversight {
    patience: Patience,
    state: State,
    deaths: VecDeque<Instant>,
    failures: u32,
    unserved_since: Option<Instant>,
}

impl Oversight {
    /// Nothing runs yet; the first action is a start.
    pub(crate) fn new(patience: Patience, now: Instant) -> Oversight {
        Oversight {
            patience,
            state: State::Waiting { until: now },
            deaths: VecDeque::new(),
            failures: 0,
            unserved_since: Some(now),
        }
    }

    /// A worker was started.
    pub(crate) fn started(&mut self, now: Instant) {
        self.state = State::Starting { since: now };
    }

    /// The worker serves now. True for the first time since the last death.
    pub(crate) fn ready(&mut self, now: Instant) {
        self.failures = 0;
        self.unserved_since = None;
        self.state = State::Serving { heard: now };
    }

    /// The worker gave a sign of life.
    pub(crate) fn heard(&mut self, now: Instant) {
        match &mut self.state {
            State::Serving { heard } => *heard = now,
            State::Starting { since } => *since = now,
            State::Waiting { .. } | State::Dying => {}
        }
    }

    /// The worker died, or could not be started. Returns the pause before the next one.
    pub(crate) fn died(&mut self, now: Instant) -> Duration {
        if self.unserved_since.is_none() {
            self.unserved_since = Some(now);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        while self
            .deaths
            .front()
            .is_some_and(|death| now.duration_since(*death) > MEMORY)
        {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        let often = self.deaths.len().saturating_sub(FREE_DEATHS);
        let failed = self.failures.saturating_sub(FREE_FAILURES);
        let often = pause(u32::try_from(often).unwrap_or(u32::MAX)).min(LONGEST_AFTER_SERVICE);
        let pause = often.max(pause(failed));
        self.state = State::Waiting { until: now + pause };
        pause
    }

    /// What is due. Call it again after doing it.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Action> {
        if self
            .unserved_since
            .is_some_and(|since| now.duration_since(since) >= self.patience.watchdog)
        {
            // Counted anew, so that a later hang of the next connection is noticed too.
            self.unserved_since = Some(now);
            return Some(Action::Abort);
        }
        match self.state {
            State::Waiting { until } if now >= until => Some(Action::Start),
            State::Starting { since: heard } | State::Serving { heard }
                if now.duration_since(heard) >= self.patience.silence =>
            {
                self.state = State::Dying;
                Some(Action::Kill)
            }
            _ => None,
        }
    }

    /// How long the supervisor may sleep when nothing happens.
    pub(crate) fn sleep(&self, now: Instant) -> Duration {
        let state = match self.state {
            State::Waiting { until } => Some(until),
            State::Starting { since: heard } | State::Serving { heard } => {
                Some(heard + self.patience.silence)
            }
            State::Dying => None,
        };
        let watchdog = self.unserved_since.map(|since| since + self.patience.watchdog);
        [state, watchdog]
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now))
            .min()
            .unwrap_or(Duration::from_secs(3600))
    }
}

fn pause(beyond: u32) -> Duration {
    match beyond.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_PAUSE
            .saturating_mul(1 << doublings.min(16))
            .min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        watchdog: Duration::from_secs(300),
        silence: Duration::from_secs(60),
    };

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_death_is_followed_by_a_start_at_once() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        assert_eq!(oversight.due(t), Some(Action::Start));
        oversight.started(t);
        assert_eq!(oversight.due(t), None);
        oversight.ready(after(t, 100));
        assert_eq!(oversight.died(after(t, 5000)), Duration::ZERO);
        assert_eq!(oversight.due(after(t, 5000)), Some(Action::Start));
    }

    #[test]
    fn a_worker_killed_often_is_started_at_once_for_long() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        for n in 0..100 {
            let now = after(t, n * 200);
            oversight.started(now);
            oversight.ready(now);
            assert_eq!(oversight.died(now), Duration::ZERO, "death {n}");
        }
    }

    #[test]
    fn a_crash_loop_slows_down_and_recovers() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        let mut longest = Duration::ZERO;
        for n in 0..200 {
            oversight.started(after(t, n));
            oversight.ready(after(t, n));
            longest = longest.max(oversight.died(after(t, n)));
        }
        assert_eq!(longest, LONGEST_AFTER_SERVICE);
        let later = after(t, 60_000);
        oversight.started(later);
        oversight.ready(later);
        assert_eq!(oversight.died(later), Duration::ZERO);
    }

    #[test]
    fn workers_that_never_serve_are_started_with_growing_pauses() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        let pauses: Vec<_> = (0..6)
            .map(|n| {
                oversight.started(after(t, n));
                oversight.died(after(t, n)).as_millis()
            })
            .collect();
        assert_eq!(pauses, [0, 0, 50, 100, 200, 400]);
        let longest = (6..50).map(|n| oversight.died(after(t, n))).max();
        assert_eq!(longest, Some(LONGEST_PAUSE));
    }

    #[test]
    fn a_silent_worker_is_killed_once() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        oversight.started(t);
        oversight.ready(t);
        oversight.heard(after(t, 30_000));
        assert_eq!(oversight.due(after(t, 80_000)), None);
        assert_eq!(oversight.sleep(after(t, 80_000)), Duration::from_secs(10));
        assert_eq!(oversight.due(after(t, 90_000)), Some(Action::Kill));
        assert_eq!(oversight.due(after(t, 90_001)), None);
    }

    #[test]
    fn without_a_worker_for_long_the_connection_is_aborted() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        oversight.started(t);
        oversight.ready(t);
        oversight.died(after(t, 1_000));
        assert_eq!(oversight.due(after(t, 300_000)), Some(Action::Start));
        assert_eq!(oversight.due(after(t, 301_000)), Some(Action::Abort));
        assert_eq!(oversight.due(after(t, 301_000)), Some(Action::Start));
    }

    #[test]
    fn a_serving_worker_is_left_alone_by_the_watchdog() {
        let t = Instant::now();
        let mut oversight = Oversight::new(PATIENCE, t);
        oversight.started(t);
        oversight.ready(t);
        for minute in 1..60 {
            oversight.heard(after(t, minute * 50_000));
            assert_eq!(oversight.due(after(t, minute * 50_000)), None);
        }
    }
}
