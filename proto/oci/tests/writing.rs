//! Writing to registries that break off, forget or refuse.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use lacewing_format::Digest;
use lacewing_oci::{Access, Error, MediaType};
use support::{Reply, Seen, Server, layer, noise, open, quick, writer};

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

/// A registry's upload handling, with bytes kept across requests.
#[derive(Default)]
struct Uploads {
    held: Mutex<Vec<u8>>,
    stored: Mutex<Vec<Bytes>>,
}

impl Uploads {
    fn answer(&self, seen: &Seen) -> Reply {
        let mut held = self.held.lock().unwrap();
        let state = |held: &[u8]| format!("0-{}", held.len().saturating_sub(1));
        match (seen.method.as_str(), seen.path()) {
            ("HEAD", path) => {
                let stored = self.stored.lock().unwrap();
                let found = stored
                    .iter()
                    .find(|blob| path.ends_with(&Digest::of(blob).to_string()));
                found.map_or(Reply::new(404), |blob| Reply::new(200).body(blob.clone()))
            }
            ("POST", _) => {
                held.clear();
                Reply::new(202)
                    .header("location", "/v2/a/b/blobs/uploads/u1?state=x")
                    .header("range", "0-0")
            }
            ("GET", "/v2/a/b/blobs/uploads/u1") => Reply::new(204)
                .header("location", "/v2/a/b/blobs/uploads/u1?state=y")
                .header("range", state(&held)),
            ("PATCH", "/v2/a/b/blobs/uploads/u1") => {
                if let Some(range) = seen.header("content-range") {
                    let start: usize = range.split('-').next().unwrap().parse().unwrap();
                    if start != held.len() {
                        return Reply::new(416);
                    }
                }
                held.extend_from_slice(&seen.body);
                Reply::new(202)
                    .header("location", "/v2/a/b/blobs/uploads/u1?state=z")
                    .header("range", state(&held))
            }
            ("PUT", "/v2/a/b/blobs/uploads/u1") => {
                held.extend_from_slice(&seen.body);
                let wanted = seen.target.rsplit("digest=").next().unwrap().replace("%3A", ":");
                if Digest::of(&held).to_string() != wanted {
                    return Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                self.stored
                    .lock()
                    .unwrap()
                    .push(Bytes::from(std::mem::take(&mut *held)));
                Reply::new(201)
            }
            _ => Reply::new(404),
        }
    }

    fn has(&self, content: &[u8]) -> bool {
        self.stored.lock().unwrap().iter().any(|blob| blob == content)
    }
}

/// Uploads `content`, which must succeed.
async fn put(server: &Server, content: &[u8]) {
    let (store, source) = (writer(server).await, file(content));
    let done = store.put_blob(&layer(content), source.path(), &|_| {}).await;
    done.unwrap();
}

#[tokio::test]
async fn sends_a_blob_once() {
    let content = noise(1_000_000);
    let uploads = Arc::new(Uploads::default());
    let registry = uploads.clone();
    let server = Server::start(move |seen| registry.answer(seen)).await;
    let store = writer(&server).await;
    let told = AtomicU64::new(0);
    let progress = |sent| told.store(sent, SeqCst);
    let source = file(&content);
    store
        .put_blob(&layer(&content), source.path(), &progress)
        .await
        .unwrap();
    assert!(uploads.has(&content));
    assert_eq!(told.load(SeqCst), 1_000_000);
    let methods: Vec<_> = server
        .lines()
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(methods, ["HEAD", "POST", "PATCH", "PUT"]);
    // It is there now.
    told.store(0, SeqCst);
    store
        .put_blob(&layer(&content), source.path(), &progress)
        .await
        .unwrap();
    assert_eq!((server.lines().len(), told.load(SeqCst)), (1, 1_000_000));
    store
        .put_bytes(MediaType::ImageConfig, Bytes::from_static(b"{}"))
        .await
        .unwrap();
    assert!(uploads.has(b"{}"));
    store
        .put_bytes(MediaType::ImageConfig, Bytes::new())
        .await
        .unwrap();
    assert!(uploads.has(b""));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke() {
    let content = noise(4_000_000);
    let uploads = Arc::new(Uploads::default());
    let (registry, patches) = (uploads.clone(), Arc::new(AtomicUsize::new(0)));
    let count = patches.clone();
    let server = Server::start_with(
        move |seen| registry.answer(seen),
        move |method, _| match (method, method == "PATCH" && count.fetch_add(1, SeqCst) < 2) {
            ("PATCH", true) => Some(1_000_000),
            _ => None,
        },
    )
    .await;
    let store = writer(&server).await;
    store
        .put_blob(&layer(&content), file(&content).path(), &|_| {})
        .await
        .unwrap();
    assert!(uploads.has(&content));
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .filter(|seen| seen.method == "PATCH")
        .map(|seen| {
            seen.header("content-range")
                .map(|range| range.split('-').next().unwrap().parse::<u64>().unwrap())
        })
        .collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert!(
        ranges[1].unwrap() >= 1_000_000 && ranges[2].unwrap() >= 2_000_000,
        "{ranges:?}"
    );
    assert_eq!(
        server.seen().iter().filter(|seen| seen.method == "POST").count(),
        1
    );
}

/// A registry that answers the first `count` PATCH requests with `status` still gets the blob.
async fn patch_fails(status: u16, count: usize) {
    let content = noise(100_000);
    let uploads = Arc::new(Uploads::default());
    let (registry, seen_so_far) = (uploads.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        if seen.method == "PATCH" && seen_so_far.fetch_add(1, SeqCst) < count {
            Reply::new(status)
        } else {
            registry.answer(seen)
        }
    })
    .await;
    put(&server, &content).await;
    assert!(uploads.has(&content));
}

#[tokio::test]
async fn a_lost_upload_is_begun_anew() {
    patch_fails(404, 1).await;
}

#[tokio::test]
async fn without_patch_all_goes_in_one_put() {
    patch_fails(405, usize::MAX).await;
}

#[tokio::test]
async fn what_keeps_failing_ends() {
    let content = noise(1000);
    let registry = Uploads::default();
    let damaging = Server::start(move |seen| {
        let mut seen = seen.clone();
        if seen.method == "PATCH" {
            seen.body = Bytes::from(vec![0; 1000]);
        }
        registry.answer(&seen)
    })
    .await;
    let store = writer(&damaging).await;
    let error = store
        .put_blob(&layer(&content), file(&content).path(), &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");

    let full = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", "/u"),
        _ => Reply::new(413).body(r#"{"errors":[{"code":"TOO_BIG","message":"quota"}]}"#),
    })
    .await;
    let error = writer(&full)
        .await
        .put_blob(&layer(&content), file(&content).path(), &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TOO_BIG quota"), "{error}");

    let error = store
        .put_blob(&layer(&content), file(b"short").path(), &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = store
        .put_blob(&layer(&content), "/nonexistent".as_ref(), &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_token_that_expires_during_an_upload_is_renewed() {
    let content = noise(300_000);
    let uploads = Arc::new(Uploads::default());
    let (registry, valid) = (uploads.clone(), AtomicUsize::new(1));
    let server = Server::start(move |seen| {
        if seen.path() == "/token" {
            assert!(seen.target.contains("pull%2Cpush"), "{}", seen.target);
            return Reply::new(200).body(format!(r#"{{"token":"t{}"}}"#, valid.load(SeqCst)));
        }
        let expected = format!("Bearer t{}", valid.load(SeqCst));
        if seen.header("authorization") != Some(&expected) {
            let realm = format!(r#"Bearer realm="http://{}/token""#, seen.header("host").unwrap());
            return Reply::new(401).header("www-authenticate", realm);
        }
        if seen.method == "POST" {
            valid.store(2, SeqCst);
        }
        registry.answer(seen)
    })
    .await;
    put(&server, &content).await;
    assert!(uploads.has(&content));
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_authorisation() {
    let content = noise(1000);
    let uploads = Arc::new(Uploads::default());
    let registry = uploads.clone();
    let storage = Server::start(move |seen| registry.answer(seen)).await;
    let target = storage.host();
    let server = Server::start(move |seen| match (seen.header("authorization"), seen.path()) {
        (_, "/token") => Reply::new(200).body(r#"{"token":"t"}"#),
        (None, _) => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, seen.header("host").unwrap());
            Reply::new(401).header("www-authenticate", realm)
        }
        _ if seen.method == "POST" => {
            Reply::new(202).header("location", format!("http://{target}/v2/a/b/blobs/uploads/u1"))
        }
        _ => Reply::new(404),
    })
    .await;
    put(&server, &content).await;
    assert!(uploads.has(&content));
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn mounts_or_says_no() {
    let rows = [
        (201, true, 1),
        (202, false, 2),
        (403, false, 1),
        (404, false, 1),
        (400, false, 1),
    ];
    for (status, expected, requests) in rows {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "POST" => Reply::new(status).header("location", "/v2/a/b/blobs/uploads/u1"),
            _ => Reply::new(204),
        })
        .await;
        let store = writer(&server).await;
        let from = format!("{}/other/repo:x", server.host()).parse().unwrap();
        assert_eq!(
            store.mount_blob(&layer(b"x"), &from).await.unwrap(),
            expected,
            "{status}"
        );
        assert_eq!(server.seen().len(), requests, "{status}");
        let digest = Digest::of(b"x").to_string().replace(':', "%3A");
        let target = format!("/v2/a/b/blobs/uploads/?mount={digest}&from=other%2Frepo");
        assert_eq!(server.seen()[0].target, target);
        let elsewhere = "ghcr.io/other/repo:x".parse().unwrap();
        assert!(!store.mount_blob(&layer(b"x"), &elsewhere).await.unwrap());
    }
}

#[tokio::test]
async fn manifests_are_put_under_tags_and_digests() {
    let text = Bytes::from_static(br#"{"schemaVersion":2}"#);
    let digest = Digest::of(&text);
    let server = Server::start(move |seen| {
        let wrong = seen.path().ends_with("/wrong");
        let told = if wrong { Digest::of(b"other") } else { digest };
        Reply::new(201).header("docker-content-digest", told.to_string())
    })
    .await;
    let store = writer(&server).await;
    let put = |tag| store.put_manifest(MediaType::ImageManifest, text.clone(), tag);
    assert_eq!(
        put(Some("v1")).await.unwrap().digest().to_string(),
        digest.to_string()
    );
    put(None).await.unwrap();
    store
        .put_root(MediaType::ImageManifest, text.clone())
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!(
        seen[0].header("content-type"),
        Some("application/vnd.oci.image.manifest.v1+json")
    );
    assert_eq!(seen[0].body, text);
    let expected = ["v1".to_owned(), digest.to_string(), "1".to_owned()];
    let expected: Vec<_> = expected
        .iter()
        .map(|name| format!("PUT /v2/a/b/manifests/{name}"))
        .collect();
    assert_eq!(server.lines(), expected);
    assert!(matches!(put(Some("wrong")).await, Err(Error::Corrupt { .. })));
    assert!(matches!(put(Some("../x")).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn a_digest_is_no_target() {
    let reference = format!("127.0.0.1:1/a@{}", Digest::of(b"x")).parse().unwrap();
    let client = lacewing_oci::Client::new(quick()).unwrap();
    let opened = lacewing_oci::Store::open(&client, &reference, Access::Write).await;
    assert!(matches!(opened.err(), Some(Error::Invalid { .. })));
    // Reading by it is fine.
    drop(open(quick(), &reference.to_string(), Access::Read).await);
}
