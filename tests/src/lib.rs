//! What the tests share.

pub mod simulation;
