//! The loop: what happens outside becomes events; connections are in [`super::connections`], what comes over them in
//! [`super::received`], and the way back is in [`super::actions`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::calls::Calling;
use super::history::History;
use super::known::Known;
use super::links::Links;
use super::pace::Uploads;
use super::{
    Bucket, Command, Firsts, GATHER, GetError, Origin, OriginError, Outgoing, Parts, Status, Verdict,
    Verifier,
};
use crate::error::FetchError;
use crate::identity::Identity;
use crate::members::{Members, peer_id};
use crate::piece::{Class, PieceId};
use crate::store::PieceStore;
use crate::swarm::{Action, Event, Hint, PeerId, RequestId, Swarm, Time};
use crate::transport::{Context, Endpoint, Incoming, Link, LinkId, Provenance, TransportError};

/// Things that happened on sockets and wait to be looked at; a full queue stops the reading.
const HAPPENINGS: usize = 4096;

/// Certificates are looked after, old pieces swept and lost connections made anew so often.
const HOUSEKEEPING: std::time::Duration = std::time::Duration::from_secs(5);

/// How many members of the beginning of a tree are told of; as many are asked for what they hold when an origin is gone.
const FIRSTS: usize = 16;

/// Something that took time is done.
pub(super) enum Done {
    /// An event that followed from an action at once.
    Told(Event),
    /// A connection is to be closed.
    Cut(LinkId),
    /// A message of members, for one of them.
    Say(SocketAddr, Bytes),
    Dialed(PeerId, Result<Link, TransportError>),
    Judged {
        request: RequestId,
        piece: PieceId,
        hint: Hint,
        bytes: Bytes,
        verdict: Verdict,
    },
    Origin(PieceId, Result<(Bytes, Verdict), OriginError>),
    Loaded {
        to: PeerId,
        request: RequestId,
        class: Class,
        hint: Hint,
        bytes: Option<Bytes>,
    },
}

/// A reader of this node that waits for a piece.
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) reply: oneshot::Sender<Result<Bytes, GetError>>,
}

/// Everything the loop owns.
pub(super) struct Loop {
    pub(super) swarm: Swarm,
    pub(super) begun: Instant,
    pub(super) timer: Option<Time>,
    pub(super) links: Links,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) identity: Arc<Identity>,
    pub(super) members: Arc<dyn Members>,
    pub(super) store: PieceStore,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) verifier: Arc<dyn Verifier>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) origin_rate: Arc<Bucket>,
    pub(super) known: Known,
    pub(super) waiters: HashMap<PieceId, Vec<Waiter>>,
    /// Requests of ours: whom they went to.
    pub(super) asked: HashMap<RequestId, (PeerId, PieceId)>,
    /// Requests of others: the connection they came by.
    pub(super) asking: HashMap<(PeerId, RequestId), LinkId>,
    pub(super) origins: HashMap<PieceId, AbortHandle>,
    /// What an origin said last about a piece.
    pub(super) reasons: HashMap<PieceId, String>,
    pub(super) done: mpsc::UnboundedSender<Done>,
    pub(super) status: Status,
    pub(super) history: History,
    pub(super) calling: Calling,
    pub(super) me: Me,
    pub(super) is_member: std::collections::HashSet<PeerId>,
}

/// This node as a member.
pub(super) struct Me {
    pub(super) id: PeerId,
    pub(super) address: SocketAddr,
    pub(super) zone: String,
    pub(super) leaf: bool,
}

