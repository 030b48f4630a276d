//! What containerd is told when it asks for a layer.

use super::*;

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
