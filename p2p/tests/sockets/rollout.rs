//! Many nodes want the same image at once.

use lacewing_p2p::Class;

use crate::node::{Image, Registry, World, read_all};

#[tokio::test(flavor = "multi_thread")]
async fn eight_nodes_cost_the_registry_one_copy() {
    let image = Image::new(200, 50_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let nodes = world.cluster(8, &registry).await;
    let reads = nodes.iter().map(|node| read_all(node, &image, Class::Prefetch));
    futures::future::join_all(reads).await;
    assert!(registry.copies() <= 1.05, "{} copies", registry.copies());
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_readers_get_the_same() {
    let image = Image::new(60, 20_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let nodes = world.cluster(4, &registry).await;
    let reads = nodes.iter().map(|node| read_all(node, &image, Class::Blocking));
    futures::future::join_all(reads).await;
    assert!(registry.copies() <= 1.2, "{} copies", registry.copies());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_works() {
    let image = Image::new(10, 10_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let nodes = world.cluster(1, &registry).await;
    read_all(&nodes[0], &image, Class::Blocking).await;
    read_all(&nodes[0], &image, Class::Blocking).await;
    assert!((registry.copies() - 1.0).abs() < f64::EPSILON);
}
