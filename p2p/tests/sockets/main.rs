//! The piece layer over real sockets: nodes of one process, each with its own address of the loopback network.
#![allow(clippy::unwrap_used, missing_docs)]

mod faults;
mod identity;
mod memory;
mod node;
mod places;
mod rollout;
mod skew;
mod wire;
