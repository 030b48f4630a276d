//! The loop: what happens outside becomes events, see [`super::actions`] for the way back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::calls::Calling;
use super::history::{History, Source};
use super::known::Known;
use super::links::{Deferred, Links, Way};
use super::pace::Uploads;
use super::{
    Bucket, Command, Explained, Firsts, GATHER, GetError, Origin, OriginError, Outgoing, Parts, PeerStatus,
    Status, Verdict, Verifier,
};
use crate::error::FetchError;
use crate::identity::Identity;
use crate::members::{Members, Peer, TREES, peer_id};
use crate::piece::{Class, PieceId};
use crate::store::PieceStore;
use crate::swarm::{
    Action, Event, Failure, Hint, Member, PeerId, Refusal, RequestId, Swarm, Time, View, ZoneId,
};
use crate::transport::limits::MAX_INCOMING;
use crate::transport::{
    Context, Endpoint, Happening, Incoming, Link, LinkId, Message, Provenance, TransportError, Wish,
};

/// Things that happened on sockets and wait to be looked at; a full queue stops the reading.
const HAPPENINGS: usize = 4096;

/// Certificates are looked after, old pieces swept and lost connections made anew so often.
const HOUSEKEEPING: std::time::Duration = std::time::Duration::from_secs(5);

/// Connections are made before they are needed in clusters up to this size; in larger ones a node has about 64
/// partners, which it meets with its first pieces.
const WARM: usize = 128;

