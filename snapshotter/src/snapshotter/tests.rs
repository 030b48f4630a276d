//! A snapshotter on layers that are plain directories.

#![allow(clippy::unwrap_used)]

mod endings;
mod offers;
mod standing;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::layer_ref::IMAGE_LABEL;
use crate::layers::{LayerRequest, MountError, Offer, ShownLayer};

/// Layers as directories: the label `layer` of a request names the number, without it a layer is ordinary.
pub(super) struct Fake {
    root: PathBuf,
    state: Mutex<State>,
    /// Offers wait for a permit.
    gate: Semaphore,
}

#[derive(Default)]
struct State {
    offers: usize,
    held: HashSet<u64>,
    direct: bool,
    broken: HashSet<u64>,
    released: Vec<u64>,
}

impl Fake {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
            gate: Semaphore::new(100),
        }
    }

    pub(super) fn hold(&self, layer: u64) {
        self.state(|state| state.held.insert(layer));
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    fn path(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError> {
        let error = |reason: &str| MountError {
            layer,
            reason: reason.to_owned(),
        };
        self.state(|state| {
            if state.broken.contains(&layer) {
                return Err(error("its device is gone"));
            }
            if !state.held.contains(&layer) {
                return Err(error("no such layer"));
            }
            let suffix = if copy == 0 {
                String::new()
            } else {
                format!(".{copy}")
            };
            let direct = if direct { "c" } else { "" };
            let path = self.root.join(format!("l/{layer}{direct}{suffix}"));
            fs::create_dir_all(&path).map_err(|io| error(&io.to_string()))?;
            Ok(path)
        })
    }
}

#[tonic::async_trait]
impl Layers for Fake {
    async fn offer(&self, request: &LayerRequest) -> Offer {
        let _permit = self.gate.acquire().await.unwrap();
        let layer = request.labels.get("layer").map(|number| number.parse().unwrap());
        self.state(|state| {
            state.offers += 1;
            match layer {
                Some(layer) => {
                    state.held.insert(layer);
                    Offer::Lazy { layer }
                }
                None => Offer::Ordinary {
                    reason: "the image is not converted".to_owned(),
                },
            }
        })
    }

    fn show(&self, layer: u64, copy: u32) -> Result<ShownLayer, MountError> {
        let direct = self.state(|state| state.direct);
        Ok(ShownLayer {
            path: self.path(layer, copy, direct)?,
            direct,
        })
    }

    fn show_as(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError> {
        self.path(layer, copy, direct)
    }

    async fn release(&self, layer: u64) {
        self.state(|state| {
            state.held.remove(&layer);
            state.released.push(layer);
        });
    }

    fn usage(&self, layer: u64) -> Usage {
        Usage {
            size: layer * 100,
            inodes: 1,
        }
    }

    fn known(&self) -> Vec<u64> {
        self.state(|state| state.held.iter().copied().collect())
    }
}

struct Node {
    root: TempDir,
    layers: Arc<Fake>,
    snapshotter: Snapshotter,
}

fn node() -> Node {
    let root = tempfile::tempdir().unwrap();
    let layers = Arc::new(Fake::new(root.path()));
    let snapshotter = Snapshotter::open(root.path(), layers.clone(), Options::default()).unwrap();
    Node {
        root,
        layers,
        snapshotter,
    }
}

impl Node {
    /// Kills the snapshotter and opens another one on what it left.
    fn restart(self) -> Self {
        let Self {
            root,
            layers,
            snapshotter,
        } = self;
        drop(snapshotter);
        let snapshotter = Snapshotter::open(root.path(), layers.clone(), Options::default()).unwrap();
        Self {
            root,
            layers,
            snapshotter,
        }
    }

    async fn prepare(&self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<Vec<Mount>, Error> {
        self.snapshotter.prepare(call(key, parent, labels)).await
    }

    /// Pulls one layer as containerd's unpacker does; answers the backend's name for it.
    async fn pull(&self, chain_id: &str, parent: &str, layer: Option<u64>) -> String {
        let key = format!("extract {chain_id} {parent}");
        let number = layer.map(|layer| layer.to_string()).unwrap_or_default();
        let labels = [
            (CHAIN_ID_LABEL, chain_id),
            ("layer", &number),
            (IMAGE_LABEL, "r/i:1"),
        ];
        match self
            .prepare(&key, parent, if layer.is_some() { &labels } else { &labels[..1] })
            .await
        {
            Err(Error::AlreadyExists { .. }) => crate::lazy::name(parent, chain_id),
            Ok(_) => {
                let name = format!("ns/1/{chain_id}");
                self.snapshotter
                    .commit((name.clone(), key, String::new()), HashMap::new())
                    .await
                    .unwrap();
                name
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn at(&self, path: &str) -> String {
        self.root.path().join(path).to_str().unwrap().to_owned()
    }

    fn released(&self) -> Vec<u64> {
        self.layers.state(|state| state.released.clone())
    }
}

pub(super) fn call(key: &str, parent: &str, labels: &[(&str, &str)]) -> NewCall {
    NewCall {
        namespace: Some("ns".to_owned()),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        traceparent: None,
    }
}

fn lowerdir(mounts: &[Mount]) -> &str {
    let [mount] = mounts else { panic!("{mounts:?}") };
    mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .unwrap()
}
