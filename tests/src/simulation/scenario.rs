//! What is simulated.

use std::time::Duration;

use lacewing_p2p::swarm::Config;

use super::mix;

/// Bytes of a tiny piece.
const TINY: u32 = 400;

/// A cluster, what its nodes want, and what goes wrong. Rates in bits a second, times in seconds.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Members of the cluster.
    pub nodes: usize,
    /// How many of them want the image; all by default.
    pub users: Option<usize>,
    /// Feeds every random number.
    pub seed: u64,
    /// Pieces of the image.
    pub pieces: usize,
    /// Bytes in a piece, at most.
    pub piece_bytes: u32,
    /// One in so many pieces is tiny, as the text in an image of measurements is; 0: none.
    pub tiny_every: usize,
    /// A node's link, both ways.
    pub link: f64,
    /// The registry's link.
    pub registry_link: f64,
    /// There and back between any two.
    pub rtt: f64,
    /// Bytes that wait before a node's link at most, and what is told to it behind them; 0: what is told passes them.
    pub queue_bytes: u32,
    /// Until a whole piece is verified.
    pub verify: f64,
    /// All nodes start within this time.
    pub jitter: f64,
    /// Pieces a node prefetches at once; 0: it only reads.
    pub window: usize,
    /// What stands around the logic in a daemon; `None`: the window is asked for in order, and nothing stands in the way.
    pub daemon: Option<Daemon>,
    /// Blocking reads, each of another piece, in the same order everywhere; 0: a whole image is fetched.
    pub reads: usize,
    /// So many pieces on is the next that is read, modulo all.
    pub stride: usize,
    /// Mean time between a read's end and the next one.
    pub think: f64,
    /// Fraction of nodes with a tenth of the link.
    pub slow: f64,
    /// Fraction of nodes that die silently.
    pub crashed: f64,
    /// They do so within this time.
    pub crash_within: f64,
    /// Fraction of members that each node's view lacks.
    pub unseen: f64,
    /// Zones, of equal size.
    pub zones: u16,
    /// What else goes wrong.
    pub faults: Vec<Fault>,
    /// The swarms' configuration.
    pub config: Config,
    /// The run is given up after this time.
    pub limit: f64,
}

/// A daemon's own limits, as `fusefs` (background, fetch) and the daemon's p2p adapter have them, and those of its sockets.
///
/// The program reads some files at first, its start-up set, then everything in order, and waits for each piece. While it has not
/// waited for a moment, the store completes the image: it takes up some missing pieces at a time, in runs, and the next ones when
/// all of those are here. With each run the pieces behind it are prefetched.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// Files of the image, of equal size.
    pub files: usize,
    /// Of these, one in so many is read at first, one after the other.
    pub startup_every: usize,
    /// Pieces that the store takes up at a time.
    pub batch: usize,
    /// Pieces of a run.
    pub run: usize,
    /// Runs at a time.
    pub runs: usize,
    /// Fewest pieces that are prefetched behind a run, most, and those at first.
    pub window: (usize, usize, usize),
    /// A run that took less makes the window larger, one that took twice as long smaller. Seconds.
    pub pace: f64,
    /// For so long after the program has waited no run is begun, seconds; but one each `least` seconds between two reads, alone.
    pub quiet: f64,
    /// See `quiet`.
    pub least: f64,
    /// Pieces that the store prefetches at a time while a program waits, in order.
    pub beside: usize,
    /// Most pieces that are prefetched ahead of a program that reads in order, and never more than it has read so.
    pub ahead: usize,
    /// Bytes under way to one node beyond which its sender waits: what its socket, the other's, and a switch hold.
    pub under_way: u32,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            files: 416,
            startup_every: 17,
            batch: 8,
            run: 2,
            runs: 2,
            window: (16, 48, 32),
            pace: 2.0,
            quiet: 0.25,
            least: 1.0,
            beside: 2,
            ahead: 36,
            under_way: 256 << 10,
        }
    }
}

