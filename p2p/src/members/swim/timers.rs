//! Timers of the library, earliest first.

use std::collections::BinaryHeap;

use foca::Timer;
use tokio::time::Instant;

use super::identity::Id;

/// A timer of the library; the earliest is the greatest.
struct Due(Instant, u64, Timer<Id>);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

/// The timers that were not handed back yet.
#[derive(Default)]
pub(super) struct Timers {
    queue: BinaryHeap<Due>,
    /// Of all that ever were: timers of the same moment stay in order.
    count: u64,
}

impl Timers {
    /// Sets a timer.
    pub(super) fn set(&mut self, at: Instant, timer: Timer<Id>) {
        self.count += 1;
        self.queue.push(Due(at, self.count, timer));
    }

    /// When the next one is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|due| due.0)
    }

    /// Takes out the earliest, if it is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer<Id>> {
        let due = self.next_at()? <= now;
        due.then(|| self.queue.pop())?.map(|due| due.2)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_comes_first_and_none_before_its_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let timer = |number: u8| Timer::PeriodicGossip(number);
        let mut timers = Timers::default();
        for (ms, number) in [(20, 1), (10, 2), (20, 3)] {
            timers.set(at(ms), timer(number));
        }
        assert_eq!(timers.next_at(), Some(at(10)));
        assert_eq!(timers.take_due(at(9)), None);
        let order: Vec<_> = std::iter::from_fn(|| timers.take_due(at(20))).collect();
        assert_eq!(order, [timer(2), timer(1), timer(3)]);
    }
}
