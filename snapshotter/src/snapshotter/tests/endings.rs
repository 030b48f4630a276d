//! Removal, and starts after a crash.

use super::*;

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
