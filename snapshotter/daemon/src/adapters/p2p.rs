//! The piece layer under the store's port: pieces from other nodes before registries, for chunks and indexes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use lacewing_format::Digest;
use lacewing_format::annotation::IndexRef;
use lacewing_fusefs::{Class, SourceError};
use lacewing_oci::{MediaType, Passage, Verb};
use lacewing_p2p::driver::{GetError, Origin, OriginError, Parts, Rates, Reload, Status, Verdict, Verifier};
use lacewing_p2p::identity::Identity;
use lacewing_p2p::members::{Listed, Members, Meta, Outgoing, Places, Swim, SwimOptions, TREES};
use lacewing_p2p::store::{Limits, PieceStore};
use lacewing_p2p::transport::{Provenance, Timing};
use lacewing_p2p::{FetchError, Node, PieceId};
use tracing::{info, warn};

use super::origins::{Origins, Place};
use super::p2p_book::{Book, MAX_FOREIGN_INDEX, Tables};
use super::source::{Repositories, source_error};
use crate::config::p2p::{Membership, P2p};
use crate::foreign::{self, Failure, Lent, Source, Sums, Wholes};
use crate::limits::MAX_STORED_INDEX;

/// Pieces that are fetched before the store asks for them, when it completes a layer: bounds, and where it begins.
const WINDOW: (usize, usize, usize) = (16, 48, 32);

/// A piece that took less makes the window larger, one that took twice as long smaller: about as much is on its way as
/// comes in this time. On a link of 40 Mbit/s a piece needs half a second for each node on its way here, so that a window
/// of a few pieces would leave the link idle.
const PACE: Duration = Duration::from_secs(2);

/// Requests to registries at a time. A few fill the link, and the one that somebody waits for comes before its turn; with
/// all of a window at once each would take as long as the window.
const AT_REGISTRIES: u32 = 8;

/// Hosts that this node's users read from.
const MOST_HOSTS: usize = 4096;

/// How often the configuration file is looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Peers, and what is needed to ask them.
pub(crate) struct Peers {
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    pub(crate) zone: String,
    pub(crate) seeds: Vec<String>,
    shared: Arc<Shared>,
    window: AtomicUsize,
    pub(crate) wholes: Wholes,
}

/// What the node's own ports need.
struct Shared {
    book: Arc<Book>,
    origins: Arc<Origins>,
    repositories: Arc<Repositories>,
    /// Stored lengths of indexes that were pulled by this worker.
    lengths: Mutex<HashMap<Digest, u64>>,
    /// Hosts that this worker pulls from, which may not have given anything yet.
    hosts: Mutex<HashSet<String>>,
    /// Registries that pieces may be got from for other nodes, beside those this node has pulled from.
    registries: Vec<String>,
    node: OnceLock<Node>,
    /// Log-ins of this node's own clients.
    lent: Lent,
    sums: Sums,
}

