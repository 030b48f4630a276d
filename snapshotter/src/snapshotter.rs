//! The snapshotter: metadata, directories and layers put together.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clones::Clones;
use crate::dirs::{Dirs, owner_of};
use crate::error::Error;
use crate::idmap;
use crate::layer_ref::CHAIN_ID_LABEL;
use crate::layers::Layers;
use crate::limits::MAX_NAME;
use crate::metastore::{Metastore, NewSnapshot};
use crate::mounts::{Mount, OverlayOptions, Place, mounts};
use crate::probe;
use crate::snapshot::{Kind, Labels, Link, Lower, Record, Stamp, Usage, kept_labels};
use crate::usage::disk_usage;

/// How a snapshotter behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave the directories of removed snapshots to Cleanup, as containerd's `asynchronous_remove`.
    pub async_remove: bool,
}

/// Containerd's snapshots on this node. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Snapshotter {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) store: Metastore,
    pub(crate) dirs: Dirs,
    clones: Clones,
    pub(crate) layers: Arc<dyn Layers>,
    overlay: OverlayOptions,
    options: Options,
    /// Held for reading from an offer until its snapshot is recorded, for writing while layers are
    /// released: a layer that is being offered again is not taken away.
    pub(crate) offers: tokio::sync::RwLock<()>,
}

/// A Prepare or View.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewCall {
    pub(crate) namespace: Option<String>,
    pub(crate) key: String,
    pub(crate) parent: String,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) traceparent: Option<String>,
}

/// What became of a layer that containerd asked for.
#[derive(Debug)]
pub(crate) enum Offered {
    /// A lazy snapshot is there.
    There { chain_id: String },
    /// containerd must unpack it.
    Ordinary { reason: String },
}

