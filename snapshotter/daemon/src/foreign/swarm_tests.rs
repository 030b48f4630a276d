//! Runs of ordinary blobs among nodes of which one lies: real nodes, real sockets, a server that counts.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lacewing_format::Digest;
use lacewing_p2p::driver::{Calls, Origin, OriginError, Parts, Rates, Verdict, Verifier};
use lacewing_p2p::identity::{Identity, Source as From};
use lacewing_p2p::members::{Listed, Places, peer_id};
use lacewing_p2p::store::{Limits, PieceStore};
use lacewing_p2p::swarm::{Member, View, ZoneId};
use lacewing_p2p::transport::{Provenance, Timing};
use lacewing_p2p::{Class, FetchError, Node, PieceId, swarm};

use super::{Blob, Question, RUN, Said, Source, Voucher};
use crate::adapters::origins::{Origins, Place};
use crate::adapters::p2p::Peers;
use crate::adapters::source::Repositories;
use crate::config::p2p::{Membership, P2p, Proof};

/// Enough that some nodes are two steps from the registry: the sixth and seventh ask the second.
const NODES: u16 = 7;

/// Addresses of a test, apart from those of other tests and processes.
fn addresses() -> Vec<SocketAddr> {
    static NETWORK: AtomicU16 = AtomicU16::new(1);
    let network = NETWORK.fetch_add(1, Ordering::Relaxed);
    let [top, high, low] = [16, 8, 0].map(|shift| (std::process::id() >> shift) as u8);
    let port = 27_000 + u16::from(top) * 100 + network;
    (1..=NODES)
        .map(|host| SocketAddr::new(IpAddr::from([127, high, low, host as u8]), port))
        .collect()
}

/// A web server of one file, that counts what it gives and can be gone, or ask for patience.
struct Server {
    url: String,
    bytes: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
    limits: Arc<AtomicBool>,
    /// Answers that asked for patience.
    put_off: Arc<AtomicU64>,
}

