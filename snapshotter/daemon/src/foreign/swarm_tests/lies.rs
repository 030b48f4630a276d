//! What a node alters or says that is wrong reaches no reader, and is found out.

use futures::future::join_all;
use lacewing_format::Digest;
use lacewing_p2p::FetchError;

use super::world::{World, assembled, wrong};
use crate::foreign::Voucher;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_in_the_middle_alters_reaches_nobody() {
    let world = World::new().await;
    let middle = world.order[1];
    let honest: Vec<_> = world.order.iter().filter(|address| **address != middle).collect();
    let honest: Vec<_> = honest.into_iter().map(|address| world.honest(*address)).collect();
    // What it is itself to bring it gives as it is.
    let holds = (0..world.blob.runs()).map(|run| match world.first_of(run) == middle {
        true => world.run(run),
        false => world.altered(run),
    });
    let liar = world.liar(middle, holds.collect(), None);
    assembled(honest.iter().map(|peers| &peers.node).chain([&liar])).await;
    for read in join_all(honest.iter().map(|peers| world.read(peers))).await {
        read.unwrap();
    }
    world.assert_clean(&honest).await;
    let mut named = 0;
    for peers in &honest {
        let wrong = wrong(peers).await;
        assert!(
            wrong.iter().all(|address| *address == middle),
            "an honest node is named: {wrong:?}"
        );
        named += wrong.len();
    }
    assert!(named > 0, "the liar was never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_lies_is_found_out_in_the_end_and_named() {
    let world = World::new().await;
    let (_liar, honest) = world.with_first(Some(world.altered(0)), None).await;
    let reader = &honest[1];
    let mut parts = reader.stream(world.blob.clone(), 0..world.blob.len);
    let mut came = 0;
    let failure = loop {
        match parts.recv().await.unwrap() {
            Ok(part) => came += part.len() as u64,
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.class, FetchError::Corrupt);
    assert!(came < world.blob.len, "the last run of a wrong blob came");
    assert_eq!(wrong(reader).await, [world.order[0]]);
    world.read(reader).await.unwrap();
    world.assert_clean(&honest[1..2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_is_silent_stalls_nobody() {
    let world = World::new().await;
    let (_mute, honest) = world.with_first(None, None).await;
    // The second node of the tree reads the run from the server, and gives it to the sixth.
    world.read(&honest[0]).await.unwrap();
    world.read(&honest[4]).await.unwrap();
    let (_, voucher) = honest[4].words().of(&world.run(0).0).unwrap();
    assert_eq!(voucher, Voucher::StandIn(world.order[1]));
    assert!(wrong(&honest[4]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_passes_on_what_is_right_is_not_blamed_by_a_lying_first_node() {
    let world = World::new().await;
    let (_liar, honest) = world.with_first(None, Some(Digest::of(b"another run"))).await;
    world.read(&honest[0]).await.unwrap();
    world.read(&honest[4]).await.unwrap();
    assert_eq!(wrong(&honest[4]).await, [world.order[0]]);
}
