//! The worker: everything but keeping the descriptors.
//!
//! Order at start: the FUSE connection is answered first, because containers may be waiting for it; then the snapshots
//! are shown again; then the socket is served. Nothing of it needs a network.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use lacewing_fusefs::{BlobSource, Connection, Engine, Pace, Serving, TreeKind, Way};
use lacewing_snapshotter::{MountError, Snapshotter};
use nix::sys::signal::SigSet;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::adapters::content::ContentStore;
use crate::adapters::layers::NodeLayers;
use crate::adapters::measured::{MeasuredLayers, MeasuredSource};
use crate::adapters::origins::Origins;
use crate::adapters::p2p::Peers;
use crate::adapters::source::RegistrySource;
use crate::cli::WorkerArgs;
use crate::config::Config;
use crate::control::{Control, Identity};
use crate::credentials::image_service::ImageService;
use crate::fds::{self, Descriptors, Fuse, Sign};
use crate::give_back::Giver;
use crate::http::{self, Site};
use crate::lock::{self, Lock};
use crate::meters::Meters;
use crate::mirror;
use crate::pin::Pins;
use crate::traces::{self, Traces};
use crate::{credentials, guard, registry, succession, swarm};

/// A sign of life every so often: several fit into the shortest `supervisor.silence_s`.
const SIGN_EVERY: Duration = Duration::from_secs(3);
/// The worker before us is dead or exits at once; this is for a machine that swaps.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Answers under way at SIGTERM may take so long; the supervisor waits longer.
const GRACE: Duration = Duration::from_secs(5);
/// Spans that wait when the worker ends are sent within this time, or are lost.
const TRACES_GRACE: Duration = Duration::from_millis(500);
/// Mounts, metadata and disk run on these threads. Each costs a stack when used; containerd asks a few at a time.
const BLOCKING_THREADS: usize = 32;

/// Serves until SIGTERM.
///
/// # Errors
/// Whatever keeps it from serving; the supervisor starts the next one.
pub(crate) fn run(args: &WorkerArgs) -> Result<()> {
    // The supervisor blocks its signals, and a mask is inherited. Before any thread is there to inherit it further.
    SigSet::empty().thread_set_mask().context("unblocking signals")?;
    guard::give_up();
    let config: Config = serde_json::from_str(&args.config).context("the supervisor's configuration")?;
    let link = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("the supervisor's link")?;
    let descriptors = fds::receive(link.as_fd()).context("the supervisor's descriptors")?;
    crate::limits::raise_open_files();
    let path = config.root.join("worker.lock");
    let Some(_lock) = Lock::take(&path, LOCK_PATIENCE)? else {
        bail!(
            "worker {} still runs on {}",
            lock::holder(&path),
            config.root.display()
        );
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(2, usize::from)
                .clamp(2, 4),
        )
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("lacewing")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    give_signs(&runtime, link.try_clone()?);
    let worker = Worker::open(&config, &runtime, &descriptors, args.restarts)?;
    let listener = UnixListener::from(descriptors.listener.try_clone()?);
    watch_supervisor(&config.address, link.try_clone()?, descriptors)?;
    runtime.block_on(worker.serve(listener, link))
}

fn give_signs(runtime: &Runtime, link: OwnedFd) {
    runtime.spawn(async move {
        let mut every = tokio::time::interval(SIGN_EVERY);
        loop {
            every.tick().await;
            // A supervisor that is gone is somebody else's matter: see `watch_supervisor`.
            let _ = fds::signal(link.as_fd(), Sign::Alive);
        }
    });
}

/// When the supervisor dies we serve on, until the next one asks for the descriptors.
fn watch_supervisor(address: &Path, link: OwnedFd, descriptors: Descriptors) -> Result<()> {
    let address = address.to_owned();
    let watch = move || {
        succession::wait_for_orphanage(link.as_fd());
        warn!("the supervisor is gone; serving on until the next one comes");
        match succession::hand_over(&address, &descriptors) {
            Ok(()) => {
                // Not a moment longer: the connection has another reader now.
                std::process::exit(0);
            }
            Err(error) => {
                error!("cannot hand over to a next supervisor: {error}; end this process before starting one")
            }
        }
    };
    std::thread::Builder::new()
        .name("succession".to_owned())
        .stack_size(128 << 10)
        .spawn(watch)
        .context("starting a thread")?;
    Ok(())
}

