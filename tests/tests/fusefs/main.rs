//! Layers on a real kernel: FUSE, EROFS, fetches, faults. Needs root; says so and passes without.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod cost;
mod faults;
mod image;
mod node;
mod probed;
mod quota;
mod reading;
mod source;
mod takeover;
mod trees;
