//! Layouts and archives: what is written is read back, and what is damaged is noticed.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use lacewing_format::Digest;
use lacewing_oci::{Access, Descriptor, Error, MediaType, Store, describe};
use support::{noise, open, quick};
use tokio::io::AsyncReadExt;

async fn try_open(reference: &str, access: Access) -> Result<Store, Error> {
    let client = lacewing_oci::Client::new(quick()).unwrap();
    Store::open(&client, &reference.parse().unwrap(), access).await
}

/// A blob, a config and a manifest under the store's own name.
async fn fill(store: &Store, content: &[u8]) -> (Descriptor, Descriptor) {
    let layer = describe(
        MediaType::ImageLayerGzip,
        &Digest::of(content),
        content.len() as u64,
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    assert!(!store.has_blob(&layer).await.unwrap());
    store.put_blob(&layer, file.path(), &|_| {}).await.unwrap();
    store.put_blob(&layer, file.path(), &|_| {}).await.unwrap();
    assert!(store.has_blob(&layer).await.unwrap());
    let config = store
        .put_bytes(MediaType::ImageConfig, Bytes::from_static(b"{}"))
        .await
        .unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::ImageManifest.as_ref(),
        "config": config, "layers": [layer],
    });
    let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let child = store
        .put_manifest(MediaType::ImageManifest, manifest, None)
        .await
        .unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [child]});
    let index = Bytes::from(serde_json::to_vec(&index).unwrap());
    let root = store.put_root(MediaType::ImageIndex, index).await.unwrap();
    (root, layer)
}

