//! Reading blobs from registries that fail or lie.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use lacewing_format::Digest;
use lacewing_oci::{Access, Error, MediaType, describe};
use support::{Reply, Server, layer, noise, open, quick, reader, whole, write_hosts};
use tokio::io::AsyncReadExt;

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