/// Nodes that sent wrong bytes and are told of in the status.
const MOST_WRONG: usize = 32;

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
            Command::Call(to, question, reply) => self.call(to, &question, reply),
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

    fn peer_status(&self) -> Vec<PeerStatus> {
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

    fn explained(&self, piece: &PieceId) -> Explained {
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

    fn members_changed(&mut self, members: &mut watch::Receiver<Arc<Vec<Peer>>>) {
        let peers = members.borrow_and_update().clone();
        let mut zones: HashMap<&str, ZoneId> = HashMap::new();
        let mut zone = |name| {
            let next = ZoneId(u16::try_from(zones.len()).unwrap_or(u16::MAX));
            *zones.entry(name).or_insert(next)
        };
        let mut all = vec![Member {
            id: self.me.id,
            zone: zone(self.me.zone.as_str()),
            leaf: self.me.leaf,
        }];
        for peer in peers.iter().filter(|peer| peer.address != self.me.address) {
            let id = peer_id(peer.address);
            self.links.learn(id, peer.address);
            all.push(Member {
                id,
                zone: zone(peer.meta.zone.as_str()),
                // Who cuts trees otherwise would be asked for what it does not expect.
                leaf: peer.meta.leaf || peer.meta.trees != TREES,
            });
        }
        self.status.members = u32::try_from(all.len() - 1).unwrap_or(u32::MAX);
        self.is_member = all.iter().map(|member| member.id).collect();
        debug!(members = self.status.members, "members changed");
        self.tell(Event::MembersChanged(Arc::new(View::new(all))));
        let members = &self.is_member;
        self.links.retain(|peer| members.contains(&peer));
        self.warm();
    }

    /// Makes connections before they are needed.
    fn warm(&mut self) {
        if self.is_member.len() > WARM {
            return;
        }
        let now = Instant::now();
        let others = self.is_member.iter().filter(|peer| **peer != self.me.id);
        for peer in others.copied().collect::<Vec<PeerId>>() {
            if let Some(address) = self.links.warm(peer, now) {
                self.dial(peer, address);
            }
        }
    }

    pub(super) fn dial(&mut self, peer: PeerId, address: SocketAddr) {
        let (endpoint, done) = (self.endpoint.clone(), self.done.clone());
        tokio::spawn(async move {
            let link = endpoint.connect(address).await;
            let _ = done.send(Done::Dialed(peer, link));
        });
    }

    fn arrived(&mut self, incoming: Incoming) {
        if self.links.inward_count() >= MAX_INCOMING {
            self.status.failed_links += 1;
            return;
        }
        let peer = peer_id(incoming.peer);
        self.links.learn(peer, incoming.peer);
        self.links.accepted(peer, incoming.link);
    }

    pub(super) fn gossip(&mut self, to: SocketAddr, bytes: Bytes) {
        let peer = peer_id(to);
        self.links.learn(peer, to);
        let message = Deferred::Message(Message::Exchange { bytes });
        match self.links.send(peer, message, Instant::now()) {
            Way::Dial(address) => self.dial(peer, address),
            Way::None => self.unanswered(to),
            Way::Sent | Way::Waits => {}
        }
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

    /// Something came over a connection.
    fn happened(&mut self, link: LinkId, what: Happening) {
        let Some((peer, inward)) = self.links.owner(link) else {
            return;
        };
        match what {
            Happening::Requested(request, wish) if inward => self.requested(peer, link, request, wish),
            Happening::Cancelled(request) if inward => {
                self.asking.remove(&(peer, request));
                self.tell(Event::RequestCancelled { from: peer, request });
            }
            Happening::Promoted(request) if inward => {
                self.tell(Event::RequestPromoted { from: peer, request });
            }
            Happening::Sent(request, took, len) => {
                self.status.bytes_to_peers += len as u64;
                if let Some(address) = self.links.address(peer) {
                    self.history.sent(address, len as u64);
                }
                self.asking.remove(&(peer, request));
                self.tell(Event::Uploaded {
                    to: peer,
                    request,
                    took,
                });
            }
            Happening::Acknowledged(request, hint) => self.tell(Event::Accepted { request, hint }),
            Happening::Progressed(request, bytes) => self.tell(Event::Progressed { request, bytes }),
            Happening::Arrived(request, bytes, hint) => self.judge(request, bytes, hint),
            Happening::Redirected(request, to, hint) => {
                self.asked.remove(&request);
                self.tell(Event::Redirected { request, to, hint });
            }
            Happening::Refused(request, reason) => {
                self.asked.remove(&request);
                self.tell(Event::Refused { request, reason });
            }
            Happening::Exchanged(bytes) => {
                if let Some(address) = self.links.address(peer)
                    && !self.called(address, &bytes)
                {
                    self.members.take(address, bytes);
                }
            }
            Happening::Closed(error) => {
                debug!(peer = ?self.links.address(peer), "connection ended: {error}");
                self.closed(link);
            }
            // An asker's message on a connection of ours.
            Happening::Requested(..) | Happening::Cancelled(_) | Happening::Promoted(_) => {}
        }
    }

    fn requested(&mut self, from: PeerId, link: LinkId, request: RequestId, wish: Wish) {
        let piece = wish.piece;
        let here = self.store.contains(&piece);
        let permitted = here || self.verifier.permits(&piece, &wish.of);
        let origin = permitted.then(|| self.known.origin(&wish.of));
        if !permitted {
            if let Some(link) = self.links.from(link) {
                link.send(Message::Refused {
                    id: request,
                    why: Refusal::Forbidden,
                });
            }
            return;
        }
        if !here && self.known.of(&piece).is_none() {
            self.known.note(piece, Arc::new(wish.of), Instant::now());
        }
        self.asking.insert((from, request), link);
        self.tell(Event::Requested {
            from,
            request,
            piece,
            class: wish.class,
            tree: wish.tree,
            redirects: wish.redirects,
            held_only: wish.held_only,
            origin,
            hint: wish.hint,
            here,
        });
    }

    /// Holds what a peer sent against the index, beside the loop.
    fn judge(&mut self, request: RequestId, bytes: Bytes, hint: Hint) {
        let Some((peer, piece)) = self.asked.get(&request).copied() else {
            return;
        };
        let (Some(of), Some(from)) = (self.known.of(&piece), self.links.address(peer)) else {
            return;
        };
        let (verifier, done) = (self.verifier.clone(), self.done.clone());
        tokio::spawn(async move {
            let verdict = verifier
                .verify(piece, (*of).clone(), Some(from), bytes.clone())
                .await;
            let _ = done.send(Done::Judged {
                request,
                piece,
                hint,
                bytes,
                verdict,
            });
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
                    self.unanswered(address);
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

    fn judged(&mut self, request: RequestId, piece: PieceId, hint: Hint, bytes: Bytes, verdict: Verdict) {
        let asked = self.asked.remove(&request);
        match verdict {
            Verdict::Right => {
                // Right bytes are welcome even if the request was given up meanwhile.
                if !self.store.contains(&piece) {
                    self.status.bytes_from_peers += bytes.len() as u64;
                    if let Some(address) = asked.and_then(|(peer, _)| self.links.address(peer)) {
                        self.history.came(piece, Source::Peer(address));
                    }
                    self.store.put(piece, bytes);
                }
                match asked {
                    Some(_) => self.tell(Event::Received { request, hint }),
                    None => self.tell(Event::PieceArrived { piece }),
                }
            }
            Verdict::Wrong => {
                if let Some(address) = asked.and_then(|(peer, _)| self.links.address(peer)) {
                    self.name(address, &piece);
                }
                self.tell(Event::AskFailed {
                    request,
                    failure: Failure::Corrupt,
                });
            }
            Verdict::Unproven => self.tell(Event::AskFailed {
                request,
                failure: Failure::Stalled,
            }),
        }
    }

    /// Tells who sent wrong bytes, or vouched for them.
    fn name(&mut self, address: SocketAddr, piece: &PieceId) {
        warn!(%address, ?piece, "a node is at fault for wrong bytes; it is cut off");
        self.history.was_wrong(*piece, address);
        self.status.wrong.push(address);
        if self.status.wrong.len() > MOST_WRONG {
            self.status.wrong.remove(0);
        }
    }

    /// Ends a connection from this side.
    pub(super) fn close(&mut self, link: LinkId) {
        // Later, when no action is being done: what it carried is over then.
        let _ = self.done.send(Done::Cut(link));
    }

    pub(super) fn unreachable(&mut self, requests: Vec<RequestId>) {
        for request in requests {
            self.asked.remove(&request);
            self.tell(Event::AskFailed {
                request,
                failure: Failure::Unreachable,
            });
        }
    }

    fn closed(&mut self, link: LinkId) {
        let Some((peer, inward)) = self.links.closed(link) else {
            return;
        };
        if inward {
            let gone = self.asking.iter().filter(|(_, by)| **by == link);
            let gone: Vec<(PeerId, RequestId)> = gone.map(|(key, _)| *key).collect();
            for (from, request) in gone {
                self.asking.remove(&(from, request));
                self.tell(Event::RequestCancelled { from, request });
            }
            return;
        }
        let failed = self.asked.iter().filter(|(_, (to, _))| *to == peer);
        let failed = failed.map(|(request, _)| *request).collect();
        self.unreachable(failed);
        if let Some(address) = self.links.address(peer) {
            self.unanswered(address);
        }
    }
}
