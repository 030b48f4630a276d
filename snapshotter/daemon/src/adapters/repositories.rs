//! Repositories of registries, opened once for all who read from them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use lacewing_format::annotation::IndexRef;
use lacewing_format::media_type;
use lacewing_fusefs::SourceError;
use lacewing_oci::{Access, Client, Descriptor, Error, MediaType, Reference, RegistryRef, Store};

use super::origins::Place;

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
