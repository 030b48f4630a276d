//! What the fuzz targets do with an input: one module and one function `run` for each.
//!
//! `run` panics on a finding: a panic of the code under test, or an answer that contradicts what is known. The targets in
//! `fuzz_targets/` hand it what libFuzzer makes up; `tests/tests/hostile_replay.rs` hands it the seeds and all former
//! findings.

pub mod catalogue;
pub mod filter;
pub mod frame;
pub mod index;
pub mod layer;
pub mod registry;

mod input;

/// What a target does with an input.
pub type Run = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Run); 6] = [
    ("catalogue", catalogue::run),
    ("filter", filter::run),
    ("frame", frame::run),
    ("index", index::run),
    ("layer", layer::run),
    ("registry", registry::run),
];
