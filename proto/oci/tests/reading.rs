//! Reading from registries that fail, lie or are slow.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use lacewing_format::Digest;
use lacewing_oci::{Access, Descriptor, Error, MediaType, Store, describe};
use support::{Reply, Seen, Server, noise, open, quick, reader, write_hosts};
use tokio::io::AsyncReadExt;

fn layer(content: &[u8]) -> Descriptor {
    describe(
        MediaType::ImageLayerGzip,
        &Digest::of(content),
        content.len() as u64,
    )
}

async fn whole(store: &Store, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut blob = store.blob(descriptor).await?;
    let mut bytes = Vec::new();
    while let Some(part) = blob.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn reads_whole_blobs_and_parts() {
    let content = noise(1 << 20);
    let served = content.clone();
    let server = Server::start(move |seen| Reply::content(seen, &served)).await;
    let store = reader(&server).await;
    assert_eq!(whole(&store, &layer(&content)).await.unwrap(), content);
    let digest = Digest::of(&content);
    for range in [0..1, 0..1 << 20, 4096..8192, (1 << 20) - 1..1 << 20, 7..7] {
        let expected = &content[range.start as usize..range.end as usize];
        assert_eq!(
            store.read_at(&digest, range.clone()).await.unwrap(),
            expected,
            "{range:?}"
        );
    }
    let mut bytes = Vec::new();
    store
        .blob(&layer(&content))
        .await
        .unwrap()
        .read_to_end(&mut bytes)
        .await
        .unwrap();
    assert_eq!(bytes, content);
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let content = noise(500_000);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = Reply::content(seen, &served);
        match count.fetch_add(1, SeqCst) {
            0 => reply.cut(100_000),
            1 => reply.cut(150_000),
            _ => reply,
        }
    })
    .await;
    let store = reader(&server).await;
    assert_eq!(whole(&store, &layer(&content)).await.unwrap(), content);
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=100000-499999".into()),
            Some("bytes=250000-499999".into())
        ]
    );
}

#[tokio::test]
async fn a_broken_range_read_asks_for_the_rest_only() {
    let content = noise(500_000);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = Reply::content(seen, &served);
        if count.fetch_add(1, SeqCst) == 0 {
            reply.cut(10_000)
        } else {
            reply
        }
    })
    .await;
    let store = reader(&server).await;
    let bytes = store.read_at(&Digest::of(&content), 1000..400_000).await.unwrap();
    assert_eq!(bytes, content[1000..400_000]);
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.header("range").unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["bytes=1000-399999", "bytes=11000-399999"]);
}

#[tokio::test]
async fn servers_may_ignore_ranges() {
    let content = noise(300_000);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_| {
        let reply = Reply::new(200).body(served.clone());
        if count.fetch_add(1, SeqCst) == 1 {
            reply.cut(120_000)
        } else {
            reply
        }
    })
    .await;
    let store = reader(&server).await;
    assert_eq!(
        store.read_at(&Digest::of(&content), 1000..2000).await.unwrap(),
        content[1000..2000]
    );
    assert_eq!(
        whole(&store, &layer(&content)).await.unwrap(),
        content,
        "resumed without ranges"
    );
}

#[tokio::test]
async fn servers_may_give_less_than_asked_for() {
    let content = noise(10_000);
    let served = content.clone();
    let server = Server::start(move |seen| {
        let (first, _) = seen.header("range").unwrap()["bytes=".len()..]
            .split_once('-')
            .unwrap();
        let first: usize = first.parse().unwrap();
        let last = (first + 4095).min(served.len() - 1);
        Reply::new(206)
            .header("content-range", format!("bytes {first}-{last}/*"))
            .body(served[first..=last].to_vec())
    })
    .await;
    let bytes = reader(&server)
        .await
        .read_at(&Digest::of(&content), 0..10_000)
        .await
        .unwrap();
    assert_eq!(bytes, content);
}

#[tokio::test]
async fn wrong_partial_answers_are_corrupt() {
    let content = noise(10_000);
    let answers: [(&str, Option<&str>, u16); 7] = [
        ("another part", Some("bytes 0-99/10000"), 206),
        ("too long a part", Some("bytes 100-9999/10000"), 206),
        ("no range", None, 206),
        ("no number", Some("bytes x-y/z"), 206),
        ("a shorter blob", Some("bytes 100-149/150"), 206),
        ("beyond the end", None, 416),
        ("a short whole", None, 200),
    ];
    for (name, range, status) in answers {
        let server = Server::start(move |_| {
            let reply = Reply::new(status).body(vec![0; 100]);
            match range {
                Some(range) => reply.header("content-range", range),
                None => reply,
            }
        })
        .await;
        let store = reader(&server).await;
        let error = store.read_at(&Digest::of(&content), 100..200).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
        assert_eq!(server.seen().len(), 1, "{name}: asking again does not help");
    }
}

