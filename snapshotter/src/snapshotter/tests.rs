#![allow(clippy::unwrap_used)]

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

#[tokio::test]
async fn a_lazy_layer_is_committed_and_findable() {
    let node = node();
    let name = node.pull("sha256:a", "", Some(7)).await;
    let record = node.snapshotter.stat(name.clone()).await.unwrap();
    assert_eq!(
        (record.kind, record.layer, record.parent.as_str()),
        (Kind::Committed, Some(7), "")
    );
    assert_eq!(record.labels[CHAIN_ID_LABEL], "sha256:a");
    assert_eq!(record.labels[IMAGE_LABEL], "r/i:1");
    assert!(
        node.snapshotter
            .stat("extract sha256:a ".to_owned())
            .await
            .is_err(),
        "no active snapshot is left"
    );
    assert_eq!(
        node.snapshotter.usage(name).await.unwrap(),
        Usage { size: 700, inodes: 1 }
    );
}

#[tokio::test]
async fn a_layer_that_is_there_is_not_offered_again() {
    let node = node();
    node.pull("sha256:a", "", Some(7)).await;
    let node = node.restart();
    node.pull("sha256:a", "", Some(7)).await;
    assert_eq!(node.layers.state(|state| state.offers), 1);
}

#[tokio::test]
async fn a_layer_that_cannot_be_lazy_says_why_after_commit_too() {
    let node = node();
    let name = node.pull("sha256:a", "", None).await;
    let unasked = node.prepare("k", &name, &[]).await;
    assert!(unasked.is_ok());
    node.snapshotter
        .commit(("own".to_owned(), "k".to_owned(), String::new()), HashMap::new())
        .await
        .unwrap();
    let layers = node.snapshotter.layers().unwrap();
    let reasons: Vec<_> = layers
        .iter()
        .map(|entry| entry.layer.clone().unwrap_err())
        .collect();
    assert_eq!(reasons[0], "the image is not converted");
    assert!(reasons[1].starts_with("containerd did not ask"), "{}", reasons[1]);
}

#[tokio::test]
async fn a_layer_that_cannot_be_shown_is_unpacked() {
    let node = node();
    node.layers.state(|state| state.broken.insert(7));
    let labels = [(CHAIN_ID_LABEL, "sha256:a"), ("layer", "7")];
    assert_eq!(node.prepare("k", "", &labels).await.unwrap()[0].kind, "bind");
    let reason = node
        .snapshotter
        .stat("k".to_owned())
        .await
        .unwrap()
        .reason
        .unwrap();
    assert!(
        reason.contains("layer 7") && reason.contains("its device is gone"),
        "{reason}"
    );
    assert_eq!(node.released(), [7]);
}

#[tokio::test]
async fn containers_stand_on_lazy_and_ordinary_layers() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let b = node.pull("sha256:b", &a, Some(2)).await;
    let c = node.pull("sha256:c", &b, None).await;
    let d = node.pull("sha256:d", &c, Some(4)).await;
    let mounts = node.prepare("container", &d, &[]).await.unwrap();
    let own = node.snapshotter.stat(c).await.unwrap().id;
    let expected = ["l/4", &format!("snapshots/{own}/fs"), "l/2", "l/1"]
        .map(|path| node.at(path))
        .join(":");
    assert_eq!(lowerdir(&mounts), expected);
    assert_eq!(
        node.snapshotter.mounts("container".to_owned()).await.unwrap(),
        mounts
    );
    let users: Vec<u64> = node
        .snapshotter
        .layers()
        .unwrap()
        .iter()
        .map(|entry| entry.users)
        .collect();
    assert_eq!(users, [1; 4]);
}

#[tokio::test]
async fn mounts_stay_the_same_when_a_layer_becomes_complete() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let before = node.prepare("before", &a, &[]).await.unwrap();
    node.layers.state(|state| state.direct = true);
    let after = node.prepare("after", &a, &[]).await.unwrap();
    assert_eq!(lowerdir(&before), node.at("l/1"));
    assert_eq!(lowerdir(&after), node.at("l/1c"));
    let node = node.restart();
    let restored = node.snapshotter.restore().await.unwrap();
    assert_eq!((restored.shown, restored.broken.len()), (2, 0));
    assert_eq!(
        node.snapshotter.mounts("before".to_owned()).await.unwrap(),
        before
    );
    assert_eq!(node.snapshotter.mounts("after".to_owned()).await.unwrap(), after);
}

