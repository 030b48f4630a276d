//! The task that gives the library sockets and a clock.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Config, Foca, Member, PostcardCodec, Timer};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::SwimOptions;
use super::exchange::Exchange;
use super::identity::Id;
use super::timers::Timers;
use crate::members::{Peer, resolve};

/// Seeds are asked so often as long as nobody is known.
const ALONE: Duration = Duration::from_millis(500);

/// Seeds that are no members are asked so often, so that two halves of a cluster find each other again.
const REUNION: Duration = Duration::from_secs(60);

/// A random member is sent everything so often, give or take a half.
const BULK: Duration = Duration::from_secs(180);

/// What is asked of the task.
pub(super) enum Command {
    Take(SocketAddr, Bytes),
    Leaf(bool),
    Seeds(Vec<String>),
    Suspect(SocketAddr),
}

/// The cluster size for which the library's times are chosen; they grow with its logarithm.
const SIZE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// A member is probed so often. Who is gone is known to be after some 12 s, of which 8 are the time to object; nobody waits for
/// it, since whoever does not take a request is passed over at once.
const PROBE: Duration = Duration::from_secs(2);

/// A probe is answered within this time, or others are asked to try: a busy machine answers late.
const ANSWERED: Duration = Duration::from_secs(1);

/// All that the task owns.
pub(super) struct Task {
    foca: Foca<Id, PostcardCodec, StdRng, foca::NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: Timers,
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
    /// A node that knows nobody yet. What is to be sent goes to `outgoing`, who the members are to `members`.
    pub(super) fn new(
        options: SwimOptions,
        outgoing: mpsc::Sender<(SocketAddr, Bytes)>,
        members: watch::Sender<Arc<Vec<Peer>>>,
    ) -> Task {
        let generation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = Id {
            address: options.address,
            generation: u64::try_from(generation.as_millis()).unwrap_or(0),
            meta: options.meta,
        };
        let config = Config {
            probe_period: PROBE,
            probe_rtt: ANSWERED,
            ..Config::new_lan(SIZE)
        };
        Task {
            foca: Foca::new(id, config, rand::make_rng::<StdRng>(), PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            resting: None,
            seeds: options.seeds,
            outgoing,
            members,
            changed: true,
            rng: rand::make_rng(),
        }
    }

    /// Runs until the last sender of commands is gone, and takes leave of the others then.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut seeds_at = Instant::now();
        let mut bulk_at = self.next_bulk();
        loop {
            let timer_at = self.timers.next_at();
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
        while let Some(timer) = self.timers.take_due(now) {
            if matches!(timer, Timer::PeriodicGossip(_)) && self.foca.updates_backlog() == 0 {
                self.resting = Some(timer);
                continue;
            }
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
        }
    }

    fn next_bulk(&mut self) -> Instant {
        Instant::now() + BULK.mul_f64(self.rng.random_range(0.5..1.5))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Take(from, bytes) => self.take(from, &bytes),
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
    fn take(&mut self, from: SocketAddr, bytes: &[u8]) {
        match Exchange::read(bytes) {
            Some(Exchange::Packet(packet)) => {
                if let Err(error) = self.foca.handle_data(packet, &mut self.runtime) {
                    debug!(%from, "gossip: {error}");
                }
            }
            Some(Exchange::Question(ids)) => {
                self.learn(from, ids);
                self.send(from, &Exchange::Answer(self.known()));
            }
            Some(Exchange::Answer(ids)) => self.learn(from, ids),
            None => debug!(%from, "an exchange that is none"),
        }
    }

    fn learn(&mut self, from: SocketAddr, ids: Vec<Id>) {
        let alive = ids.into_iter().map(Member::alive);
        if let Err(error) = self.foca.apply_many(alive, true, &mut self.runtime) {
            debug!(%from, "an exchange: {error}");
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
            self.ask(found.swap_remove(at));
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
                self.ask(address);
            }
        }
    }

    /// Sends all it knows, and wants the same.
    fn ask(&self, to: SocketAddr) {
        self.send(to, &Exchange::Question(self.known()));
    }

    /// This node and all members.
    fn known(&self) -> Vec<Id> {
        let others = self.foca.iter_members().map(Member::id);
        std::iter::once(self.foca.identity())
            .chain(others)
            .cloned()
            .collect()
    }

    fn send(&self, to: SocketAddr, exchange: &Exchange) {
        if let Some(bytes) = exchange.written() {
            let _ = self.outgoing.try_send((to, bytes));
        }
    }

    /// Does what the library wants done, and tells who the members are.
    fn flush(&mut self) {
        while let Some((to, packet)) = self.runtime.to_send() {
            self.send(to.address, &Exchange::Packet(&packet));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.set(Instant::now() + after, timer);
        }
        if self.foca.updates_backlog() > 0
            && let Some(timer) = self.resting.take()
        {
            // At once: what else comes in with the same news goes out with it.
            self.timers.set(Instant::now(), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.changed = true;
            if let foca::OwnedNotification::Rejoin(_) = notification {
                info!("the cluster had given this node up; it has joined again");
            }
        }
        if std::mem::take(&mut self.changed) {
            self.tell_members();
        }
    }

    /// Tells who the members are, if others are than before.
    fn tell_members(&self) {
        let sound = self
            .foca
            .iter_members()
            .map(Member::id)
            .filter(|id| id.meta.is_sound());
        let mut peers: Vec<Peer> = sound
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
