//! Answers other nodes' questions, and asks them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_oci::RegistryRef;
use lacewing_p2p::driver::Calls;
use lacewing_rpc::control::{SwarmNode, SwarmPeer, decode_node, encode_node};
use tracing::{info, warn};

use crate::adapters::p2p::Peers;
use crate::foreign::Question;

/// How are you?
const HOW: u8 = 1;
/// Pull this image: the reference follows.
const PULL: u8 = 2;

/// A node that is well answers from memory.
const HOW_PATIENCE: Duration = Duration::from_secs(3);
/// A pull of an image that is not converted may take long.
const PULL_PATIENCE: Duration = Duration::from_secs(900);

/// Longest image reference looked at.
const MAX_REFERENCE: usize = 512;

struct Desk {
    peers: Weak<Peers>,
    containerd: Option<PathBuf>,
}

/// Answers other nodes from now on.
pub(crate) fn open(peers: &Arc<Peers>, containerd: Option<PathBuf>) {
    let desk = Desk {
        peers: Arc::downgrade(peers),
        containerd,
    };
    peers.node.answer_with(Arc::new(desk));
}

impl Calls for Desk {
    fn answer(&self, from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let (peers, containerd) = (self.peers.upgrade(), self.containerd.clone());
        async move {
            let peers = peers?;
            match question.split_first()? {
                (&HOW, _) => Some(encode_node(&own(&peers).await).into()),
                (&PULL, image) => {
                    let image = std::str::from_utf8(image).ok()?;
                    let outcome = permitted(&peers, image);
                    let outcome = match outcome {
                        Ok(()) => pull(containerd, image).await,
                        Err(refusal) => Err(refusal),
                    };
                    match &outcome {
                        Ok(()) => info!(%from, image, "preheated"),
                        Err(error) => warn!(%from, image, "not preheated: {error}"),
                    }
                    Some(outcome.err().unwrap_or_default().into())
                }
                _ if Question::is(&question) => peers.say(&question).await,
                _ => None,
            }
        }
        .boxed()
    }
}

/// Another node may have images pulled here only from where this node pulls anyway.
fn permitted(peers: &Peers, image: &str) -> Result<(), String> {
    if image.len() > MAX_REFERENCE {
        return Err("that is no image reference".to_owned());
    }
    let reference: RegistryRef = image
        .parse()
        .map_err(|error: lacewing_oci::Error| error.to_string())?;
    if peers.is_known_host(&reference.host) {
        return Ok(());
    }
    Err(format!(
        "{} is none of this node's registries ([p2p] registries)",
        reference.host
    ))
}

/// Has an image pulled by this node's containerd.
pub(super) async fn pull(containerd: Option<PathBuf>, image: &str) -> Result<(), String> {
    let Some(containerd) = containerd else {
        return Err("no containerd is configured".to_owned());
    };
    let pulled = crate::pull::through_cri(&containerd, image).await;
    pulled.map_err(|error| format!("{error:#}").chars().take(400).collect())
}

/// This node, as it tells others.
pub(super) async fn own(peers: &Arc<Peers>) -> SwarmNode {
    let status = peers.node.status().await;
    let peer = |peer: lacewing_p2p::driver::PeerStatus| SwarmPeer {
        address: peer.address.to_string(),
        bytes_from: peer.traffic.from,
        bytes_to: peer.traffic.to,
        linked: peer.linked,
    };
    SwarmNode {
        address: peers.address.to_string(),
        zone: peers.zone.clone(),
        leaf: status.swarm.leaf,
        answers: true,
        counters: peers.counters().await,
        peers: status.peers.into_iter().map(peer).collect(),
    }
}

/// Another member, as it says itself.
pub(super) async fn other(peers: &Arc<Peers>, address: SocketAddr, zone: String, leaf: bool) -> SwarmNode {
    let answer = peers
        .node
        .call(address, Bytes::from_static(&[HOW]), HOW_PATIENCE)
        .await;
    let told = answer.and_then(|answer| decode_node(&answer).ok());
    match told {
        Some(node) => SwarmNode {
            // Who it is, the connection says.
            address: address.to_string(),
            answers: true,
            ..node
        },
        None => SwarmNode {
            address: address.to_string(),
            zone,
            leaf,
            ..SwarmNode::default()
        },
    }
}

/// Has another member pull an image. The error is its own, or that it did not answer.
pub(super) async fn preheat(peers: &Arc<Peers>, address: SocketAddr, image: &str) -> Result<(), String> {
    let mut question = vec![PULL];
    question.extend_from_slice(image.as_bytes());
    match peers.node.call(address, question.into(), PULL_PATIENCE).await {
        Some(answer) if answer.is_empty() => Ok(()),
        Some(answer) => Err(String::from_utf8_lossy(&answer)
            .chars()
            .filter(|c| !c.is_control())
            .take(400)
            .collect()),
        None => Err(format!("no answer within {} s", PULL_PATIENCE.as_secs())),
    }
}