impl Snapshotter {
    /// Opens the snapshots under `root`, creating what is missing. Blocking.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the root cannot hold snapshots (its path or its file system),
    /// [`Error::Store`] or [`Error::Corrupt`] if the metadata cannot be read or is open in another process,
    /// [`Error::Io`] if the root cannot be written.
    pub fn open(root: &Path, layers: Arc<dyn Layers>, options: Options) -> Result<Self, Error> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(root);
        made.map_err(Error::io("make", root))?;
        let dirs = Dirs::open(root)?;
        probe::check_root(root)?;
        let inner = Inner {
            store: Metastore::open(root)?,
            dirs,
            clones: Clones::new(root),
            layers,
            overlay: probe::overlay_options(root),
            options,
            offers: tokio::sync::RwLock::new(()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Makes an active snapshot, or finds that the layer which containerd is about to unpack is lazy.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the layer is there lazily, or the key is taken; those of the parent.
    pub(crate) async fn prepare(&self, call: NewCall) -> Result<Vec<Mount>, Error> {
        check_name(&call.key)?;
        let reason = match call.labels.get(CHAIN_ID_LABEL) {
            None => None,
            Some(chain_id) => match self.offer(&call, chain_id).await? {
                Offered::There { chain_id } => {
                    return Err(Error::already_exists(format!("target snapshot {chain_id:?}")));
                }
                Offered::Ordinary { reason } => Some(reason),
            },
        };
        self.run(move |inner| inner.create(Kind::Active, call, reason))
            .await
    }

    /// Makes a view.
    pub(crate) async fn view(&self, call: NewCall) -> Result<Vec<Mount>, Error> {
        check_name(&call.key)?;
        self.run(move |inner| inner.create(Kind::View, call, None)).await
    }

    /// Returns the mounts of an active or view snapshot, showing its layers again if need be.
    pub(crate) async fn mounts(&self, key: String) -> Result<Vec<Mount>, Error> {
        self.run(move |inner| {
            let record = inner.store.get(&key)?;
            if record.kind == Kind::Committed {
                return Err(Error::precondition(format!(
                    "snapshot {key} is not active or view"
                )));
            }
            inner.mounts(&key, &record)
        })
        .await
    }

    /// Commits an active snapshot.
    pub(crate) async fn commit(
        &self,
        (name, key, parent): (String, String, String),
        labels: HashMap<String, String>,
    ) -> Result<(), Error> {
        check_name(&name)?;
        self.run(move |inner| {
            let record = inner.store.get(&key)?;
            let usage = match record.kind {
                Kind::Active => disk_usage(&inner.dirs.upper(record.id))?,
                Kind::View | Kind::Committed => Usage::default(),
            };
            let names = (&*name, &*key, &*parent);
            inner
                .store
                .commit(names, kept_labels(labels), usage, Stamp::now())?;
            inner.clones.remove(record.id);
            Ok(())
        })
        .await
    }

    /// Removes a snapshot, and the layer that nothing else uses.
    pub(crate) async fn remove(&self, key: String) -> Result<(), Error> {
        let removed = self
            .run(move |inner| {
                let removed = inner.store.remove(&key)?;
                inner.clones.remove(removed.id);
                if !inner.options.async_remove {
                    inner.dirs.remove(removed.id);
                }
                Ok(removed)
            })
            .await?;
        if removed.layer_unused {
            self.release_unused().await?;
        }
        Ok(())
    }

    /// Returns a snapshot's record.
    pub(crate) async fn stat(&self, key: String) -> Result<Record, Error> {
        self.run(move |inner| inner.store.get(&key)).await
    }

    /// Changes labels.
    pub(crate) async fn update(
        &self,
        name: String,
        labels: HashMap<String, String>,
        paths: Vec<String>,
    ) -> Result<Record, Error> {
        self.run(move |inner| {
            inner
                .store
                .update(&name, &kept_labels(labels), &paths, Stamp::now())
        })
        .await
    }

    /// Tells what a snapshot takes by itself: an active one now, a committed one when it was committed, a
    /// lazy one what of it is on this node now.
    pub(crate) async fn usage(&self, key: String) -> Result<Usage, Error> {
        self.run(move |inner| {
            let record = inner.store.get(&key)?;
            match (record.kind, record.layer) {
                (Kind::Active, _) => disk_usage(&inner.dirs.upper(record.id)),
                (_, Some(layer)) => Ok(inner.layers.usage(layer)),
                (_, None) => Ok(record.usage),
            }
        })
        .await
    }

    /// Removes what belongs to no snapshot.
    pub(crate) async fn cleanup(&self) -> Result<(), Error> {
        self.run(|inner| inner.clean_up().map(drop)).await?;
        self.release_unused().await
    }

    /// Runs blocking work on a thread where it may block. It is finished even if the caller goes away.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await?
    }
}

impl Inner {
    fn create(&self, kind: Kind, call: NewCall, reason: Option<String>) -> Result<Vec<Mount>, Error> {
        let chain = self.store.chain(&call.parent)?;
        if self.store.find(&call.key)?.is_some() {
            return Err(Error::already_exists(format!("snapshot {}", call.key)));
        }
        let labels = kept_labels(call.labels);
        let mapped = idmap::mapped_root(&labels)?;
        let (lowers, paths) = self.show(&call.key, &chain)?;
        let owner = match (mapped, paths.first()) {
            (Some(owner), _) => Some(owner),
            (None, Some(parent)) => Some(owner_of(parent)?),
            (None, None) => None,
        };
        let directory = self.dirs.make(kind, owner)?;
        let new = NewSnapshot {
            kind,
            key: &call.key,
            parent: &call.parent,
            chain: &chain,
            lowers,
            labels,
            reason,
            namespace: call.namespace,
        };
        let record = self.store.create(new, Stamp::now(), |id| directory.publish(id))?;
        self.mounts_on(&record, paths).inspect_err(|_| {
            // Nothing may be left of a failed call, or the next one finds the key taken.
            match self.store.remove(&call.key) {
                Ok(removed) => self.dirs.remove(removed.id),
                Err(error) => tracing::warn!(key = call.key, %error, "a snapshot half made is left over"),
            }
        })
    }

