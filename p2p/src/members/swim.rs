//! Members by gossip: SWIM (Das, Gupta, Motivala 2002) by the library `foca`, and an exchange of everything known.
//!
//! foca has no sockets and no clock; this task gives it both. Its packets travel over the same proven connections as
//! pieces. One packet holds about 70 members, so a node that joins a large cluster would learn of it slowly: it sends
//! all it knows to a seed, which answers with all that it knows; later each node does so with a random member every few
//! minutes, which also heals what gossip has missed.

use std::collections::{BinaryHeap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use foca::{AccumulatingRuntime, Config, Foca, Identity, Member, PostcardCodec, Timer};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::{MAX_ZONE, Members, Meta, Outgoing, Peer, resolve};
use crate::limits::MAX_MEMBERS;
use crate::transport::limits::MAX_EXCHANGE;

/// Seeds are asked so often as long as nobody is known.
const ALONE: Duration = Duration::from_millis(500);

/// Seeds that are no members are asked so often, so that two halves of a cluster find each other again.
const REUNION: Duration = Duration::from_secs(60);

/// A random member is sent everything so often, give or take a half.
const BULK: Duration = Duration::from_secs(180);

/// The cluster size for which the library's times are chosen; they grow with its logarithm.
const SIZE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// A member is probed so often. Who is gone is known to be after some 12 s, of which 8 are the time to object; nobody waits for
/// it, since whoever does not take a request is passed over at once.
const PROBE: Duration = Duration::from_secs(2);

/// A probe is answered within this time, or others are asked to try: a busy machine answers late.
const ANSWERED: Duration = Duration::from_secs(1);

/// A packet of the library.
const PACKET: u8 = 0;
/// All members that the sender knows; it wants ours.
const QUESTION: u8 = 1;
/// All members that the sender knows.
const ANSWER: u8 = 2;

/// A member as gossip knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    address: SocketAddr,
    /// When it began, or last changed what it tells: the larger is the later.
    generation: u64,
    meta: Meta,
}

impl Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Id {
            generation: self.generation.saturating_add(1),
            ..self.clone()
        })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct SwimOptions {
    /// Where others reach this node.
    pub address: SocketAddr,
    /// What it tells of itself.
    pub meta: Meta,
    /// `host:port` of nodes that may be there already.
    pub seeds: Vec<String>,
}

enum Command {
    Take(SocketAddr, Bytes),
    Leaf(bool),
    Seeds(Vec<String>),
    Suspect(SocketAddr),
}

/// Membership by gossip.
pub struct Swim {
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Vec<Peer>>>,
}

/// Commands that wait; what comes while it is full is lost, as packets are.
const COMMANDS: usize = 1024;

impl Swim {
    /// Joins the cluster, or begins one. What is to be sent comes out of the receiver. Needs a runtime around it.
    pub fn start(options: SwimOptions) -> (Swim, Outgoing) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (sender, members) = watch::channel(Arc::default());
        let (outgoing, out) = mpsc::channel(COMMANDS);
        let generation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = Id {
            address: options.address,
            generation: u64::try_from(generation.as_millis()).unwrap_or(0),
            meta: options.meta,
        };
        let task = Task {
            foca: Foca::new(
                id,
                Config {
                    probe_period: PROBE,
                    probe_rtt: ANSWERED,
                    ..Config::new_lan(SIZE)
                },
                rand::make_rng::<StdRng>(),
                PostcardCodec,
            ),
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            timer_count: 0,
            resting: None,
            seeds: options.seeds,
            outgoing,
            members: sender,
            changed: true,
            rng: rand::make_rng(),
        };
        tokio::spawn(task.run(received));
        (Swim { commands, members }, out)
    }
}

impl Members for Swim {
    fn watch(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.members.clone()
    }

    fn take(&self, from: SocketAddr, bytes: Bytes) {
        let _ = self.commands.try_send(Command::Take(from, bytes));
    }

    fn suspect(&self, member: SocketAddr) {
        let _ = self.commands.try_send(Command::Suspect(member));
    }

    fn announce_leaf(&self, leaf: bool) {
        let _ = self.commands.try_send(Command::Leaf(leaf));
    }

    fn set_seeds(&self, seeds: Vec<String>) {
        let _ = self.commands.try_send(Command::Seeds(seeds));
    }
}

