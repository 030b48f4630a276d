//! What this node thinks of others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::explain::Standing;
use super::time::Time;
use super::{PeerId, ZoneId};

/// Rates kept: a node talks to about 64 others, and a median needs no more.
const MAX_RATES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Peers {
    silent: BTreeMap<PeerId, Time>,
    /// Those that were slower than others.
    late: BTreeMap<PeerId, Time>,
    /// How many more pieces of theirs were overtaken than came in time.
    owing: BTreeMap<PeerId, u32>,
    /// When a peer last gave a piece.
    gave: BTreeMap<PeerId, Time>,
    liars: BTreeMap<PeerId, Time>,
    rates: BTreeMap<PeerId, (ZoneId, u32)>,
    /// When a member last gave a sign of life.
    heard: BTreeMap<PeerId, Time>,
}

impl Peers {
    pub(crate) fn standing(&self, peer: PeerId, now: Time) -> Standing {
        let holds = |until: Option<&Time>| until.is_some_and(|until| now < *until);
        if !self.liars.is_empty() && holds(self.liars.get(&peer)) {
            Standing::CutOff
        } else if !self.silent.is_empty() && holds(self.silent.get(&peer)) {
            Standing::PassedOver
        } else {
            Standing::Good
        }
    }

    /// Passes over a peer for a while; tells whether that is news.
    pub(crate) fn pass_over(&mut self, peer: PeerId, now: Time, pause: Duration) -> bool {
        let before = self.silent.insert(peer, now.after(pause));
        before.is_none_or(|until| until <= now)
    }

    /// Others are asked in its place for a while; what it answers meanwhile does not change that. Tells whether that is news.
    pub(crate) fn late(&mut self, peer: PeerId, now: Time, pause: Duration) -> bool {
        self.owing.remove(&peer);
        let before = self.late.insert(peer, now.after(pause));
        before.is_none_or(|until| until <= now)
    }

    /// Whether it was slower than others a while ago.
    pub(crate) fn is_late(&self, peer: PeerId, now: Time) -> bool {
        !self.late.is_empty() && self.late.get(&peer).is_some_and(|until| now < *until)
    }

    /// One more piece of the peer's was overtaken; tells how many more than came in time.
    pub(crate) fn owes(&mut self, peer: PeerId) -> u32 {
        let owing = self.owing.entry(peer).or_insert(0);
        *owing += 1;
        *owing
    }

    /// The peer has given a piece, and in time unless that was counted against it.
    pub(crate) fn gives(&mut self, peer: PeerId, now: Time, in_time: bool) {
        self.gave.insert(peer, now);
        if in_time && let Some(owing) = self.owing.get_mut(&peer) {
            *owing = owing.saturating_sub(1);
        }
    }

    /// When it last gave a piece; the beginning of time if it never did.
    pub(crate) fn gave(&self, peer: PeerId) -> Time {
        self.gave.get(&peer).copied().unwrap_or(Time(0))
    }

    pub(crate) fn cut_off(&mut self, peer: PeerId, now: Time, pause: Duration) {
        self.liars.insert(peer, now.after(pause));
    }

    /// The peer gave a sign of life.
    pub(crate) fn lives(&mut self, peer: PeerId, now: Time) {
        self.heard.insert(peer, now);
        if !self.silent.is_empty() {
            self.silent.remove(&peer);
        }
    }

    /// When it last did; the beginning of time if it never did.
    pub(crate) fn heard(&self, peer: PeerId) -> Time {
        self.heard.get(&peer).copied().unwrap_or(Time(0))
    }

    pub(crate) fn told_rate(&mut self, peer: PeerId, zone: ZoneId, rate: u32) {
        if self.rates.get(&peer) == Some(&(zone, rate)) {
            return;
        }
        if rate > 0 && (self.rates.len() < MAX_RATES || self.rates.contains_key(&peer)) {
            self.rates.insert(peer, (zone, rate));
        }
    }

    /// What a peer told of its upload rate, KiB a second; 0 if it did not.
    pub(crate) fn rate(&self, peer: PeerId) -> u32 {
        self.rates.get(&peer).map_or(0, |rate| rate.1)
    }

    /// Median of what peers of the zone told of their upload rates, KiB a second; `None` if fewer than three did.
    pub(crate) fn median_rate(&self, zone: ZoneId) -> Option<u32> {
        let in_zone = self.rates.values().filter(|rate| rate.0 == zone);
        let mut rates: Vec<u32> = in_zone.map(|rate| rate.1).collect();
        rates.sort_unstable();
        (rates.len() >= 3).then(|| rates[rates.len() / 2])
    }

    /// Forgets what is over, and what was told by those for whom `stays` is false.
    pub(crate) fn tidy(&mut self, now: Time, stays: impl Fn(PeerId) -> bool) {
        self.silent.retain(|_, until| now < *until);
        self.late.retain(|_, until| now < *until);
        self.owing.retain(|peer, _| stays(*peer));
        self.gave.retain(|peer, _| stays(*peer));
        self.liars.retain(|_, until| now < *until);
        self.rates.retain(|peer, _| stays(*peer));
        self.heard.retain(|peer, _| stays(*peer));
    }
}
