//! The piece layer under the store's port: pieces from other nodes before registries, for chunks and indexes.

mod book;
mod counters;
mod gone;
mod ports;
mod setup;
mod shared;
mod vouch;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use lacewing_format::Digest;
use lacewing_format::annotation::IndexRef;
use lacewing_fusefs::{Class, SourceError};
use lacewing_p2p::driver::{GetError, Parts};
use lacewing_p2p::identity::Identity;
use lacewing_p2p::store::PieceStore;
use lacewing_p2p::transport::{Provenance, Timing};
use lacewing_p2p::{FetchError, Node, PieceId};
use tracing::{info, warn};

use self::book::Book;
use self::gone::{Gone, MOST_HOSTS};
use self::ports::Ports;
pub(crate) use self::setup::own_address;
use self::setup::{follow, limits, members, rates};
use self::shared::Shared;
use super::origins::{Origins, Place};
use super::repositories::Repositories;
use crate::config::p2p::P2p;
use crate::foreign::{Failure, Lent, Sums, Wholes, Words};

/// Pieces that are fetched before the store asks for them, when it completes a layer: bounds, and where it begins.
const WINDOW: (usize, usize, usize) = (16, 48, 32);

/// A piece that took less makes the window larger, one that took twice as long smaller: about as much is on its way as
/// comes in this time. On a link of 40 Mbit/s a piece needs half a second for each node on its way here, so that a window
/// of a few pieces would leave the link idle.
const PACE: Duration = Duration::from_secs(2);

/// Requests to registries at a time. A few fill the link, and the one that somebody waits for comes before its turn; with
/// all of a window at once each would take as long as the window.
const AT_REGISTRIES: u32 = 8;

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
            words: Words::default(),
            gone: Gone::default(),
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
                Class::Ahead | Class::Background => lacewing_p2p::Class::Prefetch,
            };
            if class == Class::Background {
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

    /// Fetches pieces of a range that will be read soon, at most a window of them.
    pub(crate) async fn expect(&self, blob: Digest, range: Range<u64>) {
        let Some((of, tables)) = self.shared.describing(&blob, &range).await else {
            return;
        };
        let rows = tables.tiling(&blob, &range).unwrap_or_default();
        for row in rows.iter().take(self.window.load(Ordering::Relaxed)) {
            if let Some(piece) = piece(blob, &row.stored) {
                self.node.prefetch(piece, of.clone());
            }
        }
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

    /// On whose word runs are believed until their blob is proven.
    pub(crate) fn words(&self) -> &Words {
        &self.shared.words
    }

    /// Says what it knows of a run to another node, whose question it is.
    pub(crate) async fn say(&self, question: &[u8]) -> Option<Bytes> {
        self.shared.say(question).await
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
        let read = self.shared.read_patiently(&piece, of).await;
        read.map_err(|error| Failure::new(error.error, error.reason))
    }
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

fn peer_error(error: &GetError) -> SourceError {
    let text = error.to_string();
    match error.error {
        FetchError::Missing => SourceError::Missing(text),
        FetchError::Corrupt => SourceError::Corrupt(text),
        FetchError::Forbidden => SourceError::Forbidden(text),
        _ => SourceError::Unavailable(text),
    }
}
