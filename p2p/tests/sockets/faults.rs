//! Nodes and registries that fail or lie.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_p2p::driver::{Origin, OriginError};
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{Class, Node, PieceId};

use crate::node::{Gullible, Image, Knowing, Registry, Way, World, addresses, assembled, read_all};

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_vanishing_after_one_copy_stops_nobody() {
    let image = Image::new(100, 30_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let nodes = world.cluster(4, &registry).await;
    read_all(&nodes[0], &image, Class::Prefetch).await;
    registry.gone.store(true, Ordering::Relaxed);
    for node in &nodes[1..] {
        read_all(node, &image, Class::Blocking).await;
    }
}

/// Gives what is not in the image.
struct Liar;

impl Origin for Liar {
    fn read(
        &self,
        piece: PieceId,
        _of: Provenance,
        _class: Class,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        async move { Ok(Bytes::from(vec![0xEE; piece.len as usize])) }.boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_reach_no_reader_and_no_third_node() {
    let image = Image::new(100, 30_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let all = addresses(5);
    let mut nodes = Vec::new();
    for (number, address) in all.iter().enumerate() {
        let parts = match number {
            0 => world.parts(*address, &all, Arc::new(Liar), Arc::new(Gullible)),
            _ => {
                let way = Arc::new(Way(registry.clone()));
                world.parts(*address, &all, way, Arc::new(Knowing(image.clone())))
            }
        };
        nodes.push(Node::start(parts).unwrap());
    }
    assembled(&nodes).await;
    // `read_all` compares every byte.
    let reads = nodes[1..]
        .iter()
        .map(|node| read_all(node, &image, Class::Blocking));
    futures::future::join_all(reads).await;
    let mut named = 0;
    for node in &nodes[1..] {
        let status = node.status().await;
        assert!(
            status.wrong.iter().all(|address| *address == all[0]),
            "an honest node is named"
        );
        named += status.wrong.len();
    }
    assert!(named > 0, "the liar was never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_die_half_way_are_passed_over() {
    let image = Image::new(200, 30_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let mut nodes = world.cluster(6, &registry).await;
    let dying = nodes.split_off(4);
    let others = nodes.iter().map(|node| read_all(node, &image, Class::Prefetch));
    let kill = async {
        for node in dying {
            read_all(&node, &Image::new(200, 30_000), Class::Prefetch).now_or_never();
            tokio::task::yield_now().await;
            drop(node);
        }
    };
    futures::future::join(futures::future::join_all(others), kill).await;
    assert!(registry.copies() <= 1.3, "{} copies", registry.copies());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_connections_and_never_answers_delays_and_no_more() {
    let image = Image::new(40, 10_000);
    let registry = Registry::new(&image);
    let world = World::new();
    let all = addresses(3);
    // It greets nobody: connections to it never stand.
    let listener = tokio::net::TcpListener::bind(all[2]).await.unwrap();
    let held = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    let mut nodes = Vec::new();
    for address in &all[..2] {
        let way = Arc::new(Way(registry.clone()));
        let parts = world.parts(*address, &all, way, Arc::new(Knowing(image.clone())));
        nodes.push(Node::start(parts).unwrap());
    }
    let reads = nodes.iter().map(|node| read_all(node, &image, Class::Blocking));
    futures::future::join_all(reads).await;
    held.abort();
}
