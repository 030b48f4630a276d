//! Gets a piece from whoever has it, keeps it, gives it.
//!
//! ```text
//!   reader ──Wanted──►┌────────────┐──Ask──────► peer nearer to the root ─► … ─► registry
//!                     │   swarm    │
//!   peer ──Requested─►│  decides   │──Serve────► bytes to that peer
//!                     └────────────┘
//!                      no I/O, no clock: events in, actions out
//! ```
//!
//! [`swarm`] alone decides who asks whom and what follows from each event. It is synchronous,
//! owns no socket and reads no clock, so that a simulation of ten thousand nodes runs the very
//! code of the daemon. Everything else in this crate acts: it turns actions into bytes on
//! sockets and what happens there into events.
//!
//! # Invariants
//!
//! - A node only ever asks a node that is strictly earlier in the order of the piece's tree, so no
//!   chain of requests comes back, however much the nodes' views of the cluster differ.
//!   `swarm::tests::nobody_asks_a_later_node`.
//! - Whoever waits for a piece gets it or an error: `tests/tests/swarm`.
//!
//! # Non-goals
//!
//! FUSE, snapshots, tar, what a piece contains.

pub mod driver;
pub mod error;
pub mod identity;
pub mod limits;
pub mod members;
pub mod piece;
pub mod store;
pub mod swarm;
pub mod transport;

pub use driver::Node;
pub use error::FetchError;
pub use piece::{Class, PieceId};
