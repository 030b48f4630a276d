//! What peers exchange.

use lacewing_format::Digest;

/// Names a piece: a frame of a data blob, an index, or a fixed run of any other blob.
///
/// The same on all nodes. The stored bytes of the range are what is meant, whatever coding they travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId {
    /// Digest of the whole blob's stored bytes.
    pub blob: Digest,
    /// Where the piece starts in the blob, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u32,
}

/// How urgent a piece is. Blocking pieces go strictly first everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody is blocked until the bytes are here.
    Blocking,
    /// Nobody waits yet.
    Prefetch,
}