#[tokio::test]
async fn a_layer_that_is_there_several_times_is_shown_as_often() {
    let node = node();
    let mut top = String::new();
    for (chain_id, layer) in [("a", 1), ("b", 2), ("c", 1), ("d", 1)] {
        top = node.pull(&format!("sha256:{chain_id}"), &top, Some(layer)).await;
    }
    let mounts = node.prepare("container", &top, &[]).await.unwrap();
    let expected = ["l/1", "l/1.1", "l/2", "l/1.2"].map(|path| node.at(path));
    assert_eq!(lowerdir(&mounts), expected.join(":"));
    let node = node.restart();
    assert_eq!(node.snapshotter.restore().await.unwrap().shown, 4);
    assert_eq!(
        node.snapshotter.mounts("container".to_owned()).await.unwrap(),
        mounts
    );
    // Of an earlier release, which knew no copies.
    let old: Lower = serde_json::from_str(r#"{"layer":{"layer":7,"direct":true}}"#).unwrap();
    let expected = Lower::Layer {
        layer: 7,
        copy: 0,
        direct: true,
    };
    assert_eq!(old, expected);
}

#[tokio::test]
async fn a_view_of_one_lazy_layer_is_a_bind_mount() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let mounts = node.snapshotter.view(call("view", &a, &[])).await.unwrap();
    assert_eq!(
        (mounts[0].kind, mounts[0].source.as_str()),
        ("bind", node.at("l/1").as_str())
    );
    assert_eq!(mounts[0].options, ["ro", "rbind"]);
}

#[tokio::test]
async fn namespaces_share_lazy_layers_on_the_same_parent_only() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    assert_eq!(node.pull("sha256:a", "", Some(1)).await, a);
    // An ordinary layer: each namespace has its own, and so its own lazy snapshot above.
    for parent in ["one/1/sha256:b", "two/1/sha256:b"] {
        node.prepare(&format!("k {parent}"), &a, &[]).await.unwrap();
        let commit = (parent.to_owned(), format!("k {parent}"), String::new());
        node.snapshotter.commit(commit, HashMap::new()).await.unwrap();
    }
    let one = node.pull("sha256:c", "one/1/sha256:b", Some(3)).await;
    let two = node.pull("sha256:c", "two/1/sha256:b", Some(3)).await;
    assert_ne!(one, two);
    node.snapshotter.remove(one).await.unwrap();
    assert!(node.released().is_empty(), "the other namespace still uses it");
    node.snapshotter.remove(two).await.unwrap();
    assert_eq!(node.released(), [3]);
}

