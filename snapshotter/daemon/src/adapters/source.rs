//! The store's port for missing bytes, over registries or one local image.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use lacewing_format::annotation::IndexRef;
use lacewing_format::{Digest, media_type};
use lacewing_fusefs::{BlobSource, Class, SourceError};
use lacewing_oci::{Access, Client, Descriptor, Error, MediaType, Reference, RegistryRef, Store};

use super::origins::{Origins, Place};
use super::p2p::Peers;
use crate::traces::Traces;

/// hosts.toml is read when a store is opened; after so long a changed one is noticed.
const STORE_AGE: Duration = Duration::from_secs(300);

/// Opened repositories, shared by everything that reads from registries.
pub(crate) struct Repositories {
    client: Client,
    open: Mutex<HashMap<Place, (Store, Instant)>>,
}

impl Repositories {
    /// None opened yet.
    pub(crate) fn new(client: Client) -> Repositories {
        Repositories {
            client,
            open: Mutex::new(HashMap::new()),
        }
    }

    /// The client that all of them use.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The store of a repository.
    ///
    /// # Errors
    /// A configuration of the host that cannot be used.
    pub(crate) async fn store(&self, place: &Place) -> Result<Store, Error> {
        if let Some((store, since)) = self.open().get(place)
            && since.elapsed() < STORE_AGE
        {
            return Ok(store.clone());
        }
        let reference = Reference::Registry(RegistryRef {
            host: place.host.clone(),
            repository: place.repository.clone(),
            tag: None,
            digest: None,
        });
        let store = Store::open(&self.client, &reference, Access::Read).await?;
        let mut open = self.open();
        open.retain(|_, (_, since)| since.elapsed() < STORE_AGE);
        open.insert(place.clone(), (store.clone(), Instant::now()));
        Ok(store)
    }

    /// Whether a place has an index, and so most likely the blobs it points to.
    ///
    /// # Errors
    /// The registry's.
    pub(crate) async fn has_index(&self, place: &Place, index: IndexRef) -> Result<bool, Error> {
        self.store(place).await?.has_blob(&descriptor(index)).await
    }

    /// Reads a layer's stored index, verified by its digest and bounded by its size.
    ///
    /// # Errors
    /// The registry's.
    pub(crate) async fn index(&self, place: &Place, index: IndexRef) -> Result<Bytes, Error> {
        let store = self.store(place).await?;
        let mut blob = store.blob(&descriptor(index)).await?;
        // The declared size is checked against what comes, so it is only a hint here, and a modest one.
        let mut stored = Vec::with_capacity(usize::try_from(index.size.min(1 << 20)).unwrap_or(0));
        while let Some(part) = blob.next().await {
            stored.extend_from_slice(&part?);
        }
        Ok(stored.into())
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<Place, (Store, Instant)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn descriptor(index: IndexRef) -> Descriptor {
    lacewing_oci::describe(MediaType::from(media_type::INDEX), &index.digest, index.size)
}

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

/// One for one, so that nobody downstream takes "later" for "never".
pub(crate) fn source_error(error: &Error) -> SourceError {
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => SourceError::Missing(text),
        Error::Corrupt { .. } => SourceError::Corrupt(text),
        Error::Forbidden { .. } => SourceError::Forbidden(text),
        // A broken hosts.toml or a full disk can be put right while a reader waits.
        Error::Unavailable { .. } | Error::Invalid { .. } | Error::Io { .. } => {
            SourceError::Unavailable(text)
        }
        _ => SourceError::Unavailable(text),
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