struct Worker {
    snapshotter: Snapshotter,
    control: Control,
    image_service: Option<ImageService>,
    site: Site,
    serving: Vec<Serving>,
    traces: Traces,
}

impl Worker {
    fn open(config: &Config, runtime: &Runtime, descriptors: &Descriptors, restarts: u64) -> Result<Worker> {
        let started = SystemTime::now();
        let traces = traces::start(config.traces.as_deref(), runtime.handle()).unwrap_or_else(|error| {
            // Nobody's container depends on them.
            error!("no traces are sent: {error:#}");
            Traces::default()
        });
        // What asks other sockets starts tasks.
        let _inside = runtime.enter();
        let pulls = credentials::open_pulls(config);
        let client = registry::serving_client(config, &pulls)?;
        let origins = Arc::new(Origins::open(&config.root)?);
        let source = Arc::new(RegistrySource::new(client, Arc::clone(&origins), traces.clone()));
        take_part(config, runtime, &source, &origins);
        let meters = Arc::new(Meters::default());
        let measured = MeasuredSource::new(Arc::clone(&source), Arc::clone(&meters), traces.clone());
        let engine = open_engine(config, runtime, Arc::new(measured))?;
        let (serving, no_fuse) = serve(&engine, descriptors);
        if let Some(reason) = &no_fuse {
            warn!("layers are pulled in the ordinary way: {reason}");
        }
        let containerd = config.containerd.as_deref();
        let content = containerd.map(ContentStore::new);
        let image_service = containerd.map(|address| ImageService::new(address, pulls));
        let giver = Giver::new(containerd, Arc::clone(&source.repositories));
        let layers = NodeLayers::new(
            Arc::clone(&engine),
            source,
            origins,
            content,
            no_fuse,
            config.offer_timeout,
        );
        let layers = Arc::new(layers);
        let port = Arc::new(MeasuredLayers::new(
            Arc::clone(&layers),
            Arc::clone(&meters),
            traces.clone(),
        ));
        let snapshotter = Snapshotter::open(&config.root, port, lacewing_snapshotter::Options::default())
            .context("opening the snapshots")?;
        let broken = restore(&snapshotter, runtime)?;
        let identity = Identity {
            root: config.root.clone(),
            restarts,
            started,
            containerd: config.containerd.clone(),
        };
        let control = Control::new(
            identity,
            snapshotter.clone(),
            engine,
            layers,
            broken,
            Arc::clone(&meters),
            Arc::new(Pins::open(&config.root)?),
            giver,
        );
        control.apply_pins().context("applying pins")?;
        let site = Site::new(config.clone(), control.clone(), meters);
        Ok(Worker {
            snapshotter,
            control,
            image_service,
            site,
            serving,
            traces,
        })
    }

    async fn serve(self, listener: UnixListener, link: OwnedFd) -> Result<()> {
        listener.set_nonblocking(true).context("the listening socket")?;
        let incoming = lacewing_snapshotter::connections(tokio::net::UnixListener::from_std(listener)?);
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        http::serve(self.site).await;
        tokio::spawn(self.control.clone().keep_pins_applied());
        let (stopping, mut stopped) = tokio::sync::watch::channel(false);
        let server = tonic::transport::Server::builder()
            .add_service(lacewing_snapshotter::service(self.snapshotter))
            .add_service(self.control.service())
            .add_optional_service(self.image_service)
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        let server = tokio::spawn(server);
        let _ = fds::signal(link.as_fd(), Sign::Ready);
        terminate.recv().await;
        info!("stopping");
        let _ = stopping.send(true);
        // Reads are served meanwhile, so nobody waits for a collector.
        let traces = self.traces;
        let finish = tokio::task::spawn_blocking(move || traces.finish(TRACES_GRACE));
        match tokio::time::timeout(GRACE, server).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!("the socket: {error}"),
            Ok(Err(error)) => warn!("the socket: {error}"),
            Err(_) => warn!("calls that took longer than {GRACE:?} were cut off"),
        }
        let _ = tokio::time::timeout(TRACES_GRACE, finish).await;
        // Requests that still wait for bytes stay with the kernel, for the next worker.
        let serving = self.serving;
        let stop = tokio::task::spawn_blocking(move || serving.into_iter().for_each(Serving::stop));
        let _ = tokio::time::timeout(GRACE, stop).await;
        // Threads may still wait for a registry; nothing of theirs is worth waiting for.
        std::process::exit(0);
    }
}