/// Starts the loop and all that reports to it.
pub(super) fn start(parts: Parts, listener: TcpListener, commands: mpsc::UnboundedReceiver<Command>) {
    let (happenings, happened) = mpsc::channel(HAPPENINGS);
    let (incoming, arriving) = mpsc::channel(64);
    let (done, finished) = mpsc::unbounded_channel();
    let uploads = Uploads::new(parts.rates.upload, parts.rates.peer);
    let context = Context {
        events: happenings,
        pace: uploads.clone(),
        timing: parts.timing,
    };
    let endpoint = Arc::new(Endpoint::new(parts.identity.clone(), parts.address, context));
    tokio::spawn(endpoint.clone().listen(listener, incoming));
    let id = peer_id(parts.address);
    let state = Loop {
        swarm: Swarm::new(parts.swarm, id, rand::random()),
        begun: Instant::now(),
        timer: None,
        links: Links::default(),
        endpoint,
        identity: parts.identity,
        members: parts.members,
        store: parts.store,
        origin: parts.origin,
        verifier: parts.verifier,
        uploads,
        origin_rate: Arc::new(Bucket::new(parts.rates.origin)),
        known: Known::new(Instant::now()),
        waiters: HashMap::new(),
        asked: HashMap::new(),
        asking: HashMap::new(),
        origins: HashMap::new(),
        reasons: HashMap::new(),
        done,
        status: Status::default(),
        history: History::default(),
        calling: Calling::default(),
        me: Me {
            id,
            address: parts.address,
            zone: parts.zone,
            leaf: parts.leaf,
        },
        is_member: std::collections::HashSet::new(),
    };
    let inputs = Inputs {
        commands,
        happened,
        arriving,
        finished,
        outgoing: parts.outgoing,
    };
    tokio::spawn(state.run(inputs));
}

struct Inputs {
    commands: mpsc::UnboundedReceiver<Command>,
    happened: mpsc::Receiver<crate::transport::Event>,
    arriving: mpsc::Receiver<Incoming>,
    finished: mpsc::UnboundedReceiver<Done>,
    outgoing: Option<Outgoing>,
}

async fn gossip(outgoing: &mut Option<Outgoing>) -> (SocketAddr, Bytes) {
    if let Some(receiver) = outgoing {
        if let Some(message) = receiver.recv().await {
            return message;
        }
        *outgoing = None;
    }
    std::future::pending().await
}