impl Peers {
    /// Starts this node's part of the piece layer. Needs a runtime around it.
    ///
    /// # Errors
    /// No identity, no address, a port that is taken.
    pub(crate) fn start(
        config: &P2p,
        root: &Path,
        repositories: Arc<Repositories>,
        origins: Arc<Origins>,
    ) -> Result<Arc<Peers>> {
        let address = own_address(config)?;
        let identity = Identity::open(config.identity(address.ip())).context("p2p")?;
        if !identity.is_proven() {
            warn!("p2p: connections are neither encrypted nor proven, as configured");
        }
        let store = PieceStore::open(&root.join("pieces"), limits(config)).context("p2p: the piece store")?;
        let shared = Arc::new(Shared {
            book: Arc::new(Book::new(root)),
            origins,
            repositories,
            lengths: Mutex::default(),
            hosts: Mutex::default(),
            registries: config.registries.clone(),
            node: OnceLock::new(),
            lent: Lent::default(),
            sums: Sums::default(),
        });
        let (members, outgoing) = members(config, address);
        let node = Node::start(Parts {
            address,
            listen: config.listen,
            zone: config.zone.clone(),
            leaf: config.leaf,
            identity: Arc::new(identity),
            members,
            outgoing,
            store,
            origin: Arc::new(Ports(shared.clone())),
            verifier: Arc::new(Ports(shared.clone())),
            swarm: lacewing_p2p::swarm::Config {
                ack_timeout: config.ack_timeout,
                origin_limit: AT_REGISTRIES,
                ..lacewing_p2p::swarm::Config::default()
            },
            timing: Timing::default(),
            rates: rates(config),
        })
        .with_context(|| format!("p2p: listening on {}", config.listen))?;
        let _ = shared.node.set(node.clone());
        info!(%address, zone = config.zone, "taking part in the piece layer");
        if let Some(file) = &config.file {
            tokio::spawn(follow(file.clone(), config.clone(), node.clone()));
        }
        Ok(Arc::new(Peers {
            node,
            address,
            zone: config.zone.clone(),
            seeds: config.seeds.clone(),
            shared,
            window: AtomicUsize::new(WINDOW.2),
            wholes: Wholes::default(),
        }))
    }

