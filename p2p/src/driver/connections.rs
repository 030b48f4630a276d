//! Whom this node is connected with: members come and go, connections are made, taken and lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::debug;

use super::links::{Deferred, Way};
use super::node::{Done, Loop};
use crate::members::{Peer, TREES, peer_id};
use crate::swarm::{Event, Failure, Member, PeerId, RequestId, View, ZoneId};
use crate::transport::limits::MAX_INCOMING;
use crate::transport::{Incoming, LinkId, Message};

/// Connections are made before they are needed in clusters up to this size; in larger ones a node has about 64
/// partners, which it meets with its first pieces.
const WARM: usize = 128;

impl Loop {
    pub(super) fn members_changed(&mut self, members: &mut watch::Receiver<Arc<Vec<Peer>>>) {
        let peers = members.borrow_and_update().clone();
        let mut zones: HashMap<&str, ZoneId> = HashMap::new();
        let mut zone = |name| {
            let next = ZoneId(u16::try_from(zones.len()).unwrap_or(u16::MAX));
            *zones.entry(name).or_insert(next)
        };
        let mut all = vec![Member {
            id: self.me.id,
            zone: zone(self.me.zone.as_str()),
            leaf: self.me.leaf,
        }];
        for peer in peers.iter().filter(|peer| peer.address != self.me.address) {
            let id = peer_id(peer.address);
            self.links.learn(id, peer.address);
            all.push(Member {
                id,
                zone: zone(peer.meta.zone.as_str()),
                // Who cuts trees otherwise would be asked for what it does not expect.
                leaf: peer.meta.leaf || peer.meta.trees != TREES,
            });
        }
        self.status.members = u32::try_from(all.len() - 1).unwrap_or(u32::MAX);
        self.is_member = all.iter().map(|member| member.id).collect();
        debug!(members = self.status.members, "members changed");
        self.tell(Event::MembersChanged(Arc::new(View::new(all))));
        let members = &self.is_member;
        self.links.retain(|peer| members.contains(&peer));
        self.warm();
    }

    /// Makes connections before they are needed; in large clusters, ends those that are not needed any more.
    pub(super) fn warm(&mut self) {
        let now = Instant::now();
        if self.is_member.len() > WARM {
            // Gossip meets everybody in turn: each would have a connection with each, and no place for more.
            for link in self.links.idle(now) {
                self.close(link);
            }
            return;
        }
        let others = self.is_member.iter().filter(|peer| **peer != self.me.id);
        for peer in others.copied().collect::<Vec<PeerId>>() {
            if let Some(address) = self.links.warm(peer, now) {
                self.dial(peer, address);
            }
        }
    }

    pub(super) fn dial(&mut self, peer: PeerId, address: SocketAddr) {
        let (endpoint, done) = (self.endpoint.clone(), self.done.clone());
        tokio::spawn(async move {
            let link = endpoint.connect(address).await;
            let _ = done.send(Done::Dialed(peer, link));
        });
    }

    pub(super) fn arrived(&mut self, incoming: Incoming) {
        if self.links.inward_count() >= MAX_INCOMING {
            self.status.failed_links += 1;
            return;
        }
        let peer = peer_id(incoming.peer);
        self.links.learn(peer, incoming.peer);
        self.links.accepted(peer, incoming.link);
    }

    pub(super) fn gossip(&mut self, to: SocketAddr, bytes: Bytes) {
        let peer = peer_id(to);
        self.links.learn(peer, to);
        let message = Deferred::Message(Message::Exchange { bytes });
        match self.links.send(peer, message, Instant::now()) {
            Way::Dial(address) => self.dial(peer, address),
            Way::None => self.calling.unanswered(to),
            Way::Sent | Way::Waits => {}
        }
    }

    /// Ends a connection from this side.
    pub(super) fn close(&mut self, link: LinkId) {
        // Later, when no action is being done: what it carried is over then.
        let _ = self.done.send(Done::Cut(link));
    }

    pub(super) fn unreachable(&mut self, requests: Vec<RequestId>) {
        for request in requests {
            self.asked.remove(&request);
            self.tell(Event::AskFailed {
                request,
                failure: Failure::Unreachable,
            });
        }
    }

    pub(super) fn closed(&mut self, link: LinkId) {
        let Some((peer, inward)) = self.links.closed(link) else {
            return;
        };
        if inward {
            let gone = self.asking.iter().filter(|(_, by)| **by == link);
            let gone: Vec<(PeerId, RequestId)> = gone.map(|(key, _)| *key).collect();
            for (from, request) in gone {
                self.asking.remove(&(from, request));
                self.tell(Event::RequestCancelled { from, request });
            }
            return;
        }
        let failed = self.asked.iter().filter(|(_, (to, _))| *to == peer);
        let failed = failed.map(|(request, _)| *request).collect();
        self.unreachable(failed);
        if let Some(address) = self.links.address(peer) {
            self.calling.unanswered(address);
        }
    }
}
