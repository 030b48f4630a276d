//! What active snapshots and views stand on.

use super::*;

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
