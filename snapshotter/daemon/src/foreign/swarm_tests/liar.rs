//! A node that lies.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_p2p::driver::{Calls, Origin, OriginError, Verdict, Verifier};
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{Class, FetchError, PieceId};

use crate::foreign::{Question, Said};

/// A node under the attacker's hand: it gives what was put into its store, and says what it likes.
pub(super) struct Liar {
    /// What it says of every run's digest; nothing at all if there is none.
    pub(super) says: Option<Digest>,
}

impl Verifier for Liar {
    fn verify(
        &self,
        _piece: PieceId,
        _of: Provenance,
        _from: Option<SocketAddr>,
        _bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        // It takes nothing from others.
        async { Verdict::Unproven }.boxed()
    }

    fn permits(&self, _piece: &PieceId, _of: &Provenance) -> bool {
        true
    }
}

impl Origin for Liar {
    fn read(
        &self,
        _piece: PieceId,
        _of: Provenance,
        _class: Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let error = OriginError {
            error: FetchError::Unavailable,
            retry_after: None,
            reason: "it has no registry".to_owned(),
        };
        async { Err(error) }.boxed()
    }
}

impl Calls for Liar {
    fn answer(&self, _from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let said = self.says.map(|digest| Said::Digest(digest).written());
        async move { said.filter(|_| Question::is(&question)) }.boxed()
    }
}
