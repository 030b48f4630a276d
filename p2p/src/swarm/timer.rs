//! One alarm for all that has to be looked at some time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::flight::NEVER;
use super::time::Time;
use super::{Action, Swarm};

/// Moments and the flights to look at then; entries that a flight does not know any more are passed over.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: BinaryHeap<Reverse<(Time, usize)>>,
    /// What the driver was told last; `None` after it fired.
    set: Option<Time>,
}

impl Swarm {
    /// Makes sure that the flight is looked at in time.
    pub(super) fn schedule(&mut self, at: usize) {
        if let Some(flight) = self.flights[at].as_mut() {
            let due = flight.next_due();
            if due < flight.due {
                flight.due = due;
                self.timer.due.push(Reverse((due, at)));
            }
        }
    }

    pub(super) fn timer_fired(&mut self, actions: &mut Vec<Action>) {
        self.timer.set = None;
        while let Some(Reverse((time, at))) = self.timer.due.peek().copied() {
            if time > self.now {
                break;
            }
            self.timer.due.pop();
            let live = self.flights[at].as_mut().filter(|flight| flight.due == time);
            if let Some(flight) = live {
                flight.due = NEVER;
                self.look_at(at, actions);
                self.schedule(at);
            }
        }
        self.pump(actions);
    }

    /// Tells the driver when to fire next, if that is earlier than it knows.
    pub(super) fn arm(&mut self, actions: &mut Vec<Action>) {
        let flights = self.timer.due.peek().map(|entry| entry.0.0);
        let uploads = self.uploads.next_impatience(self.config.upload_patience);
        let uploads = uploads.filter(|at| *at > self.now);
        let Some(next) = flights.into_iter().chain(uploads).min() else {
            return;
        };
        if self.timer.set.is_none_or(|set| next < set) {
            self.timer.set = Some(next);
            actions.push(Action::SetTimer(Time(next.0.saturating_sub(self.run_back))));
        }
    }
}