async fn check(store: &Store, root: &Descriptor, content: &[u8]) {
    let found = store.resolve(None).await.unwrap();
    assert_eq!(
        (found.digest(), found.media_type()),
        (root.digest(), &MediaType::ImageIndex)
    );
    let index: serde_json::Value = serde_json::from_slice(&store.manifest(&found).await.unwrap()).unwrap();
    let child = index["manifests"][0]["digest"].as_str().unwrap();
    let child = store.resolve(Some(child)).await.unwrap();
    assert_eq!(child.media_type(), &MediaType::ImageManifest);
    let manifest: serde_json::Value = serde_json::from_slice(&store.manifest(&child).await.unwrap()).unwrap();
    let layer: Descriptor = serde_json::from_value(manifest["layers"][0].clone()).unwrap();
    let mut bytes = Vec::new();
    store
        .blob(&layer)
        .await
        .unwrap()
        .read_to_end(&mut bytes)
        .await
        .unwrap();
    assert_eq!(bytes, content);
    let digest = Digest::of(content);
    assert_eq!(
        store.read_at(&digest, 1000..5000).await.unwrap(),
        content[1000..5000]
    );
    let beyond = store.read_at(&digest, 0..content.len() as u64 + 1).await;
    assert!(matches!(beyond, Err(Error::Corrupt { .. })));
    let missing = store.read_at(&Digest::of(b"missing"), 0..1).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn layouts_keep_what_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let content = noise(1 << 20);
    for tag in ["", ":1.0", ":docker.io/library/x:2"] {
        let place = format!("oci:{}/l{}", folder.path().display(), tag.len());
        let name = format!("{place}{tag}");
        let store = open(quick(), &name, Access::Write).await;
        let (root, _) = fill(&store, &content).await;
        store.finish().await.unwrap();
        check(&open(quick(), &name, Access::Read).await, &root, &content).await;
        check(&open(quick(), &place, Access::Read).await, &root, &content).await;
        // Another image beside it changes nothing.
        let again = open(quick(), &format!("{place}:other"), Access::Write).await;
        again
            .put_root(MediaType::ImageIndex, Bytes::from_static(br#"{"manifests":[]}"#))
            .await
            .unwrap();
        assert!(again.tags().await.unwrap().contains(&"other".to_owned()));
        check(&open(quick(), &name, Access::Read).await, &root, &content).await;
        let unknown = open(quick(), &format!("{place}:unknown"), Access::Read).await;
        assert!(matches!(unknown.resolve(None).await, Err(Error::NotFound { .. })));
        assert!(matches!(unknown.resolve(Some("other")).await, Ok(found) if found.size() == 16));
    }
}

#[tokio::test]
async fn archives_appear_when_they_are_finished() {
    let folder = tempfile::tempdir().unwrap();
    let content = noise(1 << 20);
    let file = folder.path().join("x.tar");
    let name = format!("oci-archive:{}:v1", file.display());
    let mut archives = Vec::new();
    for _ in 0..2 {
        let store = open(quick(), &name, Access::Write).await;
        let (root, _) = fill(&store, &content).await;
        check(&store, &root, &content).await;
        assert_eq!(
            file.exists(),
            !archives.is_empty(),
            "not there before it is whole"
        );
        store.finish().await.unwrap();
        check(&open(quick(), &name, Access::Read).await, &root, &content).await;
        archives.push(std::fs::read(&file).unwrap());
    }
    assert_eq!(archives[0], archives[1], "equal content gives equal archives");
    let dropped = open(
        quick(),
        &format!("oci-archive:{}/y.tar", folder.path().display()),
        Access::Write,
    )
    .await;
    fill(&dropped, &content).await;
    drop(dropped);
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["x.tar"], "nothing else is left behind");
}

#[tokio::test]
async fn parallel_writers_share_a_layout() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("oci:{}/l", folder.path().display());
    open(quick(), &place, Access::Write).await;
    let write = |name: usize| {
        let place = place.clone();
        async move {
            let store = open(quick(), &format!("{place}:t{name}"), Access::Write).await;
            let text = format!(r#"{{"manifests":[],"x":{name}}}"#);
            store.put_root(MediaType::ImageIndex, text.into()).await.unwrap();
        }
    };
    let tasks: Vec<_> = (0..20).map(|name| tokio::spawn(write(name))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        open(quick(), &place, Access::Read)
            .await
            .tags()
            .await
            .unwrap()
            .len(),
        20
    );
}

fn damage(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn damage_is_noticed() {
    let content = noise(600_000);
    type Change = fn(&mut Vec<u8>);
    let rows: [(&str, Change); 4] = [
        ("flipped", |bytes| bytes[400_000] ^= 1),
        ("cut", |bytes| bytes.truncate(599_999)),
        ("longer", |bytes| bytes.push(0)),
        ("empty", Vec::clear),
    ];
    for (name, change) in rows {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("oci:{}", folder.path().display());
        let store = open(quick(), &place, Access::Write).await;
        let (_, layer) = fill(&store, &content).await;
        damage(
            &folder
                .path()
                .join(format!("blobs/sha256/{}", Digest::of(&content).hex())),
            change,
        );
        let outcome = match store.blob(&layer).await {
            Ok(blob) => blob
                .map(|part| part.map(drop))
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect(),
            Err(error) => Err(error),
        };
        let outcome: Result<Vec<()>, Error> = outcome;
        assert!(
            matches!(outcome, Err(Error::Corrupt { .. })),
            "{name}: {outcome:?}"
        );
        let manifest = store.manifest(&layer).await;
        assert!(matches!(manifest, Err(Error::Corrupt { .. })), "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_its_digest_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(
        quick(),
        &format!("oci:{}/l", folder.path().display()),
        Access::Write,
    )
    .await;
    let file = folder.path().join("f");
    std::fs::write(&file, b"abd").unwrap();
    let descriptor = describe(MediaType::ImageLayer, &Digest::of(b"abc"), 3);
    let error = store.put_blob(&descriptor, &file, &|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(!store.has_blob(&descriptor).await.unwrap());
    let blobs = folder.path().join("l/blobs/sha256");
    assert_eq!(
        std::fs::read_dir(blobs).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

/// A file in `folder` that vanishes unless it is taken over.
fn given_up(folder: &Path, content: &[u8]) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(file.path(), content).unwrap();
    file.into_temp_path()
}

#[tokio::test]
async fn a_file_is_taken_over_as_a_blob() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("l");
    let store = open(quick(), &format!("oci:{}", place.display()), Access::Write).await;
    let near = store.spool_dir().unwrap();
    // Another file system, where this machine has one: the file is copied then.
    let far = Path::new("/dev/shm");
    for (content, from) in [(&b"near"[..], near.as_path()), (b"far", far)] {
        if !from.is_dir() {
            continue;
        }
        let descriptor = describe(MediaType::ImageLayer, &Digest::of(content), content.len() as u64);
        let file = given_up(from, content);
        let (path, inode) = (file.to_path_buf(), std::fs::metadata(&file).unwrap().ino());
        let told = std::sync::atomic::AtomicU64::new(0);
        let progress = |sent| told.store(sent, std::sync::atomic::Ordering::SeqCst);
        store.move_blob(&descriptor, file, &progress).await.unwrap();
        assert!(!path.exists());
        assert_eq!(told.into_inner(), descriptor.size());
        let blob = near.join(Digest::of(content).hex());
        assert_eq!(std::fs::read(&blob).unwrap(), content);
        let metadata = std::fs::metadata(&blob).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o644);
        assert!(from == far || metadata.ino() == inode, "it was copied");
        // It is there now: the second file just goes.
        let again = given_up(from, content);
        store.move_blob(&descriptor, again, &|_| {}).await.unwrap();
        assert_eq!(std::fs::metadata(&blob).unwrap().ino(), metadata.ino());
    }
    let descriptor = describe(MediaType::ImageLayer, &Digest::of(b"abc"), 3);
    let short = given_up(&near, b"ab");
    let error = store.move_blob(&descriptor, short, &|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(!store.has_blob(&descriptor).await.unwrap());
    assert_eq!(
        std::fs::read_dir(near).unwrap().count(),
        2,
        "nothing is left behind"
    );
}

#[tokio::test]
async fn what_is_no_layout_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(path("plain/x")).unwrap();
    std::fs::create_dir_all(path("version")).unwrap();
    std::fs::write(path("version/oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#).unwrap();
    std::fs::write(path("gzip.tar"), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    std::fs::write(path("noise.tar"), noise(10_000)).unwrap();
    std::fs::write(path("empty.tar"), b"").unwrap();
    let mut docker = tar::Builder::new(std::fs::File::create(path("docker.tar")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    docker
        .append_data(&mut header, "manifest.json", &b"[]"[..])
        .unwrap();
    docker.finish().unwrap();
    let rows = [
        (format!("oci:{}", path("missing")), "not found"),
        (format!("oci:{}", path("plain")), "the file oci-layout is missing"),
        (format!("oci:{}", path("version")), "version is not 1"),
        (format!("oci-archive:{}", path("missing.tar")), "not found"),
        (
            format!("oci-archive:{}", path("gzip.tar")),
            "compressed with gzip",
        ),
        (format!("oci-archive:{}", path("noise.tar")), "corrupt"),
        (
            format!("oci-archive:{}", path("empty.tar")),
            "oci-layout is missing",
        ),
        (format!("oci-archive:{}", path("docker.tar")), "a docker archive"),
    ];
    for (reference, expected) in rows {
        let error = try_open(&reference, Access::Read).await.err().unwrap();
        assert!(error.to_string().contains(expected), "{reference}: {error}");
    }
    // A folder that holds something else is not made a layout.
    let error = try_open(&format!("oci:{}", path("plain")), Access::Write)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn truncated_archives_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.tar");
    let name = format!("oci-archive:{}", file.display());
    let store = open(quick(), &name, Access::Write).await;
    let (root, _) = fill(&store, &noise(20_000)).await;
    store.finish().await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    for len in (0..whole.len() - 1024).step_by(300) {
        std::fs::write(&file, &whole[..len]).unwrap();
        let outcome = async {
            let store = try_open(&name, Access::Read).await?;
            store.resolve(None).await?;
            let index: serde_json::Value = serde_json::from_slice(&store.manifest(&root).await?).unwrap();
            let child = store.resolve(index["manifests"][0]["digest"].as_str()).await?;
            let manifest: serde_json::Value = serde_json::from_slice(&store.manifest(&child).await?).unwrap();
            for descriptor in [&manifest["layers"][0], &manifest["config"]] {
                let descriptor: Descriptor = serde_json::from_value(descriptor.clone()).unwrap();
                store.manifest(&descriptor).await?;
            }
            Ok::<_, Error>(())
        };
        assert!(outcome.await.is_err(), "cut at {len} of {}", whole.len());
    }
}

/// An archive of one member whose name stands in an extended header of `len` bytes.
fn long_named(kind: tar::EntryType, len: usize) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(len as u64);
    archive
        .append_data(&mut header, "././@LongLink", vec![b'n'; len].as_slice())
        .unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive
        .append_data(&mut header, "oci-layout", std::io::empty())
        .unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn long_names_in_archives_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.tar");
    let name = format!("oci-archive:{}", file.display());
    for kind in [
        tar::EntryType::GNULongName,
        tar::EntryType::GNULongLink,
        tar::EntryType::XHeader,
    ] {
        std::fs::write(&file, long_named(kind, 8 << 20)).unwrap();
        let error = try_open(&name, Access::Read).await.err().unwrap();
        assert!(error.to_string().contains("headers"), "{kind:?}: {error}");
        assert!(matches!(error, Error::Corrupt { .. }), "{kind:?}: {error}");
    }
    // What is within the bound is read.
    std::fs::write(&file, long_named(tar::EntryType::GNULongName, 3000)).unwrap();
    let error = try_open(&name, Access::Read).await.err().unwrap();
    assert!(error.to_string().contains("oci-layout is missing"), "{error}");
}

/// skopeo, an independent implementation, reads what is written here, and the other way round.
#[tokio::test]
async fn skopeo_agrees() {
    let run = |arguments: &[&str]| std::process::Command::new("skopeo").args(arguments).output();
    if run(&["--version"]).is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (archive, layout) = (
        format!("oci-archive:{}:v1", path("a.tar")),
        format!("oci:{}:v1", path("l")),
    );
    let (copy, back) = (
        format!("oci:{}:v2", path("copy")),
        format!("oci-archive:{}:v3", path("back.tar")),
    );
    for place in [&archive, &layout] {
        let store = open(quick(), place, Access::Write).await;
        let config = Bytes::from_static(
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#,
        );
        let config = store.put_bytes(MediaType::ImageConfig, config).await.unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::ImageManifest.as_ref(), "config": config, "layers": [],
        });
        let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap());
        let root = store.put_root(MediaType::ImageManifest, manifest).await.unwrap();
        store.finish().await.unwrap();
        for (from, to) in [(place, &copy), (&copy, &back)] {
            let done = run(&["copy", "--insecure-policy", "--preserve-digests", from, to]).unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let found = open(quick(), to, Access::Read).await.resolve(None).await.unwrap();
            assert_eq!(found, root);
        }
    }
}
