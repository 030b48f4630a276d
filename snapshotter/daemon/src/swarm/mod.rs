//! The piece layer seen from outside: `lacewing top`, `lacewing explain`, `lacewing get`, and what nodes ask each other
//! for these.

mod desk;
pub(crate) mod explain;
pub(crate) mod get;
mod serving;
pub(crate) mod top;
mod view;

pub(crate) use desk::open;
pub(crate) use serving::{GetStream, explained, get, preheat, swarm};
