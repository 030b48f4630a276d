//! The book of connections: which there are to whom, and what waits for one to be made.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::swarm::{PeerId, RequestId};
use crate::transport::{Link, LinkId, Message, Wish};

/// What is to be sent once a connection stands.
pub(super) enum Deferred {
    /// A request.
    Ask(RequestId, Box<Wish>),
    /// Gossip.
    Message(Message),
}

/// Most things that wait for one connection; gossip beyond it is lost, requests fail.
const MOST_DEFERRED: usize = 1024;

/// After a failure the same node is left alone for so long, so that a dead one costs no handshakes.
const PAUSE: Duration = Duration::from_millis(500);

/// A partner in the trees is kept for so long after it was asked last: rollouts come in bursts.
const PARTNER: Duration = Duration::from_secs(600);

/// A connection that only gossip used is kept for so long. In a large cluster its next turn comes after half an hour.
const GOSSIP: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Outward {
    link: Option<Link>,
    dialing: bool,
    waiting: Vec<Deferred>,
    failed: Option<Instant>,
    /// When it was asked for a piece last, and when it was told something else.
    asked: Option<Instant>,
    told: Option<Instant>,
}

/// What to do for something that is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It was sent.
    Sent,
    /// It waits for the connection that is being made.
    Waits,
    /// It waits for a connection: make one.
    Dial(SocketAddr),
    /// There is no way.
    None,
}

/// All connections of a node.
#[derive(Default)]
pub(super) struct Links {
    addresses: HashMap<PeerId, SocketAddr>,
    outward: HashMap<PeerId, Outward>,
    /// Connections that others made.
    inward: HashMap<LinkId, (PeerId, Link)>,
    /// Our own connections by name.
    own: HashMap<LinkId, PeerId>,
}

impl Links {
    /// Where a node listens.
    pub(super) fn learn(&mut self, peer: PeerId, address: SocketAddr) {
        self.addresses.insert(peer, address);
    }

    /// Where a node listens, if it is known.
    pub(super) fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.addresses.get(&peer).copied()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.own.len() + self.inward.len()
    }

    /// How many others made.
    pub(super) fn inward_count(&self) -> usize {
        self.inward.len()
    }

    /// The connection to a node, if it stands.
    pub(super) fn to(&self, peer: PeerId) -> Option<&Link> {
        self.outward.get(&peer)?.link.as_ref()
    }

    /// A connection by which a node asked.
    pub(super) fn from(&self, link: LinkId) -> Option<&Link> {
        self.inward.get(&link).map(|(_, link)| link)
    }

    /// Whose connection it is, and whether the other side made it.
    pub(super) fn owner(&self, link: LinkId) -> Option<(PeerId, bool)> {
        match self.own.get(&link) {
            Some(peer) => Some((*peer, false)),
            None => self.inward.get(&link).map(|(peer, _)| (*peer, true)),
        }
    }

    /// Sends something now, or when the connection stands.
    pub(super) fn send(&mut self, peer: PeerId, what: Deferred, now: Instant) -> Way {
        let outward = self.outward.entry(peer).or_default();
        match what {
            Deferred::Ask(..) => outward.asked = Some(now),
            Deferred::Message(_) => outward.told = Some(now),
        }
        if let Some(link) = &outward.link {
            return match hand_over(link, what) {
                true => Way::Sent,
                false => Way::None,
            };
        }
        if outward.waiting.len() >= MOST_DEFERRED {
            return Way::None;
        }
        if outward.dialing {
            outward.waiting.push(what);
            return Way::Waits;
        }
        let lately = outward
            .failed
            .is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        match self.addresses.get(&peer) {
            Some(address) if !lately => {
                outward.waiting.push(what);
                outward.dialing = true;
                Way::Dial(*address)
            }
            _ => Way::None,
        }
    }

    /// Whether a connection to a node is worth making before it is needed; marks it as being made.
    pub(super) fn warm(&mut self, peer: PeerId, now: Instant) -> Option<SocketAddr> {
        let outward = self.outward.entry(peer).or_default();
        let lately = outward
            .failed
            .is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        if outward.link.is_some() || outward.dialing || lately {
            return None;
        }
        let address = *self.addresses.get(&peer)?;
        outward.dialing = true;
        Some(address)
    }

    /// A connection of ours stands: what waited is sent. Returns requests that could not be.
    pub(super) fn connected(&mut self, peer: PeerId, link: Link) -> Vec<RequestId> {
        let outward = self.outward.entry(peer).or_default();
        outward.dialing = false;
        outward.failed = None;
        let mut failed = Vec::new();
        for what in outward.waiting.drain(..) {
            let request = what.request();
            if !hand_over(&link, what) {
                failed.extend(request);
            }
        }
        self.own.insert(link.id(), peer);
        outward.link = Some(link);
        failed
    }

    /// No connection could be made. Returns the requests that waited for it.
    pub(super) fn failed(&mut self, peer: PeerId, now: Instant) -> Vec<RequestId> {
        let Some(outward) = self.outward.get_mut(&peer) else {
            return Vec::new();
        };
        outward.dialing = false;
        outward.failed = Some(now);
        let waiting = outward.waiting.drain(..);
        waiting.filter_map(|what| what.request()).collect()
    }

    /// Another node made a connection.
    pub(super) fn accepted(&mut self, peer: PeerId, link: Link) {
        self.inward.insert(link.id(), (peer, link));
    }

    /// A connection has ended. Returns whose it was, and whether the other side had made it.
    pub(super) fn closed(&mut self, link: LinkId) -> Option<(PeerId, bool)> {
        if let Some(peer) = self.own.remove(&link) {
            if let Some(outward) = self.outward.get_mut(&peer)
                && outward.link.as_ref().is_some_and(|own| own.id() == link)
            {
                outward.link = None;
            }
            return Some((peer, false));
        }
        self.inward.remove(&link).map(|(peer, _)| (peer, true))
    }

    /// Takes a request back that may still wait for its connection. `true`: it did.
    pub(super) fn withdraw(&mut self, peer: PeerId, request: RequestId) -> bool {
        let Some(outward) = self.outward.get_mut(&peer) else {
            return false;
        };
        let before = outward.waiting.len();
        outward.waiting.retain(|what| what.request() != Some(request));
        before != outward.waiting.len()
    }

    /// All connections with a node.
    pub(super) fn with(&self, peer: PeerId) -> Vec<LinkId> {
        let own = self.own.iter().filter(|(_, owner)| **owner == peer);
        let inward = self.inward.iter().filter(|(_, (owner, _))| *owner == peer);
        own.map(|(link, _)| *link)
            .chain(inward.map(|(link, _)| *link))
            .collect()
    }

    /// Connections of this node that it has not used for a while.
    pub(super) fn idle(&self, now: Instant) -> Vec<LinkId> {
        let within =
            |at: Option<Instant>, time| at.is_some_and(|at| now.saturating_duration_since(at) < time);
        let idle = |outward: &&Outward| !within(outward.asked, PARTNER) && !within(outward.told, GOSSIP);
        let idle = self.outward.values().filter(idle);
        idle.filter_map(|outward| outward.link.as_ref().map(Link::id))
            .collect()
    }

    /// Forgets nodes that are no members and have no connection.
    pub(super) fn retain(&mut self, member: impl Fn(PeerId) -> bool) {
        self.outward
            .retain(|peer, outward| member(*peer) || outward.link.is_some() || outward.dialing);
        let inward: HashSet<PeerId> = self.inward.values().map(|(peer, _)| *peer).collect();
        let outward = &self.outward;
        self.addresses
            .retain(|peer, _| member(*peer) || outward.contains_key(peer) || inward.contains(peer));
    }
}

