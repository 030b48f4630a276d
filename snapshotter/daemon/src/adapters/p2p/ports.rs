//! The node's ports: what tells right bytes from wrong ones, and where they come from in the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_fusefs::SourceError;
use lacewing_oci::Error;
use lacewing_p2p::driver::{Origin, OriginError, Verdict, Verifier};
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{FetchError, PieceId};

use super::shared::{Patience, Shared, index_piece, is_index};
use crate::adapters::repositories::source_error;
use crate::foreign::{self, Source};
use crate::limits::MAX_STORED_INDEX;

/// The node's ports.
pub(super) struct Ports(pub(super) Arc<Shared>);

impl Verifier for Ports {
    fn verify(
        &self,
        piece: PieceId,
        of: Provenance,
        from: Option<SocketAddr>,
        bytes: Bytes,
    ) -> BoxFuture<'static, Verdict> {
        let this = self.0.clone();
        async move {
            let source = Source::read(&of.place);
            let nameless = matches!(source, Some(Source::File { digest: false, .. }));
            let judge: Box<dyn FnOnce() -> bool + Send> = if let Some(sum) = this.sums.of(&piece) {
                Box::new(move || Digest::of(&bytes) == sum)
            } else if is_index(&piece, &of) && !nameless {
                Box::new(move || Digest::of(&bytes) == piece.blob)
            } else if foreign::is_run(&piece, &of) {
                // Nothing proves a run by itself.
                return this.vouched(piece, &of, from, bytes).await;
            } else {
                let Some(tables) = this.tables(&of).await else {
                    return Verdict::Unproven;
                };
                let end = piece.offset.saturating_add(u64::from(piece.len));
                let row = tables
                    .tiling(&piece.blob, &(piece.offset..end))
                    .and_then(|rows| if let [row] = rows { Some(row.clone()) } else { None });
                let Some(row) = row else {
                    return Verdict::Unproven;
                };
                Box::new(move || tables.proves(&row, &bytes))
            };
            match tokio::task::spawn_blocking(judge).await {
                Ok(true) => Verdict::Right,
                Ok(false) => Verdict::Wrong,
                Err(_) => Verdict::Unproven,
            }
        }
        .boxed()
    }

    /// Only what a known index lists, or an index that can become known, from registries that this node knows: nobody
    /// can make it fetch what it likes.
    fn permits(&self, piece: &PieceId, of: &Provenance) -> bool {
        if foreign::is_run(piece, of) && !self.0.book.is_own(&of.index) {
            return self.0.is_known_place(&of.place);
        }
        if is_index(piece, of) {
            return of.index_len <= MAX_STORED_INDEX
                && (self.0.book.is_own(&of.index) || self.0.is_known_place(&of.place));
        }
        if let Some(tables) = self.0.book.known(&of.index) {
            let end = piece.offset.saturating_add(u64::from(piece.len));
            let listed = tables.tiling(&piece.blob, &(piece.offset..end));
            return listed.is_some_and(|rows| rows.len() == 1);
        }
        // Not in memory: whether it lists the piece shows when the piece is verified, before anything is kept.
        self.0.book.is_own(&of.index) || (index_piece(of).is_some() && self.0.is_known_place(&of.place))
    }
}

impl Origin for Ports {
    fn read(
        &self,
        piece: PieceId,
        of: Provenance,
        _class: lacewing_p2p::Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let (this, sources) = (self.0.clone(), self.0.sources(&piece, &of));
        async move {
            let read = this.read_from(sources, &piece, Patience::TurnsElsewhere).await;
            if let Some(source) = Source::read(&of.place) {
                match &read {
                    Err(error) if error.error == FetchError::Unavailable => {
                        this.gone.note(source.host(), error.retry_after, Instant::now());
                    }
                    _ => this.gone.answered(source.host()),
                }
            }
            read
        }
        .boxed()
    }
}

impl Shared {
    /// Reads a piece from its origin as nobody else can; a registry that asks for time is waited for.
    pub(super) async fn read_patiently(
        &self,
        piece: &PieceId,
        of: &Provenance,
    ) -> Result<Bytes, OriginError> {
        self.read_from(self.sources(piece, of), piece, Patience::Waits)
            .await
    }

    /// Places where this node has found the blob itself come first; what another node says is asked last.
    fn sources(&self, piece: &PieceId, of: &Provenance) -> Vec<Source> {
        let found = self.origins.of_blob(&piece.blob).into_iter();
        let mut sources: Vec<Source> = found.map(Source::Blob).collect();
        if self.is_known_place(&of.place)
            && let Some(said) = Source::read(&of.place)
            && !sources.contains(&said)
        {
            sources.push(said);
        }
        sources
    }

    async fn read_from(
        &self,
        sources: Vec<Source>,
        piece: &PieceId,
        patience: Patience,
    ) -> Result<Bytes, OriginError> {
        let mut worst = OriginError {
            error: FetchError::Forbidden,
            retry_after: None,
            reason: "no registry is known to have it".to_owned(),
        };
        for source in sources {
            let read = match self.read_lent(&source, piece).await {
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(error)) if patience == Patience::TurnsElsewhere && asks_for_time(&error) => {
                    Err(error)
                }
                // This node's own log-in may still be good, or another address.
                _ => self.read_own(&source, piece, patience).await,
            };
            worst = match read {
                Ok(bytes) if bytes.len() == piece.len as usize => return Ok(bytes),
                Ok(bytes) => OriginError {
                    error: FetchError::Corrupt,
                    retry_after: None,
                    reason: format!("{} bytes came for {}", bytes.len(), piece.len),
                },
                Err(error) => origin_error(&error),
            };
        }
        Err(worst)
    }
}

fn asks_for_time(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable {
            retry_after: Some(_),
            ..
        }
    )
}

/// One for one.
fn origin_error(error: &Error) -> OriginError {
    let retry_after = match error {
        Error::Unavailable { retry_after, .. } => *retry_after,
        _ => None,
    };
    let (error, reason) = match source_error(error) {
        SourceError::Missing(reason) => (FetchError::Missing, reason),
        SourceError::Corrupt(reason) => (FetchError::Corrupt, reason),
        SourceError::Forbidden(reason) => (FetchError::Forbidden, reason),
        SourceError::Unavailable(reason) => (FetchError::Unavailable, reason),
        other => (FetchError::Unavailable, other.to_string()),
    };
    OriginError {
        error,
        retry_after,
        reason,
    }
}
