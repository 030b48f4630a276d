//! The daemon's own service: what `lacewing status` and monitors ask.

mod told;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lacewing_format::annotation;
use lacewing_fusefs::{Engine, LayerId, LayerStatus, Way};
use lacewing_p2p::driver::PeerStatus;
use lacewing_rpc::control::control_server::{Control as ControlService, ControlServer};
use lacewing_rpc::control::{
    CollectRequest, CollectResponse, CompleteRequest, CompleteResponse, ExplainRequest, ExplainResponse,
    GetRequest, GiveBackRequest, Layer, PinRequest, PinResponse, PreheatRequest, PreheatResponse,
    RecordRequest, StatusRequest, StatusResponse, Store, SwarmRequest, SwarmResponse,
};
use lacewing_snapshotter::{
    CHAIN_ID_LABEL, IMAGE_LABEL, LAYER_LABEL, LayerEntry, LayerRef, MountError, Snapshotter,
};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::adapters::layers::NodeLayers;
use crate::adapters::p2p::Peers;
use crate::give_back::{GivenStream, Giver};
use crate::meters::{Meters, milliseconds};
use crate::pin::{Pin, Pins};
use crate::record::{self, RecordStream};
use crate::swarm;
pub(crate) use told::counters;
use told::{broken, features};

/// How often layers that came are held against the pins: an image is not evicted while it is pulled.
const APPLY_PINS: Duration = Duration::from_secs(5);

/// What tells this worker from others.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Where everything is kept.
    pub(crate) root: PathBuf,
    /// Workers before this one under the same supervisor.
    pub(crate) restarts: u64,
    /// When this one began.
    pub(crate) started: SystemTime,
    /// Its containerd's socket.
    pub(crate) containerd: Option<PathBuf>,
}

/// Answers from what the rooms know.
#[derive(Clone)]
pub(crate) struct Control {
    identity: Identity,
    snapshotter: Snapshotter,
    engine: Arc<Engine>,
    layers: Arc<NodeLayers>,
    broken: Arc<Vec<(String, MountError)>>,
    meters: Arc<Meters>,
    pins: Arc<Pins>,
    giver: Giver,
}