    /// Reads stored bytes of a blob that is known by an index of this node; nothing if there is none.
    pub(crate) fn read(
        self: &Arc<Self>,
        blob: Digest,
        range: Range<u64>,
        class: Class,
    ) -> BoxFuture<'static, Option<Result<Bytes, SourceError>>> {
        let this = self.clone();
        async move {
            let (of, tables) = this.shared.describing(&blob, &range).await?;
            let rows = tables.tiling(&blob, &range)?;
            let pieces: Vec<PieceId> = rows.iter().filter_map(|row| piece(blob, &row.stored)).collect();
            if pieces.len() != rows.len() {
                return None;
            }
            let urgency = match class {
                Class::Blocking => lacewing_p2p::Class::Blocking,
                Class::Prefetch => lacewing_p2p::Class::Prefetch,
            };
            if class == Class::Prefetch {
                let window = this.window.load(Ordering::Relaxed);
                for row in tables.following(&blob, range.end, window) {
                    if let Some(next) = piece(blob, &row.stored) {
                        this.node.prefetch(next, of.clone());
                    }
                }
            }
            let begun = Instant::now();
            let gets = pieces
                .iter()
                .map(|piece| this.node.get(*piece, of.clone(), urgency));
            let parts = match try_join_all(gets).await {
                Ok(parts) => parts,
                Err(error) => return Some(Err(peer_error(&error))),
            };
            this.adapt(begun.elapsed());
            Some(Ok(joined(parts)))
        }
        .boxed()
    }

    fn adapt(&self, took: Duration) {
        let window = self.window.load(Ordering::Relaxed);
        let next = if took > 2 * PACE {
            window / 2
        } else if took < PACE {
            window + 1
        } else {
            window
        };
        self.window
            .store(next.clamp(WINDOW.0, WINDOW.1), Ordering::Relaxed);
    }

    /// Reads a layer's stored index, verified by its digest.
    ///
    /// # Errors
    /// What peers and registries say.
    pub(crate) async fn index(&self, place: &Place, index: IndexRef) -> Result<Bytes, String> {
        let len = u32::try_from(index.size).map_err(|_| format!("it has {} bytes", index.size))?;
        self.shared.lengths().insert(index.digest, index.size);
        self.shared.hosts().insert(place.host.clone());
        let piece = PieceId {
            blob: index.digest,
            offset: 0,
            len,
        };
        let of = Arc::new(Provenance {
            index: index.digest,
            index_len: index.size,
            place: place.to_string(),
        });
        let got = self.node.get(piece, of, lacewing_p2p::Class::Blocking).await;
        got.map_err(|error| error.to_string())
    }

    /// Digests of runs that are known to be right.
    pub(crate) fn sums(&self) -> &Sums {
        &self.shared.sums
    }

    /// Log-ins that clients of this node have shown.
    pub(crate) fn lent(&self) -> &Lent {
        &self.shared.lent
    }

    /// The registry client.
    pub(crate) fn client(&self) -> &lacewing_oci::Client {
        self.shared.repositories.client()
    }

    /// This node's user reads from a host: other nodes may have it read there, too.
    pub(crate) fn knows_host(&self, host: &str) {
        let mut hosts = self.shared.hosts();
        if hosts.len() < MOST_HOSTS {
            hosts.insert(host.to_owned());
        }
    }

    /// Whether this node reads from a host.
    pub(crate) fn is_known_host(&self, host: &str) -> bool {
        self.shared.is_known_host(host)
    }

    /// Frames of a data blob that an index of this node lists, at most `count`, and the index if the blob is one.
    pub(crate) async fn listed(&self, blob: &Digest, count: usize) -> Vec<PieceId> {
        let mut pieces = Vec::new();
        let len = self.shared.lengths().get(blob).copied();
        if let Some(whole) = len.and_then(|len| piece(*blob, &(0..len))) {
            pieces.push(whole);
        }
        for index in self.shared.origins.indexes_of(blob) {
            if let Some(tables) = self.shared.book.own(index).await {
                let rows = tables.following(blob, 0, count).iter();
                pieces.extend(rows.filter_map(|row| piece(*blob, &row.stored)));
                break;
            }
        }
        pieces
    }

    /// Reads a piece from its origin, past the swarm. NOT verified.
    ///
    /// # Errors
    /// The origin's.
    pub(crate) async fn read_here(&self, piece: PieceId, of: &Provenance) -> Result<Bytes, Failure> {
        let read = Ports(self.shared.clone()).read(piece, of.clone(), lacewing_p2p::Class::Prefetch);
        read.await
            .map_err(|error| Failure::new(error.error, error.reason))
    }

    /// What the node has done and does, for status and metrics.
    pub(crate) async fn counters(&self) -> HashMap<String, u64> {
        let status: Status = self.node.status().await;
        let swarm = status.swarm;
        [
            ("p2p_members", u64::from(status.members)),
            ("p2p_links", u64::from(status.links)),
            ("p2p_pieces", status.held.pieces),
            ("p2p_piece_bytes", status.held.bytes),
            ("p2p_bytes_from_peers", status.bytes_from_peers),
            ("p2p_bytes_from_registry", status.bytes_from_origin),
            ("p2p_bytes_to_peers", status.bytes_to_peers),
            ("p2p_failed_links", status.failed_links),
            ("p2p_wrong_peers", status.wrong.len() as u64),
            ("p2p_wrong_pieces", swarm.corrupt),
            ("p2p_asked", swarm.asked),
            ("p2p_asked_registry", swarm.asked_origin),
            ("p2p_hedged", swarm.hedged),
            ("p2p_hedged_registry", swarm.hedged_origin),
            ("p2p_passed_over", swarm.passed_over),
            ("p2p_redirected", swarm.redirected),
            ("p2p_refused", swarm.refused),
            ("p2p_relayed", swarm.relayed),
            ("p2p_uploaded", swarm.uploaded),
            ("p2p_leaf", u64::from(swarm.leaf)),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
    }
}