#[tokio::test]
async fn two_pulls_at_once_make_one_snapshot() {
    let node = node();
    let labels = [(CHAIN_ID_LABEL, "sha256:a"), ("layer", "1")];
    let pulls = (0..16).map(|i| {
        let (snapshotter, call) = (node.snapshotter.clone(), call(&format!("k{i}"), "", &labels));
        tokio::spawn(async move { snapshotter.prepare(call).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        assert!(matches!(pull.await.unwrap(), Err(Error::AlreadyExists { .. })));
    }
    assert_eq!(node.snapshotter.layers().unwrap().len(), 1);
    assert!(node.released().is_empty());
}

#[tokio::test]
async fn a_layer_is_not_released_while_an_offer_is_under_way() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let gate = node.layers.gate.acquire_many(100).await.unwrap();
    let offer = {
        let (snapshotter, call) = (
            node.snapshotter.clone(),
            call("k", "", &[(CHAIN_ID_LABEL, "sha256:b"), ("layer", "1")]),
        );
        tokio::spawn(async move { snapshotter.prepare(call).await })
    };
    while node.snapshotter.inner.offers.try_write().is_ok() {
        tokio::task::yield_now().await;
    }
    node.snapshotter.remove(a).await.unwrap();
    assert!(node.released().is_empty());
    drop(gate);
    assert!(matches!(offer.await.unwrap(), Err(Error::AlreadyExists { .. })));
    assert!(node.released().is_empty(), "it is in use again");
    node.prepare("container", "lacewing/sha256:b", &[]).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_layer_without_a_snapshot() {
    let node = node();
    let gate = node.layers.gate.acquire_many(100).await.unwrap();
    let offer = {
        let (snapshotter, call) = (
            node.snapshotter.clone(),
            call("k", "", &[(CHAIN_ID_LABEL, "sha256:a"), ("layer", "1")]),
        );
        tokio::spawn(async move { snapshotter.prepare(call).await })
    };
    while node.snapshotter.inner.offers.try_write().is_ok() {
        tokio::task::yield_now().await;
    }
    offer.abort();
    drop(gate);
    while node
        .snapshotter
        .inner
        .store
        .find("lacewing/sha256:a")
        .unwrap()
        .is_none()
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_crash_between_offer_and_snapshot_is_cleaned_up_at_start() {
    let node = node();
    node.layers.state(|state| state.held.insert(9));
    let a = node.pull("sha256:a", "", Some(1)).await;
    for name in ["new-1-1", "77"] {
        fs::create_dir_all(node.root.path().join("snapshots").join(name).join("fs")).unwrap();
    }
    let node = node.restart();
    let restored = node.snapshotter.restore().await.unwrap();
    assert_eq!(restored.removed, 2);
    assert_eq!(node.released(), [9]);
    node.prepare("container", &a, &[]).await.unwrap();
}

#[tokio::test]
async fn one_broken_layer_breaks_only_what_stands_on_it() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let b = node.pull("sha256:b", "", Some(2)).await;
    node.prepare("on a", &a, &[]).await.unwrap();
    node.prepare("on b", &b, &[]).await.unwrap();
    node.layers.state(|state| state.broken.insert(2));
    let node = node.restart();
    let restored = node.snapshotter.restore().await.unwrap();
    assert_eq!(restored.shown, 1);
    assert_eq!(restored.broken[0].0, "on b");
    assert!(node.snapshotter.mounts("on a".to_owned()).await.is_ok());
    let error = node.snapshotter.mounts("on b".to_owned()).await.unwrap_err();
    assert!(
        error.to_string().contains("on b") && error.to_string().contains("layer 2"),
        "{error}"
    );
    assert_eq!(error.code(), tonic::Code::Unavailable);
    node.layers.state(|state| state.broken.clear());
    assert!(
        node.snapshotter.mounts("on b".to_owned()).await.is_ok(),
        "it heals"
    );
}

#[tokio::test]
async fn removal_takes_the_directory_and_leaves_no_trace() {
    let node = node();
    node.prepare("k", "", &[]).await.unwrap();
    let id = node.snapshotter.stat("k".to_owned()).await.unwrap().id;
    let upper = node.root.path().join(format!("snapshots/{id}/fs"));
    fs::write(upper.join("file"), b"x").unwrap();
    assert!(node.snapshotter.usage("k".to_owned()).await.unwrap().inodes == 2);
    node.snapshotter.remove("k".to_owned()).await.unwrap();
    assert!(!upper.exists());
    node.snapshotter.cleanup().await.unwrap();
    assert_eq!(
        fs::read_dir(node.root.path().join("snapshots")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn asynchronous_removal_leaves_the_directory_to_cleanup() {
    let node = node();
    let root = tempfile::tempdir().unwrap();
    let snapshotter =
        Snapshotter::open(root.path(), node.layers.clone(), Options { async_remove: true }).unwrap();
    snapshotter.prepare(call("k", "", &[])).await.unwrap();
    snapshotter.remove("k".to_owned()).await.unwrap();
    assert!(root.path().join("snapshots/1").exists());
    snapshotter.cleanup().await.unwrap();
    assert!(!root.path().join("snapshots/1").exists());
}

#[tokio::test]
async fn upper_directories_have_the_owner_of_what_they_cover() {
    let node = node();
    let a = node.pull("sha256:a", "", Some(1)).await;
    let shown = node.root.path().join("l/1");
    if std::os::unix::fs::chown(&shown, Some(1234), Some(5678)).is_err() {
        return; // only root can give files away
    }
    node.prepare("k", &a, &[]).await.unwrap();
    let mapping = [
        ("containerd.io/snapshot/uidmapping", "0:70000:10"),
        ("containerd.io/snapshot/gidmapping", "0:80000:10"),
    ];
    node.prepare("plain", "", &[]).await.unwrap();
    let plain = ("ordinary".to_owned(), "plain".to_owned(), String::new());
    node.snapshotter.commit(plain, HashMap::new()).await.unwrap();
    let mapped = node.prepare("mapped", "ordinary", &mapping).await.unwrap();
    assert_eq!(mapped[0].options[..2], ["uidmap=0:70000:10", "gidmap=0:80000:10"]);
    for (key, uid, gid) in [("k", 1234, 5678), ("mapped", 70000, 80000)] {
        let id = node.snapshotter.stat(key.to_owned()).await.unwrap().id;
        let upper = fs::metadata(node.root.path().join(format!("snapshots/{id}/fs"))).unwrap();
        assert_eq!(
            (upper.uid(), upper.gid(), upper.mode() & 0o7777),
            (uid, gid, 0o755),
            "{key}"
        );
    }
}

#[tokio::test]
async fn names_are_bounded() {
    let node = node();
    for key in [String::new(), "k".repeat(MAX_NAME + 1)] {
        assert!(matches!(
            node.prepare(&key, "", &[]).await,
            Err(Error::InvalidArgument { .. })
        ));
    }
    node.prepare(&"k".repeat(MAX_NAME), "", &[]).await.unwrap();
}
