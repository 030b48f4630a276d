//! Input that is truncated, flipped, oversized or lying: a clear error from convert, check and whoever takes an index or a
//! frame in; never a panic, a hang, wrong bytes, or a file outside the place it belongs to. No privileges, no servers:
//! images stand in OCI layouts. (`tests/e2e/test_hostile.py` does the same to the program and its mounts.)

#![allow(clippy::unwrap_used, missing_docs)]

mod documents;
mod indexes;
mod layers;
mod world;
