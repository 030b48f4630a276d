//! The snapshotter's port for lazy layers, over the store and the registries.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lacewing_format::Digest;
use lacewing_format::annotation::{self, IndexRef};
use lacewing_fusefs::{Engine, LayerId};
use lacewing_oci::Reference;
use lacewing_snapshotter::{LayerRef, LayerRequest, Layers, MountError, Offer, ShownLayer, Usage};
use tracing::{debug, info, warn};

use super::ahead::Ahead;
use super::content::{ContentStore, plausible, with_port};
use super::origins::{Origins, Place};
use super::p2p::Peers;
use super::source::RegistrySource;
use crate::limits::MAX_STORED_INDEX;

/// Layers of this node.
pub(crate) struct NodeLayers {
    engine: Arc<Engine>,
    source: Arc<RegistrySource>,
    ahead: Ahead,
    origins: Arc<Origins>,
    content: Option<ContentStore>,
    /// Why nothing can be lazy here, if so.
    never: Option<String>,
    timeout: Duration,
    /// One fetch of an index at a time: the same layer may be pulled for several images at once.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Where the images came from that named no reference themselves, by index; for status.
    images: Mutex<HashMap<Digest, Place>>,
}

impl NodeLayers {
    /// `never`: why nothing can be lazy on this node. `timeout`: the longest an offer may take.
    pub(crate) fn new(
        engine: Arc<Engine>,
        source: Arc<RegistrySource>,
        origins: Arc<Origins>,
        content: Option<ContentStore>,
        never: Option<String>,
        timeout: Duration,
    ) -> NodeLayers {
        let never = never.or_else(|| engine.obstacle().map(str::to_owned));
        NodeLayers {
            engine,
            ahead: Ahead::new(Arc::clone(&source)),
            source,
            origins,
            content,
            never,
            timeout,
            fetching: Mutex::default(),
            images: Mutex::default(),
        }
    }

    /// Why nothing can be lazy on this node.
    pub(crate) fn never(&self) -> Option<&str> {
        self.never.as_deref()
    }

    /// Other nodes, if any are asked for pieces.
    pub(crate) fn peers(&self) -> Option<&Arc<Peers>> {
        self.source.peers()
    }

    /// What a layer's files are read from.
    pub(crate) fn blobs(&self, layer: u64) -> Vec<Digest> {
        self.engine.blobs(LayerId(layer))
    }

    /// The repository that an index was found in through containerd's content store, since this worker began.
    pub(crate) fn image_of(&self, index: &Digest) -> Option<String> {
        self.images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index)
            .map(Place::to_string)
    }

    async fn try_offer(
        &self,
        request: &LayerRequest,
        layer: &LayerRef,
        index: IndexRef,
    ) -> Result<u64, String> {
        if index.size > MAX_STORED_INDEX {
            return Err(format!(
                "its index would have {} bytes, more than {MAX_STORED_INDEX}",
                index.size
            ));
        }
        let places = match (
            self.places(request, layer).await,
            self.engine.layer(&index.digest),
        ) {
            (Ok(places), _) => places,
            // Nobody says where it is, but it is here, and where its bytes are is known from another pull.
            (Err(_), Some(id)) if !self.origins.of_index(&index.digest).is_empty() => return Ok(id.0),
            (Err(reason), _) => return Err(reason),
        };
        if let (Some(manifest), Some(place)) = (layer.manifest, places.first()) {
            let engine = Arc::clone(&self.engine);
            self.ahead.begin(manifest, place, index.digest, move |index| {
                engine.layer(index).is_some()
            });
        }
        let gate = self.gate(index.digest);
        let _alone = gate.lock().await;
        let id = match self.engine.layer(&index.digest) {
            Some(id) => self.known(index, id, &places).await?,
            None => self.fetch(index, &places).await?,
        };
        self.fetching
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&index.digest);
        Ok(id.0)
    }

    fn gate(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        // Gates of offers that were given up stay until here; a gate in use is held by its user.
        fetching.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(fetching.entry(digest).or_default())
    }

    /// Where the image is: what the client says, then what containerd's content store says.
    async fn places(&self, request: &LayerRequest, layer: &LayerRef) -> Result<Vec<Place>, String> {
        let said = match layer.image.as_deref().map(place_of) {
            Some(Ok(place)) => return Ok(vec![place]),
            Some(Err(reason)) => reason,
            None => "the client does not name the image".to_owned(),
        };
        let Some(config) = layer.config else {
            return Err(format!(
                "{said}, and the layer's annotations do not name its config"
            ));
        };
        let Some(content) = &self.content else {
            return Err(format!("{said}, and asking containerd is switched off"));
        };
        let Some(namespace) = &request.namespace else {
            return Err(format!(
                "{said}, and the call has no namespace to ask containerd in"
            ));
        };
        let places = content
            .places(namespace, &config)
            .await
            .map_err(|reason| format!("{said}; {reason}"))?;
        let host = request.labels.get(annotation::HOST).map(String::as_str);
        let places = with_port(places, host);
        if let (Some(index), Some(place)) = (layer.index, places.first()) {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.insert(index.digest, place.clone());
        }
        Ok(places)
    }

    /// A layer that is here already. No byte of it is fetched again, but a further place is good to know, if the index
    /// is really there: an image built from a lazy one names its layers, yet its repository may not have their blobs.
    async fn known(&self, index: IndexRef, id: LayerId, places: &[Place]) -> Result<LayerId, String> {
        let known = self.origins.of_index(&index.digest);
        let Some(place) = places.first().filter(|place| !known.contains(place)) else {
            return Ok(id);
        };
        match self.source.repositories.has_index(place, index).await {
            Ok(true) => self.remember(index.digest, id, place).await?,
            _ if known.is_empty() => return Err(format!("its index is not in {place}")),
            _ => {}
        }
        Ok(id)
    }

    async fn fetch(&self, index: IndexRef, places: &[Place]) -> Result<LayerId, String> {
        let mut reason = String::from("no place is known");
        for place in places {
            let stored = match self.read_index(index, place).await {
                Ok(stored) => stored,
                Err(error) => {
                    debug!(%place, index = %index.digest, "index: {error}");
                    reason = format!("its index cannot be read: {error}");
                    continue;
                }
            };
            let engine = Arc::clone(&self.engine);
            let add = tokio::task::spawn_blocking(move || engine.add_layer(&stored, index.digest));
            // A wrong index is wrong wherever it lies: its digest was right.
            let id = add
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            self.remember(index.digest, id, place).await?;
            return Ok(id);
        }
        Err(reason)
    }

    async fn read_index(&self, index: IndexRef, place: &Place) -> Result<Bytes, String> {
        match self.ahead.take(&index.digest).await {
            Some(stored) => Ok(stored),
            None => self.source.index(place, index).await,
        }
    }

    /// Before a snapshot relies on a layer, its blobs' origin is on disk.
    async fn remember(&self, index: Digest, id: LayerId, place: &Place) -> Result<(), String> {
        let (engine, origins, place) = (Arc::clone(&self.engine), Arc::clone(&self.origins), place.clone());
        tokio::task::spawn_blocking(move || origins.add(index, &place, &engine.blobs(id)))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("{error:#}"))
    }
}

