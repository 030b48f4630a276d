//! Decides who asks whom, and what follows from each event: pure logic with an injected clock.
//!
//! A driver feeds [`Swarm::handle`] with what happened ([`Event`]) and does what comes out ([`Action`]). The swarm holds
//! what is in flight and in its queues, never the pieces: the driver's store knows those.

mod action;
mod answer;
mod arrivals;
mod ask;
mod branches;
mod breaker;
mod config;
mod demand;
mod estimate;
mod event;
mod explain;
mod fetch;
mod flight;
mod origin;
mod patience;
mod peers;
mod rng;
mod serve;
#[cfg(test)]
mod tests;
mod time;
mod timer;
mod tree;
mod uploads;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use action::Action;
pub use config::Config;
pub use event::{Event, Failure, Refusal};
pub use explain::{Candidate, Explanation, Standing, Status};
pub use time::Time;
pub use tree::{PeerId, TreeId};
pub use view::{Member, View, ZoneId};

use self::arrivals::Arrivals;
use self::breaker::Breakers;
use self::demand::Demand;
use self::estimate::{Estimate, Rate};
use self::flight::Flight;
use self::peers::Peers;
use self::rng::Rng;
use self::timer::Timer;
use self::uploads::Uploads;
use crate::piece::{Class, PieceId};

/// Names a request: unique among those of one asking node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an origin (a registry host, a bucket): the driver numbers them; a breaker stands before each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub u32);

/// What nodes tell each other along with requests and answers. Never trusted for more than speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// How many nodes want the blob as far as the sender knows; 0 if it does not.
    pub demand: u32,
    /// In requests: how many nodes want the blob through the sender, itself included.
    pub wants: u32,
    /// How fast the sender uploads, in KiB a second; 0 if it does not know.
    pub rate: u32,
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Swarm {
    me: PeerId,
    config: Config,
    /// Time as this swarm counts it: the driver's, but never backwards.
    now: Time,
    /// The driver's time at the last event, and how far it has run back in all.
    clock: Time,
    run_back: u64,
    rng: Rng,
    view: Arc<View>,
    peers: Peers,
    demand: Demand,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    by_piece: BTreeMap<PieceId, usize>,
    /// Flights that wait for the first answer about their blob.
    held: Vec<usize>,
    last_request: u64,
    uploads: Uploads,
    breakers: Breakers,
    /// Fetches from origins that were begun, and those that wait for a place.
    at_origins: u32,
    origin_queue: VecDeque<usize>,
    timer: Timer,
    /// How long a piece takes to come, by the way it was asked for, and a peer to take a request.
    arrival: [Estimate; 3],
    acceptance: Estimate,
    rate: Rate,
    arrivals: Arrivals,
    hedges_left: f64,
    /// Median upload rate of the zone, KiB a second, and when it was computed.
    median: Option<(u32, Time)>,
    leaf: Leaf,
    /// When it came to know other members.
    joined: Option<Time>,
    /// How often in a row others did not hold what they were asked for only if they do.
    asked_in_vain: u32,
    /// How many more requests of peers were called off, for they were too slow to come, than were served.
    let_down: u32,
    counts: Status,
    scratch: Vec<PeerId>,
}

/// Whether this node counts itself as too slow to be a parent.
#[derive(Debug, Default)]
struct Leaf {
    announced: bool,
    slow_since: Option<Time>,
    until: Time,
    checked: Time,
}

