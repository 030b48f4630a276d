//! Runs of ordinary blobs among nodes of which one may lie: real nodes, real sockets, a server that counts.

#![allow(clippy::unwrap_used)]

mod liar;
mod lies;
#[path = "../../../../../p2p/tests/sockets/places.rs"]
mod places;
mod server;
mod sharing;
mod world;
