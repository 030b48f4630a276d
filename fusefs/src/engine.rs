//! The crate's front: layers in, directories out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use lacewing_format::Digest;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::background::{self, Ask};
use crate::catalogue::{Catalogue, LayerEntry, PackEntry};
use crate::connection::Connection;
use crate::error::{Error, IoContext, Result};
use crate::fetch::{Fetcher, FetcherOptions};
use crate::fuse::Server;
use crate::indexes::{Indexes, MappedIndex};
use crate::layer::{Layer, Layers};
use crate::lock;
use crate::mount_point::MountPoint;
use crate::mounted::place;
use crate::options::{Feature, Features, Options, Way};
use crate::probed;
use crate::report::{Counters, LayerId, LayerStatus, Shown};
use crate::restore::{Restored, restore};
use crate::serving::Serving;
use crate::store::pack::{BootId, Identity, Pack};
use crate::store::places::Places;
use crate::tally::Tally;
use crate::trees::fuse::{Forest, FuseTrees, TreeKind, TreeServer};
use crate::trees::kernel::KernelTrees;
use crate::trees::{TreeParts, Trees};
use crate::volumes::{Volume, Volumes};
use crate::wire;

mod keeping;

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

    /// Answers the kernel's requests for trees on `connection` until it ends or is stopped. The connection must be the
    /// one that is mounted on [`crate::tree_dir`]. Layers are shown there if that is the engine's [`Engine::way`];
    /// those that an earlier process showed there are served in any case.
    pub fn serve_trees(&self, kind: TreeKind, connection: Connection) -> Result<Serving> {
        let (volumes, fetcher) = (self.volumes.clone(), self.fetcher.clone());
        let mut server = Server::new(connection, volumes, fetcher, self.tally.clone())?;
        server.trees = Some(TreeServer::new(self.forest.clone(), kind));
        let server = Arc::new(server);
        if !self.options.deny.contains(&Feature::Resend) {
            wire::resend(&server.fd).at("ask for requests again on", "/dev/fuse")?;
        }
        let serving = Serving::start(server.clone(), self.options.threads)?;
        let mut servers = lock_of(&self.tree_servers);
        servers.retain(|(other, _)| *other != kind);
        servers.push((kind, Arc::downgrade(&server)));
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
        for point in self.points()?.iter().filter(|point| !point.direct) {
            self.trees.hide(&self.path_of(point))?;
        }
        std::fs::write(&note, device).at("write", &note)
    }

    /// Whether somebody answers for layers that are shown in the engine's way.
    fn serving(&self) -> bool {
        let serves = |server: &Weak<Server>| {
            let server = server.upgrade();
            server.is_some_and(|server| !server.stopped.load(Ordering::Acquire))
        };
        match self.way {
            Way::Fuse => {
                let servers = lock_of(&self.tree_servers);
                servers.iter().filter(|(_, server)| serves(server)).count() == TreeKind::ALL.len()
            }
            Way::Kernel | Way::Auto => serves(&lock_of(&self.server)),
        }
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
            let pack = Pack::open(&dir, identity, self.boot, &self.keeping.space)?;
            volumes.push(Arc::new(Volume::new(pack)));
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

    fn path_of(&self, point: &MountPoint) -> PathBuf {
        self.options.root.join("l").join(point.to_string())
    }

    /// The places where layers are shown, or were.
    fn points(&self) -> Result<Vec<MountPoint>> {
        let dir = self.options.root.join("l");
        let mut points = Vec::new();
        for entry in std::fs::read_dir(&dir).at("list", &dir)? {
            let name = entry.at("list", &dir)?.file_name();
            points.extend(name.to_str().and_then(MountPoint::parse));
        }
        points.sort_unstable();
        Ok(points)
    }

    /// Mounts a layer, directly if it is complete. Does nothing if it is mounted already.
    pub fn show(&self, layer: LayerId) -> Result<Shown> {
        self.show_copy(layer, 0)
    }

    /// As [`Engine::show`], which is copy 0: an overlay that takes a layer several times needs as many copies, because it
    /// refuses the same mount twice. All of them last until the layer is removed.
    pub fn show_copy(&self, layer: LayerId, copy: u32) -> Result<Shown> {
        let layer = self.get(layer)?;
        let direct = self.trees.direct() && self.may_be_direct(&layer)?;
        let path = self.show_layer(&layer, copy, direct)?;
        if !direct && self.options.background {
            background::begin_recorded(&self.fetcher, &layer, &self.keeping.space);
            let _ = self.completing.send(Ask { layer, now: false });
        }
        Ok(Shown { path, direct })
    }

    /// Mounts a layer as it was before a restart. A layer that was direct and has lost bytes since
    /// is mounted as an incomplete one: use the path that is returned.
    pub fn show_as(&self, layer: LayerId, copy: u32, direct: bool) -> Result<PathBuf> {
        let layer = self.get(layer)?;
        let complete = layer.complete();
        // A direct mount that stands has all its bytes, whatever became of the bitmap.
        let point = MountPoint {
            layer: layer.id,
            copy,
            direct,
        };
        let stands = self.trees.shown(&self.path_of(&point));
        let direct = direct && (stands || self.trees.direct() && self.promise(&layer)?);
        let path = self.show_layer(&layer, copy, direct)?;
        if !complete && self.options.background {
            let _ = self.completing.send(Ask { layer, now: false });
        }
        Ok(path)
    }

    fn show_layer(&self, layer: &Layer, copy: u32, direct: bool) -> Result<PathBuf> {
        if let Some(reason) = self.trees.obstacle() {
            return Err(Error::Unsupported {
                reason: reason.to_owned(),
            });
        }
        let path = self.path_of(&MountPoint {
            layer: layer.id,
            copy,
            direct,
        });
        let _one = lock_of(&layer.mounting);
        if self.trees.shown(&path) {
            return Ok(path);
        }
        let needed = !layer.parts.is_empty() || self.way == Way::Fuse;
        if !direct && needed && !self.serving() {
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
            view: layer.index.view(),
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
            for point in self.points()?.iter().filter(|point| point.layer == layer.id) {
                self.trees.hide(&self.path_of(point))?;
            }
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

    /// Starts to complete a layer now, whatever [`Options::background`] and [`Options::pace`] say.
    pub fn complete(&self, layer: LayerId) -> Result<()> {
        let layer = self.get(layer)?;
        let _ = self.completing.send(Ask { layer, now: true });
        Ok(())
    }

    /// All layers.
    pub fn status(&self) -> Vec<LayerStatus> {
        let points = self.points().unwrap_or_default();
        let status_of = |layer: &Arc<Layer>| self.status_of(layer, &points);
        self.all().iter().map(status_of).collect()
    }

    /// One layer.
    pub fn layer_status(&self, layer: LayerId) -> Option<LayerStatus> {
        let points = self.points().unwrap_or_default();
        self.get(layer).ok().map(|layer| self.status_of(&layer, &points))
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

    /// `points` are those of all layers, in order.
    fn status_of(&self, layer: &Layer, points: &[MountPoint]) -> LayerStatus {
        let (present, total) = layer.present();
        let first = points.partition_point(|point| point.layer < layer.id);
        let own = points
            .iter()
            .skip(first)
            .take_while(|point| point.layer == layer.id);
        let mounts = own.map(|point| self.path_of(point));
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
