//! What one node holds the others get, and nobody else is asked than needs be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use lacewing_format::Digest;
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{Class, PieceId};

use super::world::{World, assembled};
use crate::adapters::origins::Place;
use crate::foreign::{Question, Said, Source};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_all_can_get_when_the_server_is_gone() {
    let world = World::new().await;
    let honest: Vec<_> = world.order.iter().map(|address| world.honest(*address)).collect();
    assembled(honest.iter().map(|peers| &peers.node)).await;
    world.read(&honest[3]).await.unwrap();
    let copies = world.copies();
    assert!(copies < 1.01, "{copies} copies");
    world.server.gone.store(true, Ordering::Relaxed);
    for run in 0..world.blob.runs() {
        for node in honest.iter().filter(|node| node.address != world.order[3]) {
            let (piece, _) = world.run(run);
            node.node.forget(&piece);
            node.words().forget(&piece);
        }
    }
    for read in join_all(honest.iter().map(|peers| world.read(peers))).await {
        read.unwrap();
    }
    world.assert_clean(&honest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_time_is_left_alone_and_who_holds_it_is_asked() {
    let mut world = World::new().await;
    world.blob.source = Source::Blob(Place {
        host: world.blob.source.host().to_owned(),
        repository: "a/b".to_owned(),
    });
    let (piece, right) = world.run(0);
    let first = world.honest(world.order[0]);
    let _holder = world.liar(
        world.order[5],
        vec![(piece, right.clone())],
        Some(Digest::of(&right)),
    );
    let begun = std::time::Instant::now();
    while first.node.status().await.links < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "they do not meet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.server.limits.store(true, Ordering::Relaxed);
    let got = first
        .node
        .get(piece, world.blob.provenance(), Class::Prefetch)
        .await;
    assert_eq!(got.unwrap(), right);
    // Once to learn of it; who waits within the request asks again after 20 s, before anybody else is asked.
    assert_eq!(world.server.put_off.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_holds_and_gets_for_others_only_what_it_may() {
    let world = World::new().await;
    let first = world.honest(world.order[0]);
    let (piece, right) = world.run(0);
    let of = world.blob.provenance();
    let said = async |question: Question| Said::read(&first.say(&question.written()).await?);
    let own = |place: &str| Provenance {
        place: place.to_owned(),
        ..(*of).clone()
    };
    let sum = Some(Said::Digest(Digest::of(&right)));
    assert_eq!(
        said(Question::Have(piece, (*of).clone())).await,
        Some(Said::Nothing)
    );
    let elsewhere = own("other.example/#http/file");
    assert_eq!(said(Question::Get(piece, elsewhere)).await, Some(Said::Nothing));
    assert_eq!(world.copies(), 0.0);
    assert_eq!(said(Question::Get(piece, (*of).clone())).await, sum);
    // As after a restart: the run is there, and nothing is remembered of it.
    first.words().forget(&piece);
    assert_eq!(said(Question::Have(piece, (*of).clone())).await, sum);
    let odd = PieceId { offset: 1, ..piece };
    assert_eq!(said(Question::Have(odd, (*of).clone())).await, None);
}
