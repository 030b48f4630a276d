//! Reading from registries that are slow, or ask for patience.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use lacewing_format::Digest;
use lacewing_oci::{Access, Error};
use support::{Reply, Server, layer, noise, open, quick, reader, whole};

#[tokio::test]
async fn patience_is_granted_when_asked_for() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |seen| match count.fetch_add(1, SeqCst) {
        0 => Reply::new(429).header("retry-after", "1"),
        1 => Reply::new(503),
        _ => Reply::content(seen, b"0123456789"),
    })
    .await;
    let start = Instant::now();
    let bytes = reader(&server)
        .await
        .read_at(&Digest::of(b"0123456789"), 2..5)
        .await
        .unwrap();
    assert_eq!(bytes, &b"234"[..]);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn who_has_others_to_ask_is_told_at_once() {
    for status in [429, 503] {
        let server = Server::start(move |_| Reply::new(status).header("retry-after", "40")).await;
        let store = reader(&server).await.impatient();
        let content = layer(b"0123456789");
        let manifest = lacewing_oci::describe(lacewing_oci::MediaType::ImageManifest, &Digest::of(b"x"), 1);
        let errors = [
            store.read_at(&Digest::of(b"0123456789"), 2..5).await.err(),
            store.manifest(&manifest).await.err(),
            store.blob(&content).await.err(),
        ];
        for error in errors {
            let Some(Error::Unavailable { retry_after, .. }) = error else {
                panic!("{status}: {error:?}");
            };
            assert_eq!(retry_after, Some(Duration::from_secs(40)), "{status}");
        }
        assert_eq!(server.seen().len(), 3);
    }
}

#[tokio::test]
async fn waiting_has_an_end() {
    let rows: [(&str, Reply); 3] = [
        ("silence", Reply::hang()),
        ("refusal", Reply::new(503)),
        ("endless patience", Reply::new(429).header("retry-after", "86400")),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |_| reply.clone()).await;
        let options = lacewing_oci::Options {
            idle_timeout: Duration::from_millis(200),
            retry_for: Duration::from_millis(500),
            ..quick()
        };
        let store = open(options, &format!("{}/a/b", server.host()), Access::Read).await;
        let start = Instant::now();
        let error = store.read_at(&Digest::of(b""), 0..10).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{name}: {error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{name}");
    }
    let store = open(quick(), "127.0.0.1:1/a/b", Access::Read).await;
    let options = lacewing_oci::Options {
        retry_for: Duration::from_millis(200),
        ..quick()
    };
    let gone = open(options, "127.0.0.1:1/a/b", Access::Read).await;
    assert!(matches!(gone.resolve(None).await, Err(Error::Unavailable { .. })));
    drop(store);
}

#[tokio::test]
async fn a_stalled_body_is_resumed() {
    let content = noise(100_000);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        if count.fetch_add(1, SeqCst) == 0 {
            Reply::hang()
        } else {
            Reply::content(seen, &served)
        }
    })
    .await;
    let options = lacewing_oci::Options {
        idle_timeout: Duration::from_millis(200),
        ..quick()
    };
    let store = open(options, &format!("{}/a/b", server.host()), Access::Read).await;
    assert_eq!(whole(&store, &layer(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn a_trickle_is_no_progress() {
    let content = noise(1000);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = Reply::content(seen, &served);
        if count.fetch_add(1, SeqCst) == 0 {
            reply.drip(Duration::from_millis(20))
        } else {
            reply
        }
    })
    .await;
    let options = lacewing_oci::Options {
        idle_timeout: Duration::from_millis(200),
        ..quick()
    };
    let store = open(options, &format!("{}/a/b", server.host()), Access::Read).await;
    let start = Instant::now();
    assert_eq!(
        store.read_at(&Digest::of(&content), 0..1000).await.unwrap(),
        content
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "the trickle alone takes 20 s"
    );
}