/// Joins the piece layer, where the configuration has one. Images must run without it: whoever can reach a registry does.
fn take_part(config: &Config, runtime: &Runtime, source: &RegistrySource, origins: &Arc<Origins>) {
    let Some(p2p) = &config.p2p else {
        return;
    };
    let (repositories, origins) = (Arc::clone(&source.repositories), Arc::clone(origins));
    match Peers::start(p2p, &config.root, repositories, origins) {
        Ok(peers) => {
            swarm::open(&peers, config.containerd.clone());
            if let Some(mirror) = &config.mirror {
                runtime.block_on(mirror::serve(mirror, Arc::clone(&peers)));
            }
            source.set_peers(peers);
        }
        Err(error) => error!("not taking part in the piece layer: {error:#}"),
    }
}

/// Shows again what containers stand on; returns the snapshots that cannot be, and why.
fn restore(snapshotter: &Snapshotter, runtime: &Runtime) -> Result<Vec<(String, MountError)>> {
    let restored = runtime
        .block_on(snapshotter.restore())
        .context("restoring the snapshots")?;
    info!(
        shown = restored.shown,
        removed = restored.removed,
        broken = restored.broken.len(),
        "restored"
    );
    Ok(restored.broken)
}

/// Answers on all connections; beside them the reason why layers cannot be shown, if so.
fn serve(engine: &Engine, descriptors: &Descriptors) -> (Vec<Serving>, Option<String>) {
    let (mut serving, mut trouble) = (Vec::new(), None);
    let mut begin = |fuse: &Fuse, serve: &dyn Fn(Connection) -> lacewing_fusefs::Result<Serving>| {
        let begun = fuse.fd.try_clone().map_err(|error| error.to_string());
        match begun.and_then(|fd| serve(Connection::from_fd(fd)).map_err(|error| error.to_string())) {
            Ok(one) => serving.push(one),
            Err(error) => trouble = Some(format!("the FUSE connection cannot be served: {error}")),
        }
    };
    for (kind, fuse) in &descriptors.trees {
        begin(fuse, &|connection| engine.serve_trees(*kind, connection));
    }
    match (&descriptors.fuse, engine.way()) {
        (Ok(fuse), _) => begin(fuse, &|connection| engine.serve(connection)),
        (Err(_), Way::Fuse) => {}
        (Err(reason), _) => trouble = Some(reason.clone()),
    }
    if engine.way() == Way::Fuse && descriptors.trees.len() < TreeKind::ALL.len() && trouble.is_none() {
        let reason = descriptors.fuse.as_ref().err().cloned();
        trouble = Some(reason.unwrap_or_else(|| "no FUSE mounts for trees in user space".to_owned()));
    }
    let better = engine
        .features()
        .erofs_file
        .as_ref()
        .and_then(|found| found.as_ref().err());
    match (engine.way(), better) {
        (Way::Fuse, Some(lacking)) => {
            info!("layers are shown by this process; for the kernel's EROFS: {lacking}")
        }
        (Way::Fuse, None) => info!("layers are shown by this process, as the configuration says"),
        _ => info!("layers are shown by the kernel's EROFS"),
    }
    (serving, trouble)
}

fn open_engine(config: &Config, runtime: &Runtime, source: Arc<dyn BlobSource>) -> Result<Arc<Engine>> {
    let mut options = lacewing_fusefs::Options::new(&config.root, source, runtime.handle().clone());
    options.read_timeout = config.read_timeout;
    options.background = config.background;
    options.trees = config.trees.into();
    options.quota = config.quota;
    options.free_floor = config.free_floor;
    options.pace = Pace {
        window: config.window.as_deref().and_then(|window| window.parse().ok()),
        rate: config.rate,
    };
    Ok(Arc::new(Engine::open(options).context("opening the store")?))
}