impl Server {
    async fn start(content: Bytes) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let (bytes, gone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (limits, put_off) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (count, is_gone) = (bytes.clone(), gone.clone());
        let (is_limited, put_off_count) = (limits.clone(), put_off.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, count, is_gone) = (content.clone(), count.clone(), is_gone.clone());
                let (is_limited, put_off) = (is_limited.clone(), put_off_count.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let refusal = |status| Response::builder().status(status);
                        let reply = if is_limited.load(Ordering::Relaxed) {
                            put_off.fetch_add(1, Ordering::Relaxed);
                            refusal(429)
                                .header("retry-after", "20")
                                .body(Full::new(Bytes::new()))
                        } else if is_gone.load(Ordering::Relaxed) {
                            refusal(503).body(Full::new(Bytes::new()))
                        } else {
                            part(&request, &content, &count)
                        };
                        async move { Ok::<_, Infallible>(reply.unwrap()) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Server {
            url,
            bytes,
            gone,
            limits,
            put_off,
        }
    }
}

fn part(
    request: &Request<hyper::body::Incoming>,
    content: &Bytes,
    count: &AtomicU64,
) -> hyper::http::Result<Response<Full<Bytes>>> {
    let range = request.headers()["range"].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(content.len() - 1);
    if last > first {
        count.fetch_add((last + 1 - first) as u64, Ordering::Relaxed);
    }
    Response::builder()
        .status(206)
        .header("content-range", format!("bytes {first}-{last}/{}", content.len()))
        .header("etag", "\"1\"")
        .body(Full::new(content.slice(first..=last)))
}

/// A node under the attacker's hand: it gives what was put into its store, and says what it likes.
struct Liar {
    says: Option<Digest>,
}

impl Verifier for Liar {
    fn verify(
        &self,
        _piece: PieceId,
        _of: Provenance,
        _from: Option<SocketAddr>,
        _bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        // It takes nothing from others.
        async { Verdict::Unproven }.boxed()
    }

    fn permits(&self, _piece: &PieceId, _of: &Provenance) -> bool {
        true
    }
}

impl Origin for Liar {
    fn read(
        &self,
        _piece: PieceId,
        _of: Provenance,
        _class: Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let error = OriginError {
            error: FetchError::Unavailable,
            retry_after: None,
            reason: "it has no registry".to_owned(),
        };
        async { Err(error) }.boxed()
    }
}

impl Calls for Liar {
    fn answer(&self, _from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let said = self.says.map(|digest| Said::Digest(digest).written());
        async move { said.filter(|_| Question::is(&question)) }.boxed()
    }
}

thread_local! {
    /// Folders of this test. They go with its thread, behind the runtime: a store's pieces are written by the runtime's own
    /// threads, and one that comes while a folder is emptied would keep it.
    static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A folder that outlives what the test leaves running.
fn folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    path
}

/// A cluster, a file of three runs, and the order in which its first run travels.
struct World {
    dir: PathBuf,
    content: Bytes,
    server: Server,
    /// By their place in the tree of the first run.
    order: Vec<SocketAddr>,
    blob: Blob,
}

impl World {
    async fn new() -> World {
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
        let mut order = addresses();
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

    fn run(&self, run: u64) -> (PieceId, Bytes) {
        let piece = self.blob.piece(run).unwrap();
        let at = piece.offset as usize;
        (piece, self.content.slice(at..at + piece.len as usize))
    }

    fn altered(&self, run: u64) -> (PieceId, Bytes) {
        let (piece, bytes) = self.run(run);
        let mut bytes = bytes.to_vec();
        bytes[1_000] ^= 1;
        (piece, bytes.into())
    }

    /// Who is to read a run from the server.
    fn first_of(&self, run: u64) -> SocketAddr {
        let tree = view_of(&self.order).tree_of(&self.run(run).0);
        let first = self
            .order
            .iter()
            .min_by_key(|address| tree.distance(peer_id(**address)));
        *first.unwrap()
    }

    /// A liar at the first place of the first run's tree, that holds something as that run, and otherwise what is right.
    async fn with_first(
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

    fn honest(&self, address: SocketAddr) -> Arc<Peers> {
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
    fn liar(&self, address: SocketAddr, holds: Vec<(PieceId, Bytes)>, says: Option<Digest>) -> Node {
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
    async fn read(&self, peers: &Arc<Peers>) -> Result<(), super::Failure> {
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
    fn copies(&self) -> f64 {
        self.server.bytes.load(Ordering::Relaxed) as f64 / self.content.len() as f64
    }

    /// No store of an honest node may hold anything but what is right.
    async fn assert_clean(&self, nodes: &[Arc<Peers>]) {
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
async fn assembled<'a>(nodes: impl Iterator<Item = &'a Node>) {
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

async fn wrong(peers: &Peers) -> Vec<SocketAddr> {
    peers.node.status().await.wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_in_the_middle_alters_reaches_nobody() {
    let world = World::new().await;
    let middle = world.order[1];
    let honest: Vec<_> = world.order.iter().filter(|address| **address != middle).collect();
    let honest: Vec<_> = honest.into_iter().map(|address| world.honest(*address)).collect();
    // What it is itself to bring it gives as it is.
    let holds = (0..world.blob.runs()).map(|run| match world.first_of(run) == middle {
        true => world.run(run),
        false => world.altered(run),
    });
    let liar = world.liar(middle, holds.collect(), None);
    assembled(honest.iter().map(|peers| &peers.node).chain([&liar])).await;
    for read in join_all(honest.iter().map(|peers| world.read(peers))).await {
        read.unwrap();
    }
    world.assert_clean(&honest).await;
    let mut named = 0;
    for peers in &honest {
        let wrong = wrong(peers).await;
        assert!(
            wrong.iter().all(|address| *address == middle),
            "an honest node is named: {wrong:?}"
        );
        named += wrong.len();
    }
    assert!(named > 0, "the liar was never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_lies_is_found_out_in_the_end_and_named() {
    let world = World::new().await;
    let (_liar, honest) = world.with_first(Some(world.altered(0)), None).await;
    let reader = &honest[1];
    let mut parts = reader.stream(world.blob.clone(), 0..world.blob.len);
    let mut came = 0;
    let failure = loop {
        match parts.recv().await.unwrap() {
            Ok(part) => came += part.len() as u64,
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.class, FetchError::Corrupt);
    assert!(came < world.blob.len, "the last run of a wrong blob came");
    assert_eq!(wrong(reader).await, [world.order[0]]);
    world.read(reader).await.unwrap();
    world.assert_clean(&honest[1..2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_is_silent_stalls_nobody() {
    let world = World::new().await;
    let (_mute, honest) = world.with_first(None, None).await;
    // The second node of the tree reads the run from the server, and gives it to the sixth.
    world.read(&honest[0]).await.unwrap();
    world.read(&honest[4]).await.unwrap();
    let (_, voucher) = honest[4].words().of(&world.run(0).0).unwrap();
    assert_eq!(voucher, Voucher::StandIn(world.order[1]));
    assert!(wrong(&honest[4]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_passes_on_what_is_right_is_not_blamed_by_a_lying_first_node() {
    let world = World::new().await;
    let (_liar, honest) = world.with_first(None, Some(Digest::of(b"another run"))).await;
    world.read(&honest[0]).await.unwrap();
    world.read(&honest[4]).await.unwrap();
    assert_eq!(wrong(&honest[4]).await, [world.order[0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_all_can_get_when_the_server_is_gone() {
    let world = World::new().await;
    let honest: Vec<_> = world.order.iter().map(|address| world.honest(*address)).collect();
    assembled(honest.iter().map(|peers| &peers.node)).await;
    world.read(&honest[3]).await.unwrap();
    let copies = world.copies();
    assert!(copies < 1.01, "{copies} copies");
    world.server.gone.store(true, Ordering::Relaxed);
    for run in 0..world.blob.runs() {
        for node in honest.iter().filter(|node| node.address != world.order[3]) {
            let (piece, _) = world.run(run);
            node.node.forget(&piece);
            node.words().forget(&piece);
        }
    }
    for read in join_all(honest.iter().map(|peers| world.read(peers))).await {
        read.unwrap();
    }
    world.assert_clean(&honest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_time_is_left_alone_and_who_holds_it_is_asked() {
    let mut world = World::new().await;
    world.blob.source = Source::Blob(Place {
        host: world.blob.source.host().to_owned(),
        repository: "a/b".to_owned(),
    });
    let (piece, right) = world.run(0);
    let first = world.honest(world.order[0]);
    let _holder = world.liar(
        world.order[5],
        vec![(piece, right.clone())],
        Some(Digest::of(&right)),
    );
    let begun = std::time::Instant::now();
    while first.node.status().await.links < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "they do not meet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.server.limits.store(true, Ordering::Relaxed);
    let got = first
        .node
        .get(piece, world.blob.provenance(), Class::Prefetch)
        .await;
    assert_eq!(got.unwrap(), right);
    // Once to learn of it; who waits within the request asks again after 20 s, before anybody else is asked.
    assert_eq!(world.server.put_off.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_holds_and_gets_for_others_only_what_it_may() {
    let world = World::new().await;
    let first = world.honest(world.order[0]);
    let (piece, right) = world.run(0);
    let of = world.blob.provenance();
    let said = async |question: Question| Said::read(&first.say(&question.written()).await?);
    let own = |place: &str| Provenance {
        place: place.to_owned(),
        ..(*of).clone()
    };
    let sum = Some(Said::Digest(Digest::of(&right)));
    assert_eq!(
        said(Question::Have(piece, (*of).clone())).await,
        Some(Said::Nothing)
    );
    let elsewhere = own("other.example/#http/file");
    assert_eq!(said(Question::Get(piece, elsewhere)).await, Some(Said::Nothing));
    assert_eq!(world.copies(), 0.0);
    assert_eq!(said(Question::Get(piece, (*of).clone())).await, sum);
    // As after a restart: the run is there, and nothing is remembered of it.
    first.words().forget(&piece);
    assert_eq!(said(Question::Have(piece, (*of).clone())).await, sum);
    let odd = PieceId { offset: 1, ..piece };
    assert_eq!(said(Question::Have(odd, (*of).clone())).await, None);
}