#[tonic::async_trait]
impl Layers for NodeLayers {
    async fn offer(&self, request: &LayerRequest) -> Offer {
        let layer = match LayerRef::from_labels(&request.labels) {
            Ok(layer) => layer,
            Err(error) => return ordinary(&request.chain_id, None, error.to_string()),
        };
        let Some(index) = layer.index else {
            return ordinary(
                &request.chain_id,
                layer.image.as_deref(),
                "the image is not converted".to_owned(),
            );
        };
        if let Some(reason) = &self.never {
            return ordinary(&request.chain_id, layer.image.as_deref(), reason.clone());
        }
        match tokio::time::timeout(self.timeout, self.try_offer(request, &layer, index)).await {
            Ok(Ok(number)) => {
                info!(
                    layer = number,
                    index = %index.digest,
                    image = layer.image.as_deref().unwrap_or_default(),
                    "lazy layer"
                );
                Offer::Lazy { layer: number }
            }
            Ok(Err(reason)) => ordinary(&request.chain_id, layer.image.as_deref(), reason),
            Err(_) => {
                let reason = format!("its index did not come within {:?}", self.timeout);
                ordinary(&request.chain_id, layer.image.as_deref(), reason)
            }
        }
    }

    fn show(&self, layer: u64, copy: u32) -> Result<ShownLayer, MountError> {
        let shown = self
            .engine
            .show_copy(LayerId(layer), copy)
            .map_err(|error| mount_error(layer, &error))?;
        Ok(ShownLayer {
            path: shown.path,
            direct: shown.direct,
        })
    }

    fn show_as(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError> {
        self.engine
            .show_as(LayerId(layer), copy, direct)
            .map_err(|error| mount_error(layer, &error))
    }

    async fn release(&self, layer: u64) {
        let (engine, origins) = (Arc::clone(&self.engine), Arc::clone(&self.origins));
        if let Some(status) = engine.layer_status(LayerId(layer)) {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.remove(&status.index);
        }
        let release = tokio::task::spawn_blocking(move || {
            let id = LayerId(layer);
            let index = engine.layer_status(id).map(|status| status.index);
            engine.remove(id)?;
            if let Some(index) = index {
                origins.remove(index);
            }
            Ok::<_, lacewing_fusefs::Error>(())
        });
        match release.await {
            Ok(Ok(()) | Err(lacewing_fusefs::Error::NoLayer(_))) => info!(layer, "layer removed"),
            Ok(Err(error)) => warn!(
                layer,
                "removing the layer: {error}; it is tried again at the next start"
            ),
            Err(error) => warn!(layer, "removing the layer: {error}"),
        }
    }

    fn usage(&self, layer: u64) -> Usage {
        let status = self.engine.layer_status(LayerId(layer));
        Usage {
            size: status.map_or(0, |status| status.present),
            inodes: 0,
        }
    }

    fn known(&self) -> Vec<u64> {
        self.engine
            .status()
            .into_iter()
            .map(|status| status.id.0)
            .collect()
    }
}

fn ordinary(chain_id: &str, image: Option<&str>, reason: String) -> Offer {
    info!(
        chain_id,
        image = image.unwrap_or_default(),
        "ordinary layer: {reason}"
    );
    Offer::Ordinary { reason }
}

fn mount_error(layer: u64, error: &lacewing_fusefs::Error) -> MountError {
    MountError {
        layer,
        reason: error.to_string(),
    }
}

fn place_of(image: &str) -> Result<Place, String> {
    match image.parse::<Reference>() {
        Ok(Reference::Registry(reference))
            if plausible(&reference.host) && plausible(&reference.repository) =>
        {
            Ok(Place {
                host: reference.host,
                repository: reference.repository,
            })
        }
        Ok(_) => Err(format!(
            "the client's image reference {image:?} names no registry"
        )),
        Err(error) => Err(format!("the client's image reference {image:?} is none: {error}")),
    }
}
