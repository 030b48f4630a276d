//! One node among peers and an origin that do anything, and then nothing at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::rng::Rng;
use super::super::*;
use super::{ORIGIN, id, piece, view};
use crate::error::FetchError;
use crate::piece::Class;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_waiter_is_lost(seed: u64, bits: u64, steps in 1_usize..400) {
        let mut node = Node::new(seed, bits);
        for _ in 0..steps {
            node.random_event();
        }
        node.run_out();
        prop_assert_eq!(&node.wanted, &BTreeMap::new(), "wants without an end");
        prop_assert_eq!(&node.held, &BTreeSet::new(), "requests without an end");
        let status = node.swarm.status();
        prop_assert_eq!((status.flights, status.queued, status.uploading), (0, 0, 0));
    }

    #[test]
    fn the_same_events_give_the_same_actions(seed: u64, bits: u64) {
        let run = || {
            let mut node = Node::new(seed, bits);
            (0..200).for_each(|_| node.random_event());
            node.log
        };
        prop_assert_eq!(run(), run());
    }
}

/// A node among peers and an origin that do anything.
struct Node {
    swarm: Swarm,
    rng: Rng,
    now: Time,
    timer: Option<Time>,
    wanted: BTreeMap<PieceId, u32>,
    held: BTreeSet<(PeerId, RequestId)>,
    asks: Vec<RequestId>,
    at_origin: Vec<PieceId>,
    serving: Vec<(PeerId, RequestId)>,
    requests: u64,
    log: Vec<Action>,
}

const PEERS: u64 = 30;

