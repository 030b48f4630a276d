//! Nodes, an origin that counts, and contents that prove themselves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_p2p::driver::{Origin, OriginError, Parts, Rates, Verdict, Verifier};
use lacewing_p2p::identity::{Identity, Source};
use lacewing_p2p::members::{Listed, Places};
use lacewing_p2p::store::{Limits, PieceStore};
use lacewing_p2p::transport::{Provenance, Timing};
use lacewing_p2p::{Class, FetchError, Node, PieceId, swarm};

pub(crate) use crate::places::addresses;
use crate::places::folder;

/// A blob of pieces with known contents.
pub(crate) struct Image {
    pub(crate) pieces: Vec<PieceId>,
    contents: HashMap<PieceId, Bytes>,
    pub(crate) of: Arc<Provenance>,
}

impl Image {
    pub(crate) fn new(count: u64, len: u32) -> Arc<Image> {
        let blob = Digest::of(&count.to_le_bytes());
        let piece = |number: u64| PieceId {
            blob,
            offset: number * u64::from(len),
            len,
        };
        let fill = |number: u64| -> Bytes {
            let seed = blake3::hash(&number.to_le_bytes());
            seed.as_bytes()
                .iter()
                .copied()
                .cycle()
                .take(len as usize)
                .collect()
        };
        let pieces: Vec<PieceId> = (0..count).map(piece).collect();
        let contents = (0..count).map(|number| (piece(number), fill(number))).collect();
        let of = Arc::new(Provenance {
            index: Digest::of(b"index"),
            index_len: 1,
            place: "registry.test/image".to_owned(),
        });
        Arc::new(Image { pieces, contents, of })
    }

    pub(crate) fn content(&self, piece: &PieceId) -> Bytes {
        self.contents[piece].clone()
    }

    pub(crate) fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.len)).sum()
    }
}

/// The registry: counts what it gives, and can be gone.
pub(crate) struct Registry {
    image: Arc<Image>,
    pub(crate) bytes: AtomicU64,
    pub(crate) gone: AtomicBool,
}

impl Registry {
    pub(crate) fn new(image: &Arc<Image>) -> Arc<Registry> {
        Arc::new(Registry {
            image: image.clone(),
            bytes: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        })
    }

    pub(crate) fn copies(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64 / self.image.len() as f64
    }
}

/// A node's way to the registry.
pub(crate) struct Way(pub Arc<Registry>);

impl Origin for Way {
    fn read(
        &self,
        piece: PieceId,
        _of: Provenance,
        _class: Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let registry = self.0.clone();
        async move {
            if registry.gone.load(Ordering::Relaxed) {
                return Err(OriginError {
                    error: FetchError::Unavailable,
                    retry_after: None,
                    reason: "the registry is gone".to_owned(),
                });
            }
            registry.bytes.fetch_add(u64::from(piece.len), Ordering::Relaxed);
            Ok(registry.image.content(&piece))
        }
        .boxed()
    }
}

/// Knows the right contents.
pub(crate) struct Knowing(pub Arc<Image>);

impl Verifier for Knowing {
    fn verify(
        &self,
        piece: PieceId,
        _of: Provenance,
        _from: Option<SocketAddr>,
        bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        let right = self
            .0
            .contents
            .get(&piece)
            .is_some_and(|content| *content == bytes);
        async move { if right { Verdict::Right } else { Verdict::Wrong } }.boxed()
    }

    fn permits(&self, piece: &PieceId, _of: &Provenance) -> bool {
        self.0.contents.contains_key(piece)
    }
}

/// Takes everything for right: a node that spoils what it gives uses it.
pub(crate) struct Gullible;

impl Verifier for Gullible {
    fn verify(
        &self,
        _piece: PieceId,
        _of: Provenance,
        _from: Option<SocketAddr>,
        _bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        async { Verdict::Right }.boxed()
    }

    fn permits(&self, _piece: &PieceId, _of: &Provenance) -> bool {
        true
    }
}

/// A file with a secret, and a folder for stores.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    stores: Mutex<u32>,
}

impl World {
    pub(crate) fn new() -> World {
        let dir = folder();
        std::fs::write(dir.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        World {
            dir,
            stores: Mutex::new(0),
        }
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    /// Parts of a node with the cluster's secret.
    pub(crate) fn parts(
        &self,
        address: SocketAddr,
        all: &[SocketAddr],
        origin: Arc<dyn Origin>,
        verifier: Arc<dyn Verifier>,
    ) -> Parts {
        let source = Source::Secret {
            file: self.secret(),
            address: address.ip(),
        };
        let number = {
            let mut stores = self.stores.lock().unwrap();
            *stores += 1;
            *stores
        };
        let limits = Limits {
            bytes: 1 << 30,
            age: Duration::from_secs(600),
        };
        let store = PieceStore::open(&self.dir.join(number.to_string()), limits).unwrap();
        let names = all.iter().map(SocketAddr::to_string).collect();
        Parts {
            address,
            listen: address,
            zone: String::new(),
            leaf: false,
            identity: Arc::new(Identity::open(source).unwrap()),
            members: Arc::new(Listed::start(Places::Names(names))),
            outgoing: None,
            store,
            origin,
            verifier,
            swarm: config(),
            timing: Timing::default(),
            rates: Rates::default(),
        }
    }

    /// Nodes that know all others and the right contents.
    pub(crate) async fn cluster(&self, count: u16, registry: &Arc<Registry>) -> Vec<Node> {
        let all = addresses(count);
        let mut nodes = Vec::new();
        for address in &all {
            let way = Arc::new(Way(registry.clone()));
            let knowing = Arc::new(Knowing(registry.image.clone()));
            nodes.push(Node::start(self.parts(*address, &all, way, knowing)).unwrap());
        }
        assembled(&nodes).await;
        nodes
    }
}

/// The machine may be loaded: a node that answers late is not taken for a dead one so soon.
pub(crate) fn config() -> swarm::Config {
    swarm::Config {
        ack_timeout: Duration::from_millis(500),
        ..swarm::Config::default()
    }
}

/// Waits until every node knows all others and is connected with them.
pub(crate) async fn assembled(nodes: &[Node]) {
    let others = nodes.len() as u32 - 1;
    for (number, node) in nodes.iter().enumerate() {
        let begun = std::time::Instant::now();
        loop {
            let status = node.status().await;
            if status.members == others && status.links >= 2 * others {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "node {number}: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Reads a whole image with a window of pieces; every piece is compared.
pub(crate) async fn read_all(node: &Node, image: &Arc<Image>, class: Class) {
    use futures::StreamExt;
    let reads = image.pieces.iter().map(|piece| {
        let (node, image, piece) = (node.clone(), image.clone(), *piece);
        async move {
            let bytes = node.get(piece, image.of.clone(), class).await.unwrap();
            assert_eq!(bytes, image.content(&piece));
        }
    });
    futures::stream::iter(reads)
        .buffered(32)
        .collect::<Vec<()>>()
        .await;
}
