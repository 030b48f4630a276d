//! Nodes of a cluster, and the file that they share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use lacewing_format::Digest;
use lacewing_p2p::driver::{Parts, Rates};
use lacewing_p2p::identity::{Identity, Source as From};
use lacewing_p2p::members::{Listed, Places, peer_id};
use lacewing_p2p::store::{Limits, PieceStore};
use lacewing_p2p::swarm::{Member, View, ZoneId};
use lacewing_p2p::transport::Timing;
use lacewing_p2p::{Node, PieceId, swarm};

use super::liar::Liar;
use super::places::{addresses, folder};
use super::server::Server;
use crate::adapters::origins::Origins;
use crate::adapters::p2p::Peers;
use crate::adapters::repositories::Repositories;
use crate::config::p2p::{Membership, P2p, Proof};
use crate::foreign::{Blob, Failure, RUN, Source};

/// Enough that some nodes are two steps from the registry: the sixth and seventh ask the second.
const NODES: u16 = 7;

/// A cluster, a file of three runs, and the order in which its first run travels.
pub(super) struct World {
    dir: PathBuf,
    content: Bytes,
    pub(super) server: Server,
    /// By their place in the tree of the first run.
    pub(super) order: Vec<SocketAddr>,
    pub(super) blob: Blob,
}

