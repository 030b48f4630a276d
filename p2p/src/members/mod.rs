//! Who is in the cluster: from a list, a DNS name, a file, or by gossip among the members themselves.
//!
//! Nothing here is exact or agreed upon, and nothing needs to be: nodes that know different members still ask only
//! earlier ones ([`crate::swarm`]), and a member that is gone is passed over long before anybody declares it so.

mod listed;
mod swim;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use lacewing_format::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use self::listed::{Listed, Places};
pub use self::swim::{Swim, SwimOptions};
use crate::swarm::PeerId;

/// Longest name of a zone; what members tell of themselves stays within 32 bytes.
pub const MAX_ZONE: usize = 24;

/// What a member tells of itself, beside its address: 32 bytes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Meta {
    /// Zone by name; empty: the one of all who name none.
    pub zone: String,
    /// Capacity class, for people: how fast the member's link is. Larger is faster, 0 unknown.
    pub class: u8,
    /// It asks but is not to be asked.
    pub leaf: bool,
    /// Version of the rules by which trees are cut.
    pub trees: u8,
}

/// Version of the rules by which trees are cut; members with another one are not asked.
pub const TREES: u8 = 1;

impl Meta {
    /// Whether it keeps to the bounds; it may come from outside.
    pub fn is_sound(&self) -> bool {
        self.zone.len() <= MAX_ZONE && self.zone.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it tells.
    pub meta: Meta,
}

/// A member's place on the ring: its address, hashed.
pub fn peer_id(address: SocketAddr) -> PeerId {
    let digest = Digest::of(address.to_string().as_bytes());
    PeerId(
        digest
            .0
            .iter()
            .take(8)
            .fold(0, |id, byte| id << 8 | u64::from(*byte)),
    )
}

/// Bytes for another node's membership.
pub type Outgoing = mpsc::Receiver<(SocketAddr, Bytes)>;

/// A source of members. This node may be among them or not.
pub trait Members: Send + Sync + 'static {
    /// The members known now, and whenever that changes.
    fn watch(&self) -> watch::Receiver<Arc<Vec<Peer>>>;
    /// Takes in what the membership of another node sent.
    fn take(&self, from: SocketAddr, bytes: Bytes);
    /// A member does not answer; a hint.
    fn suspect(&self, member: SocketAddr);
    /// This node is a leaf from now on, or is none any more.
    fn announce_leaf(&self, leaf: bool);
    /// Other places where members may be found.
    fn set_seeds(&self, seeds: Vec<String>);
}

/// Resolves `host:port` texts; what cannot be resolved now is left out.
pub(crate) async fn resolve(names: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for name in names {
        match tokio::net::lookup_host(name.as_str()).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => tracing::debug!(name, "resolving a seed: {error}"),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_members_place_is_a_matter_of_its_address_alone() {
        let id = |text: &str| peer_id(text.parse().unwrap());
        assert_eq!(id("10.0.0.1:7070"), id("10.0.0.1:7070"));
        assert_ne!(id("10.0.0.1:7070"), id("10.0.0.1:7071"));
        assert_ne!(id("[::1]:7070"), id("127.0.0.1:7070"));
    }

    #[test]
    fn what_a_member_tells_is_small() {
        let zone = |zone: &str| Meta {
            zone: zone.to_owned(),
            ..Meta::default()
        };
        assert!(zone("eu-central-1a").is_sound());
        assert!(!zone(&"z".repeat(25)).is_sound());
        assert!(!zone("a b").is_sound());
    }
}
