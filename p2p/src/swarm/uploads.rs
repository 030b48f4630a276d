//! Requests of peers, and whose turn it is to be served.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::time::Time;
use super::{PeerId, RequestId};
use crate::limits::{MAX_REQUESTS, MAX_REQUESTS_PER_PEER};
use crate::piece::{Class, PieceId};

/// Names a request of a peer.
pub(crate) type Key = (PeerId, RequestId);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The piece is still on its way here.
    Waiting,
    /// The piece is here, others are served first.
    Queued,
    /// The bytes are going out since then.
    Active(Time),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) piece: PieceId,
    pub(crate) class: Class,
    pub(crate) stage: Stage,
}

/// All requests that this node holds. First come, first served, blocking before prefetch.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    requests: BTreeMap<Key, Request>,
    per_peer: BTreeMap<PeerId, u32>,
    queues: [VecDeque<Key>; 2],
    active: [Vec<(Key, Time)>; 2],
    /// Bytes that are queued or going out, by class.
    bytes: [u64; 2],
}

impl Uploads {
    /// Whether one more request of the peer may be held.
    pub(crate) fn has_room(&self, peer: PeerId) -> bool {
        let held = self.per_peer.get(&peer).copied().unwrap_or(0);
        held < MAX_REQUESTS_PER_PEER && self.requests.len() < MAX_REQUESTS
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Request> {
        self.requests.get(&key)
    }

    /// Holds a request whose piece is on its way here. A key that is already there is refused.
    pub(crate) fn wait(&mut self, key: Key, piece: PieceId, class: Class) {
        let stage = Stage::Waiting;
        self.requests.insert(key, Request { piece, class, stage });
        *self.per_peer.entry(key.0).or_insert(0) += 1;
    }

    /// The piece of a held request is here: it gets in line.
    pub(crate) fn ready(&mut self, key: Key) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.stage = Stage::Queued;
            self.bytes[request.class as usize] += u64::from(request.piece.len);
            self.queues[request.class as usize].push_back(key);
        }
    }

    /// Makes a request blocking; tells in which stage it is, if it was prefetch before.
    pub(crate) fn promote(&mut self, key: Key) -> Option<Stage> {
        let request = self.requests.get_mut(&key)?;
        if request.class == Class::Blocking {
            return None;
        }
        request.class = Class::Blocking;
        if request.stage != Stage::Waiting {
            let len = u64::from(request.piece.len);
            self.bytes[1] = self.bytes[1].saturating_sub(len);
            self.bytes[0] += len;
        }
        match request.stage {
            Stage::Queued => self.queues[0].push_back(key), // its place in the other queue is stale now
            Stage::Active(_) => {
                let at = self.active[1].iter().position(|active| active.0 == key);
                let moved = at.map(|at| self.active[1].swap_remove(at));
                self.active[0].extend(moved);
            }
            Stage::Waiting => {}
        }
        Some(request.stage)
    }

    /// Lets go of a request, whatever its stage.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        if let Some(held) = self.per_peer.get_mut(&key.0) {
            *held -= 1;
            if *held == 0 {
                self.per_peer.remove(&key.0);
            }
        }
        let class = request.class as usize;
        if request.stage != Stage::Waiting {
            self.bytes[class] = self.bytes[class].saturating_sub(u64::from(request.piece.len));
        }
        if let Stage::Active(_) = request.stage {
            self.active[class].retain(|active| active.0 != key);
        }
        Some(request)
    }

    /// The next request to serve, if there is one and its class has a free place. Uploads older than `patience` do not
    /// take a place, or slow askers would hold up all others.
    pub(crate) fn next(&mut self, now: Time, places: u32, patience: Duration) -> Option<(Key, Request)> {
        for class in [Class::Blocking, Class::Prefetch] {
            let index = class as usize;
            let young = self.active[index]
                .iter()
                .filter(|active| now.since(active.1) < patience);
            if young.count() >= places as usize {
                continue;
            }
            while let Some(key) = self.queues[index].pop_front() {
                let Some(request) = self.requests.get_mut(&key) else {
                    continue;
                };
                if request.class == class && request.stage == Stage::Queued {
                    request.stage = Stage::Active(now);
                    self.active[index].push((key, now));
                    return Some((key, *request));
                }
            }
        }
        None
    }

    /// When an upload that takes a place stops to do so while others wait; `None` if no request waits for a place.
    pub(crate) fn next_impatience(&self, patience: Duration) -> Option<Time> {
        let held_up = (0..2).filter(|class| !self.queues[*class].is_empty());
        let since = held_up.filter_map(|class| self.active[class].iter().map(|active| active.1).min());
        since.min().map(|since| since.after(patience))
    }

    /// Bytes that go out before a new request of the class.
    pub(crate) fn bytes_before(&self, class: Class) -> u64 {
        match class {
            Class::Blocking => self.bytes[0],
            Class::Prefetch => self.bytes[0] + self.bytes[1],
        }
    }

    pub(crate) fn of_peer(&self, peer: PeerId) -> Vec<Key> {
        let of_peer = (peer, RequestId(0))..=(peer, RequestId(u64::MAX));
        self.requests.range(of_peer).map(|entry| *entry.0).collect()
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        let active = self.active[0].len() + self.active[1].len();
        (self.requests.len() - active, active)
    }
}