impl World {
    pub(super) async fn new() -> World {
        let dir = folder();
        std::fs::write(dir.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        let content: Bytes = (0..2 * RUN as usize + 100_000)
            .map(|at| (at * 7 + at / 255) as u8)
            .collect();
        let server = Server::start(content.clone()).await;
        let blob = Blob {
            id: Digest::of(&content),
            len: content.len() as u64,
            source: Source::File {
                url: server.url.clone(),
                digest: true,
            },
        };
        let mut order = addresses(NODES);
        let view = view_of(&order);
        let tree = view.tree_of(&blob.piece(0).unwrap());
        order.sort_by_key(|address| tree.distance(peer_id(*address)));
        World {
            dir,
            content,
            server,
            order,
            blob,
        }
    }

    pub(super) fn run(&self, run: u64) -> (PieceId, Bytes) {
        let piece = self.blob.piece(run).unwrap();
        let at = piece.offset as usize;
        (piece, self.content.slice(at..at + piece.len as usize))
    }

    pub(super) fn altered(&self, run: u64) -> (PieceId, Bytes) {
        let (piece, bytes) = self.run(run);
        let mut bytes = bytes.to_vec();
        bytes[1_000] ^= 1;
        (piece, bytes.into())
    }

    /// Who is to read a run from the server.
    pub(super) fn first_of(&self, run: u64) -> SocketAddr {
        let tree = view_of(&self.order).tree_of(&self.run(run).0);
        let first = self
            .order
            .iter()
            .min_by_key(|address| tree.distance(peer_id(**address)));
        *first.unwrap()
    }

    /// A liar at the first place of the first run's tree, that holds something as that run, and otherwise what is right.
    pub(super) async fn with_first(
        &self,
        holds: Option<(PieceId, Bytes)>,
        says: Option<Digest>,
    ) -> (Node, Vec<Arc<Peers>>) {
        let rest = (1..self.blob.runs()).map(|run| self.run(run));
        let liar = self.liar(self.order[0], holds.into_iter().chain(rest).collect(), says);
        let honest: Vec<_> = self.order[1..]
            .iter()
            .map(|address| self.honest(*address))
            .collect();
        assembled(honest.iter().map(|peers| &peers.node).chain([&liar])).await;
        (liar, honest)
    }

    fn store(&self, address: SocketAddr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    pub(super) fn honest(&self, address: SocketAddr) -> Arc<Peers> {
        let config = P2p {
            seeds: self.order.iter().map(SocketAddr::to_string).collect(),
            membership: Membership::Names,
            listen: address,
            address: None,
            zone: String::new(),
            leaf: false,
            proof: Proof::Secret(self.dir.join("secret")),
            cache_bytes: 1 << 30,
            cache_age: Duration::from_secs(600),
            upload_rate: None,
            peer_rate: None,
            registry_rate: None,
            registries: vec![self.blob.source.host().to_owned()],
            // The machine may be loaded: a node that answers late is not taken for a dead one so soon.
            ack_timeout: Duration::from_secs(2),
            file: None,
        };
        let root = self.store(address);
        std::fs::create_dir_all(&root).unwrap();
        let origins = Arc::new(Origins::open(&root).unwrap());
        let client = lacewing_oci::Client::new(lacewing_oci::Options::default()).unwrap();
        let repositories = Arc::new(Repositories::new(client));
        let peers = Peers::start(&config, &root, repositories, origins).unwrap();
        crate::swarm::open(&peers, None);
        peers
    }

    /// A node that holds these runs, and says this digest of all of them; nothing at all if there is none.
    pub(super) fn liar(
        &self,
        address: SocketAddr,
        holds: Vec<(PieceId, Bytes)>,
        says: Option<Digest>,
    ) -> Node {
        let limits = Limits {
            bytes: 1 << 30,
            age: Duration::from_secs(600),
        };
        let identity = From::Secret {
            file: self.dir.join("secret"),
            address: address.ip(),
        };
        let names = self.order.iter().map(SocketAddr::to_string).collect();
        let node = Node::start(Parts {
            address,
            listen: address,
            zone: String::new(),
            leaf: false,
            identity: Arc::new(Identity::open(identity).unwrap()),
            members: Arc::new(Listed::start(Places::Names(names))),
            outgoing: None,
            store: PieceStore::open(&self.store(address), limits).unwrap(),
            origin: Arc::new(Liar { says }),
            verifier: Arc::new(Liar { says }),
            swarm: swarm::Config::default(),
            timing: Timing::default(),
            rates: Rates::default(),
        })
        .unwrap();
        if says.is_some() {
            node.answer_with(Arc::new(Liar { says }));
        }
        for (piece, bytes) in holds {
            node.keep(piece, bytes);
        }
        node
    }

    /// Reads the blob; whatever comes is compared. The error, if it ends with one.
    pub(super) async fn read(&self, peers: &Arc<Peers>) -> Result<(), Failure> {
        let mut parts = peers.stream(self.blob.clone(), 0..self.blob.len);
        let mut at = 0;
        while let Some(part) = parts.recv().await {
            let part = part?;
            assert!(
                part == self.content[at..at + part.len()],
                "wrong bytes reached a reader at {at}"
            );
            at += part.len();
        }
        assert_eq!(at, self.content.len());
        Ok(())
    }

    /// How often the server gave the file.
    pub(super) fn copies(&self) -> f64 {
        self.server.bytes.load(Ordering::Relaxed) as f64 / self.content.len() as f64
    }

    /// No store of an honest node may hold anything but what is right.
    pub(super) async fn assert_clean(&self, nodes: &[Arc<Peers>]) {
        for node in nodes {
            for run in 0..self.blob.runs() {
                let (piece, right) = self.run(run);
                let stored = node.node.stored(&piece).await;
                assert!(
                    stored.is_none_or(|stored| stored == right),
                    "{}: {piece:?}",
                    node.address
                );
            }
        }
    }
}

/// Waits until all know all others and are connected.
pub(super) async fn assembled<'a>(nodes: impl Iterator<Item = &'a Node>) {
    let others = u32::from(NODES) - 1;
    for node in nodes {
        let begun = std::time::Instant::now();
        loop {
            let status = node.status().await;
            if status.members == others && status.links >= 2 * others {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn view_of(order: &[SocketAddr]) -> View {
    let member = |address: &SocketAddr| Member {
        id: peer_id(*address),
        zone: ZoneId::default(),
        leaf: false,
    };
    View::new(order.iter().map(member).collect())
}

pub(super) async fn wrong(peers: &Peers) -> Vec<SocketAddr> {
    peers.node.status().await.wrong
}