impl Node {
    fn new(seed: u64, bits: u64) -> Self {
        let me = id(seed % PEERS);
        let mut node = Self {
            swarm: Swarm::new(Config::default(), me, seed),
            rng: Rng::new(seed),
            now: Time(1),
            timer: None,
            wanted: BTreeMap::new(),
            held: BTreeSet::new(),
            asks: Vec::new(),
            at_origin: Vec::new(),
            serving: Vec::new(),
            requests: 0,
            log: Vec::new(),
        };
        node.feed(Event::MembersChanged(Arc::new(view(PEERS, bits))));
        node
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.rng.fraction() * limit as f64) as u64
    }

    fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.swarm.handle(self.now, event, &mut actions);
        for action in &actions {
            self.check(*action);
        }
        self.log.extend(actions);
    }

    fn check(&mut self, action: Action) {
        match action {
            Action::Ask {
                peer,
                request,
                tree,
                held_only,
                ..
            } => {
                assert_ne!(peer, self.swarm.me());
                assert!(held_only || tree.distance(peer) < tree.distance(self.swarm.me()));
                self.asks.push(request);
            }
            Action::Cancel { request, .. } => self.asks.retain(|ask| *ask != request),
            Action::AskOrigin { piece, .. } => self.at_origin.push(piece),
            Action::CancelOrigin { piece } => self.at_origin.retain(|asked| *asked != piece),
            Action::Serve { to, request, .. } => self.serving.push((to, request)),
            Action::StopUpload { to, request } => self.serving.retain(|key| *key != (to, request)),
            Action::Redirect { to, request, .. } | Action::Refuse { to, request, .. } => {
                assert!(self.held.remove(&(to, request)), "one answer for each request");
            }
            Action::Deliver { piece } | Action::Fail { piece, .. } => {
                assert!(self.wanted.remove(&piece).is_some(), "one end for each want");
            }
            Action::SetTimer(at) => self.timer = Some(at),
            _ => {}
        }
    }

    fn random_event(&mut self) {
        let pause = self.below(20_000_000);
        self.now = Time(self.now.0 + pause);
        if self.timer.is_some_and(|at| at <= self.now) {
            self.timer = None;
            self.feed(Event::TimerFired);
        }
        match self.below(12) {
            0..=2 => self.want(),
            3..=5 => self.request(),
            6 | 7 => self.answer(),
            8 => self.origin_answers(),
            9 => self.upload_ends(),
            10 => {
                let keys: Vec<_> = self.held.iter().copied().collect();
                let at = self.below(keys.len() as u64) as usize;
                if let Some((from, request)) = keys.get(at).copied() {
                    self.held.remove(&(from, request));
                    self.serving.retain(|key| *key != (from, request));
                    self.feed(Event::RequestCancelled { from, request });
                }
            }
            _ => {
                let bits = self.below(1000);
                self.feed(Event::MembersChanged(Arc::new(view(PEERS, bits))));
            }
        }
    }

    fn class(&mut self) -> Class {
        if self.below(2) == 0 {
            Class::Blocking
        } else {
            Class::Prefetch
        }
    }

    fn want(&mut self) {
        let (piece, class) = (piece(self.below(40)), self.class());
        *self.wanted.entry(piece).or_insert(0) += 1;
        let origin = ORIGIN;
        self.feed(Event::Wanted { piece, class, origin });
    }

    fn request(&mut self) {
        self.requests += 1;
        let (from, request) = (id(self.below(PEERS)), RequestId(self.requests));
        let (piece, class) = (piece(self.below(40)), self.class());
        let tree = TreeId(self.below(300) as u16);
        self.held.insert((from, request));
        let held_only = self.below(10) == 0;
        let here = self.below(3) == 0;
        self.feed(Event::Requested {
            from,
            request,
            piece,
            class,
            tree,
            redirects: 2,
            held_only,
            origin: Some(ORIGIN),
            hint: Hint::default(),
            here,
        });
    }

    fn answer(&mut self) {
        let at = self.below(self.asks.len() as u64) as usize;
        let Some(request) = self.asks.get(at).copied() else {
            return;
        };
        let hint = Hint {
            demand: self.below(50) as u32,
            wants: 0,
            rate: 1000,
        };
        let to = id(self.below(PEERS));
        let event = match self.below(7) {
            0 | 1 => Event::Accepted { request, hint },
            2 => Event::Received { request, hint },
            3 => Event::Redirected { request, to, hint },
            4 => Event::Refused {
                request,
                reason: [Refusal::Busy, Refusal::Missing, Refusal::Forbidden][self.below(3) as usize],
            },
            5 => Event::AskFailed {
                request,
                failure: Failure::Corrupt,
            },
            _ => Event::AskFailed {
                request,
                failure: Failure::Unreachable,
            },
        };
        if !matches!(event, Event::Accepted { .. }) {
            self.asks.swap_remove(at);
        }
        self.feed(event);
    }

    fn origin_answers(&mut self) {
        let at = self.below(self.at_origin.len() as u64) as usize;
        if at >= self.at_origin.len() {
            return;
        }
        let piece = self.at_origin.swap_remove(at);
        let errors = [
            FetchError::Missing,
            FetchError::Corrupt,
            FetchError::Unavailable,
            FetchError::Forbidden,
        ];
        let error = errors[self.below(4) as usize];
        let retry_after = (self.below(3) == 0).then_some(Duration::from_secs(1));
        match self.below(2) {
            0 => self.feed(Event::OriginReceived { piece }),
            _ => self.feed(Event::OriginFailed {
                piece,
                error,
                retry_after,
            }),
        }
    }

    fn upload_ends(&mut self) {
        if self.serving.is_empty() {
            return;
        }
        let at = self.below(self.serving.len() as u64) as usize;
        let (to, request) = self.serving.swap_remove(at);
        self.held.remove(&(to, request));
        let took = Duration::from_millis(1);
        self.feed(Event::Uploaded { to, request, took });
    }

    /// Nobody answers any more, but what is served goes out and time goes on.
    fn run_out(&mut self) {
        for _ in 0..100_000 {
            if !self.serving.is_empty() {
                self.upload_ends();
            } else if let Some(at) = self.timer.take() {
                self.now = self.now.max(at);
                self.feed(Event::TimerFired);
            } else {
                return;
            }
            if self.wanted.is_empty() && self.held.is_empty() && self.serving.is_empty() {
                return;
            }
        }
    }
}
