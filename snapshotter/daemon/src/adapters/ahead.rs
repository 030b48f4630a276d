//! Indexes of a whole image, fetched side by side.
//!
//! containerd prepares layer after layer and waits for each, so an image of many layers would cost as many round trips
//! one after the other. Where the client names the manifest, the first layer's offer starts to fetch the indexes of all
//! others; each offer then finds its index here, or waits for its fetch under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lacewing_format::Digest;
use lacewing_format::annotation::{self, IndexRef};
use opentelemetry::trace::FutureExt as _;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::debug;

use super::origins::Place;
use super::repositories::Repositories;
use super::source::RegistrySource;

/// Indexes fetched side by side: enough to hide round trips, too few to crowd out anybody else.
const AT_ONCE: usize = 4;
/// Longest time that an index nobody asked for is kept: pulls take their layers one after the other, at once.
const KEPT: Duration = Duration::from_secs(60);
/// Stored bytes of indexes that may wait here; larger images fetch the rest when it is asked for. An index of 50,000
/// files takes about 2 MiB.
const MOST_BYTES: u64 = 16 << 20;

type Fetch = Shared<BoxFuture<'static, Option<Bytes>>>;

/// Indexes fetched before they are asked for.
pub(crate) struct Ahead {
    source: Arc<RegistrySource>,
    state: Arc<Mutex<State>>,
    slots: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    manifests: HashMap<Digest, Instant>,
    fetches: HashMap<Digest, Waiting>,
}

struct Waiting {
    since: Instant,
    size: u64,
    fetch: Fetch,
}

/// What we need of an OCI manifest.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Ahead {
    /// Nothing is fetched yet.
    pub(crate) fn new(source: Arc<RegistrySource>) -> Ahead {
        Ahead {
            source,
            state: Arc::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Begins to fetch the indexes that a manifest names, once; `but` is being fetched by the caller, and what `known`
    /// says yes to is here. Returns at once.
    pub(crate) fn begin(
        &self,
        manifest: Digest,
        place: &Place,
        but: Digest,
        known: impl Fn(&Digest) -> bool + Send + 'static,
    ) {
        {
            let mut state = lock(&self.state);
            state.forget_old();
            if state.manifests.insert(manifest, Instant::now()).is_some() {
                return;
            }
        }
        let (source, state, slots) = (
            Arc::clone(&self.source),
            Arc::clone(&self.state),
            Arc::clone(&self.slots),
        );
        let place = place.clone();
        let looking = async move {
            let indexes = match indexes(&source.repositories, &place, &manifest).await {
                Ok(indexes) => indexes,
                // The offers themselves will say what is wrong.
                Err(error) => return debug!(%place, %manifest, "looking ahead: {error}"),
            };
            for index in indexes
                .into_iter()
                .filter(|index| index.digest != but && !known(&index.digest))
            {
                let fetch = fetch(index, &source, &place, &slots);
                if lock(&state).add(index, fetch.clone()) {
                    tokio::spawn(fetch);
                }
            }
        };
        tokio::spawn(looking.with_current_context());
    }

    /// The stored index, if it was fetched or is being fetched. None also if that fails.
    pub(crate) async fn take(&self, index: &Digest) -> Option<Bytes> {
        let waiting = lock(&self.state).fetches.remove(index)?;
        waiting.fetch.await
    }
}

impl State {
    fn forget_old(&mut self) {
        self.manifests.retain(|_, since| since.elapsed() < KEPT);
        self.fetches.retain(|_, waiting| waiting.since.elapsed() < KEPT);
    }

    /// False if it is here or under way, or if there is no room for it.
    fn add(&mut self, index: IndexRef, fetch: Fetch) -> bool {
        self.forget_old();
        let held: u64 = self.fetches.values().map(|waiting| waiting.size).sum();
        if self.fetches.contains_key(&index.digest) || held.saturating_add(index.size) > MOST_BYTES {
            return false;
        }
        self.fetches.insert(
            index.digest,
            Waiting {
                since: Instant::now(),
                size: index.size,
                fetch,
            },
        );
        true
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fetch(index: IndexRef, source: &Arc<RegistrySource>, place: &Place, slots: &Arc<Semaphore>) -> Fetch {
    let (source, place, slots) = (Arc::clone(source), place.clone(), Arc::clone(slots));
    async move {
        let _slot = slots.acquire_owned().await.ok()?;
        match source.index(&place, index).await {
            Ok(stored) => Some(stored),
            Err(error) => {
                debug!(%place, index = %index.digest, "looking ahead: {error}");
                None
            }
        }
    }
    .with_current_context()
    .boxed()
    .shared()
}

async fn indexes(
    repositories: &Repositories,
    place: &Place,
    manifest: &Digest,
) -> Result<Vec<IndexRef>, Box<dyn std::error::Error + Send + Sync>> {
    let store = repositories.store(place).await?;
    let descriptor = store.resolve(Some(&manifest.to_string())).await?;
    Ok(read(&store.manifest(&descriptor).await?)?)
}

fn read(manifest: &[u8]) -> Result<Vec<IndexRef>, serde_json::Error> {
    let manifest: Manifest = serde_json::from_slice(manifest)?;
    let index = |layer: Layer| layer.annotations.get(annotation::INDEX)?.parse().ok();
    let mut indexes: Vec<IndexRef> = Vec::new();
    for index in manifest.layers.into_iter().filter_map(index) {
        if !indexes.contains(&index) {
            indexes.push(index);
        }
    }
    Ok(indexes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn index(name: &str, size: u64) -> IndexRef {
        IndexRef {
            digest: Digest::of(name.as_bytes()),
            size,
        }
    }

    fn ready(bytes: &'static [u8]) -> Fetch {
        async move { Some(Bytes::from_static(bytes)) }.boxed().shared()
    }

    #[test]
    fn the_indexes_of_a_manifest_each_once() {
        let layer =
            |index: &IndexRef| serde_json::json!({"annotations": {annotation::INDEX: index.to_string()}});
        let (one, two) = (index("1", 10), index("2", 20));
        let plain = serde_json::json!({"digest": "sha256:00"});
        let text = serde_json::json!({"layers": [layer(&one), plain, layer(&two), layer(&one)]}).to_string();
        assert_eq!(read(text.as_bytes()).unwrap(), [one, two]);
        assert!(read(b"{}").unwrap().is_empty());
        assert!(read(b"[").is_err());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut state = State::default();
        assert!(state.add(index("1", MOST_BYTES - 10), ready(b"")));
        assert!(!state.add(index("1", 1), ready(b"")), "is there already");
        assert!(!state.add(index("2", 11), ready(b"")), "is too much");
        assert!(state.add(index("3", 10), ready(b"")));
    }
}
