//! Manifests, image indexes and lists of tags from registries that fail or lie.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use lacewing_format::Digest;
use lacewing_oci::{Error, MediaType, describe};
use support::{Reply, Seen, Server, reader};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn resolves_tags() {
    let text = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let digest = Digest::of(text.as_bytes());
    let full = Reply::new(200)
        .header("content-type", OCI)
        .header("docker-content-digest", digest.to_string())
        .body(text);
    let bare = Reply::new(200)
        .header("content-type", "application/json")
        .body(text);
    let old = Reply::new(200)
        .header(
            "content-type",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        )
        .body(r#"{"schemaVersion":1}"#);
    let lying = full
        .clone()
        .body(r#"{"schemaVersion":2,"config":{},"layers":[1]}"#);
    let rows: [(&str, Reply, Reply, Result<usize, &str>); 7] = [
        ("by its head", full.clone(), Reply::new(500), Ok(1)),
        ("head tells nothing", bare.clone(), bare.clone(), Ok(2)),
        ("head is unknown", Reply::new(405), full.clone(), Ok(2)),
        ("schema 1", old.clone(), old, Err("schema 1")),
        ("digest differs from content", bare, lying, Err("corrupt")),
        ("missing", Reply::new(404), full.clone(), Err("not found")),
        (
            "no manifest",
            Reply::new(405),
            Reply::new(200).body("<html>"),
            Err("neither a manifest"),
        ),
    ];
    for (name, head, get, expected) in rows {
        let server = Server::start(move |seen: &Seen| {
            let reply = if seen.method == "HEAD" { &head } else { &get };
            reply.clone()
        })
        .await;
        let found = reader(&server).await.resolve(None).await;
        match expected {
            Ok(requests) => {
                let found = found.unwrap();
                assert_eq!(found.digest().to_string(), digest.to_string(), "{name}");
                assert_eq!(
                    (found.size(), found.media_type()),
                    (text.len() as u64, &MediaType::ImageManifest)
                );
                assert_eq!(server.seen().len(), requests, "{name}");
                assert_eq!(server.seen()[0].path(), "/v2/a/b/manifests/1");
                assert!(server.seen()[0].header("accept").unwrap().contains(OCI));
            }
            Err(reason) => {
                let error = found.unwrap_err();
                assert!(error.to_string().contains(reason), "{name}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_digest_must_be_answered_by_its_content() {
    let text = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let server = Server::start(move |_| Reply::new(200).header("content-type", OCI).body(text)).await;
    let store = reader(&server).await;
    let digest = Digest::of(text.as_bytes()).to_string();
    assert_eq!(
        store.resolve(Some(&digest)).await.unwrap().digest().as_ref(),
        digest
    );
    let other = Digest::of(b"other").to_string();
    assert!(matches!(
        store.resolve(Some(&other)).await,
        Err(Error::Corrupt { .. })
    ));
    for bad in ["../../x", "a/b", "", "a b", "sha256:xyz"] {
        assert!(
            matches!(store.resolve(Some(bad)).await, Err(Error::Invalid { .. })),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn oversized_documents_are_refused() {
    let huge = vec![b' '; 5 << 20];
    for reply in [
        Reply::new(200).body(huge.clone()),
        Reply::new(200).body(huge.clone()).chunked(),
    ] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => Reply::new(405),
            _ => reply.clone(),
        })
        .await;
        let store = reader(&server).await;
        assert!(matches!(store.resolve(None).await, Err(Error::Corrupt { .. })));
        let descriptor = describe(MediaType::ImageManifest, &Digest::of(&huge), huge.len() as u64);
        assert!(matches!(
            store.manifest(&descriptor).await,
            Err(Error::Invalid { .. })
        ));
        let small = describe(MediaType::ImageManifest, &Digest::of(b"x"), 1);
        assert!(matches!(store.manifest(&small).await, Err(Error::Corrupt { .. })));
    }
    let store = reader(&Server::start(|_| Reply::new(500)).await).await;
    assert!(matches!(
        store.read_at(&Digest::of(b""), 0..u64::MAX).await,
        Err(Error::Invalid { .. })
    ));
}

#[tokio::test]
async fn lists_tags_page_by_page() {
    let elsewhere = Arc::new(Server::start(|_| Reply::new(200).body(r#"{"tags":["stolen"]}"#)).await);
    let foreign = elsewhere.host();
    let server = Server::start(move |seen| {
        let query = seen.target.split_once('?').map_or("", |(_, query)| query);
        match query {
            "n=1000" => Reply::new(200)
                .header("link", r#"</v2/a/b/tags/list?last=c&n=2>; rel="next""#)
                .body(r#"{"name":"a/b","tags":["c","b"]}"#),
            _ => Reply::new(200)
                .header(
                    "link",
                    format!(r#"<http://{foreign}/v2/a/b/tags/list>; rel="next""#),
                )
                .body(r#"{"name":"a/b","tags":["a","b"]}"#),
        }
    })
    .await;
    assert_eq!(reader(&server).await.tags().await.unwrap(), ["a", "b", "c"]);
    assert_eq!(elsewhere.seen().len(), 0);
    let empty = Server::start(|_| Reply::new(200).body(r#"{"name":"a/b","tags":null}"#)).await;
    assert!(reader(&empty).await.tags().await.unwrap().is_empty());
    // A list that goes on for ever ends at the limit of pages.
    let endless = Server::start(|_| {
        Reply::new(200)
            .header("link", r#"</v2/a/b/tags/list?x>; rel="next""#)
            .body(r#"{"tags":["a"]}"#)
    })
    .await;
    assert_eq!(reader(&endless).await.tags().await.unwrap(), ["a"]);
    assert_eq!(endless.seen().len(), 1000);
}