impl Loop {
    async fn run(mut self, mut inputs: Inputs) {
        let mut members = self.members.watch();
        members.mark_changed();
        let mut keep = tokio::time::interval(HOUSEKEEPING);
        keep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gathering: Option<tokio::time::Instant> = None;
        loop {
            let timer = self
                .timer
                .map(|at| self.begun + std::time::Duration::from_nanos(at.0));
            let fire = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let gather = async {
                match gathering {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inputs.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(event) = inputs.happened.recv() => self.happened(event.link, event.what),
                Some(incoming) = inputs.arriving.recv() => self.arrived(incoming),
                Some(done) = inputs.finished.recv() => self.finished(done),
                (to, bytes) = gossip(&mut inputs.outgoing) => self.gossip(to, bytes),
                () = fire => {
                    self.timer = None;
                    self.tell(Event::TimerFired);
                }
                changed = members.changed(), if gathering.is_none() => {
                    gathering = changed.is_ok().then(|| tokio::time::Instant::now() + GATHER);
                    if changed.is_err() {
                        gathering = Some(tokio::time::Instant::now() + std::time::Duration::from_secs(86_400));
                    }
                }
                () = gather => {
                    gathering = None;
                    self.members_changed(&mut members);
                }
                _ = keep.tick() => self.keep_house(),
            }
        }
    }

    /// Tells the swarm and does what it wants done.
    pub(super) fn tell(&mut self, event: Event) {
        let now = Time(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let mut actions: Vec<Action> = Vec::new();
        self.swarm.handle(now, event, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want {
                piece,
                of,
                class,
                ticket,
                reply,
            } => self.want(piece, of, class, ticket, reply),
            Command::Unwant { piece, ticket } => {
                // The piece comes all the same: who gave up after a while asks again, and it is in the store then.
                if let Some(waiters) = self.waiters.get_mut(&piece) {
                    waiters.retain(|waiter| waiter.ticket != ticket);
                    if waiters.is_empty() {
                        self.waiters.remove(&piece);
                    }
                }
            }
            Command::Status(reply) => {
                self.status.swarm = self.swarm.status();
                self.status.links = u32::try_from(self.links.count()).unwrap_or(u32::MAX);
                self.status.peers = self.peer_status();
                let _ = reply.send(self.status.clone());
            }
            Command::Explain(piece, reply) => {
                let _ = reply.send(self.explained(&piece));
            }
            Command::Call(to, question, reply) => {
                if let Some(message) = self.calling.ask(to, &question, reply) {
                    self.gossip(to, message);
                }
            }
            Command::Answer(calls) => self.calling.answers = Some(calls),
            Command::Firsts(piece, reply) => {
                let firsts = self.swarm.firsts(&piece, FIRSTS).into_iter();
                let known = firsts.filter_map(|(peer, earlier)| Some((self.links.address(peer)?, earlier)));
                let (peers, members) = (known.collect(), self.status.members);
                let _ = reply.send(Firsts { peers, members });
            }
            Command::Distrust(address, piece) => {
                self.name(address, &piece);
                let peer = peer_id(address);
                self.tell(Event::PeerLied { peer });
            }
            Command::Pieces(blob, reply) => {
                let _ = reply.send(self.history.pieces_of(&blob));
            }
            Command::Reload(reload) => {
                self.uploads.set(reload.rates.upload, reload.rates.peer);
                self.origin_rate.set(reload.rates.origin);
                self.members.set_seeds(reload.seeds);
            }
        }
    }

    fn want(
        &mut self,
        piece: PieceId,
        of: Arc<Provenance>,
        class: Class,
        ticket: u64,
        reply: Option<oneshot::Sender<Result<Bytes, GetError>>>,
    ) {
        if self.store.contains(&piece) {
            // It came between the look into the store and now.
            if let Some(reply) = reply {
                let store = self.store.clone();
                tokio::spawn(async move {
                    let answer = store.get(&piece).await.ok_or_else(|| GetError {
                        error: FetchError::Unavailable,
                        reason: "it was evicted at once".to_owned(),
                    });
                    let _ = reply.send(answer);
                });
            }
            return;
        }
        let origin = self.known.origin(&of);
        self.known.note(piece, of, Instant::now());
        if let Some(reply) = reply {
            self.waiters
                .entry(piece)
                .or_default()
                .push(Waiter { ticket, reply });
        }
        self.tell(Event::Wanted { piece, class, origin });
    }

    fn keep_house(&mut self) {
        self.warm();
        let (identity, store) = (self.identity.clone(), self.store.clone());
        tokio::task::spawn_blocking(move || {
            match identity.refresh() {
                Ok(true) => tracing::info!("certificates changed; new connections use them"),
                Ok(false) => {}
                Err(error) => warn!("certificates stay as they were: {error}"),
            }
            store.sweep(Instant::now());
        });
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Told(event) => self.tell(event),
            Done::Cut(link) => self.closed(link),
            Done::Say(to, bytes) => self.gossip(to, bytes),
            Done::Dialed(peer, Ok(link)) => {
                let failed = self.links.connected(peer, link);
                self.unreachable(failed);
            }
            Done::Dialed(peer, Err(error)) => {
                debug!(peer = ?self.links.address(peer), "no connection: {error}");
                self.status.failed_links += 1;
                let failed = self.links.failed(peer, Instant::now());
                self.unreachable(failed);
                if let Some(address) = self.links.address(peer) {
                    self.calling.unanswered(address);
                }
            }
            Done::Judged {
                request,
                piece,
                hint,
                bytes,
                verdict,
            } => self.judged(request, piece, hint, bytes, verdict),
            Done::Origin(piece, result) => self.origin_answered(piece, result),
            Done::Loaded {
                to,
                request,
                class,
                hint,
                bytes,
            } => self.loaded(to, request, class, hint, bytes),
        }
    }
}
