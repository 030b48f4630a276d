//! The event loop: nodes, links, messages.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use lacewing_format::Digest;
use lacewing_p2p::error::FetchError;
use lacewing_p2p::piece::{Class, PieceId};
use lacewing_p2p::swarm::{
    Action, Event, Failure, Hint, Member, OriginId, PeerId, Refusal, RequestId, Swarm, Time, TreeId, View,
    ZoneId,
};

use super::link::{Link, QUANTA, Transfer};
use super::reader::{Bits, Reader};
use super::scenario::Fault;
use super::{Nanos, Outcome, Rng, Scenario, mix};

/// Views are made for so many groups of nodes at most: one for each node would not fit into memory for 10,000.
const VIEWS: usize = 1000;
/// Fetches that the registry serves at once.
const REGISTRY_PLACES: usize = 64;
const ORIGIN: OriginId = OriginId(0);
const REGISTRY: u32 = u32::MAX;
/// After an error a reader tries again.
const AGAIN: Nanos = 100_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Ask(u32, u8, u16, u8, bool),
    Cancel,
    Promote,
    Accept,
    Redirect(u64),
    Refuse(u8),
    FromRegistry(u32, u8),
    CancelRegistry(u32),
    PromoteRegistry(u32),
    RegistryFailed(u32, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Start(u32),
    Read(u32),
    Rewant(u32, u32, u8),
    Crash(u32),
    Jump(u32, i64),
    Members(u32),
    Timer(u32),
    Quantum(u32),
    Come {
        to: u32,
        from: u32,
        request: u64,
        piece: u32,
        hint: [u32; 3],
    },
    Message {
        to: u32,
        from: u32,
        request: u64,
        told: Told,
        hint: [u32; 3],
    },
}

struct Node {
    swarm: Swarm,
    link: Link,
    held: Bits,
    reader: Reader,
    user: bool,
    slow: bool,
    dead: bool,
    timer: Nanos,
    /// How far the node's clock is from that of the world.
    clock: i64,
    parents: BTreeSet<u32>,
}

/// A run in progress.
pub struct World {
    scenario: Scenario,
    now: Nanos,
    count: u64,
    heap: BinaryHeap<Reverse<(Nanos, u64, What)>>,
    rng: Rng,
    nodes: Vec<Node>,
    ids: Vec<PeerId>,
    numbers: HashMap<PeerId, u32>,
    views: Vec<Arc<View>>,
    registry: Link,
    registry_pieces: u64,
    blob: Digest,
    to_finish: usize,
    actions: Vec<Action>,
    outcome: Outcome,
}

fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9) as Nanos
}

impl World {
    /// Sets a scenario up.
    pub fn new(scenario: Scenario) -> Self {
        let count = scenario.nodes;
        let mut rng = Rng::new(scenario.seed);
        let mut order: Vec<usize> = (0..count).collect();
        rng.shuffle(&mut order);
        let slow_count = (count as f64 * scenario.slow).round() as usize;
        let crash_count = (count as f64 * scenario.crashed).round() as usize;
        let mut slow = vec![false; count];
        for at in &order[..slow_count] {
            slow[*at] = true;
        }
        let crashing: Vec<usize> = order[slow_count..slow_count + crash_count].to_vec();
        let ids: Vec<PeerId> = (0..count as u64)
            .map(|n| PeerId(mix(scenario.seed.wrapping_mul(31_337) ^ n)))
            .collect();
        let numbers = ids.iter().enumerate().map(|(n, id)| (*id, n as u32)).collect();
        let nodes = (0..count)
            .map(|n| Node::new(&scenario, ids[n], slow[n]))
            .collect();
        let mut world = Self {
            now: 0,
            count: 0,
            heap: BinaryHeap::new(),
            nodes,
            ids,
            numbers,
            views: Vec::new(),
            registry: Link::new(scenario.registry_link, scenario.piece_bytes, REGISTRY_PLACES),
            registry_pieces: 0,
            blob: Digest::of(&scenario.seed.to_le_bytes()),
            to_finish: 0,
            actions: Vec::new(),
            outcome: Outcome::default(),
            rng,
            scenario,
        };
        world.choose_users();
        for at in crashing {
            let when = nanos(world.rng.fraction());
            world.push(when, What::Crash(at as u32));
        }
        world.make_views();
        world.begin();
        world
    }

