//! What the loop tells of itself, for people.

use super::node::Loop;
use super::{Explained, PeerStatus};
use crate::members::peer_id;
use crate::piece::PieceId;
use crate::swarm::PeerId;

impl Loop {
    pub(super) fn peer_status(&self) -> Vec<PeerStatus> {
        let members = self.members.watch().borrow().clone();
        let others = members.iter().filter(|peer| peer.address != self.me.address);
        others
            .map(|peer| PeerStatus {
                address: peer.address,
                zone: peer.meta.zone.clone(),
                leaf: peer.meta.leaf,
                linked: self.links.to(peer_id(peer.address)).is_some(),
                traffic: self
                    .history
                    .traffic
                    .get(&peer.address)
                    .copied()
                    .unwrap_or_default(),
            })
            .collect()
    }

    pub(super) fn explained(&self, piece: &PieceId) -> Explained {
        let swarm = self.swarm.explain(piece);
        let address = |peer: &PeerId| self.links.address(*peer);
        Explained {
            candidates: swarm
                .candidates
                .iter()
                .map(|found| address(&found.peer))
                .collect(),
            asked: swarm.asked.iter().map(address).collect(),
            trail: self.history.of(piece),
            swarm,
            here: false,
        }
    }
}
