//! The port through which missing bytes come: owned by this crate, implemented by whoever knows
//! registries and peers.

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use lacewing_format::Digest;

/// How urgent a read of stored bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A process is blocked until the bytes are here.
    Blocking,
    /// Nobody waits yet, but a sequential reader will be there soon.
    Ahead,
    /// Nobody waits. A layer is being completed: what follows in the blob is asked for next.
    Background,
}

/// Why a source could not deliver. The four cases call for different actions, so they are never
/// folded into one another.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source answered that it does not have the blob. Asking it again does not help.
    #[error("missing: {0}")]
    Missing(String),
    /// The source delivered something else than the blob. Another source may help.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// No answer, or one that says "later". Asking again later helps.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The source refuses with the credentials that are known. Other credentials help.
    #[error("forbidden: {0}")]
    Forbidden(String),
}

/// Supplies stored bytes of data blobs.
///
/// Implementations are shared by all fetches of a node and called from within the runtime given in
/// [`crate::Options`]. They own their connect and idle time limits; this crate bounds each call as
/// a whole and drops the future when nobody needs the bytes any more.
pub trait BlobSource: Send + Sync + 'static {
    /// Reads the stored bytes `range` of `blob`; the answer has exactly the length of `range`.
    ///
    /// The bytes need not be verified: every chunk is verified against its id before it is kept.
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        class: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>>;

    /// A process waits by now for a read of these bytes that began as another class and goes on.
    fn hurry(&self, _blob: Digest, _range: Range<u64>) {}

    /// These bytes will be read soon. A source to which a request takes long may begin to fetch them, and keeps them until then.
    fn expect(&self, _blob: Digest, _range: Range<u64>) {}

    /// Whether a read asks others when the first who was asked is slow. It then has all the time that a reader has: to end it
    /// early and begin anew throws away what is on its way, which on a slow link nothing survives.
    fn asks_around(&self) -> bool {
        false
    }
}
