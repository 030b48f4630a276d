//! A cluster in simulated time around the real [`lacewing_p2p::swarm::Swarm`].
//!
//! Model: every node has a full-duplex link; a piece goes out as eight quanta, blocking transfers strictly before
//! prefetched ones, round robin within a class; the way in is first come, first served; nothing is lost except to crashed
//! or parted nodes, which is never told to anybody. A piece is passed on when all of it is here and verified. CPU,
//! disks, TCP, connection set-up and oversubscription are left out. The same scenario and seed give the same run.

mod link;
mod outcome;
mod reader;
mod scenario;
mod world;

pub use outcome::Outcome;
pub use scenario::{Daemon, Fault, Scenario};
pub use world::World;

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    World::new(scenario.clone()).run()
}

/// Moments and durations in nanoseconds.
pub(crate) type Nanos = u64;

/// Random numbers that a seed repeats (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x00AB_CDEF))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