    fn choose_users(&mut self) {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        self.rng.shuffle(&mut order);
        order.truncate(self.scenario.users.unwrap_or(usize::MAX));
        self.to_finish = order.len();
        for at in order {
            self.nodes[at].user = true;
        }
    }

    fn make_views(&mut self) {
        let zones = self.scenario.zones.max(1);
        let all: Vec<Member> = (self.ids.iter().enumerate())
            .map(|(n, id)| Member {
                id: *id,
                zone: ZoneId(n as u16 % zones),
                leaf: false,
            })
            .collect();
        if self.scenario.unseen == 0.0 {
            self.views.push(Arc::new(View::new(all)));
            return;
        }
        let groups = if all.len() > VIEWS { 64 } else { all.len() };
        for group in 0..groups {
            let mut seen = Vec::with_capacity(all.len());
            for (n, member) in all.iter().enumerate() {
                if n == group || self.rng.fraction() >= self.scenario.unseen {
                    seen.push(*member);
                }
            }
            self.views.push(Arc::new(View::new(seen)));
        }
    }

    fn begin(&mut self) {
        let faults = self.scenario.faults.clone();
        let joining = faults.iter().find_map(|fault| match fault {
            Fault::JoinOver(seconds) => Some(*seconds),
            _ => None,
        });
        for at in 0..self.nodes.len() {
            if joining.is_none() {
                let view = Arc::clone(&self.views[at % self.views.len()]);
                self.feed(at, Event::MembersChanged(view));
            }
            let spread = joining.map_or(nanos(self.rng.fraction() * self.scenario.jitter), |seconds| {
                nanos(seconds * at as f64 / self.nodes.len() as f64) + 200_000_000
            });
            if self.nodes[at].user {
                self.push(spread, What::Start(at as u32));
            }
        }
        if let Some(seconds) = joining {
            let steps = (seconds / 0.2).ceil() as u32;
            for step in 0..=steps {
                self.push(u64::from(step) * 200_000_000, What::Members(step));
            }
        }
        for fault in faults {
            if let Fault::ClockJump { node, at, by } = fault {
                self.push(nanos(at), What::Jump(node as u32, (by * 1e9) as i64));
            }
        }
    }

