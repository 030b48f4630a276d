//! `lacewing mount`: an image as a directory, with no containerd and no daemon.
//!
//! The same parts as on a node, in one process: a store, a FUSE connection for what is missing, an EROFS mount per
//! layer, and one read-only overlay of them on DIR. It ends when DIR is unmounted, whoever does it.

mod background;
mod overlay;
mod store_dir;
mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lacewing_converter::{find_indexes, load_indexes_of};
use lacewing_format::annotation::IndexRef;
use lacewing_fusefs::{Engine, LayerId, Serving, TreeKind, Way};
use lacewing_oci::{Access, Descriptor, Store};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tokio::runtime::Runtime;
use tracing::warn;

use crate::adapters::source::StoreSource;
use crate::cli::MountArgs;
use crate::{WrongUse, convert, limits, registry};
use store_dir::StoreDir;
use watch::End;

/// Between two looks whether the last reader is gone.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// Mounts, and returns when the mount is gone (or, with `--daemonize`, when it stands).
///
/// # Errors
/// The image is not there or not converted, the kernel cannot show it, or the directory is not usable.
pub(crate) fn run(args: &MountArgs) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("mounting needs root, or a user namespace of your own: unshare -Urm lacewing mount ...");
    }
    let reference = convert::reference(&args.reference)?;
    let dir = directory(&args.dir)?;
    if args.daemonize {
        return background::run();
    }
    limits::raise_open_files();
    let client = registry::command_client(&args.registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (image, layers) = runtime.block_on(async {
        let image = Store::open(&client, &reference, Access::Read).await?;
        let layers = find_indexes(&image, args.platform.as_deref()).await;
        anyhow::Ok((image, layers.map_err(|error| explain(error, &args.reference))?))
    })?;
    overlay::remove_dead(&dir)?;
    let store = StoreDir::open(args.store.as_deref())?;
    let mounted = Mounted::new(args, &runtime, image, layers, &store, &dir)?;
    background::ready(args.report);
    if !args.report {
        eprintln!(
            "{} is on {}; Ctrl-C or `umount {2}` ends it",
            args.reference,
            dir.display(),
            args.dir.display()
        );
    }
    let mut end = End::watch(&runtime, &dir)?;
    runtime.block_on(end.wait());
    mounted.end(&mut end, &runtime)?;
    runtime.shutdown_background();
    store.close()
}

/// The mount point: mountinfo and messages use its real path.
fn directory(dir: &Path) -> Result<PathBuf> {
    let real = dir
        .canonicalize()
        .map_err(|error| WrongUse(format!("{}: {error}", dir.display())))?;
    if !real.is_dir() {
        return Err(WrongUse(format!("{} is no directory", dir.display())).into());
    }
    Ok(real)
}

fn explain(error: lacewing_converter::Error, reference: &str) -> anyhow::Error {
    if matches!(error, lacewing_converter::Error::NotConverted { .. }) {
        let hint = format!("make it lazy first: lacewing convert {reference} NEW-REFERENCE");
        return anyhow::Error::from(error).context(hint);
    }
    error.into()
}

/// An image's layers with their indexes.
type Bound = Vec<(Descriptor, IndexRef)>;

struct Mounted {
    root: PathBuf,
    dir: PathBuf,
    serving: Option<Serving>,
    /// What serves trees in user space, if the kernel does not show layers.
    trees: Vec<Serving>,
    engine: Option<Engine>,
}

impl Mounted {
    fn new(
        args: &MountArgs,
        runtime: &Runtime,
        image: Store,
        layers: Bound,
        store: &StoreDir,
        dir: &Path,
    ) -> Result<Mounted> {
        let mut mounted = Mounted {
            root: store.root().to_owned(),
            dir: dir.to_owned(),
            serving: None,
            trees: Vec::new(),
            engine: None,
        };
        if let Err(error) = mounted.build(args, runtime, image, layers) {
            mounted.undo();
            return Err(error);
        }
        Ok(mounted)
    }

    fn build(&mut self, args: &MountArgs, runtime: &Runtime, image: Store, layers: Bound) -> Result<()> {
        let source = Arc::new(StoreSource(image));
        let mut options = lacewing_fusefs::Options::new(&self.root, source.clone(), runtime.handle().clone());
        options.background = !args.no_background;
        options.recorded = !args.no_background;
        options.read_timeout = Duration::from_secs(args.read_timeout);
        options.trees = args.trees.into();
        let engine = Engine::open(options).context("opening the store")?;
        if let Some(reason) = engine.obstacle() {
            bail!("this kernel cannot show layers: {reason}");
        }
        let data = Engine::data_dir(&self.root);
        std::fs::create_dir_all(&data).with_context(|| format!("making directory {}", data.display()))?;
        self.serving = Some(engine.serve(lacewing_fusefs::mount_data(&data)?)?);
        if engine.way() == Way::Fuse {
            for kind in TreeKind::ALL {
                let connection = lacewing_fusefs::mount_trees(&self.root, kind, &[])?;
                self.trees.push(engine.serve_trees(kind, connection)?);
            }
        }
        // Indexes that the store has were checked when it took them in.
        let new = layers
            .iter()
            .filter(|(_, index)| engine.layer(&index.digest).is_none());
        let new = load_indexes_of(&source.0, new.cloned().collect());
        for layer in runtime.block_on(new)? {
            engine.add_layer(&layer.stored, layer.index.digest)?;
        }
        let mut shown = Vec::with_capacity(layers.len());
        let mut copies: HashMap<LayerId, u32> = HashMap::new();
        for (_, index) in layers {
            let id = engine
                .layer(&index.digest)
                .with_context(|| format!("{} is not in the store", index.digest))?;
            let copy = copies.entry(id).or_default();
            shown.push(engine.show_copy(id, *copy)?.path);
            *copy += 1;
        }
        overlay::mount(&shown, &self.root, &self.dir)?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Takes everything down again, in the order in which nothing is left that could only answer errors.
    fn end(mut self, end: &mut End, runtime: &Runtime) -> Result<()> {
        if let Err(Errno::BUSY) = end.unmount(&self.dir) {
            eprintln!(
                "{} is in use; waiting for the last reader. Ctrl-C again: let it fail",
                self.dir.display()
            );
            rustix::mount::unmount(&self.dir, UnmountFlags::DETACH)
                .with_context(|| format!("unmounting {}", self.dir.display()))?;
        }
        store_dir::detach_layers(&self.root)?;
        let data = Engine::data_dir(&self.root);
        // Layers whose last reader is gone let go of the FUSE mount; until then it is busy. Trees in user space are gone
        // when their connections have ended.
        while self.trees.iter().any(|serving| !serving.ended())
            || rustix::mount::unmount(&data, UnmountFlags::empty()) == Err(Errno::BUSY)
        {
            let again =
                runtime.block_on(async { tokio::time::timeout(BUSY_RETRY, end.signal()).await.is_ok() });
            if again {
                warn!("readers of {} get errors from now on", self.dir.display());
                break;
            }
        }
        self.undo();
        Ok(())
    }

    fn undo(&mut self) {
        if let Err(error) = store_dir::detach_all(&self.root) {
            warn!("tidying up {}: {error:#}", self.root.display());
        }
        // The threads end by themselves when the connection has ended, which unmounting did.
        drop(self.serving.take());
        self.trees.clear();
        drop(self.engine.take());
    }
}
