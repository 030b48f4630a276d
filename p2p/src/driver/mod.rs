//! Runs a [`Swarm`](crate::swarm::Swarm): real time, sockets, the piece store.
//!
//! ```text
//!   Node::get ──commands──►┌──────┐──actions──► links, store, origin, verifier
//!                          │ loop │
//!   sockets, timers ──────►└──────┘◄──done───── whatever took time
//! ```
//!
//! One task owns the swarm and every connection. It never waits: what takes time (connecting, verifying, reading the
//! store, asking the origin) runs beside it and reports when it is done.

mod actions;
mod calls;
mod connections;
mod history;
mod known;
mod links;
mod node;
pub mod pace;
pub mod ports;
mod received;
mod telling;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lacewing_format::Digest;
use tokio::sync::{mpsc, oneshot};

pub use self::calls::Calls;
pub use self::history::{Source, Traffic, Trail};
pub use self::pace::Bucket;
pub use self::ports::{Origin, OriginError, Verdict, Verifier};
use crate::error::FetchError;
use crate::identity::Identity;
use crate::members::{Members, Outgoing};
use crate::piece::{Class, PieceId};
use crate::store::{Held, Limits, PieceStore};
use crate::swarm::{self, Explanation};
use crate::transport::{Provenance, Timing};

/// Everything a node is made of.
pub struct Parts {
    /// Where others reach it.
    pub address: SocketAddr,
    /// Where it listens; the port of `address` if that is the same.
    pub listen: SocketAddr,
    /// Its zone.
    pub zone: String,
    /// It asks, and is not to be asked.
    pub leaf: bool,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Who else is there.
    pub members: Arc<dyn Members>,
    /// What the membership sends to others.
    pub outgoing: Option<Outgoing>,
    /// What it keeps.
    pub store: PieceStore,
    /// Where pieces come from in the end.
    pub origin: Arc<dyn Origin>,
    /// What tells right from wrong.
    pub verifier: Arc<dyn Verifier>,
    /// How it behaves.
    pub swarm: swarm::Config,
    /// Signs of life.
    pub timing: Timing,
    /// Limits.
    pub rates: Rates,
}

/// Rate limits in bytes a second; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// To all other nodes together.
    pub upload: Option<u64>,
    /// To each of them.
    pub peer: Option<u64>,
    /// From registries.
    pub origin: Option<u64>,
}

/// What can change while a node runs.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Limits.
    pub rates: Rates,
    /// Where members may be found.
    pub seeds: Vec<String>,
    /// Bounds of the piece store.
    pub store: Limits,
}

/// Why a piece did not come, with what is known about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}{}", self.detail())]
pub struct GetError {
    /// The class of the failure.
    pub error: FetchError,
    /// What an origin or peer said last; may be empty.
    pub reason: String,
}

impl GetError {
    fn detail(&self) -> String {
        if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        }
    }
}

/// What a node has done and does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// Members known, without this node.
    pub members: u32,
    /// Connections, both ways.
    pub links: u32,
    /// What the piece store holds.
    pub held: Held,
    /// Verified bytes from other nodes.
    pub bytes_from_peers: u64,
    /// Verified bytes from origins.
    pub bytes_from_origin: u64,
    /// Bytes sent to other nodes.
    pub bytes_to_peers: u64,
    /// Connections that were refused or failed to be made.
    pub failed_links: u64,
    /// Nodes that sent wrong bytes, most recent last.
    pub wrong: Vec<SocketAddr>,
    /// The swarm's own counters.
    pub swarm: swarm::Status,
    /// The other members, by address.
    pub peers: Vec<PeerStatus>,
}

/// Another member, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its zone; may be empty.
    pub zone: String,
    /// It asks to be left alone.
    pub leaf: bool,
    /// There is a connection to it.
    pub linked: bool,
    /// What went to and fro.
    pub traffic: Traffic,
}

/// The beginning of a piece's tree.
#[derive(Clone, Debug, Default)]
pub struct Firsts {
    /// At most 16, earliest first, and whether each is earlier than this node. Without this node and those that it has cut
    /// off.
    pub peers: Vec<(SocketAddr, bool)>,
    /// How many members the cluster has.
    pub members: u32,
}

/// Whom a node would ask for a piece, and what it did to get it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Explained {
    /// What the swarm says.
    pub swarm: Explanation,
    /// Addresses of its candidates, nearest first.
    pub candidates: Vec<Option<SocketAddr>>,
    /// Addresses of those it waits for now.
    pub asked: Vec<Option<SocketAddr>>,
    /// What was done, if it is remembered.
    pub trail: Option<Trail>,
    /// It is in the piece store.
    pub here: bool,
}

enum Command {
    Want {
        piece: PieceId,
        of: Arc<Provenance>,
        class: Class,
        ticket: u64,
        reply: Option<oneshot::Sender<Result<Bytes, GetError>>>,
    },
    Unwant {
        piece: PieceId,
        ticket: u64,
    },
    Status(oneshot::Sender<Status>),
    Explain(PieceId, oneshot::Sender<Explained>),
    Reload(Box<Reload>),
    Call(SocketAddr, Bytes, oneshot::Sender<Bytes>),
    Answer(Arc<dyn Calls>),
    Pieces(Digest, oneshot::Sender<Vec<PieceId>>),
    Firsts(PieceId, oneshot::Sender<Firsts>),
    Distrust(SocketAddr, PieceId),
}

