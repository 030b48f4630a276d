//! The crate's front: layers in, directories out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use lacewing_format::Digest;
use tokio::sync::mpsc::{self, UnboundedSender};
use tracing::error;

use crate::background;
use crate::catalogue::{Catalogue, LayerEntry, PackEntry};
use crate::erofs::KernelTrees;
use crate::error::{Error, IoContext, Result};
use crate::fetch::{Fetcher, FetcherOptions};
use crate::fuse::Server;
use crate::indexes::{Indexes, MappedIndex};
use crate::layer::Layer;
use crate::lock;
use crate::probe::probe;
use crate::session::{Connection, Serving, place};
use crate::source::BlobSource;
use crate::store::pack::{BootId, Identity, Pack};
use crate::store::places::Places;
use crate::tally::Tally;
use crate::trees::{TreeParts, Trees};
use crate::volumes::{Volume, Volumes};
use crate::wire;

/// A layer's number on this node: kept on disk, never used again for another layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Features that [`Options::deny`] can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// EROFS mounts of plain files.
    ErofsFile,
    /// The EROFS mount option `directio`.
    DirectIo,
    /// Asking the kernel to send requests in flight again.
    Resend,
}

/// How to open an [`Engine`].
#[derive(Clone)]
pub struct Options {
    /// Everything the engine keeps lies below this directory; made if it is not there.
    pub root: PathBuf,
    /// Where missing bytes come from.
    pub source: Arc<dyn BlobSource>,
    /// Runs the source's futures. It must outlive the engine.
    pub runtime: tokio::runtime::Handle,
    /// How long a read may wait for unavailable bytes before it fails. Default 60 s: longer than a
    /// registry's restart, shorter than most liveness probes' patience.
    pub read_timeout: Duration,
    /// Whether shown layers are completed in the background. Default true.
    pub background: bool,
    /// Threads that answer the kernel. Default 2: more gained nothing on two cores, and four is
    /// the most that ever paid.
    pub threads: usize,
    /// Features to do without even where the kernel has them (tests, workarounds).
    pub deny: Vec<Feature>,
}

impl Options {
    /// The defaults, for a root, a source and a runtime.
    pub fn new(
        root: impl Into<PathBuf>,
        source: Arc<dyn BlobSource>,
        runtime: tokio::runtime::Handle,
    ) -> Options {
        Options {
            root: root.into(),
            source,
            runtime,
            read_timeout: Duration::from_secs(60),
            background: true,
            threads: 2,
            deny: Vec::new(),
        }
    }
}

/// What the kernel really does, found out by small mounts of our own at start.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Whether EROFS mounts plain files; else the reason why layers cannot be shown here.
    pub erofs_file: Option<Result<(), String>>,
    /// Whether EROFS reads its devices without a second copy in memory.
    pub directio: bool,
    /// Whether requests in flight are sent again to the next process.
    pub resend: bool,
}

/// Where a layer is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The directory.
    pub path: PathBuf,
    /// Whether it works without any process: all bytes are in plain files.
    pub direct: bool,
}

/// One layer, for people and monitors.
#[derive(Clone, Debug)]
pub struct LayerStatus {
    /// Its number.
    pub id: LayerId,
    /// Digest of its stored index.
    pub index: Digest,
    /// Digest of the original layer.
    pub layer: Digest,
    /// Plain bytes that are here.
    pub present: u64,
    /// Plain bytes in all.
    pub total: u64,
    /// Whether all bytes are here.
    pub complete: bool,
    /// Where it is mounted, incomplete and direct.
    pub mounts: Vec<PathBuf>,
    /// Why its completion does not get on, if it does not.
    pub trouble: Option<String>,
}

/// Running totals since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// READ requests answered.
    pub reads: u64,
    /// Plain bytes of these answers.
    pub read_bytes: u64,
    /// READ requests that had to wait for bytes.
    pub misses: u64,
    /// READ requests that failed.
    pub read_errors: u64,
    /// Requests that the kernel sent again after a change of process.
    pub resent: u64,
    /// Stored bytes that the source delivered.
    pub source_bytes: u64,
    /// Calls of the source.
    pub source_reads: u64,
    /// Plain bytes decoded and verified.
    pub decoded_bytes: u64,
    /// Plain bytes taken from packs already here.
    pub dedup_bytes: u64,
    /// Chunks or frames whose bytes were not what the index says.
    pub corrupt: u64,
    /// Frames that could not be kept, for want of space or for a failing disk.
    pub unstored: u64,
}