    fn push(&mut self, at: Nanos, what: What) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count, what)));
    }

    /// Runs until all users have what they want, and then until nothing is left to do.
    pub fn run(mut self) -> Outcome {
        let limit = nanos(self.scenario.limit);
        while let Some(Reverse((at, count, what))) = self.heap.pop() {
            if at > limit {
                break;
            }
            self.now = at;
            self.outcome.events += 1;
            self.outcome.fingerprint = mix(self.outcome.fingerprint ^ at ^ count.rotate_left(32));
            self.step(what);
            if self.to_finish == 0 && self.drained() {
                break;
            }
        }
        self.conclude()
    }

    /// Whether, all users being done, no link is busy and no message under way.
    fn drained(&self) -> bool {
        let idle = |entry: &Reverse<(Nanos, u64, What)>| {
            matches!(entry.0.2, What::Timer(_) | What::Members(_) | What::Crash(_))
        };
        self.heap.len() <= 4 * self.nodes.len() && self.heap.iter().all(idle)
    }

    fn step(&mut self, what: What) {
        match what {
            What::Start(at) => self.start(at as usize),
            What::Read(at) => self.read(at as usize),
            What::Rewant(at, piece, class) => self.want(at as usize, piece as usize, class),
            What::Crash(at) => self.crash(at as usize),
            What::Jump(at, by) => {
                self.nodes[at as usize].clock += by;
                self.feed(at as usize, Event::TimerFired);
            }
            What::Members(step) => self.members_join(step),
            What::Timer(at) => {
                if self.nodes[at as usize].timer == self.now {
                    self.nodes[at as usize].timer = Nanos::MAX;
                    self.feed(at as usize, Event::TimerFired);
                }
            }
            What::Quantum(at) => self.quantum(at),
            What::Come {
                to,
                from,
                request,
                piece,
                hint,
            } => self.come(to as usize, from, request, piece, hint),
            What::Message {
                to,
                from,
                request,
                told,
                hint,
            } => self.message(to, from, request, told, hint),
        }
    }

    fn members_join(&mut self, step: u32) {
        let total = self.nodes.len();
        let seconds = self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::JoinOver(seconds) => Some(*seconds),
            _ => None,
        });
        let joined = (f64::from(step + 1) * 0.2 / seconds.unwrap_or(1.0) * total as f64) as usize;
        let joined = joined.clamp(1, total);
        let zones = self.scenario.zones.max(1);
        let member = |n: usize| Member {
            id: self.ids[n],
            zone: ZoneId(n as u16 % zones),
            leaf: false,
        };
        let view = Arc::new(View::new((0..joined).map(member).collect()));
        for at in 0..joined {
            self.feed(at, Event::MembersChanged(Arc::clone(&view)));
        }
    }

    fn crash(&mut self, at: usize) {
        if self.nodes[at].user && self.nodes[at].reader.done.is_none() {
            self.to_finish -= 1;
        }
        self.nodes[at].dead = true;
    }

    // ---------------------------------------------------------------- readers

    fn piece(&self, number: usize) -> PieceId {
        let len = self.scenario.piece_bytes;
        PieceId {
            blob: self.blob,
            offset: number as u64 * u64::from(len),
            len,
        }
    }

    fn number(&self, piece: &PieceId) -> usize {
        (piece.offset / u64::from(self.scenario.piece_bytes)) as usize
    }

    fn start(&mut self, at: usize) {
        if self.nodes[at].dead {
            return;
        }
        self.nodes[at].reader.started = self.now;
        if self.scenario.reads > 0 {
            self.read(at);
        }
        self.prefetch(at);
    }

    fn prefetch(&mut self, at: usize) {
        loop {
            let window = if self.scenario.reads == 0 {
                self.scenario.window.max(1)
            } else {
                self.scenario.window
            };
            let node = &mut self.nodes[at];
            let reader = &mut node.reader;
            if reader.started == Nanos::MAX
                || reader.outstanding >= window
                || reader.next >= self.scenario.pieces
            {
                return;
            }
            let piece = reader.next;
            reader.next += 1;
            if !node.held.get(piece) {
                reader.outstanding += 1;
                reader.prefetching.set(piece);
                self.want(at, piece, Class::Prefetch as u8);
            }
        }
    }

    fn want(&mut self, at: usize, piece: usize, class: u8) {
        if self.nodes[at].dead || self.nodes[at].held.get(piece) {
            return;
        }
        let (piece, class) = (self.piece(piece), class_of(class));
        self.feed(
            at,
            Event::Wanted {
                piece,
                class,
                origin: ORIGIN,
            },
        );
    }

    fn read(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.dead {
            return;
        }
        if node.reader.reads >= self.scenario.reads {
            self.finish(at);
            return;
        }
        let piece = Reader::piece_of_read(node.reader.reads, self.scenario.pieces);
        node.reader.reads += 1;
        node.reader.reading = Some((piece, self.now));
        if node.held.get(piece) {
            self.read_done(at);
        } else {
            self.want(at, piece, Class::Blocking as u8);
        }
    }

    fn read_done(&mut self, at: usize) {
        if let Some((_, since)) = self.nodes[at].reader.reading.take() {
            if !self.nodes[at].slow {
                self.outcome.latency.push((self.now - since) as f64 / 1e6);
            }
            let think = -self.scenario.think * (1.0 - self.rng.fraction()).ln();
            self.push(self.now + nanos(think), What::Read(at as u32));
        }
    }

    fn finish(&mut self, at: usize) {
        if self.nodes[at].reader.done.is_none() {
            self.nodes[at].reader.done = Some(self.now);
            self.to_finish -= 1;
        }
    }

    fn delivered(&mut self, at: usize, piece: usize) {
        assert!(
            self.nodes[at].held.get(piece),
            "what is delivered is in the store"
        );
        let reader = &mut self.nodes[at].reader;
        if reader.prefetching.get(piece) {
            reader.outstanding = reader.outstanding.saturating_sub(1);
        }
        if reader.reading.is_some_and(|reading| reading.0 == piece) {
            self.read_done(at);
        }
        self.check_done(at);
        self.prefetch(at);
    }

    fn check_done(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.user && self.scenario.reads == 0 && node.reader.held == self.scenario.pieces {
            self.finish(at);
        }
    }

    // ---------------------------------------------------------------- swarms

    fn feed(&mut self, at: usize, event: Event) {
        if self.nodes[at].dead {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        let now = Time(self.now.saturating_add_signed(self.nodes[at].clock));
        self.nodes[at].swarm.handle(now, event, &mut actions);
        // what an action causes on this very node must not come between the others
        let batch = std::mem::take(&mut actions);
        for action in &batch {
            self.act(at, *action);
        }
        actions = batch;
        actions.clear();
        self.actions = actions;
    }

    fn act(&mut self, at: usize, action: Action) {
        let from = at as u32;
        match action {
            Action::Ask {
                peer,
                request,
                piece,
                class,
                tree,
                redirects,
                held_only,
                hint,
                ..
            } => {
                let tree_order = tree.distance(peer) < tree.distance(self.ids[at]);
                assert!(tree_order || held_only, "only earlier nodes are asked to fetch");
                let told = Told::Ask(
                    self.number(&piece) as u32,
                    class as u8,
                    tree.0,
                    redirects,
                    held_only,
                );
                self.nodes[at].parents.extend(self.numbers.get(&peer));
                self.tell(from, peer, request, told, hint);
            }
            Action::Cancel { peer, request } => self.tell(from, peer, request, Told::Cancel, Hint::default()),
            Action::Promote { peer, request } => {
                self.tell(from, peer, request, Told::Promote, Hint::default())
            }
            Action::Accept { to, request, hint } => self.tell(from, to, request, Told::Accept, hint),
            Action::Redirect {
                to,
                request,
                next,
                hint,
            } => self.tell(from, to, request, Told::Redirect(next.0), hint),
            Action::Refuse { to, request, reason } => {
                self.tell(
                    from,
                    to,
                    request,
                    Told::Refuse(number_of(reason)),
                    Hint::default(),
                );
            }
            Action::AskOrigin { piece, class, .. } => {
                let told = Told::FromRegistry(self.number(&piece) as u32, class as u8);
                self.tell_registry(from, told);
            }
            Action::CancelOrigin { piece } => {
                self.tell_registry(from, Told::CancelRegistry(self.number(&piece) as u32))
            }
            Action::PromoteOrigin { piece } => {
                self.tell_registry(from, Told::PromoteRegistry(self.number(&piece) as u32));
            }
            Action::Serve {
                to,
                request,
                piece,
                class,
                ..
            } => self.serve(at, to, request, &piece, class),
            Action::PromoteUpload { to, request } => {
                let to = self.numbers[&to];
                self.nodes[at].link.promote(to, request);
            }
            Action::StopUpload { to, request } => {
                let to = self.numbers[&to];
                self.nodes[at].link.remove(to, request);
            }
            Action::Deliver { piece } => self.delivered(at, self.number(&piece)),
            Action::Fail { piece, .. } => {
                self.outcome.failures += 1;
                let piece = self.number(&piece);
                let blocking = self.nodes[at]
                    .reader
                    .reading
                    .is_some_and(|reading| reading.0 == piece);
                let class = if blocking {
                    Class::Blocking
                } else {
                    Class::Prefetch
                };
                self.push(self.now + AGAIN, What::Rewant(from, piece as u32, class as u8));
            }
            Action::SetTimer(Time(when)) => {
                let when = when
                    .saturating_add_signed(-self.nodes[at].clock)
                    .max(self.now + 1);
                self.nodes[at].timer = when;
                self.push(when, What::Timer(from));
            }
            _ => {}
        }
    }

    fn serve(&mut self, at: usize, to: PeerId, request: RequestId, piece: &PieceId, class: Class) {
        if self.scenario.faults.contains(&Fault::Stalled(at)) {
            return;
        }
        let transfer = Transfer {
            to: self.numbers[&to],
            request,
            piece: self.number(piece) as u32,
            left: QUANTA,
            began: self.now,
            cancelled: false,
        };
        self.nodes[at].link.add(transfer, class as usize);
        self.start_link(at as u32);
    }

    // ---------------------------------------------------------------- network

    fn parted(&self, one: u32, other: u32) -> bool {
        self.scenario.faults.iter().any(|fault| match fault {
            Fault::Partition { below, from, until } => {
                let during = self.now >= nanos(*from) && self.now < nanos(*until);
                during && ((one as usize) < *below) != ((other as usize) < *below)
            }
            _ => false,
        })
    }

    fn tell(&mut self, from: u32, to: PeerId, request: RequestId, told: Told, hint: Hint) {
        let to = self.numbers[&to];
        if self.nodes[to as usize].dead || self.parted(from, to) {
            return;
        }
        let at = self.now + nanos(self.scenario.rtt / 2.0);
        let hint = [hint.demand, hint.wants, hint.rate];
        self.push(
            at,
            What::Message {
                to,
                from,
                request: request.0,
                told,
                hint,
            },
        );
    }

    fn tell_registry(&mut self, from: u32, told: Told) {
        if self.parted(from, REGISTRY) {
            if let Told::FromRegistry(piece, _) = told {
                // no route: the client gives up after its connect timeout
                let told = Told::RegistryFailed(piece, 0);
                self.push(
                    self.now + 50_000_000,
                    What::Message {
                        to: from,
                        from: REGISTRY,
                        request: 0,
                        told,
                        hint: [0; 3],
                    },
                );
            }
            return;
        }
        let at = self.now + nanos(self.scenario.rtt / 2.0);
        self.push(
            at,
            What::Message {
                to: REGISTRY,
                from,
                request: 0,
                told,
                hint: [0; 3],
            },
        );
    }

    fn message(&mut self, to: u32, from: u32, request: u64, told: Told, hint: [u32; 3]) {
        if to == REGISTRY {
            self.at_registry(from, told);
            return;
        }
        let (peer, request) = (
            self.ids.get(from as usize).copied().unwrap_or(PeerId(0)),
            RequestId(request),
        );
        let hint = Hint {
            demand: hint[0],
            wants: hint[1],
            rate: hint[2],
        };
        let event = match told {
            Told::Ask(piece, class, tree, redirects, held_only) => Event::Requested {
                from: peer,
                request,
                piece: self.piece(piece as usize),
                class: class_of(class),
                tree: TreeId(tree),
                redirects,
                held_only,
                origin: Some(ORIGIN),
                hint,
                here: self.nodes[to as usize].held.get(piece as usize),
            },
            Told::Cancel => Event::RequestCancelled { from: peer, request },
            Told::Promote => Event::RequestPromoted { from: peer, request },
            Told::Accept => Event::Accepted { request, hint },
            Told::Redirect(next) => Event::Redirected {
                request,
                to: PeerId(next),
                hint,
            },
            Told::Refuse(reason) => Event::Refused {
                request,
                reason: reason_of(reason),
            },
            Told::RegistryFailed(piece, retry_after) => Event::OriginFailed {
                piece: self.piece(piece as usize),
                error: FetchError::Unavailable,
                retry_after: (retry_after > 0).then_some(std::time::Duration::from_nanos(retry_after)),
            },
            Told::FromRegistry(..) | Told::CancelRegistry(_) | Told::PromoteRegistry(_) => return,
        };
        self.feed(to as usize, event);
    }

    fn at_registry(&mut self, from: u32, told: Told) {
        let name = |piece: u32| RequestId(u64::from(piece));
        match told {
            Told::FromRegistry(piece, class) => {
                if let Some(retry_after) = self.registry_refuses() {
                    let told = Told::RegistryFailed(piece, retry_after);
                    let at = self.now + nanos(self.scenario.rtt / 2.0);
                    self.push(
                        at,
                        What::Message {
                            to: from,
                            from: REGISTRY,
                            request: 0,
                            told,
                            hint: [0; 3],
                        },
                    );
                    return;
                }
                self.registry_pieces += 1;
                let transfer = Transfer {
                    to: from,
                    request: name(piece),
                    piece,
                    left: QUANTA,
                    began: self.now,
                    cancelled: false,
                };
                self.registry.add(transfer, usize::from(class));
                self.start_link(REGISTRY);
            }
            Told::CancelRegistry(piece) => self.registry.remove(from, name(piece)),
            Told::PromoteRegistry(piece) => self.registry.promote(from, name(piece)),
            _ => {}
        }
    }

    fn registry_refuses(&self) -> Option<u64> {
        self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::RegistryGoneAfter(copies) => {
                (self.registry_pieces as f64 >= copies * self.scenario.pieces as f64).then_some(0)
            }
            Fault::RegistryLimits { until, retry_after } => {
                (self.now < nanos(*until)).then_some(nanos(*retry_after))
            }
            _ => None,
        })
    }

    fn start_link(&mut self, at: u32) {
        let link = if at == REGISTRY {
            &mut self.registry
        } else {
            &mut self.nodes[at as usize].link
        };
        if link.start() {
            let when = self.now + link.quantum;
            self.push(when, What::Quantum(at));
        }
    }

    fn quantum(&mut self, at: u32) {
        let link = if at == REGISTRY {
            &mut self.registry
        } else {
            &mut self.nodes[at as usize].link
        };
        let sent = link.sent();
        let alive = at == REGISTRY || !self.nodes[at as usize].dead;
        if !alive {
            return;
        }
        if let Some(transfer) = sent {
            self.deliver_quantum(at, transfer);
        }
        self.start_link(at);
    }

    fn deliver_quantum(&mut self, from: u32, transfer: Transfer) {
        let to = transfer.to as usize;
        if from != REGISTRY && self.scenario.zones > 1 {
            let zones = u32::from(self.scenario.zones);
            if from % zones != transfer.to % zones {
                self.outcome.between_zones += 1.0;
            }
        }
        let arrives = self.now + nanos(self.scenario.rtt / 2.0);
        let come_in = self.nodes[to].link.come_in(arrives);
        if transfer.left > 0 {
            return;
        }
        let mut hint = Hint::default();
        if from != REGISTRY {
            let took = std::time::Duration::from_nanos(self.now - transfer.began);
            let (peer, request) = (self.ids[to], transfer.request);
            hint.rate = self.nodes[from as usize].swarm.status().rate;
            self.feed(
                from as usize,
                Event::Uploaded {
                    to: peer,
                    request,
                    took,
                },
            );
        }
        if !self.parted(from, transfer.to) {
            let what = What::Come {
                to: transfer.to,
                from,
                request: transfer.request.0,
                piece: transfer.piece,
                hint: [hint.demand, hint.wants, hint.rate],
            };
            self.push(come_in + nanos(self.scenario.verify), what);
        }
    }

    fn come(&mut self, to: usize, from: u32, request: u64, piece: u32, hint: [u32; 3]) {
        if self.nodes[to].dead {
            return;
        }
        let number = piece as usize;
        if from != REGISTRY && self.scenario.faults.contains(&Fault::Liar(from as usize)) {
            self.outcome.corrupt_found += 1;
            let failure = Failure::Corrupt;
            self.feed(
                to,
                Event::AskFailed {
                    request: RequestId(request),
                    failure,
                },
            );
            return;
        }
        if self.nodes[to].held.set(number) {
            self.nodes[to].reader.held += 1;
            self.check_done(to);
        } else {
            self.outcome.wasted += 1;
        }
        let piece = self.piece(number);
        let hint = Hint {
            demand: hint[0],
            wants: hint[1],
            rate: hint[2],
        };
        if from == REGISTRY {
            self.feed(to, Event::OriginReceived { piece });
        } else {
            self.feed(
                to,
                Event::Received {
                    request: RequestId(request),
                    hint,
                },
            );
        }
        self.feed(to, Event::PieceArrived { piece }); // it may have been called off when it was here already
    }

    // ---------------------------------------------------------------- end

    fn conclude(mut self) -> Outcome {
        let pieces = self.scenario.pieces as f64;
        let quanta = f64::from(QUANTA);
        let mut uploads = Vec::new();
        for node in &self.nodes {
            let status = node.swarm.status();
            self.outcome.hedged += status.hedged;
            self.outcome.redirected += status.redirected;
            if node.dead {
                continue;
            }
            uploads.push(node.link.sent as f64 / quanta / pieces);
            self.outcome.most_parents = self.outcome.most_parents.max(node.parents.len());
            self.outcome.left_over += (status.flights + status.queued) as usize;
            if !node.user {
                continue;
            }
            match (node.reader.done, node.slow) {
                (None, _) => self.outcome.unfinished += 1,
                (Some(done), slow) => {
                    let took = (done - node.reader.started) as f64 / 1e9;
                    let times = if slow {
                        &mut self.outcome.slow_completion
                    } else {
                        &mut self.outcome.completion
                    };
                    times.push(took);
                }
            }
        }
        self.outcome.copies = self.registry.sent as f64 / quanta / pieces;
        self.outcome.upload_max = uploads.iter().copied().fold(0.0, f64::max);
        let total: f64 = uploads.iter().sum();
        self.outcome.upload_mean = total / uploads.len() as f64;
        let wanted: f64 = self
            .nodes
            .iter()
            .filter(|node| node.user)
            .map(|node| node.reader.held as f64 / pieces)
            .sum();
        self.outcome.moved = (total + self.outcome.copies) / wanted;
        self.outcome.between_zones /= quanta * pieces;
        for times in [
            &mut self.outcome.completion,
            &mut self.outcome.slow_completion,
            &mut self.outcome.latency,
        ] {
            times.sort_by(f64::total_cmp);
        }
        self.outcome
    }
}

impl Node {
    fn new(scenario: &Scenario, id: PeerId, slow: bool) -> Self {
        let rate = if slow { scenario.link / 10.0 } else { scenario.link };
        Self {
            swarm: Swarm::new(scenario.config.clone(), id, scenario.seed ^ id.0),
            link: Link::new(rate, scenario.piece_bytes, usize::MAX),
            held: Bits::new(scenario.pieces),
            reader: Reader::new(scenario.pieces),
            user: false,
            slow,
            dead: false,
            timer: Nanos::MAX,
            clock: 0,
            parents: BTreeSet::new(),
        }
    }
}

fn class_of(number: u8) -> Class {
    if number == Class::Blocking as u8 {
        Class::Blocking
    } else {
        Class::Prefetch
    }
}

const REASONS: [Refusal; 5] = [
    Refusal::Busy,
    Refusal::Unavailable,
    Refusal::Missing,
    Refusal::Forbidden,
    Refusal::Order,
];

fn number_of(reason: Refusal) -> u8 {
    REASONS.iter().position(|known| *known == reason).unwrap_or(0) as u8
}

fn reason_of(number: u8) -> Refusal {
    REASONS[usize::from(number)]
}