#[tokio::test]
async fn wrong_bytes_are_corrupt() {
    let content = noise(100_000);
    let mut wrong = content.clone();
    wrong[50_000] ^= 1;
    let rows: [(&str, Reply); 5] = [
        ("flipped", Reply::new(200).body(wrong)),
        ("short", Reply::new(200).body(content[..99_999].to_vec())),
        ("long", Reply::new(200).body(noise(100_001))),
        ("long, no length", Reply::new(200).body(noise(100_001)).chunked()),
        ("empty", Reply::new(200)),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |_| reply.clone()).await;
        let store = reader(&server).await;
        let error = whole(&store, &layer(&content)).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
        let shown = error.to_string();
        assert!(
            shown.contains(&Digest::of(&content).to_string()) && shown.contains(&server.host()),
            "{shown}"
        );
        let manifest = describe(
            MediaType::ImageManifest,
            &Digest::of(&content),
            content.len() as u64,
        );
        let error = store.manifest(&manifest).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_mirror_with_wrong_bytes_is_passed_over() {
    let content = noise(50_000);
    let mut wrong = content.clone();
    wrong[100] ^= 1;
    let mirror = Server::start(move |seen| Reply::content(seen, &wrong)).await;
    let served = content.clone();
    let origin = Server::start(move |seen| Reply::content(seen, &served)).await;
    let folder = tempfile::tempdir().unwrap();
    write_hosts(
        folder.path(),
        &origin.host(),
        &format!("[host.\"http://{}\"]", mirror.host()),
    );
    let options = lacewing_oci::Options {
        hosts_dir: Some(folder.path().into()),
        ..quick()
    };
    let store = open(options, &format!("{}/a/b", origin.host()), Access::Read).await;
    let expected = content[..4096].to_vec();
    let bytes = store
        .read_checked(&Digest::of(&content), 0..4096, &move |b| b == expected)
        .await
        .unwrap();
    assert_eq!(bytes, content[..4096]);
    assert_eq!((mirror.lines().len(), origin.lines().len()), (1, 1));
    let never = store
        .read_checked(&Digest::of(&content), 0..4096, &|_| false)
        .await;
    assert!(matches!(never, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_last() {
    let content = noise(1000);
    let down = Server::start(|_| Reply::new(503)).await;
    let without = Server::start(|_| Reply::new(404)).await;
    let served = content.clone();
    let origin = Server::start(move |seen| Reply::content(seen, &served)).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://{}\"]\n[host.\"http://{}/some/path\"]\n[host.\"http://{}\"]\ncapabilities = [\"push\"]\n",
        down.host(),
        without.host(),
        "127.0.0.1:1"
    );
    write_hosts(folder.path(), &origin.host(), &text);
    let options = lacewing_oci::Options {
        hosts_dir: Some(folder.path().into()),
        ..quick()
    };
    let store = open(options, &format!("{}/a/b", origin.host()), Access::Read).await;
    let digest = Digest::of(&content);
    for _ in 0..10 {
        assert_eq!(store.read_at(&digest, 0..10).await.unwrap(), content[..10]);
    }
    let path = format!("/v2/a/b/blobs/{digest}?ns={}", origin.host().replace(':', "%3A"));
    assert_eq!(down.seen()[0].target, path);
    assert_eq!(down.seen().len(), 3, "a host that fails is left alone");
    assert_eq!(without.seen()[0].target, format!("/some/path{path}"));
    assert_eq!(without.seen().len(), 10);
    assert_eq!(origin.seen()[0].target, format!("/v2/a/b/blobs/{digest}"));
}

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

#[tokio::test]
async fn connections_are_used_again() {
    let content = noise(100_000);
    let served = content.clone();
    let server = Server::start(move |seen| Reply::content(seen, &served)).await;
    let store = reader(&server).await;
    for start in 0..20 {
        store
            .read_at(&Digest::of(&content), start * 4096..(start + 1) * 4096)
            .await
            .unwrap();
        whole(&store, &layer(&content)).await.unwrap();
    }
    assert_eq!(server.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn classes_of_errors() {
    let rows = [(404, "NotFound", 1), (403, "Forbidden", 1), (400, "Invalid", 1)];
    for (status, expected, requests) in rows {
        let server = Server::start(move |_| {
            Reply::new(status).body(r#"{"errors":[{"code":"CODE","message":"the server's words"}]}"#)
        })
        .await;
        let store = reader(&server).await;
        let error = store.read_at(&Digest::of(b""), 0..10).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        if status != 404 {
            assert!(error.to_string().contains("CODE the server's words"), "{error}");
        }
        assert_eq!(server.seen().len(), requests, "{expected}");
    }
}

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
