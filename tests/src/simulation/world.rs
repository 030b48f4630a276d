//! The event loop: what happens when.

mod finish;
mod network;
mod readers;
mod registry;
mod setup;
mod swarms;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use lacewing_format::Digest;
use lacewing_p2p::piece::{Class, PieceId};
use lacewing_p2p::swarm::{Action, Event, Hint, PeerId, RequestId, Swarm, View};

use super::link::Link;
use super::reader::{Bits, Reader};
use super::{Nanos, Outcome, Rng, Scenario, mix};

/// The registry's number among those who send and receive.
const REGISTRY: u32 = u32::MAX;

/// Something that happens at a moment. Nodes by number.
#[derive(Debug)]
enum What {
    Start(u32),
    Read(u32),
    /// A daemon's store looks whether it may go on.
    Complete(u32),
    /// A want that ended in an error is repeated.
    Rewant(u32, usize, Class),
    Crash(u32),
    /// The node's clock jumps.
    Jump(u32, i64),
    /// The next step of members joining.
    Members(u32),
    /// All have heard who is a leaf now.
    Leaves,
    Timer(u32),
    /// A quantum has left the link.
    Quantum(u32),
    /// There may be room again for what a link has to send.
    Room(u32),
    /// A whole piece has come in and is verified.
    Come {
        to: u32,
        from: u32,
        request: RequestId,
        piece: usize,
        hint: Hint,
    },
    /// A node learns something.
    Message(u32, Event),
    /// The registry learns something from a node.
    AtRegistry(u32, Call),
}

/// What a node tells the registry.
#[derive(Clone, Copy, Debug)]
enum Call {
    Fetch(PieceId, Class),
    Cancel(PieceId),
    Promote(PieceId),
}

/// An entry of the agenda: earliest first, of the same moment in the order in which they were entered.
#[derive(Debug)]
struct Entry {
    at: Nanos,
    count: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}

struct Node {
    swarm: Swarm,
    link: Link,
    held: Bits,
    reader: Reader,
    user: bool,
    slow: bool,
    /// It said that it is too slow to be a parent.
    leaf: bool,
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
    heap: BinaryHeap<Reverse<Entry>>,
    rng: Rng,
    nodes: Vec<Node>,
    ids: Vec<PeerId>,
    numbers: HashMap<PeerId, u32>,
    views: Vec<Arc<View>>,
    registry: Link,
    registry_pieces: u64,
    blob: Digest,
    /// What daemons' programs read at first.
    startup: Vec<usize>,
    to_finish: usize,
    actions: Vec<Action>,
    outcome: Outcome,
}

fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9) as Nanos
}

impl World {
    fn push(&mut self, at: Nanos, what: What) {
        self.count += 1;
        let count = self.count;
        self.heap.push(Reverse(Entry { at, count, what }));
    }

    /// Runs until all users have what they want, and then until nothing is left to do.
    pub fn run(mut self) -> Outcome {
        let limit = nanos(self.scenario.limit);
        while let Some(Reverse(Entry { at, count, what })) = self.heap.pop() {
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
        let idle = |entry: &Reverse<Entry>| {
            matches!(
                entry.0.what,
                What::Timer(_) | What::Members(_) | What::Crash(_) | What::Leaves
            )
        };
        self.heap.len() <= 4 * self.nodes.len() && self.heap.iter().all(idle)
    }

    fn step(&mut self, what: What) {
        match what {
            What::Start(at) => self.start(at as usize),
            What::Read(at) => self.read(at as usize),
            What::Complete(at) => self.prefetch(at as usize),
            What::Rewant(at, piece, class) => self.rewant(at as usize, piece, class),
            What::Crash(at) => self.crash(at as usize),
            What::Jump(at, by) => {
                self.nodes[at as usize].clock += by;
                self.feed(at as usize, Event::TimerFired);
            }
            What::Members(step) => self.members_join(step),
            What::Leaves => self.leaves_are_known(),
            What::Timer(at) => {
                if self.nodes[at as usize].timer == self.now {
                    self.nodes[at as usize].timer = Nanos::MAX;
                    self.feed(at as usize, Event::TimerFired);
                }
            }
            What::Quantum(at) => self.quantum(at),
            What::Room(at) => self.start_link(at),
            What::Come {
                to,
                from,
                request,
                piece,
                hint,
            } => self.come(to as usize, from, request, piece, hint),
            What::Message(to, event) => self.message(to as usize, event),
            What::AtRegistry(from, call) => self.at_registry(from, call),
        }
    }

    fn crash(&mut self, at: usize) {
        if self.nodes[at].user && self.nodes[at].reader.done.is_none() {
            self.to_finish -= 1;
        }
        self.nodes[at].dead = true;
    }
}