impl Deferred {
    fn request(&self) -> Option<RequestId> {
        match self {
            Deferred::Ask(request, _) => Some(*request),
            Deferred::Message(_) => None,
        }
    }
}

fn hand_over(link: &Link, what: Deferred) -> bool {
    match what {
        Deferred::Ask(request, wish) => link.request(request, *wish),
        Deferred::Message(message) => {
            link.send(message);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::driver::pace::Bucket;
    use crate::transport::{Context, Timing};
    use std::sync::Arc;

    /// A connection with somebody who greets and is silent.
    async fn link() -> (Link, Link) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (events, _) = tokio::sync::mpsc::channel(64);
        let context = Context {
            events,
            pace: Arc::new(Bucket::new(None)),
            timing: Timing::default(),
        };
        let (near, far) = tokio::join!(
            Link::open(Box::new(near), LinkId(1), "10.0.0.1:1", &context),
            Link::open(Box::new(far), LinkId(2), "10.0.0.2:1", &context),
        );
        (near.unwrap(), far.unwrap())
    }

    fn wish() -> Deferred {
        let digest = lacewing_format::Digest::of(b"x");
        let wish = Wish {
            piece: crate::PieceId {
                blob: digest,
                offset: 0,
                len: 1,
            },
            class: crate::Class::Prefetch,
            tree: crate::swarm::TreeId(0),
            redirects: 0,
            held_only: false,
            hint: crate::swarm::Hint::default(),
            of: crate::transport::Provenance {
                index: digest,
                index_len: 1,
                place: String::new(),
            },
        };
        Deferred::Ask(RequestId(1), Box::new(wish))
    }

    #[tokio::test]
    async fn what_only_gossip_used_is_idle_sooner_than_a_partner() {
        let start = Instant::now();
        let gossip = || Deferred::Message(Message::Exchange { bytes: "x".into() });
        for (what, time) in [(gossip(), GOSSIP), (wish(), PARTNER)] {
            let (near, _far) = link().await;
            let mut links = Links::default();
            links.connected(PeerId(2), near);
            links.send(PeerId(2), what, start);
            assert_eq!(links.idle(start + time - Duration::from_secs(1)), []);
            assert_eq!(links.idle(start + time), [LinkId(1)]);
            links.send(PeerId(2), gossip(), start + time);
            assert_eq!(links.idle(start + time), []);
        }
    }
}
