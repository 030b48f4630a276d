//! The crate's front: layers in, directories out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use lacewing_format::Digest;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::background::{self, Ask};
use crate::catalogue::Catalogue;
use crate::error::{Error, IoContext, Result};
use crate::fetch::{Fetcher, FetcherOptions};
use crate::fuse::Server;
use crate::indexes::Indexes;
use crate::layer::{Layer, Layers};
use crate::lock;
use crate::options::{Features, Options, Way};
use crate::probed;
use crate::report::{Counters, LayerId};
use crate::restore::{Restored, restore};
use crate::store::pack::BootId;
use crate::store::places::Places;
use crate::tally::Tally;
use crate::trees::Trees;
use crate::trees::fuse::{Forest, FuseTrees, TreeKind};
use crate::trees::kernel::KernelTrees;
use crate::volumes::Volumes;

mod intake;
mod keeping;
mod recording;
mod serving;
mod showing;
mod status;

use keeping::Keeping;

/// Shows layers and supplies their bytes. All methods may block on local files and mounts, never on
/// the network: call them from a thread that may wait.
pub struct Engine {
    options: Options,
    features: Features,
    way: Way,
    trees: Box<dyn Trees>,
    boot: BootId,
    indexes: Indexes,
    catalogue: Mutex<Catalogue>,
    layers: Arc<Layers>,
    volumes: Arc<Volumes>,
    fetcher: Arc<Fetcher>,
    tally: Arc<Tally>,
    completing: UnboundedSender<Ask>,
    keeping: Keeping,
    forest: Arc<Forest>,
    server: Mutex<Weak<Server>>,
    /// Servers of trees, as far as they serve.
    tree_servers: Mutex<Vec<(TreeKind, Weak<Server>)>>,
    /// Held as long as the store is in use.
    _lock: File,
}

impl Engine {
    /// Opens the store below the root and probes the kernel. Needs no connection.
    pub fn open(options: Options) -> Result<Engine> {
        let root = options.root.clone();
        for dir in ["packs", "l"] {
            std::fs::create_dir_all(root.join(dir)).at("make", root.join(dir))?;
        }
        let lock = lock::take(&root.join("lock"))?;
        let boot = BootId::current()?;
        let indexes = Indexes::open(&root.join("indexes"))?;
        let mut catalogue = Catalogue::load(&root.join("catalogue"))?;
        let keeping = Keeping::new(&options);
        let Restored { volumes, layers } = restore(&root, &indexes, &mut catalogue, boot, &keeping.space)?;
        let features = probed::features(&root, boot, &options.deny, &options.runtime);
        let (way, trees) = trees(&options, &features);
        let layers = Arc::new(RwLock::new(layers));
        let tally = Arc::new(Tally::default());
        let fetching = FetcherOptions {
            source: options.source.clone(),
            runtime: options.runtime.clone(),
            read_timeout: options.read_timeout,
            clock: options.clock.clone(),
        };
        let places = Places::open(&root.join("places"))?;
        let fetcher = Arc::new(Fetcher::new(fetching, places, volumes.clone(), tally.clone())?);
        let (completing, to_complete) = mpsc::unbounded_channel();
        options.runtime.spawn(background::complete(
            Arc::downgrade(&fetcher),
            to_complete,
            keeping.limits(options.pace),
        ));
        options
            .runtime
            .spawn(background::checkpoints(Arc::downgrade(&volumes)));
        let evictor = keeping.evictor(&root, &volumes);
        evictor.look();
        let engine = Engine {
            options,
            features,
            way,
            trees,
            boot,
            indexes,
            catalogue: Mutex::new(catalogue),
            forest: Arc::new(Forest::new(layers.clone())),
            layers,
            volumes,
            fetcher,
            tally,
            completing,
            keeping,
            server: Mutex::default(),
            tree_servers: Mutex::default(),
            _lock: lock,
        };
        engine.promise_shown()?;
        engine.options.runtime.spawn(evictor.watch());
        Ok(engine)
    }

    /// How layers are shown: [`Way::Kernel`] or [`Way::Fuse`].
    pub fn way(&self) -> Way {
        self.way
    }

    /// Why layers cannot be shown on this node, if they cannot.
    pub fn obstacle(&self) -> Option<&str> {
        self.trees.obstacle()
    }

    /// What the kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Finds a layer by the digest of its stored index.
    pub fn layer(&self, digest: &Digest) -> Option<LayerId> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers
            .values()
            .find(|layer| layer.digest == *digest)
            .map(|layer| layer.id)
    }

    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub(crate) fn get(&self, id: LayerId) -> Result<Arc<Layer>> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.get(&id).cloned().ok_or(Error::NoLayer(id))
    }

    fn all(&self) -> Vec<Arc<Layer>> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.values().cloned().collect()
    }

    /// Starts to complete a layer now, whatever [`Options::background`] and [`Options::pace`] say.
    pub fn complete(&self, layer: LayerId) -> Result<()> {
        let layer = self.get(layer)?;
        let _ = self.completing.send(Ask { layer, now: true });
        Ok(())
    }

    /// The data blobs that a layer's index points to; none for an unknown layer. Callers keep beside each blob
    /// where it can be read.
    pub fn blobs(&self, layer: LayerId) -> Vec<Digest> {
        let Ok(layer) = self.get(layer) else {
            return Vec::new();
        };
        let parts = layer.parts.iter();
        parts.map(|part| part.volume.pack.identity().blob).collect()
    }

    /// Running totals.
    pub fn counters(&self) -> Counters {
        Counters {
            evicted_bytes: self.keeping.space.evicted_bytes(),
            ..self.tally.counters()
        }
    }

    /// The directory on which the FUSE connection must be mounted.
    pub fn data_dir(root: &Path) -> PathBuf {
        root.join("data")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.fetcher.close();
    }
}

/// The way that was asked for, or the better one that works.
fn trees(options: &Options, features: &Features) -> (Way, Box<dyn Trees>) {
    let root = options.root.clone();
    let obstacle = features.erofs_file.clone().and_then(Result::err);
    match (options.trees, &obstacle) {
        (Way::Fuse, _) | (Way::Auto, Some(_)) => (Way::Fuse, Box::new(FuseTrees { root })),
        (Way::Kernel, _) | (Way::Auto, None) => {
            let directio = features.directio;
            let trees = KernelTrees {
                obstacle,
                directio,
                root,
            };
            (Way::Kernel, Box::new(trees))
        }
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
