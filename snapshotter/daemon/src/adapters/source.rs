//! The store's port for missing bytes, over registries or one local image.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_format::annotation::IndexRef;
use lacewing_fusefs::{BlobSource, Class, SourceError};
use lacewing_oci::{Client, Store};

use super::origins::{Origins, Place};
use super::p2p::Peers;
use super::repositories::{Repositories, source_error};
use crate::traces::Traces;

/// Reads blobs from other nodes, where there are some, and from the repositories in which their layers were found.
pub(crate) struct RegistrySource {
    /// Opened repositories.
    pub(crate) repositories: Arc<Repositories>,
    origins: Arc<Origins>,
    peers: OnceLock<Arc<Peers>>,
    traces: Traces,
}

impl RegistrySource {
    /// A source that tries a blob's origins, the most recent first.
    pub(crate) fn new(client: Client, origins: Arc<Origins>, traces: Traces) -> RegistrySource {
        RegistrySource {
            repositories: Arc::new(Repositories::new(client)),
            origins,
            peers: OnceLock::new(),
            traces,
        }
    }

    /// Asks other nodes first from now on.
    pub(crate) fn set_peers(&self, peers: Arc<Peers>) {
        let _ = self.peers.set(peers);
    }

    /// Other nodes, if any are asked.
    pub(crate) fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.get()
    }

    /// Reads a layer's stored index, verified by its digest and bounded by its size.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn index(&self, place: &Place, index: IndexRef) -> Result<Bytes, String> {
        let read = async {
            match self.peers.get() {
                Some(peers) => peers.index(place, index).await,
                None => {
                    let read = self.repositories.index(place, index).await;
                    read.map_err(|error| error.to_string())
                }
            }
        };
        self.traces.index(index, read).await
    }
}

impl BlobSource for RegistrySource {
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        class: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let places = self.origins.of_blob(&blob);
        let repositories = Arc::clone(&self.repositories);
        let peers = self.peers.get().cloned();
        async move {
            if let Some(peers) = peers
                && let Some(answer) = peers.read(blob, range.clone(), class).await
            {
                return answer;
            }
            let mut worst = None;
            for place in places {
                let read = async {
                    repositories
                        .store(&place)
                        .await?
                        .read_at(&blob, range.clone())
                        .await
                };
                match read.await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => worst = Some(worse(worst, source_error(&error))),
                }
            }
            Err(worst
                .unwrap_or_else(|| SourceError::Missing(format!("no repository is known to hold {blob}"))))
        }
        .boxed()
    }

    fn hurry(&self, blob: Digest, range: Range<u64>) {
        if let Some(peers) = self.peers.get() {
            // Whoever wants a piece joins those who do; its bytes are for them.
            tokio::spawn(peers.read(blob, range, Class::Blocking));
        }
    }

    fn expect(&self, blob: Digest, range: Range<u64>) {
        if let Some(peers) = self.peers.get().cloned() {
            tokio::spawn(async move { peers.expect(blob, range).await });
        }
    }

    fn asks_around(&self) -> bool {
        self.peers.get().is_some()
    }
}

/// Reads blobs from one image's own store; for `lacewing mount`.
pub(crate) struct StoreSource(pub(crate) Store);

impl BlobSource for StoreSource {
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        _class: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let store = self.0.clone();
        async move {
            store
                .read_at(&blob, range)
                .await
                .map_err(|error| source_error(&error))
        }
        .boxed()
    }
}

/// Of several places' errors the one that gives most hope: what may work later must not end a read for good.
fn worse(before: Option<SourceError>, now: SourceError) -> SourceError {
    let hope = |error: &SourceError| match error {
        SourceError::Unavailable(_) => 3,
        SourceError::Forbidden(_) => 2,
        SourceError::Corrupt(_) => 1,
        _ => 0,
    };
    match before {
        Some(before) if hope(&before) >= hope(&now) => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_hopeful_error_is_told() {
        let missing = || SourceError::Missing("a".to_owned());
        let later = || SourceError::Unavailable("b".to_owned());
        let refused = || SourceError::Forbidden("c".to_owned());
        assert!(matches!(worse(None, missing()), SourceError::Missing(_)));
        assert!(matches!(
            worse(Some(missing()), later()),
            SourceError::Unavailable(_)
        ));
        assert!(matches!(
            worse(Some(later()), missing()),
            SourceError::Unavailable(_)
        ));
        assert!(matches!(
            worse(Some(refused()), missing()),
            SourceError::Forbidden(_)
        ));
    }
}