/// Something that goes wrong. Nodes by number; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The registry is gone once so many copies of the image have left it (1.0), whole pieces counted.
    RegistryGoneAfter(f64),
    /// The registry answers 429 with this `Retry-After` until the given time.
    RegistryLimits {
        /// When it ends.
        until: f64,
        /// What it asks for.
        retry_after: f64,
    },
    /// Nodes with numbers below `below` hear nothing of the others, nor these of them, in between the times; the registry
    /// is on the side of the others.
    Partition {
        /// First number of the other side.
        below: usize,
        /// Begin.
        from: f64,
        /// End.
        until: f64,
    },
    /// The node sends wrong bytes.
    Liar(usize),
    /// The node takes requests and never sends a byte.
    Stalled(usize),
    /// The node's clock jumps by so much, forwards or back.
    ClockJump {
        /// Whose.
        node: usize,
        /// When.
        at: f64,
        /// How far.
        by: f64,
    },
    /// Members come to know each other over this time, in order of their numbers, and each starts when it joins.
    JoinOver(f64),
}

impl Scenario {
    /// A rollout of 1 GiB to so many nodes at once: links of 10 Gbit/s, a registry of 20, 0.2 ms, all start within 50 ms.
    pub fn rollout(nodes: usize) -> Self {
        Self {
            nodes,
            users: None,
            seed: 1,
            pieces: 1024,
            piece_bytes: 1 << 20,
            tiny_every: 0,
            link: 10e9,
            registry_link: 20e9,
            rtt: 0.0002,
            queue_bytes: 0,
            verify: 0.00025,
            jitter: 0.05,
            window: 64,
            daemon: None,
            reads: 0,
            stride: 389,
            think: 0.002,
            slow: 0.0,
            crashed: 0.0,
            crash_within: 1.0,
            unseen: 0.0,
            zones: 1,
            faults: Vec::new(),
            config: Config::default(),
            limit: 300.0,
        }
    }

    /// A rollout among nodes and a registry behind links of 40 Mbit/s, as `misc/cluster` makes it of real daemons: the registry's
    /// link is the narrowest place of all.
    pub fn cluster(nodes: usize, pieces: usize) -> Self {
        let mut scenario = Self {
            pieces,
            piece_bytes: 440 << 10,
            link: 40e6,
            registry_link: 40e6,
            rtt: 0.001,
            queue_bytes: 256 << 10,
            daemon: Some(Daemon::default()),
            limit: 1000.0,
            ..Self::rollout(nodes)
        };
        scenario.config.ack_timeout = Duration::from_millis(1000);
        scenario.config.origin_limit = 8;
        scenario
    }

    /// The pieces that a daemon's program reads at first: those of one file in some, in order.
    pub(crate) fn startup(&self) -> Vec<usize> {
        let Some(daemon) = self.daemon else {
            return Vec::new();
        };
        let first = |file: usize| file * self.pieces / daemon.files;
        let last = |file: usize| ((file + 1) * self.pieces - 1) / daemon.files;
        let files = (0..daemon.files).step_by(daemon.startup_every);
        let mut pieces: Vec<usize> = files.flat_map(|file| first(file)..=last(file)).collect();
        pieces.dedup();
        pieces
    }

    /// Bytes of a piece.
    pub(crate) fn len(&self, piece: usize) -> u32 {
        match self.tiny_every {
            0 => self.piece_bytes,
            every if mix(piece as u64).is_multiple_of(every as u64) => TINY,
            _ => self.piece_bytes,
        }
    }

    /// Bytes of the image.
    pub fn bytes(&self) -> u64 {
        (0..self.pieces).map(|piece| u64::from(self.len(piece))).sum()
    }

    /// The least time in which all can have the image (Kumar and Ross 2006), seconds.
    pub fn bound(&self) -> f64 {
        let bits = self.bytes() as f64 * 8.0;
        let users = self.users.unwrap_or(self.nodes) as f64;
        let all = users * bits / (self.registry_link + self.nodes as f64 * self.link);
        (bits / self.registry_link).max(bits / self.link).max(all)
    }
}