    /// Shows what a new snapshot will stand on, top first.
    ///
    /// A layer that is there several times is shown as often: without its lower places all names and bytes would be the
    /// same, but not the link counts of directories, which overlayfs does not count where it merges several.
    fn show(&self, key: &str, chain: &[Link]) -> Result<(Vec<Lower>, Vec<PathBuf>), Error> {
        let (mut lowers, mut paths) = (Vec::new(), Vec::new());
        let mut copies: HashMap<u64, u32> = HashMap::new();
        for link in chain {
            let Some(layer) = link.layer else {
                lowers.push(Lower::Dir { id: link.id });
                paths.push(self.dirs.upper(link.id));
                continue;
            };
            let next = copies.entry(layer).or_default();
            let copy = *next;
            *next += 1;
            let shown = self
                .layers
                .show(layer, copy)
                .map_err(|source| broken(key, source))?;
            lowers.push(Lower::Layer {
                layer,
                copy,
                direct: shown.direct,
            });
            paths.push(shown.path);
        }
        Ok((lowers, paths))
    }

    fn mounts(&self, key: &str, record: &Record) -> Result<Vec<Mount>, Error> {
        let path = |lower: &Lower| match *lower {
            Lower::Dir { id } => Ok(self.dirs.upper(id)),
            Lower::Layer { layer, copy, direct } => self
                .layers
                .show_as(layer, copy, direct)
                .map_err(|source| broken(key, source)),
        };
        let paths = record.lowers.iter().map(path).collect::<Result<Vec<_>, _>>()?;
        self.mounts_on(record, paths)
    }

    fn mounts_on(&self, record: &Record, lowers: Vec<PathBuf>) -> Result<Vec<Mount>, Error> {
        let lazy = record
            .lowers
            .iter()
            .any(|lower| matches!(lower, Lower::Layer { .. }));
        let maps = if lazy { idmap::maps(&record.labels)? } else { None };
        let place = Place {
            kind: record.kind,
            upper: &self.dirs.upper(record.id),
            work: &self.dirs.work(record.id),
            lowers: &match &maps {
                Some(maps) => self.clones.show(record.id, &lowers, maps)?,
                None => lowers,
            },
            labels: &record.labels,
            mapped: maps.is_some(),
        };
        Ok(mounts(&place, self.overlay))
    }

    /// Removes directories of no snapshot; answers how many.
    pub(crate) fn clean_up(&self) -> Result<usize, Error> {
        let names = self.store.with_ids(|ids| {
            self.clones.remove_others(ids);
            self.dirs.left_over(ids)
        })?;
        Ok(self.dirs.remove_left_over(&names))
    }
}

fn broken(snapshot: &str, source: crate::layers::MountError) -> Error {
    Error::Layer {
        snapshot: snapshot.to_owned(),
        source,
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    match name.len() {
        0 => Err(Error::invalid("a snapshot's name must not be empty")),
        length if length > MAX_NAME => Err(Error::invalid(format!(
            "a snapshot's name of {length} bytes, the limit is {MAX_NAME}"
        ))),
        _ => Ok(()),
    }
}

/// One layer that containerd was given, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// The committed snapshot's name.
    pub snapshot: String,
    /// The containerd namespace that asked for it, if it said.
    pub namespace: Option<String>,
    /// The lazy layer's number, or why the layer is an ordinary one.
    pub layer: Result<u64, String>,
    /// The snapshot's labels: the image's reference, digests, our annotations, the chain id.
    pub labels: Labels,
    /// When it was committed, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Active and view snapshots that stand on it, at any height.
    pub users: u64,
}

impl Snapshotter {
    /// Lists the committed snapshots by name, for status. Blocking for some milliseconds.
    ///
    /// # Errors
    /// [`Error`] if the metadata cannot be read.
    pub fn layers(&self) -> Result<Vec<LayerEntry>, Error> {
        const NOT_ASKED: &str =
            "containerd did not ask for it by its chain id: its client fetched and unpacked it";
        let users = self.inner.store.users()?;
        let mut entries = Vec::new();
        self.inner.store.walk(|name, record| {
            if record.kind == Kind::Committed {
                let reason = || record.reason.clone().unwrap_or_else(|| NOT_ASKED.to_owned());
                entries.push(LayerEntry {
                    snapshot: name.to_owned(),
                    layer: record.layer.ok_or_else(reason),
                    created_at_ms: record.created.millis(),
                    users: users.get(name).copied().unwrap_or(0),
                    namespace: record.namespace,
                    labels: record.labels,
                });
            }
            true
        })?;
        Ok(entries)
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