impl Shared {
    fn lengths(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u64>> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An index of this node that lists a range's frames.
    async fn describing(&self, blob: &Digest, range: &Range<u64>) -> Option<(Arc<Provenance>, Arc<Tables>)> {
        for index in self.origins.indexes_of(blob) {
            let Some(tables) = self.book.own(index).await else {
                continue;
            };
            let Some(place) = self.origins.of_index(&index).pop() else {
                continue;
            };
            if tables.tiling(blob, range).is_some() {
                let index_len = self.lengths().get(&index).copied().unwrap_or(0);
                let of = Provenance {
                    index,
                    index_len,
                    place: place.to_string(),
                };
                return Some((Arc::new(of), tables));
            }
        }
        None
    }

    /// The tables of an index, got from other nodes if need be.
    async fn tables(&self, of: &Provenance) -> Option<Arc<Tables>> {
        if let Some(tables) = self.book.own(of.index).await {
            return Some(tables);
        }
        let piece = index_piece(of)?;
        let node = self.node.get()?.clone();
        let got = node.get(piece, Arc::new(of.clone()), lacewing_p2p::Class::Blocking);
        let stored = got.await.ok()?;
        self.book.take(of.index, stored).await
    }

    /// Whether this node may be made to talk to a registry.
    fn is_known_place(&self, place: &str) -> bool {
        Source::read(place).is_some_and(|source| self.is_known_host(source.host()))
    }

    fn is_known_host(&self, host: &str) -> bool {
        self.registries.iter().any(|known| known == host)
            || self.hosts().contains(host)
            || self.origins.knows_host(host)
    }

    /// Reads from a place with the log-in that a client of this node has shown for it; nothing if none has.
    async fn read_lent(&self, source: &Source, piece: &PieceId) -> Option<Result<Bytes, SourceError>> {
        let place = source.place()?;
        let authorization = self.lent.of(place)?;
        let read = async {
            let passage = Passage::open(self.repositories.client(), &place.host, &place.repository).await?;
            if let Source::Manifest(_) = source {
                let tail = format!("manifests/{}", piece.blob);
                let accept = [("accept", foreign::MANIFESTS)];
                let answer = passage
                    .send(Verb::Get, &tail, &accept, Some(&authorization))
                    .await?;
                return Ok((answer.status == 200).then_some(answer.body));
            }
            let range = piece.offset..piece.offset.saturating_add(u64::from(piece.len));
            passage
                .read_at(&piece.blob, range, Some(&authorization))
                .await
                .map(Some)
        };
        match read.await {
            Ok(bytes) => bytes.map(Ok),
            Err(lacewing_oci::Error::Forbidden { .. }) => {
                self.lent.forget(place, &authorization);
                None
            }
            Err(error) => Some(Err(source_error(&error))),
        }
    }

    /// Reads from a place with this node's own log-in.
    async fn read_own(&self, source: &Source, piece: &PieceId) -> Result<Bytes, SourceError> {
        let range = piece.offset..piece.offset.saturating_add(u64::from(piece.len));
        let read = async {
            match source {
                Source::Blob(place) => {
                    self.repositories
                        .store(place)
                        .await?
                        .read_at(&piece.blob, range)
                        .await
                }
                Source::Manifest(place) => {
                    let kind = MediaType::ImageManifest;
                    let described = lacewing_oci::describe(kind, &piece.blob, u64::from(piece.len));
                    self.repositories.store(place).await?.manifest(&described).await
                }
                Source::File { url, digest } => {
                    let (bytes, file) = self.repositories.client().web_read(url, range).await?;
                    if !digest && file.identity(url) != Some(piece.blob) {
                        let reason = "the file has changed at its server".to_owned();
                        return Err(lacewing_oci::Error::Corrupt {
                            place: source.host().to_owned(),
                            what: "file".to_owned(),
                            reason,
                        });
                    }
                    Ok(bytes)
                }
            }
        };
        read.await.map_err(|error| source_error(&error))
    }
}

/// The piece that an index as a whole is, if its length is known and not too great for a foreign one.
fn index_piece(of: &Provenance) -> Option<PieceId> {
    let sound = (1..=MAX_FOREIGN_INDEX).contains(&of.index_len);
    sound.then_some(PieceId {
        blob: of.index,
        offset: 0,
        len: u32::try_from(of.index_len).ok()?,
    })
}

fn is_index(piece: &PieceId, of: &Provenance) -> bool {
    piece.blob == of.index && piece.offset == 0 && u64::from(piece.len) == of.index_len
}

fn piece(blob: Digest, stored: &Range<u64>) -> Option<PieceId> {
    Some(PieceId {
        blob,
        offset: stored.start,
        len: u32::try_from(stored.end.checked_sub(stored.start)?).ok()?,
    })
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

/// The node's ports.
struct Ports(Arc<Shared>);

impl Verifier for Ports {
    fn verify(
        &self,
        piece: PieceId,
        of: Provenance,
        _from: Option<SocketAddr>,
        bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        let this = self.0.clone();
        async move {
            let source = Source::read(&of.place);
            let nameless = matches!(source, Some(Source::File { digest: false, .. }));
            let judge: Box<dyn FnOnce() -> bool + Send> = if let Some(sum) = this.sums.of(&piece) {
                Box::new(move || Digest::of(&bytes) == sum)
            } else if is_index(&piece, &of) && !nameless {
                Box::new(move || Digest::of(&bytes) == piece.blob)
            } else if foreign::is_run(&piece, &of) {
                // Nothing proves a run by itself; whoever reads the blob hashes the whole before it believes it.
                return Verdict::Right;
            } else {
                let Some(tables) = this.tables(&of).await else {
                    return Verdict::Unproven;
                };
                let end = piece.offset.saturating_add(u64::from(piece.len));
                let row = tables
                    .tiling(&piece.blob, &(piece.offset..end))
                    .and_then(|rows| if let [row] = rows { Some(row.clone()) } else { None });
                let Some(row) = row else {
                    return Verdict::Unproven;
                };
                Box::new(move || tables.proves(&row, &bytes))
            };
            match tokio::task::spawn_blocking(judge).await {
                Ok(true) => Verdict::Right,
                Ok(false) => Verdict::Wrong,
                Err(_) => Verdict::Unproven,
            }
        }
        .boxed()
    }

    /// Only what a known index lists, or an index that can become known, from registries that this node knows: nobody
    /// can make it fetch what it likes.
    fn permits(&self, piece: &PieceId, of: &Provenance) -> bool {
        if foreign::is_run(piece, of) && !self.0.book.is_own(&of.index) {
            return self.0.is_known_place(&of.place);
        }
        if is_index(piece, of) {
            return of.index_len <= MAX_STORED_INDEX
                && (self.0.book.is_own(&of.index) || self.0.is_known_place(&of.place));
        }
        if let Some(tables) = self.0.book.known(&of.index) {
            let end = piece.offset.saturating_add(u64::from(piece.len));
            let listed = tables.tiling(&piece.blob, &(piece.offset..end));
            return listed.is_some_and(|rows| rows.len() == 1);
        }
        // Not in memory: whether it lists the piece shows when the piece is verified, before anything is kept.
        self.0.book.is_own(&of.index) || (index_piece(of).is_some() && self.0.is_known_place(&of.place))
    }
}

impl Origin for Ports {
    fn read(
        &self,
        piece: PieceId,
        of: Provenance,
        _class: lacewing_p2p::Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        // Places where this node has found the blob itself come first; what another node says is asked last.
        let mut sources: Vec<Source> = self
            .0
            .origins
            .of_blob(&piece.blob)
            .into_iter()
            .map(Source::Blob)
            .collect();
        if self.0.is_known_place(&of.place)
            && let Some(said) = Source::read(&of.place)
            && !sources.contains(&said)
        {
            sources.push(said);
        }
        let this = self.0.clone();
        async move {
            let mut worst = OriginError {
                error: FetchError::Forbidden,
                retry_after: None,
                reason: "no registry is known to have it".to_owned(),
            };
            for source in sources {
                let read = match this.read_lent(&source, &piece).await {
                    Some(Ok(bytes)) => Ok(bytes),
                    // This node's own log-in may still be good, or another address.
                    _ => this.read_own(&source, &piece).await,
                };
                match read {
                    Ok(bytes) if bytes.len() == piece.len as usize => return Ok(bytes),
                    Ok(bytes) => {
                        let reason = format!("{} bytes came for {}", bytes.len(), piece.len);
                        worst = origin_error(SourceError::Corrupt(reason));
                    }
                    Err(error) => worst = origin_error(error),
                }
            }
            Err(worst)
        }
        .boxed()
    }
}

/// One for one.
fn origin_error(error: SourceError) -> OriginError {
    let (error, reason) = match error {
        SourceError::Missing(reason) => (FetchError::Missing, reason),
        SourceError::Corrupt(reason) => (FetchError::Corrupt, reason),
        SourceError::Forbidden(reason) => (FetchError::Forbidden, reason),
        SourceError::Unavailable(reason) => (FetchError::Unavailable, reason),
        other => (FetchError::Unavailable, other.to_string()),
    };
    OriginError {
        error,
        // The registry client itself waits as a registry asks, and keeps a breaker per host.
        retry_after: None,
        reason,
    }
}

fn peer_error(error: &GetError) -> SourceError {
    let text = error.to_string();
    match error.error {
        FetchError::Missing => SourceError::Missing(text),
        FetchError::Corrupt => SourceError::Corrupt(text),
        FetchError::Forbidden => SourceError::Forbidden(text),
        _ => SourceError::Unavailable(text),
    }
}

fn limits(config: &P2p) -> Limits {
    Limits {
        bytes: config.cache_bytes,
        age: config.cache_age,
    }
}

fn rates(config: &P2p) -> Rates {
    Rates {
        upload: config.upload_rate,
        peer: config.peer_rate,
        origin: config.registry_rate,
    }
}

fn members(config: &P2p, address: SocketAddr) -> (Arc<dyn Members>, Option<Outgoing>) {
    match &config.membership {
        Membership::Gossip => {
            let meta = Meta {
                zone: config.zone.clone(),
                class: 0,
                leaf: config.leaf,
                trees: TREES,
            };
            let (swim, outgoing) = Swim::start(SwimOptions {
                address,
                meta,
                seeds: config.seeds.clone(),
            });
            (Arc::new(swim), Some(outgoing))
        }
        Membership::Names => (Arc::new(Listed::start(Places::Names(config.seeds.clone()))), None),
        Membership::File(file) => (Arc::new(Listed::start(Places::File(file.clone()))), None),
    }
}

/// Where others reach this node: what is configured, else the address it listens on, else the one it has towards the
/// first seed.
fn own_address(config: &P2p) -> Result<SocketAddr> {
    if let Some(address) = config.address {
        return Ok(SocketAddr::new(address, config.listen.port()));
    }
    if !config.listen.ip().is_unspecified() {
        return Ok(config.listen);
    }
    let towards = || -> Result<SocketAddr> {
        let seed = config.seeds.first().context("there is no seed")?;
        let seed = seed
            .to_socket_addrs()?
            .next()
            .context("the first seed has no address")?;
        let any = if seed.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        let socket = UdpSocket::bind((any, 0))?;
        // Connecting a datagram socket sends nothing; it only chooses a way.
        socket.connect(seed)?;
        Ok(socket.local_addr()?)
    };
    let local =
        towards().context("p2p.address: which address others reach this node by has to be configured")?;
    Ok(SocketAddr::new(local.ip(), config.listen.port()))
}

/// Takes up changed limits and seeds from the configuration file.
async fn follow(file: std::path::PathBuf, mut current: P2p, node: Node) {
    let stamp = |file: &Path| std::fs::metadata(file).and_then(|data| data.modified()).ok();
    let mut seen = stamp(&file);
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let now = stamp(&file);
        if now == seen {
            continue;
        }
        seen = now;
        let read = crate::config::Config::load(Some(&file), crate::config::Overrides::default());
        let changed = match read {
            Ok(config) => config.p2p,
            Err(error) => {
                warn!("the changed configuration is not taken up: {error}");
                continue;
            }
        };
        let Some(changed) = changed else {
            info!("p2p: switched off in the file; SIGHUP makes it so");
            continue;
        };
        if changed == current {
            continue;
        }
        node.reload(Reload {
            rates: rates(&changed),
            seeds: changed.seeds.clone(),
            store: limits(&changed),
        });
        info!("p2p: limits and seeds are taken up from the changed file; the rest needs SIGHUP");
        current = changed;
    }
}
