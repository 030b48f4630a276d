//! The node's content store: packs with their bitmaps, and where chunks may be found.

pub(crate) mod atomic;
pub(crate) mod bitmap;
mod claims;
mod direct;
mod giving;
pub(crate) mod pack;
mod pack_files;
pub(crate) mod places;
pub(crate) mod space;
pub(crate) mod uses;
