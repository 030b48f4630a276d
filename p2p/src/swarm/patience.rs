//! How long a piece may take, and what is done when it takes longer.

use std::time::Duration;

use super::flight::{Ask, AtOrigin, Flight, Manner, NEVER};
use super::time::Time;
use super::{Action, Swarm};
use crate::piece::Class;

/// Hedges that may be saved up; a burst of stragglers needs them at once.
pub(super) const MOST_HEDGES: f64 = 16.0;
/// Of those, what is kept for blocked readers. A first window of prefetched pieces would spend all there is at once where
/// links are slow, when nobody can know yet how long a piece takes.
const FOR_READERS: f64 = 14.0;
/// A peer that is silent for so many times as long as a piece may take is taken for dead, and another one asked whatever the
/// budget. It has taken the request, so that its silence shows nowhere else, and at the end of a blob no requests earn hedges
/// any more.
pub(super) const LOST: u32 = 4;
/// Before anything has arrived nobody knows how long it takes.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// A piece is looked at so often, however long it may take: it may have been overtaken.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// Longest time a peer has to take a request, however slow they all were.
/// Behind a slow link of its own a node hears of everybody late; whom it passes over for that, it spares, and goes to the
/// registry instead.
const LONGEST_ACK: Duration = Duration::from_secs(5);

impl Swarm {
    /// How long a piece may take before another source is asked, too.
    pub(super) fn patience(&mut self, at: usize) -> Duration {
        let Some((piece, manner)) = self.flights[at].as_ref().map(|f| (f.piece, f.manner)) else {
            return LONGEST_PATIENCE;
        };
        let least = match manner {
            Manner::Blocking | Manner::Promoted => self.config.hedge_blocking,
            Manner::Prefetch => self
                .config
                .hedge_prefetch
                .max(self.twice_what_is_under_way(&piece)),
        };
        // Before the first of a kind has arrived, others tell more than nothing does.
        let kinds = [manner, Manner::Blocking, Manner::Prefetch];
        let known = kinds
            .into_iter()
            .find_map(|kind| self.arrival[kind as usize].patience());
        // Of pieces of a mebibyte; longer ones take longer.
        let first = FIRST_PATIENCE.saturating_mul((piece.len >> 20).max(1));
        known.unwrap_or(first).min(LONGEST_PATIENCE).max(least)
    }

    /// If nothing comes for so long, this node's link is idle.
    pub(super) fn idle_pause(&mut self, at: usize) -> Duration {
        let piece = self.flights[at].as_ref().map(|flight| flight.piece);
        let windows = piece
            .map(|piece| self.twice_what_is_under_way(&piece))
            .unwrap_or_default();
        if windows.is_zero() {
            return LONGEST_PATIENCE; // nobody knows yet
        }
        windows.max(self.config.hedge_prefetch)
    }

    /// How long a peer has to take a request.
    pub(super) fn ack_timeout(&self) -> Duration {
        let usual = self.acceptance.patience().unwrap_or_default();
        usual.min(LONGEST_ACK).max(self.config.ack_timeout)
    }

    pub(super) fn promote(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.class = Class::Blocking;
        flight.manner = Manner::Promoted;
        flight.started = self.now;
        let patience = self.patience(at);
        let hedge_at = self.now.after(patience);
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        flight.hedge_at = flight.hedge_at.min(hedge_at);
        for ask in &flight.asks {
            let (peer, request) = (ask.peer, ask.request);
            actions.push(Action::Promote { peer, request });
        }
        if flight.at_origin == AtOrigin::Asked {
            let piece = flight.piece;
            actions.push(Action::PromoteOrigin { piece });
        }
        self.schedule(at);
        self.start_queued(actions);
    }

    /// The timer came to this flight: passes over who did not answer, hedges, tries again, gives up.
    pub(super) fn look_at(&mut self, at: usize, actions: &mut Vec<Action>) {
        let (now, ack_timeout) = (self.now, self.ack_timeout());
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        if now >= flight.deadline {
            let (soon, given_up) = (now.after(self.config.origin_patience), flight.given_up);
            let behind = !flight.idle() && now < given_up;
            let flight = self.flights[at].as_ref();
            if behind && flight.is_some_and(|flight| !self.is_held_up(flight, self.config.origin_patience)) {
                if let Some(flight) = self.flights[at].as_mut() {
                    flight.deadline = soon;
                }
                return;
            }
            let Some(flight) = self.flights[at].as_ref() else {
                return;
            };
            let error = flight.last_error;
            self.fail(at, error, actions);
            return;
        }
        let mut silent = Vec::new();
        for ask in &mut flight.asks {
            if ask.accepted || ask.silent || now < ask.answer_by {
                continue;
            }
            // Whoever gives other things meanwhile is only busy; whether it is too slow is the hedge's matter.
            let heard = self.peers.heard(ask.peer).max(ask.sent);
            ask.answer_by = heard.after(ack_timeout);
            if ask.answer_by <= now && self.arrivals.is_behind(ask.sent, now, ack_timeout) {
                ask.answer_by = now.after(ack_timeout);
            } else if ask.answer_by <= now {
                ask.silent = true;
                silent.push(ask.peer);
            }
        }
        let (hedge, retry) = (now >= flight.hedge_at, now >= flight.retry_at);
        let look = now >= flight.look_at;
        if look {
            flight.look_at = now.after(LOOK);
        }
        for peer in silent {
            self.pass_over(peer, actions);
        }
        if retry && let Some(flight) = self.flights[at].as_mut() {
            flight.retry_at = NEVER;
            flight.tried.clear();
        }
        if self.flights[at].as_ref().is_some_and(Flight::idle) {
            let patience = self.patience(at);
            if hedge && let Some(flight) = self.flights[at].as_mut() {
                flight.hedge_at = now.after(patience); // somebody else is asked now, or nobody can be
            }
            self.advance(at, actions);
        } else if hedge {
            self.hedge(at, actions);
        } else if look {
            self.look_early(at, actions);
        }
    }