impl Control {
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts that it answers from, each once"
    )]
    /// `broken`: what could not be shown again at start.
    pub(crate) fn new(
        identity: Identity,
        snapshotter: Snapshotter,
        engine: Arc<Engine>,
        layers: Arc<NodeLayers>,
        broken: Vec<(String, MountError)>,
        meters: Arc<Meters>,
        pins: Arc<Pins>,
        giver: Giver,
    ) -> Control {
        Control {
            identity,
            snapshotter,
            engine,
            layers,
            broken: Arc::new(broken),
            meters,
            pins,
            giver,
        }
    }

    fn peers(&self) -> Result<&Arc<Peers>, Status> {
        let none = "this daemon has no piece layer: [p2p] in its configuration, or its log";
        self.layers
            .peers()
            .ok_or_else(|| Status::failed_precondition(none))
    }

    /// The other members of the piece layer; None where there is none.
    pub(crate) async fn members(&self) -> Option<Vec<PeerStatus>> {
        Some(self.layers.peers()?.node.status().await.peers)
    }

    /// The gRPC service.
    pub(crate) fn service(self) -> ControlServer<impl ControlService> {
        ControlServer::new(self)
    }

    /// Running totals of the store, and of the piece layer where it is on.
    fn counters(&self) -> HashMap<String, u64> {
        let mut totals = counters(&self.engine.counters());
        if let (Some(peers), Ok(runtime)) = (self.layers.peers(), tokio::runtime::Handle::try_current()) {
            totals.extend(runtime.block_on(peers.counters()));
        }
        totals
    }

    /// What is held and used at this moment. Reads metadata from disk and waits for locks: for the runtime's threads that
    /// may block.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub(crate) fn answer(&self) -> Result<StatusResponse, lacewing_snapshotter::Error> {
        let held: HashMap<LayerId, LayerStatus> = self
            .engine
            .status()
            .into_iter()
            .map(|status| (status.id, status))
            .collect();
        let layers = self
            .snapshotter
            .layers()?
            .into_iter()
            .map(|entry| self.layer(entry, &held))
            .collect();
        Ok(StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.identity.root.display().to_string(),
            worker_pid: std::process::id(),
            worker_restarts: self.identity.restarts,
            started_at_ms: milliseconds(self.identity.started),
            features: features(self.engine.features(), self.engine.way(), self.layers.never()),
            layers,
            broken: self.broken.iter().map(broken).collect(),
            counters: self.counters(),
            slowest: self.meters.slowest.list(),
            pulls: self.meters.pulls.list(),
            store: Some(self.store()),
        })
    }

    fn store(&self) -> Store {
        let status = self.engine.store_status();
        Store {
            used: status.used,
            whole: status.whole,
            quota: status.quota.unwrap_or_default(),
            free_floor: status.free_floor.unwrap_or_default(),
            pinned: self.pins.list(),
        }
    }

    /// The numbers of the lazy layers, each with the image it was pulled for.
    pub(crate) fn images(&self) -> Result<Vec<(LayerId, String)>, lacewing_snapshotter::Error> {
        let none = HashMap::new();
        let entries = self.snapshotter.layers()?.into_iter();
        let lazy = entries
            .map(|entry| self.layer(entry, &none))
            .filter(|layer| layer.lazy);
        Ok(lazy.map(|layer| (LayerId(layer.number), layer.image)).collect())
    }

    /// The lazy layers of an image.
    fn layers_of(&self, image: &str) -> Result<BTreeSet<LayerId>, Status> {
        let pin = Pin::parse(image).map_err(Status::invalid_argument)?;
        let images = self
            .images()
            .map_err(|error| Status::internal(error.to_string()))?;
        let own = images.into_iter().filter(|(_, name)| pin.covers(name));
        Ok(own.map(|(layer, _)| layer).collect())
    }

    /// Applies pins to layers as they come, for as long as the process lives.
    pub(crate) async fn keep_pins_applied(self) {
        loop {
            let this = self.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || this.apply_pins()).await {
                warn!(%error, "applying pins");
            }
            tokio::time::sleep(APPLY_PINS).await;
        }
    }

    /// Tells the store which layers are pinned now.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub(crate) fn apply_pins(&self) -> Result<(), lacewing_snapshotter::Error> {
        let pinned = |name: &str| self.pins.cover(name);
        let images = if self.pins.is_empty() {
            Vec::new()
        } else {
            self.images()?
        };
        let layers = images
            .into_iter()
            .filter(|(_, name)| pinned(name))
            .map(|(layer, _)| layer);
        self.engine.pin(layers);
        Ok(())
    }

    fn do_pin(&self, request: &PinRequest) -> Result<PinResponse, Status> {
        let layers = self.layers_of(&request.image)?;
        self.pins
            .set(&request.image, request.pinned)
            .map_err(|error| Status::internal(format!("{error:#}")))?;
        self.apply_pins()
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(PinResponse {
            layers: layers.len() as u64,
        })
    }

    fn do_complete(&self, image: &str) -> Result<CompleteResponse, Status> {
        let mut answer = CompleteResponse::default();
        for layer in self.layers_of(image)? {
            let Some(status) = self.engine.layer_status(layer) else {
                continue;
            };
            if !status.complete {
                let _ = self.engine.complete(layer);
            }
            answer.layers += 1;
            answer.bytes_present += status.present;
            answer.bytes_total += status.total;
            if let Some(trouble) = status.trouble.filter(|_| answer.trouble.is_empty()) {
                answer.trouble = trouble;
            }
        }
        let store = self.engine.store_status();
        if let Some(quota) = store.quota.filter(|quota| answer.bytes_total > *quota) {
            return Err(Status::resource_exhausted(format!(
                "the image has {} bytes, and the store's quota is {quota}",
                answer.bytes_total
            )));
        }
        Ok(answer)
    }

    fn layer(&self, entry: LayerEntry, held: &HashMap<LayerId, LayerStatus>) -> Layer {
        let label = |key: &str| entry.labels.get(key).cloned().unwrap_or_default();
        let labels: HashMap<String, String> = entry.labels.clone().into_iter().collect();
        let read = LayerRef::from_labels(&labels).unwrap_or_default();
        let index = read.index.map(|index| index.digest);
        let mut image = label(IMAGE_LABEL);
        if image.is_empty() {
            image = index
                .and_then(|index| self.layers.image_of(&index))
                .unwrap_or_default();
        }
        let mut layer_digest = label(LAYER_LABEL);
        if layer_digest.is_empty() {
            layer_digest = label(annotation::LAYER);
        }
        let status = entry
            .layer
            .as_ref()
            .ok()
            .and_then(|number| held.get(&LayerId(*number)));
        Layer {
            snapshot: entry.snapshot,
            image,
            layer_digest,
            index_digest: index.map(|index| index.to_string()).unwrap_or_default(),
            chain_id: label(CHAIN_ID_LABEL),
            namespace: entry.namespace.unwrap_or_default(),
            lazy: entry.layer.is_ok(),
            number: entry.layer.as_ref().ok().copied().unwrap_or_default(),
            reason: entry
                .layer
                .err()
                .or_else(|| status.and_then(|s| s.trouble.clone()))
                .unwrap_or_default(),
            bytes_present: status.map_or(0, |status| status.present),
            bytes_total: status.map_or(0, |status| status.total),
            direct: status.is_some_and(|status| status.complete) && self.engine.way() == Way::Kernel,
            users: entry.users,
            created_at_ms: entry.created_at_ms,
        }
    }
}

