//! Decides who asks whom, and what follows from each event: pure logic with an injected clock.
//!
//! A driver feeds [`Swarm::handle`] with what happened ([`Event`]) and does what comes out ([`Action`]). The swarm holds
//! what is in flight and in its queues, never the pieces: the driver's store knows those.

mod action;
mod config;
mod event;
mod explain;
mod time;
mod view;

pub use action::Action;
pub use config::Config;
pub use event::{Event, Failure, Refusal};
pub use explain::{Candidate, Explanation, Standing, Status};
pub use time::Time;
pub use view::{Member, PeerId, TreeId, View, ZoneId};

use crate::piece::PieceId;

/// Names a request: unique among those of one asking node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an origin (a registry host, a bucket): the driver numbers them; a breaker stands before each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub u32);

/// What nodes tell each other along with requests and answers. Never trusted for more than speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// How many nodes the sender believes to want the blob.
    pub demand: u32,
    /// How fast the sender uploads, in KiB a second; 0 if it does not know.
    pub rate: u32,
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Swarm {
    me: PeerId,
    config: Config,
    now: Time,
}

impl Swarm {
    /// Creates the logic of the node `me`, which knows no other member yet. `seed` feeds its random numbers (jitter):
    /// the same seed and the same events give the same actions.
    pub fn new(config: Config, me: PeerId, _seed: u64) -> Self {
        Self {
            me,
            config,
            now: Time(0),
        }
    }

    /// Takes in one event and appends what is to be done to `actions`. Never blocks; costs microseconds.
    ///
    /// `now` should not run backwards; if it does, the latest moment seen counts instead.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        let _ = (event, actions, &self.config);
    }

    /// Replaces the configuration; what is in flight goes on under the new one.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// Tells whom this node would ask for a piece, in order, and what is going on with it now.
    pub fn explain(&self, piece: &PieceId) -> Explanation {
        let _ = piece;
        Explanation::default()
    }

    /// Counts what is going on now and what happened so far.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// The node this swarm decides for.
    pub fn me(&self) -> PeerId {
        self.me
    }
}
