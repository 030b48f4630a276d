//! A node: an engine with its store, its connection and its source.

use std::ffi::CStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lacewing_fusefs::{
    Connection, Engine, LayerId, Options, Serving, TreeKind, Way, mount_data, mount_trees, tree_dir,
};

use crate::image::Layer;
use crate::source::Memory;

/// One node below a temporary directory. Unmounts everything in the end.
pub(crate) struct Node {
    pub(crate) engine: Option<Engine>,
    pub(crate) serving: Option<Serving>,
    pub(crate) tree_serving: Vec<Serving>,
    pub(crate) connection: Connection,
    /// Connections for trees in user space, plain ones first.
    pub(crate) trees: Vec<Connection>,
    pub(crate) source: Memory,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) root: tempfile::TempDir,
}

/// Starts a node, or says why this machine cannot.
pub(crate) fn node(change: impl FnOnce(&mut Options)) -> Option<Node> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return None;
    }
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let source = Memory::new();
    let connection = mount_data(&Engine::data_dir(root.path())).unwrap();
    let mut options = Options::new(root.path(), Arc::new(source.clone()), runtime.handle().clone());
    change(&mut options);
    let trees = TreeKind::ALL.map(|kind| mount_trees(root.path(), kind, &options.deny).unwrap());
    let mut node = Node {
        engine: None,
        serving: None,
        tree_serving: Vec::new(),
        connection,
        trees: trees.into(),
        source,
        runtime,
        root,
    };
    node.open(options);
    if let Some(reason) = node.engine().obstacle() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(node)
}

/// Options of most tests: short patience, no background work. With LACEWING_TREES=fuse in the environment, layers are
/// shown by the engine's own process.
pub(crate) fn quiet(options: &mut Options) {
    quiet_auto(options);
    if std::env::var_os("LACEWING_TREES").is_some_and(|way| way == "fuse") {
        options.trees = Way::Fuse;
    }
}

/// As [`quiet`], with layers shown in the better way that works here.
pub(crate) fn quiet_auto(options: &mut Options) {
    options.read_timeout = Duration::from_secs(2);
    options.background = false;
}

/// Gives the node's packs a disk of their own, of a size as tmpfs takes it. It goes with the node.
pub(crate) fn small_disk(options: &Options, size: &CStr) {
    let packs = options.root.join("packs");
    std::fs::create_dir_all(&packs).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &packs, "tmpfs", flags, Some(size)).unwrap();
}

/// As [`quiet`], with layers shown by the engine's own process.
pub(crate) fn quiet_fuse(options: &mut Options) {
    quiet(options);
    options.trees = Way::Fuse;
}

impl Node {
    /// Starts the engine again, after [`Node::stop`].
    pub(crate) fn start(&mut self, change: impl FnOnce(&mut Options)) {
        let mut options = Options::new(
            self.root.path(),
            Arc::new(self.source.clone()),
            self.runtime.handle().clone(),
        );
        change(&mut options);
        self.open(options);
    }

    fn open(&mut self, options: Options) {
        let engine = Engine::open(options).unwrap();
        self.serving = Some(engine.serve(self.connection.try_clone().unwrap()).unwrap());
        for (kind, trees) in TreeKind::ALL.into_iter().zip(&self.trees) {
            let trees = trees.try_clone().unwrap();
            self.tree_serving.push(engine.serve_trees(kind, trees).unwrap());
        }
        self.engine = Some(engine);
    }

    pub(crate) fn stop(&mut self) {
        self.serving.take().unwrap().stop();
        self.tree_serving.drain(..).for_each(Serving::stop);
        self.engine = None;
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Takes a layer in, with its blob at the source.
    pub(crate) fn add(&self, layer: &Layer) -> LayerId {
        self.source.put(layer.blob_digest, layer.blob.clone());
        self.engine().add_layer(&layer.index, layer.digest).unwrap()
    }

    /// Takes a layer in and shows it.
    pub(crate) fn show(&self, layer: &Layer) -> PathBuf {
        let id = self.add(layer);
        self.engine().show(id).unwrap().path
    }

    /// Waits until all bytes of a layer are here.
    pub(crate) fn complete(&self, id: LayerId) {
        self.engine().complete(id).unwrap();
        wait_for("the layer to be complete", || {
            self.engine()
                .status()
                .iter()
                .any(|status| status.id == id && status.complete)
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(engine) = &self.engine {
            for status in engine.status() {
                let _ = engine.remove(status.id);
            }
        }
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Ok(entries) = std::fs::read_dir(self.root.path().join("l")) {
            for entry in entries.flatten() {
                let _ = rustix::mount::unmount(entry.path(), flags);
            }
        }
        let _ = rustix::mount::unmount(Engine::data_dir(self.root.path()), flags);
        for kind in TreeKind::ALL {
            let _ = rustix::mount::unmount(tree_dir(self.root.path(), kind), flags);
        }
        // Of a node with a small disk.
        let _ = rustix::mount::unmount(self.root.path().join("packs"), flags);
    }
}

/// Waits until something is so, at most half a minute.
pub(crate) fn wait_for(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads every file of a layer and compares.
pub(crate) fn verify(path: &Path, layer: &Layer) {
    for (name, expected) in &layer.files {
        let found = std::fs::read(path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == *expected, "{name} has other bytes");
    }
}

/// Reads a part of a file.
pub(crate) fn read_at(path: &Path, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