/// A running node. Cheap to clone; it ends when the last clone is gone.
#[derive(Clone)]
pub struct Node {
    commands: mpsc::UnboundedSender<Command>,
    store: PieceStore,
    tickets: Arc<std::sync::atomic::AtomicU64>,
}

impl Node {
    /// Binds the socket and starts. Needs a runtime around it.
    ///
    /// # Errors
    /// The address to listen on is not to be had.
    pub fn start(parts: Parts) -> std::io::Result<Node> {
        let listener = crate::transport::Endpoint::bind(parts.listen)?;
        let (commands, received) = mpsc::unbounded_channel();
        let store = parts.store.clone();
        node::start(parts, listener, received);
        Ok(Node {
            commands,
            store,
            tickets: Arc::default(),
        })
    }

    /// Gets a piece from the store, from other nodes or from its origin: verified bytes. When the future is dropped the
    /// piece comes into the store all the same.
    ///
    /// # Errors
    /// [`GetError`] after every way was tried, at the latest at the swarm's deadline.
    pub async fn get(&self, piece: PieceId, of: Arc<Provenance>, class: Class) -> Result<Bytes, GetError> {
        if let Some(bytes) = self.store.get(&piece).await {
            return Ok(bytes);
        }
        let ticket = self.tickets.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let (reply, answer) = oneshot::channel();
        let gone = || GetError {
            error: FetchError::Unavailable,
            reason: "the node is stopping".to_owned(),
        };
        let want = Command::Want {
            piece,
            of,
            class,
            ticket,
            reply: Some(reply),
        };
        self.commands.send(want).map_err(|_| gone())?;
        let _wish = Wanting {
            commands: &self.commands,
            piece,
            ticket,
        };
        answer.await.map_err(|_| gone())?
    }

    /// Fetches a piece into the store that will be wanted soon.
    pub fn prefetch(&self, piece: PieceId, of: Arc<Provenance>) {
        if !self.store.contains(&piece) {
            let _ = self.commands.send(Command::Want {
                piece,
                of,
                class: Class::Prefetch,
                ticket: 0,
                reply: None,
            });
        }
    }

    /// A piece of the store; nothing is fetched.
    pub async fn stored(&self, piece: &PieceId) -> Option<Bytes> {
        self.store.get(piece).await
    }

    /// Whether a piece is in the store.
    pub fn has(&self, piece: &PieceId) -> bool {
        self.store.contains(piece)
    }

    /// What it has done and does.
    pub async fn status(&self) -> Status {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Status(reply));
        let mut status = answer.await.unwrap_or_default();
        status.held = self.store.held();
        status
    }

    /// Whom it would ask for a piece, and what is going on with it.
    pub async fn explain(&self, piece: PieceId) -> Explained {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Explain(piece, reply));
        let mut explained = answer.await.unwrap_or_default();
        explained.here = self.store.contains(&piece);
        explained
    }

    /// Pieces of a blob that this node remembers to have asked for, in their order in the blob.
    pub async fn pieces_of(&self, blob: Digest) -> Vec<PieceId> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Pieces(blob, reply));
        answer.await.unwrap_or_default()
    }

    /// Who stands at the beginning of a piece's tree. The first reads the piece from its origin.
    pub async fn firsts(&self, piece: PieceId) -> Firsts {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Firsts(piece, reply));
        answer.await.unwrap_or_default()
    }

    /// Cuts a node off that gave, or vouched for, wrong bytes of a piece.
    pub fn distrust(&self, address: SocketAddr, piece: PieceId) {
        let _ = self.commands.send(Command::Distrust(address, piece));
    }

    /// Answers questions of other nodes from now on.
    pub fn answer_with(&self, calls: Arc<dyn Calls>) {
        let _ = self.commands.send(Command::Answer(calls));
    }

    /// Asks a member something; nothing if no answer came in time, or it cannot be reached.
    pub async fn call(&self, to: SocketAddr, question: Bytes, patience: Duration) -> Option<Bytes> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Call(to, question, reply)).ok()?;
        tokio::time::timeout(patience, answer).await.ok()?.ok()
    }

    /// Takes in a piece that came another way, verified by the caller; others may ask for it from now on.
    pub fn keep(&self, piece: PieceId, bytes: Bytes) {
        self.store.put(piece, bytes);
    }

    /// Takes a piece out that turned out to be wrong.
    pub fn forget(&self, piece: &PieceId) {
        self.store.remove(piece);
    }

    /// Takes up other limits and seeds. Transfers go on.
    pub fn reload(&self, reload: Reload) {
        self.store.set_limits(reload.store);
        let _ = self.commands.send(Command::Reload(Box::new(reload)));
    }
}

/// Forgets a waiter when its future is dropped.
struct Wanting<'a> {
    commands: &'a mpsc::UnboundedSender<Command>,
    piece: PieceId,
    ticket: u64,
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Unwant {
            piece: self.piece,
            ticket: self.ticket,
        });
    }
}

/// How often members that come and go are gathered into one new view.
const GATHER: Duration = Duration::from_millis(50);