    /// Long before a piece is late by the clock it may have been overtaken. That speaks against who owes it; and if a process waits
    /// for it and they are slow to others, too, another one is asked.
    fn look_early(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights[at].as_ref() else {
            return;
        };
        if !self.is_overtaken(flight) {
            return;
        }
        let blocking = flight.class == Class::Blocking;
        self.blame(at);
        let flight = self.flights[at].as_ref();
        if blocking && flight.is_some_and(|flight| !flight.asks.is_empty() && self.is_owed_by_slow(flight)) {
            self.ask_another(at, actions);
        }
    }

    /// Asks a second source because the first is slow, if that is not for this node's own link and the budget allows it.
    pub(super) fn hedge(&mut self, at: usize, actions: &mut Vec<Action>) {
        let (patience, pause) = (self.patience(at), self.idle_pause(at));
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        // More is known by now of how long it takes than when it was asked for.
        let enough = flight.waits_since().after(patience);
        let soon = self.now < enough;
        flight.hedge_at = if soon { enough } else { self.now.after(patience) };
        let Some(flight) = self.flights[at].as_ref() else {
            return;
        };
        if soon {
            return;
        }
        let (overtaken, lost) = (self.is_overtaken(flight), self.is_lost(flight, patience));
        let prefetch = flight.class == Class::Prefetch;
        let held_up = self.is_held_up(flight, patience);
        // The last pieces of a blob have none that could overtake them; the link is free for a second answer.
        let idle = self.arrivals.any() && !self.arrivals.flows(self.now, pause);
        if overtaken || idle {
            self.blame(at);
        }
        let free = held_up && (lost || idle || prefetch && overtaken);
        let kept = if prefetch { FOR_READERS } else { 0.0 };
        if prefetch && !held_up || !free && self.hedges_left - kept < 1.0 {
            return;
        }
        self.ask_another(at, actions);
    }

    /// Asks a second source.
    fn ask_another(&mut self, at: usize, actions: &mut Vec<Action>) {
        let before = (self.counts.asked, self.counts.asked_origin);
        self.advance(at, actions);
        if before != (self.counts.asked, self.counts.asked_origin) {
            self.hedges_left = (self.hedges_left - 1.0).max(0.0);
            self.counts.hedged += 1;
            self.counts.hedged_origin += u64::from(before.1 != self.counts.asked_origin);
        } else if let Some(flight) = self.flights[at].as_mut() {
            // all were asked: those that are not being asked now may be asked again
            let asks = &flight.asks;
            (flight.tried).retain(|peer| asks.iter().any(|ask| ask.peer == *peer));
        }
    }

    /// Whether to expect little of those who were asked: they are slow, they have given no sign of life while others delivered, or
    /// for long, or nothing comes at all.
    pub(super) fn is_in_vain(&self, flight: &Flight, patience: Duration, pause: Duration) -> bool {
        let silent = |ask: &Ask| self.peers.heard(ask.peer).after(patience) <= self.now;
        self.is_owed_by_slow(flight)
            || self.is_overtaken(flight) && flight.asks.iter().all(silent)
            || self.is_lost(flight, patience)
            || self.arrivals.any() && !self.arrivals.flows(self.now, pause)
    }

    /// Whether those who were asked are silent in everything. One that gives other pieces meanwhile is slow, not dead: that is
    /// what the budget is for.
    fn is_lost(&self, flight: &Flight, patience: Duration) -> bool {
        let heard = flight.asks.iter().map(|ask| self.peers.heard(ask.peer)).max();
        let heard = flight.waits_since().max(heard.unwrap_or(Time(0)));
        // Before anything has come, all may wait for a busy registry.
        let first = if self.arrivals.any() {
            Duration::ZERO
        } else {
            self.config.origin_patience * 2
        };
        heard.after(patience.saturating_mul(LOST).max(first)) <= self.now
    }
}
