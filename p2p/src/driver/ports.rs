//! What the driver needs from whoever knows registries and indexes: owned here, implemented in the daemon.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::FetchError;
use crate::piece::{Class, PieceId};
use crate::transport::Provenance;

/// Why an origin did not deliver.
#[derive(Clone, Debug)]
pub struct OriginError {
    /// The class of the failure.
    pub error: FetchError,
    /// For how long the origin wants to be left alone (429, 503).
    pub retry_after: Option<Duration>,
    /// For people.
    pub reason: String,
}

/// Reads pieces where they can be had in the end: mirrors, then the registry.
pub trait Origin: Send + Sync + 'static {
    /// Reads a piece; exactly as many bytes as it has, not verified. Credentials are this node's own. The future is
    /// dropped when nobody needs the piece any more.
    fn read(
        &self,
        piece: PieceId,
        of: Provenance,
        class: Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>>;
}

/// What became of a look at bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are those that the index binds.
    Right,
    /// They are not. Whoever sent them is at fault.
    Wrong,
    /// Nobody can tell: the index is not to be had, or knows no such piece.
    Unproven,
}

/// Tells right bytes from wrong ones. Nothing that it did not find right is read, kept or sent on.
pub trait Verifier: Send + Sync + 'static {
    /// Holds bytes against the index that is said to bind them; gets that index first where it is not here. `from`: the
    /// node that sent them, or the origin.
    fn verify(
        &self,
        piece: PieceId,
        of: Provenance,
        from: Option<SocketAddr>,
        bytes: Bytes,
    ) -> BoxFuture<'static, Verdict>;

    /// Whether this node may get such a piece from its origin on behalf of another one. Cheap, does not wait.
    fn permits(&self, piece: &PieceId, of: &Provenance) -> bool;
}