/// A timer of the library; the earliest is the greatest.
struct Due(Instant, u64, Timer<Id>);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

struct Task {
    foca: Foca<Id, PostcardCodec, StdRng, foca::NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BinaryHeap<Due>,
    timer_count: u64,
    /// The library's timer for telling news, while there are none: five times a second for nothing is most of what an idle
    /// node would do.
    resting: Option<Timer<Id>>,
    seeds: Vec<String>,
    outgoing: mpsc::Sender<(SocketAddr, Bytes)>,
    members: watch::Sender<Arc<Vec<Peer>>>,
    changed: bool,
    rng: StdRng,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut seeds_at = Instant::now();
        let mut bulk_at = self.next_bulk();
        loop {
            let timer_at = self.timers.peek().map(|due| due.0);
            let next = timer_at.map_or(seeds_at.min(bulk_at), |at| at.min(seeds_at).min(bulk_at));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => {
                        // Says good-bye, so that the others need not find out.
                        let _ = self.foca.leave_cluster(&mut self.runtime);
                        self.flush();
                        return;
                    }
                },
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            self.fire(now);
            if seeds_at <= now {
                self.ask_seeds().await;
                let alone = self.foca.num_members() == 0;
                seeds_at = Instant::now() + if alone { ALONE } else { REUNION };
            }
            if bulk_at <= now {
                self.ask_somebody();
                bulk_at = self.next_bulk();
            }
            self.flush();
        }
    }

    /// Hands timers that are due to the library.
    fn fire(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|due| due.0 <= now) {
            let Some(Due(_, _, timer)) = self.timers.pop() else {
                return;
            };
            if matches!(timer, Timer::PeriodicGossip(_)) && self.foca.updates_backlog() == 0 {
                self.resting = Some(timer);
                continue;
            }
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
        }
    }

    fn schedule(&mut self, at: Instant, timer: Timer<Id>) {
        self.timer_count += 1;
        self.timers.push(Due(at, self.timer_count, timer));
    }

    fn next_bulk(&mut self) -> Instant {
        Instant::now() + BULK.mul_f64(self.rng.random_range(0.5..1.5))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Take(from, bytes) => self.take(from, bytes),
            Command::Leaf(leaf) if self.foca.identity().meta.leaf != leaf => {
                let mut id = self.foca.identity().clone();
                id.meta.leaf = leaf;
                id.generation += 1;
                if let Err(error) = self.foca.change_identity(id, &mut self.runtime) {
                    debug!("telling the others: {error}");
                }
            }
            Command::Leaf(_) => {}
            Command::Seeds(seeds) => self.seeds = seeds,
            // The library has its own probes; a hint could only make a busy node look dead.
            Command::Suspect(member) => debug!(%member, "does not answer"),
        }
    }

    /// Takes in what another node sent; nonsense is dropped.
    fn take(&mut self, from: SocketAddr, bytes: Bytes) {
        let Some((kind, rest)) = bytes.split_first() else {
            return;
        };
        match *kind {
            PACKET => {
                if let Err(error) = self.foca.handle_data(rest, &mut self.runtime) {
                    debug!(%from, "gossip: {error}");
                }
            }
            QUESTION | ANSWER => {
                let Ok(ids) = postcard::from_bytes::<Vec<Id>>(rest) else {
                    debug!(%from, "an exchange that is none");
                    return;
                };
                let sound = ids.into_iter().filter(|id| id.meta.is_sound()).take(MAX_MEMBERS);
                let alive = sound.map(Member::alive);
                if let Err(error) = self.foca.apply_many(alive, true, &mut self.runtime) {
                    debug!(%from, "an exchange: {error}");
                }
                if *kind == QUESTION {
                    self.tell(from, ANSWER);
                }
            }
            _ => {}
        }
    }

    /// Sends all it knows to seeds that it does not know as members. Members need no reunion: a cluster of thousands would
    /// ask its few seeds for everything every minute.
    async fn ask_seeds(&mut self) {
        let own = self.foca.identity().address;
        let mut found = resolve(&self.seeds).await;
        let known: HashSet<SocketAddr> = self
            .foca
            .iter_members()
            .map(|member| member.id().address)
            .collect();
        found.retain(|address| *address != own && !known.contains(address));
        if found.is_empty() {
            return;
        }
        // A few at random: thousands that start at once must not all ask the first.
        for _ in 0..3 {
            let at = self.rng.random_range(0..found.len());
            self.tell(found.swap_remove(at), QUESTION);
            if found.is_empty() {
                return;
            }
        }
    }

    fn ask_somebody(&mut self) {
        let count = self.foca.num_members();
        if count > 0 {
            let at = self.rng.random_range(0..count);
            let somebody = self.foca.iter_members().nth(at).map(|member| member.id().address);
            if let Some(address) = somebody {
                self.tell(address, QUESTION);
            }
        }
    }

    /// Sends everything known.
    fn tell(&mut self, to: SocketAddr, kind: u8) {
        let own = self.foca.identity().clone();
        let others = self.foca.iter_members().map(|member| member.id().clone());
        // Address, generation and meta in their longest form; what does not fit is told by gossip.
        let fitting = MAX_EXCHANGE / (20 + 10 + MAX_ZONE + 6);
        let ids: Vec<Id> = std::iter::once(own).chain(others).take(fitting).collect();
        if let Ok(text) = postcard::to_allocvec(&ids) {
            self.send(to, kind, &text);
        }
    }

    fn send(&self, to: SocketAddr, kind: u8, bytes: &[u8]) {
        let mut out = BytesMut::with_capacity(bytes.len() + 1);
        out.put_u8(kind);
        out.put_slice(bytes);
        let _ = self.outgoing.try_send((to, out.freeze()));
    }

    /// Does what the library wants done, and tells who the members are.
    fn flush(&mut self) {
        while let Some((to, packet)) = self.runtime.to_send() {
            self.send(to.address, PACKET, &packet);
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.schedule(Instant::now() + after, timer);
        }
        if self.foca.updates_backlog() > 0
            && let Some(timer) = self.resting.take()
        {
            // At once: what else comes in with the same news goes out with it.
            self.schedule(Instant::now(), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.changed = true;
            if let foca::OwnedNotification::Rejoin(_) = notification {
                info!("the cluster had given this node up; it has joined again");
            }
        }
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut peers: Vec<Peer> = self
            .foca
            .iter_members()
            .map(|member| member.id())
            .filter(|id| id.meta.is_sound())
            .map(|id| Peer {
                address: id.address,
                meta: id.meta.clone(),
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.address);
        self.members.send_if_modified(|before| {
            let changed = **before != peers;
            if changed {
                *before = Arc::new(peers);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

    use super::*;

    /// What goes between nodes whose packets are carried by hand.
    #[derive(Default)]
    struct Wire {
        messages: AtomicU64,
        bytes: AtomicU64,
        /// Nodes below this number and the others do not hear each other.
        cut: AtomicU16,
    }

    impl Wire {
        fn carries(&self, from: u16, to: u16) -> bool {
            let cut = self.cut.load(Ordering::Relaxed);
            (from < cut) == (to < cut)
        }
    }

    async fn cluster(count: u16) -> Vec<Arc<Swim>> {
        wired(count, &Arc::default(), 1).await
    }

    async fn wired(count: u16, wire: &Arc<Wire>, seeds: u16) -> Vec<Arc<Swim>> {
        let address = |number: u16| SocketAddr::from(([127, 0, 0, 1], 10_000 + number));
        let mut nodes = Vec::new();
        let mut outs = Vec::new();
        for number in 0..count {
            let (swim, out) = Swim::start(SwimOptions {
                address: address(number),
                meta: Meta {
                    zone: format!("z{}", number % 2),
                    ..Meta::default()
                },
                seeds: (0..seeds).map(|seed| address(seed).to_string()).collect(),
            });
            nodes.push(Arc::new(swim));
            outs.push(out);
        }
        for (from, mut out) in (0..).zip(outs) {
            let nodes: Vec<_> = nodes.iter().map(Arc::downgrade).collect();
            let wire = wire.clone();
            tokio::spawn(async move {
                while let Some((to, bytes)) = out.recv().await {
                    let target = to.port() - 10_000;
                    wire.messages.fetch_add(1, Ordering::Relaxed);
                    wire.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    if let Some(node) = nodes[usize::from(target)].upgrade()
                        && wire.carries(from, target)
                    {
                        node.take(address(from), bytes);
                    }
                }
            });
        }
        nodes
    }

    async fn all_know(nodes: &[Arc<Swim>], others: usize) {
        for node in nodes {
            let mut members = node.watch();
            members.wait_for(|members| members.len() == others).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn halves_that_have_given_each_other_up_find_each_other_again() {
        let wire = Arc::new(Wire::default());
        let nodes = wired(12, &wire, 2).await;
        all_know(&nodes, 11).await;
        // Both seeds are on one side.
        wire.cut.store(4, Ordering::Relaxed);
        all_know(&nodes[..4], 3).await;
        all_know(&nodes[4..], 7).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        wire.cut.store(0, Ordering::Relaxed);
        all_know(&nodes, 11).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_news_is_quiet() {
        let wire = Arc::new(Wire::default());
        let nodes = wired(100, &wire, 3).await;
        all_know(&nodes, 99).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let sent = || {
            (
                wire.messages.load(Ordering::Relaxed),
                wire.bytes.load(Ordering::Relaxed),
            )
        };
        let before = sent();
        let time = 600;
        tokio::time::sleep(Duration::from_secs(time)).await;
        let after = sent();
        let each = |total: u64| total as f64 / (nodes.len() as u64 * time) as f64;
        let (messages, bytes) = (each(after.0 - before.0), each(after.1 - before.1));
        println!("each second, each node: {messages:.2} messages of {bytes:.1} bytes in all");
        // A probe and its answer every other second, and now and then what it knows.
        assert!(
            messages < 1.3 && bytes < 150.0,
            "{messages} messages, {bytes} bytes"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_know_all_with_what_they_tell() {
        let nodes = cluster(20).await;
        for node in &nodes {
            let mut members = node.watch();
            let members = members.wait_for(|members| members.len() == 19).await.unwrap();
            assert!(members.iter().any(|peer| peer.meta.zone == "z1"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaf_is_known_as_one() {
        let nodes = cluster(5).await;
        let mut members = nodes[4].watch();
        members.wait_for(|members| members.len() == 4).await.unwrap();
        nodes[2].announce_leaf(true);
        let told = |members: &Arc<Vec<Peer>>| {
            members
                .iter()
                .any(|peer| peer.address.port() == 10_002 && peer.meta.leaf)
        };
        members.wait_for(told).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_or_dies_is_forgotten() {
        let mut nodes = cluster(6).await;
        let mut members = nodes[0].watch();
        members.wait_for(|members| members.len() == 5).await.unwrap();
        drop(nodes.pop());
        members.wait_for(|members| members.len() == 4).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a measurement: run it alone, with --no-capture"]
    async fn what_members_cost_in_memory() {
        const MEMBERS: u32 = 10_000;
        let resident = || -> u64 {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages = text.split_whitespace().nth(1).unwrap();
            pages.parse::<u64>().unwrap() * 4096
        };
        let id = |number: u32| Id {
            address: SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 7070)),
            generation: 1_700_000_000_000,
            meta: Meta {
                zone: format!("zone-{}", number % 3),
                ..Meta::default()
            },
        };
        let ids: Vec<Id> = (1..=MEMBERS).map(id).collect();
        let mut exchange = vec![ANSWER];
        exchange.extend(postcard::to_allocvec(&ids).unwrap());
        drop(ids);
        let before = resident();
        let (swim, _out) = Swim::start(SwimOptions {
            address: id(0).address,
            meta: Meta::default(),
            seeds: Vec::new(),
        });
        swim.take(id(1).address, exchange.into());
        all_know(&[Arc::new(swim)], MEMBERS as usize).await;
        let each = (resident() - before) / u64::from(MEMBERS);
        println!("{each} bytes of gossip for each of {MEMBERS} members");
    }

    #[tokio::test(start_paused = true)]
    async fn nonsense_from_others_changes_nothing() {
        let nodes = cluster(2).await;
        let mut members = nodes[0].watch();
        members.wait_for(|members| members.len() == 1).await.unwrap();
        let from = SocketAddr::from(([127, 0, 0, 1], 1));
        for bytes in [
            &b""[..],
            b"\x00junk",
            b"\x01\xff\xff\xff\xff\xff\xff",
            b"\x02",
            b"\x09x",
        ] {
            nodes[0].take(from, Bytes::copy_from_slice(bytes));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(nodes[0].watch().borrow().len(), 1);
    }
}
