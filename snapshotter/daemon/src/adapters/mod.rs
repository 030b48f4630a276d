//! Where the rooms meet: each port of a crate below, implemented over another crate.

pub(crate) mod ahead;
pub(crate) mod content;
pub(crate) mod layers;
pub(crate) mod measured;
pub(crate) mod origins;
pub(crate) mod p2p;
pub(crate) mod repositories;
pub(crate) mod source;
pub(crate) mod verdicts;