/// Shows layers and supplies their bytes. All methods may block on local files and mounts, never on
/// the network: call them from a thread that may wait.
pub struct Engine {
    options: Options,
    features: Features,
    trees: Box<dyn Trees>,
    boot: BootId,
    indexes: Indexes,
    catalogue: Mutex<Catalogue>,
    layers: RwLock<BTreeMap<LayerId, Arc<Layer>>>,
    volumes: Arc<Volumes>,
    fetcher: Arc<Fetcher>,
    tally: Arc<Tally>,
    completing: UnboundedSender<Arc<Layer>>,
    server: Mutex<Weak<Server>>,
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
        let (volumes, layers) = load(&root, &indexes, &mut catalogue, boot)?;
        let features = probe(&root.join("probe"), &options.deny, &options.runtime);
        let trees = KernelTrees {
            obstacle: features.erofs_file.clone().and_then(Result::err),
            directio: features.directio,
        };
        let tally = Arc::new(Tally::default());
        let fetching = FetcherOptions {
            source: options.source.clone(),
            runtime: options.runtime.clone(),
            read_timeout: options.read_timeout,
        };
        let places = Places::open(&root.join("places"))?;
        let fetcher = Arc::new(Fetcher::new(fetching, places, volumes.clone(), tally.clone())?);
        let (completing, to_complete) = mpsc::unbounded_channel();
        options
            .runtime
            .spawn(background::complete(Arc::downgrade(&fetcher), to_complete));
        options
            .runtime
            .spawn(background::checkpoints(Arc::downgrade(&volumes)));
        Ok(Engine {
            options,
            features,
            trees: Box::new(trees),
            boot,
            indexes,
            catalogue: Mutex::new(catalogue),
            layers: RwLock::new(layers),
            volumes,
            fetcher,
            tally,
            completing,
            server: Mutex::default(),
            _lock: lock,
        })
    }

    /// Answers the kernel's requests on `connection` until it ends or is stopped. The connection
    /// must be the one that is mounted on [`Engine::data_dir`].
    pub fn serve(&self, connection: Connection) -> Result<Serving> {
        self.drop_stale_mounts()?;
        let (volumes, fetcher) = (self.volumes.clone(), self.fetcher.clone());
        let server = Arc::new(Server::new(connection, volumes, fetcher, self.tally.clone())?);
        // Before the first request is read: what comes again is what the last process left.
        if !self.options.deny.contains(&Feature::Resend) {
            wire::resend(&server.fd).at("ask for requests again on", "/dev/fuse")?;
        }
        let serving = Serving::start(server.clone(), self.options.threads)?;
        *lock_of(&self.server) = Arc::downgrade(&server);
        Ok(serving)
    }

    /// Takes away mounts whose devices belong to a connection that is no more: nothing would ever
    /// answer their reads.
    fn drop_stale_mounts(&self) -> Result<()> {
        let data = Engine::data_dir(&self.options.root);
        let device = place(&data).map_or(0, |place| place.device).to_string();
        let note = self.options.root.join("connection");
        if std::fs::read_to_string(&note).is_ok_and(|noted| noted == device) {
            return Ok(());
        }
        for layer in self.all() {
            let _one = lock_of(&layer.mounting);
            self.trees.hide(&self.path_of(layer.id, false))?;
        }
        std::fs::write(&note, device).at("write", &note)
    }

    fn serving(&self) -> bool {
        let server = lock_of(&self.server).upgrade();
        server.is_some_and(|server| !server.stopped.load(Ordering::Acquire))
    }

    /// What the kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Takes in a layer's index in its stored form, whose digest the caller has verified. All of
    /// it is checked before anything is kept. Does nothing if the layer is known.
    pub fn add_layer(&self, stored: &[u8], digest: Digest) -> Result<LayerId> {
        if let Some(reason) = self.trees.obstacle() {
            return Err(Error::Unsupported {
                reason: reason.to_owned(),
            });
        }
        if let Some(known) = self.layer(&digest) {
            return Ok(known);
        }
        let index = Arc::new(self.indexes.add(stored, digest)?);
        let mut catalogue = lock_of(&self.catalogue);
        if let Some(known) = self.layer(&digest) {
            return Ok(known);
        }
        let before = catalogue.clone();
        let added = self.enter(&mut catalogue, &index, digest);
        let Ok((number, volumes)) = added else {
            *catalogue = before;
            return added.map(|(number, _)| LayerId(number));
        };
        volumes
            .iter()
            .for_each(|volume| self.volumes.insert(volume.clone()));
        let id = LayerId(number);
        let layer = Arc::new(Layer::new(id, digest, index, volumes));
        self.layers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, layer);
        Ok(id)
    }

    /// Enters a layer into the catalogue and finds or makes its packs.
    fn enter(
        &self,
        catalogue: &mut Catalogue,
        index: &MappedIndex,
        digest: Digest,
    ) -> Result<(u64, Vec<Arc<Volume>>)> {
        let view = index.view();
        let present = self.volumes.all();
        let dir = self.options.root.join("packs");
        let mut volumes: Vec<Arc<Volume>> = Vec::new();
        for (number, device) in view.devices().iter().enumerate() {
            let usable = |volume: &&Arc<Volume>| {
                volume.pack.identity().blob == device.blob()
                    && !volumes.iter().any(|taken| Arc::ptr_eq(taken, volume))
                    && volume.agrees(&view, number)
            };
            if let Some(volume) = present.iter().find(usable) {
                volumes.push(volume.clone());
                continue;
            }
            let entry = PackEntry {
                blob: device.blob(),
                blocks: device.blocks(),
            };
            let number = catalogue.add_pack(entry).ok_or_else(|| Error::Store {
                path: dir.clone(),
                reason: "all pack numbers are used up".into(),
            })?;
            let identity = Identity {
                number,
                blob: entry.blob,
                blocks: entry.blocks,
            };
            Pack::delete(&dir, number);
            volumes.push(Arc::new(Volume::new(Pack::open(&dir, identity, self.boot)?)));
        }
        let packs = volumes.iter().map(|volume| volume.pack.number()).collect();
        let plain_len = view.bytes().len() as u64;
        let number = catalogue.add_layer(LayerEntry {
            index: digest,
            plain_len,
            packs,
        });
        catalogue.save()?;
        Ok((number, volumes))
    }

    /// Finds a layer by the digest of its stored index.
    pub fn layer(&self, digest: &Digest) -> Option<LayerId> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers
            .values()
            .find(|layer| layer.digest == *digest)
            .map(|layer| layer.id)
    }

    fn get(&self, id: LayerId) -> Result<Arc<Layer>> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.get(&id).cloned().ok_or(Error::NoLayer(id))
    }

    fn all(&self) -> Vec<Arc<Layer>> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.values().cloned().collect()
    }

    fn path_of(&self, layer: LayerId, direct: bool) -> PathBuf {
        let suffix = if direct { "c" } else { "" };
        self.options.root.join("l").join(format!("{layer}{suffix}"))
    }

    /// Mounts a layer, directly if it is complete. Does nothing if it is mounted already.
    pub fn show(&self, layer: LayerId) -> Result<Shown> {
        let layer = self.get(layer)?;
        let direct = layer.complete();
        let path = self.show_layer(&layer, direct)?;
        if !direct && self.options.background {
            let _ = self.completing.send(layer);
        }
        Ok(Shown { path, direct })
    }

    /// Mounts a layer as it was before a restart. A layer that was direct and has lost bytes since
    /// is mounted as an incomplete one: use the path that is returned.
    pub fn show_as(&self, layer: LayerId, direct: bool) -> Result<PathBuf> {
        let layer = self.get(layer)?;
        let complete = layer.complete();
        // A direct mount that stands has all its bytes, whatever became of the bitmap.
        let direct = direct && (complete || self.trees.shown(&self.path_of(layer.id, true)));
        let path = self.show_layer(&layer, direct)?;
        if !complete && self.options.background {
            let _ = self.completing.send(layer);
        }
        Ok(path)
    }

    fn show_layer(&self, layer: &Layer, direct: bool) -> Result<PathBuf> {
        if let Some(reason) = self.trees.obstacle() {
            return Err(Error::Unsupported {
                reason: reason.to_owned(),
            });
        }
        let path = self.path_of(layer.id, direct);
        let _one = lock_of(&layer.mounting);
        if self.trees.shown(&path) {
            return Ok(path);
        }
        if !direct && !layer.parts.is_empty() && !self.serving() {
            return Err(Error::NotServing(layer.id));
        }
        let data = Engine::data_dir(&self.options.root);
        let devices = layer.parts.iter().map(|part| {
            if direct {
                part.volume.pack.path().to_owned()
            } else {
                data.join(part.volume.pack.number().to_string())
            }
        });
        let devices: Vec<PathBuf> = devices.collect();
        let tree = TreeParts {
            index: layer.index.path(),
            devices: &devices,
        };
        self.trees.show(&tree, &path)?;
        Ok(path)
    }

    /// Unmounts and forgets a layer; packs that no other layer names are deleted.
    pub fn remove(&self, layer: LayerId) -> Result<()> {
        let layer = self.get(layer)?;
        {
            let _one = lock_of(&layer.mounting);
            self.trees.hide(&self.path_of(layer.id, false))?;
            self.trees.hide(&self.path_of(layer.id, true))?;
        }
        let mut catalogue = lock_of(&self.catalogue);
        let before = catalogue.clone();
        let orphans = catalogue.remove_layer(layer.id.0);
        if let Err(error) = catalogue.save() {
            *catalogue = before;
            return Err(error);
        }
        layer.gone.store(true, Ordering::Release);
        self.layers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&layer.id);
        for pack in &orphans {
            self.volumes.remove(*pack);
        }
        for part in &layer.parts {
            part.volume.detach(layer.id)?;
        }
        for pack in orphans {
            Pack::delete(&self.options.root.join("packs"), pack);
        }
        self.indexes.remove(&layer.digest);
        Ok(())
    }

    /// Starts to complete a layer in the background, whatever [`Options::background`] says.
    pub fn complete(&self, layer: LayerId) -> Result<()> {
        let _ = self.completing.send(self.get(layer)?);
        Ok(())
    }

    /// All layers.
    pub fn status(&self) -> Vec<LayerStatus> {
        self.all().iter().map(|layer| self.status_of(layer)).collect()
    }

    /// One layer.
    pub fn layer_status(&self, layer: LayerId) -> Option<LayerStatus> {
        self.get(layer).ok().map(|layer| self.status_of(&layer))
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

    fn status_of(&self, layer: &Layer) -> LayerStatus {
        let (present, total) = layer.present();
        let mounts = [false, true]
            .into_iter()
            .map(|direct| self.path_of(layer.id, direct));
        let mut troubles = layer
            .parts
            .iter()
            .filter_map(|part| self.fetcher.trouble(part.volume.pack.number()));
        let status = LayerStatus {
            id: layer.id,
            index: layer.digest,
            layer: layer.index.view().layer(),
            present,
            total,
            complete: present == total,
            mounts: mounts.filter(|path| self.trees.shown(path)).collect(),
            trouble: troubles.next(),
        };
        layer.index.relax();
        status
    }

    /// Running totals.
    pub fn counters(&self) -> Counters {
        self.tally.counters()
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

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens all packs and layers of the catalogue and deletes files that it does not name.
#[allow(clippy::type_complexity)]
fn load(
    root: &Path,
    indexes: &Indexes,
    catalogue: &mut Catalogue,
    boot: BootId,
) -> Result<(Arc<Volumes>, BTreeMap<LayerId, Arc<Layer>>)> {
    let mut loaded = Vec::new();
    let entries: Vec<(u64, LayerEntry)> = catalogue
        .layers()
        .iter()
        .map(|(number, entry)| (*number, entry.clone()))
        .collect();
    let catalogue_len = entries.len();
    for (number, entry) in entries {
        match indexes.load(entry.index, entry.plain_len, catalogue.checked()) {
            Ok(index) => loaded.push((LayerId(number), entry, Arc::new(index))),
            Err(error) => {
                error!(layer = number, %error, "a layer is lost and must be pulled again");
                catalogue.remove_layer(number);
            }
        }
    }
    // Nothing is flushed at an ordinary start: readers may be waiting for us.
    if !catalogue.checked() || loaded.len() != catalogue_len {
        catalogue.save()?;
    }
    let dir = root.join("packs");
    let volumes = Arc::new(Volumes::default());
    for (number, entry) in catalogue.packs() {
        let identity = Identity {
            number: *number,
            blob: entry.blob,
            blocks: entry.blocks,
        };
        volumes.insert(Arc::new(Volume::new(Pack::open(&dir, identity, boot)?)));
    }
    let mut layers = BTreeMap::new();
    for (id, entry, index) in loaded {
        let packs = entry.packs.iter().filter_map(|pack| volumes.get(*pack)).collect();
        layers.insert(id, Arc::new(Layer::new(id, entry.index, index, packs)));
    }
    for volume in volumes.all() {
        volume.give_up_undescribed()?;
    }
    clean_up(&dir, &volumes);
    indexes.retain(|name| layers.values().any(|layer| layer.digest.hex() == name));
    Ok((volumes, layers))
}

/// Deletes files of packs that the catalogue does not name.
fn clean_up(dir: &Path, volumes: &Volumes) {
    let Ok(files) = std::fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let number = name
            .to_string_lossy()
            .split('.')
            .next()
            .and_then(|text| text.parse().ok());
        if number.is_none_or(|number| volumes.get(number).is_none()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}