#[tonic::async_trait]
impl ControlService for Control {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let this = self.clone();
        // Metadata and counters are read from disk and behind locks.
        let answer = tokio::task::spawn_blocking(move || this.answer())
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let answer = answer.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(answer))
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<PinResponse>, Status> {
        let this = self.clone();
        aside(move || this.do_pin(request.get_ref())).await
    }

    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteResponse>, Status> {
        let this = self.clone();
        aside(move || this.do_complete(&request.get_ref().image)).await
    }

    type RecordStream = RecordStream;

    async fn record(
        &self,
        request: Request<Streaming<RecordRequest>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let mut requests = request.into_inner();
        let none = || Status::invalid_argument("no image is named");
        let image = requests.message().await?.ok_or_else(none)?.image;
        Pin::parse(&image).map_err(Status::invalid_argument)?;
        let this = self.clone();
        let layers = move || this.layers_of(&image);
        record::serve(self.engine.clone(), requests, layers).map(Response::new)
    }

    type GiveBackStream = GivenStream;

    async fn give_back(
        &self,
        request: Request<GiveBackRequest>,
    ) -> Result<Response<Self::GiveBackStream>, Status> {
        self.giver.begin(request.into_inner()).map(Response::new)
    }

    type GetStream = swarm::GetStream;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let parts = swarm::get(self.peers()?, request.into_inner()).await?;
        Ok(Response::new(parts))
    }

    async fn swarm(&self, request: Request<SwarmRequest>) -> Result<Response<SwarmResponse>, Status> {
        let answer = swarm::swarm(self.peers()?, request.into_inner()).await;
        Ok(Response::new(answer))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let answer = swarm::explained(self.peers()?, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn preheat(&self, request: Request<PreheatRequest>) -> Result<Response<PreheatResponse>, Status> {
        let answer = swarm::preheat(
            self.peers()?,
            self.identity.containerd.clone(),
            request.into_inner(),
        )
        .await?;
        Ok(Response::new(answer))
    }

    async fn collect(&self, _request: Request<CollectRequest>) -> Result<Response<CollectResponse>, Status> {
        let layers = self.snapshotter.collect().await;
        let layers = layers.map_err(|error| Status::internal(error.to_string()))?;
        let this = self.clone();
        aside(move || {
            Ok(CollectResponse {
                layers: layers as u64,
                bytes: this.engine.clean_up().bytes,
            })
        })
        .await
    }
}

/// Answers from a thread that may wait for disks.
async fn aside<T: Send + 'static>(
    answer: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<Response<T>, Status> {
    let answer = tokio::task::spawn_blocking(answer).await;
    answer
        .map_err(|error| Status::internal(error.to_string()))?
        .map(Response::new)
}