impl Swarm {
    /// Creates the logic of the node `me`, which knows no other member yet. `seed` feeds its random numbers (jitter):
    /// the same seed and the same events give the same actions.
    pub fn new(config: Config, me: PeerId, seed: u64) -> Self {
        Self {
            me,
            config,
            now: Time(0),
            clock: Time(0),
            run_back: 0,
            rng: Rng::new(seed),
            view: Arc::new(View::new(Vec::new())),
            peers: Peers::default(),
            demand: Demand::default(),
            flights: Vec::new(),
            free: Vec::new(),
            by_piece: BTreeMap::new(),
            held: Vec::new(),
            last_request: 0,
            uploads: Uploads::default(),
            breakers: Breakers::default(),
            at_origins: 0,
            origin_queue: VecDeque::new(),
            timer: Timer::default(),
            arrival: [Estimate::default(); 3],
            acceptance: Estimate::default(),
            rate: Rate::default(),
            arrivals: Arrivals::default(),
            hedges_left: patience::MOST_HEDGES,
            median: None,
            leaf: Leaf::default(),
            joined: None,
            asked_in_vain: 0,
            let_down: 0,
            counts: Status::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes in one event and appends what is to be done to `actions`. Never blocks; costs microseconds.
    ///
    /// A clock that jumps does no harm: forwards, some peers are passed over too early; backwards, time goes on from where
    /// it was.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.run_back = self.run_back.saturating_add(self.clock.0.saturating_sub(now.0));
        self.clock = now;
        self.now = Time(now.0.saturating_add(self.run_back));
        match event {
            Event::MembersChanged(view) => self.members_changed(view, actions),
            Event::Wanted { piece, class, origin } => self.wanted(piece, class, origin, actions),
            Event::Unwanted { piece } => self.unwanted(&piece, actions),
            Event::PieceArrived { piece } => {
                self.arrivals.bytes(self.now);
                if let Some(at) = self.by_piece.get(&piece).copied() {
                    self.complete(at, actions);
                }
            }
            Event::PeerLost { peer } => {
                self.forget_requests_of(peer, actions);
                self.fail_asks_of(|asked| asked == peer, actions);
            }
            Event::PeerLied { peer } => self.distrust(peer, actions),
            Event::TimerFired => self.timer_fired(actions),
            Event::OriginReceived { piece } => self.origin_received(&piece, actions),
            Event::OriginFailed {
                piece,
                error,
                retry_after,
            } => {
                self.origin_failed(&piece, error, retry_after, actions);
            }
            Event::Accepted { .. }
            | Event::Progressed { .. }
            | Event::Received { .. }
            | Event::Redirected { .. }
            | Event::Refused { .. }
            | Event::AskFailed { .. } => self.answered(event, actions),
            Event::Requested { .. }
            | Event::RequestPromoted { .. }
            | Event::RequestCancelled { .. }
            | Event::Uploaded { .. }
            | Event::UploadFailed { .. } => self.serve(event, actions),
        }
        self.tidy(actions);
        self.arm(actions);
    }

    /// Replaces the configuration; what is in flight goes on under the new one.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// The node this swarm decides for.
    pub fn me(&self) -> PeerId {
        self.me
    }

    fn members_changed(&mut self, view: Arc<View>, actions: &mut Vec<Action>) {
        self.view = Arc::clone(&view);
        self.joined.get_or_insert(self.now);
        self.peers.tidy(self.now, |peer| view.member(peer).is_some());
        self.fail_asks_of(|asked| view.member(asked).is_none(), actions);
    }

    fn standing(&self, peer: PeerId) -> Standing {
        self.peers.standing(peer, self.now)
    }

    fn zone(&self, peer: PeerId) -> ZoneId {
        self.view
            .member(peer)
            .map_or(ZoneId::default(), |member| member.zone)
    }

    /// What two windows of such pieces take an ordinary node of the zone: a node that is busy but healthy may need as long
    /// for one piece.
    fn two_windows(&mut self, piece: &PieceId) -> Duration {
        self.usual_time(usual_len(piece) * u64::from(self.config.window) * 2)
    }

    /// What twice as many such pieces as are under way take an ordinary node of the zone.
    fn twice_what_is_under_way(&mut self, piece: &PieceId) -> Duration {
        let most = u64::from(self.config.window).max(LEAST_UNDER_WAY);
        let under_way = (self.by_piece.len() as u64).clamp(LEAST_UNDER_WAY, most);
        self.usual_time(usual_len(piece) * under_way * 2)
    }

    /// What so many bytes take an ordinary node of the zone; zero if nobody told how fast it is.
    fn usual_time(&mut self, len: u64) -> Duration {
        let usual = u64::from(self.usual_rate());
        let micros = (len.saturating_mul(1_000_000) / 1024).checked_div(usual);
        micros.map_or(Duration::ZERO, Duration::from_micros)
    }

    /// How fast an ordinary node of the zone uploads, KiB a second; 0 if nobody told.
    fn usual_rate(&mut self) -> u32 {
        if self
            .median
            .is_none_or(|(_, at)| self.now.since(at) > MEDIAN_HOLDS)
        {
            // Two other nodes have no median, and what this one can do is about what they can.
            let median = (self.peers.median_rate(self.zone(self.me))).unwrap_or(self.rate.kib_per_second());
            self.median = Some((median, self.now));
        }
        self.median.map_or(0, |median| median.0)
    }

    /// Whether others may well have what this node has yet to get: it comes too late for those who ask it, or is new; but then a
    /// reader need not wait for their answers, and one that is told again and again that they have not is no newer than they are.
    fn is_behind_others(&self, class: Class) -> bool {
        let young = self.joined.is_some_and(|joined| self.now.since(joined) < NEW_FOR);
        let new = young && class == Class::Prefetch && self.asked_in_vain < IN_VAIN;
        let leaf = self.leaf.announced || self.view.member(self.me).is_some_and(|me| me.leaf);
        new || leaf || self.let_down >= LET_DOWN
    }

    /// Keeps an eye on this node's own speed: one look a second while it uploads.
    fn tidy(&mut self, actions: &mut Vec<Action>) {
        if self.now.since(self.leaf.checked) < Duration::from_secs(1) {
            return;
        }
        self.leaf.checked = self.now;
        let own = self.rate.to_most();
        let median = self.peers.median_rate(self.zone(self.me));
        let slow = own
            .zip(median)
            .is_some_and(|(own, median)| f64::from(own) < f64::from(median) * self.config.leaf_below);
        let since = *self.leaf.slow_since.get_or_insert(self.now);
        if !slow {
            self.leaf.slow_since = None;
        }
        if self.leaf.announced && self.now >= self.leaf.until {
            // a leaf uploads nothing and so learns nothing of its speed: it has to try
            (self.leaf.announced, self.leaf.slow_since, self.rate) = (false, None, Rate::default());
            actions.push(Action::AnnounceLeaf(false));
        } else if slow && !self.leaf.announced && self.now.since(since) >= self.config.leaf_after {
            (self.leaf.announced, self.leaf.until) = (true, self.now.after(LEAF_FOR));
            actions.push(Action::AnnounceLeaf(true));
        }
    }
}

/// Fewer pieces are counted as so many.
const LEAST_UNDER_WAY: u64 = 8;

/// How long a piece counts where it is asked how long it may take: a tiny one, such as the end of a file, stands behind others.
fn usual_len(piece: &PieceId) -> u64 {
    u64::from(piece.len).max(USUAL_LEN)
}

/// Bytes of a usual piece: a quarter of the largest frame.
const USUAL_LEN: u64 = 256 << 10;

/// So many more requests called off than served show that this node is slow; of those that are called off at once, when an
/// asker ends, no more than the other number count.
const LET_DOWN: u32 = 3;
const MOST_LET_DOWN: u32 = 2 * LET_DOWN;

/// A member is new for so long.
const NEW_FOR: Duration = Duration::from_secs(60);

/// After so many questions in vain it is as old as those it asks: all have begun together. A question costs a way to another
/// node and back, on busy links longer than a piece itself.
const IN_VAIN: u32 = 8;

/// For how long a median is good enough.
const MEDIAN_HOLDS: Duration = Duration::from_millis(50);

/// How long a slow node stays a leaf before it tries again.
const LEAF_FOR: Duration = Duration::from_secs(300);
