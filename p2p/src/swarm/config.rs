//! What can be tuned. misc/docs/p2p.md has the table with the reasons.

use std::time::Duration;

/// How a swarm behaves. Each node's own business, and to be changed at any time ([`super::Swarm::configure`]); what all
/// nodes must agree on (the trees) are constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Uploads at once in each class.
    pub uploads: u32,
    /// An upload that takes longer than this does not count against `uploads` any more, so that slow askers do not hold
    /// up the others.
    pub upload_patience: Duration,
    /// A peer that has not taken a request after this is passed over, at least.
    pub ack_timeout: Duration,
    /// For how long a peer that did not answer is passed over.
    pub pass_over: Duration,
    /// For how long a peer that sent wrong bytes is cut off.
    pub cut_off: Duration,
    /// Shortest time after which a blocking piece is asked for a second time elsewhere.
    pub hedge_blocking: Duration,
    /// The same for prefetched pieces.
    pub hedge_prefetch: Duration,
    /// Hedges a request may cost, as a fraction of requests.
    pub hedge_budget: f64,
    /// A request that would wait longer than this here is redirected, at least.
    pub admit_wait: Duration,
    /// Pieces a node prefetches at once (a driver's matter; the swarm derives bounds from it).
    pub window: u32,
    /// Redirects a request can have.
    pub redirects: u8,
    /// Asking nodes for each node that carries a blob without wanting it.
    pub relay_ratio: u32,
    /// For how long an asker counts as wanting a blob.
    pub demand_memory: Duration,
    /// Nodes that are neither first nor second in a tree go to the registry after so long without progress.
    pub origin_patience: Duration,
    /// Fetches from origins at once; at most a quarter of them may be of what nobody waits for.
    pub origin_limit: u32,
    /// A piece that did not come in this time is an error.
    pub deadline: Duration,
    /// A node that uploads slower than this fraction of its zone's median becomes a leaf.
    pub leaf_below: f64,
    /// For how long it must be so.
    pub leaf_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            uploads: 2,
            upload_patience: Duration::from_millis(500),
            ack_timeout: Duration::from_millis(5),
            pass_over: Duration::from_secs(10),
            cut_off: Duration::from_secs(600),
            hedge_blocking: Duration::from_millis(20),
            hedge_prefetch: Duration::from_millis(50),
            hedge_budget: 0.05,
            admit_wait: Duration::from_millis(100),
            window: 64,
            redirects: 2,
            relay_ratio: 8,
            demand_memory: Duration::from_secs(30),
            origin_patience: Duration::from_secs(2),
            origin_limit: 64,
            deadline: Duration::from_secs(30),
            leaf_below: 0.25,
            leaf_after: Duration::from_secs(5),
        }
    }
}
