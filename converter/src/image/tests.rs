//! Whole images, from one OCI layout to another.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use lacewing_oci::Options;
use serde_json::json;

use super::*;
use crate::tar::build::{Tar, header, link};
use crate::tar::kind;
use crate::{Difference, NoProgress, check, export, inspect};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Writes a blob; gives its descriptor.
fn put(dir: &Path, bytes: &[u8], media_type: &str) -> Value {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// Writes an image of gzip layers; gives the descriptor of its manifest.
fn manifest(dir: &Path, architecture: &str, layers: &[Vec<u8>]) -> Value {
    use std::io::Write;
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let gzip = |tar: &Vec<u8>| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        let stored = encoder.finish().unwrap();
        put(dir, &stored, "application/vnd.docker.image.rootfs.diff.tar.gzip")
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config_type = "application/vnd.docker.container.image.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(dir, config.to_string().as_bytes(), config_type),
        "layers": layers.iter().map(gzip).collect::<Vec<_>>(),
    });
    put(dir, manifest.to_string().as_bytes(), MANIFEST)
}

/// Makes a layout of blobs, with `root` under the tag `image`.
fn layout(dir: &Path, mut root: Value) {
    root["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
    let index = json!({ "schemaVersion": 2, "manifests": [root] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

fn layers() -> Vec<Vec<u8>> {
    let program: Vec<u8> = (0..700_000u32)
        .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
        .collect();
    let bottom = Tar::default()
        .dir("bin")
        .add(
            header("bin/app", kind::REGULAR)
                .mode(0o4755)
                .xattr("user.x", b"y"),
            &program,
        )
        .symlink("bin/sh", "app")
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        .end();
    let top = Tar::default()
        .file("etc/.wh.passwd", b"")
        .file("bin/copy", &program)
        .add(link("bin/copy2", kind::LINK, "bin/copy"), b"")
        .end();
    vec![bottom, top]
}

struct World {
    dir: tempfile::TempDir,
    client: Client,
}

impl World {
    fn new(layers: &[Vec<u8>]) -> Self {
        let world = Self::empty();
        let src = world.path("src");
        layout(&src, manifest(&src, "amd64", layers));
        world
    }

    fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            client: Client::new(Options::default()).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reference(&self, name: &str, tag: &str) -> Reference {
        Reference::Layout {
            dir: self.path(name),
            tag: Some(tag.to_owned()),
        }
    }

    async fn convert(&self, name: &str, tag: &str, options: &ConvertOptions) -> Result<Report, Error> {
        let (src, dst) = (self.reference("src", "image"), self.reference(name, tag));
        convert(&self.client, &src, &dst, options, Arc::new(NoProgress)).await
    }

    async fn check(&self, name: &str) -> Result<Vec<Difference>, Error> {
        check(&self.client, &self.reference(name, "a")).await
    }
}

fn options() -> ConvertOptions {
    ConvertOptions {
        jobs: 2,
        ..ConvertOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_converted_checked_and_described() {
    let world = World::new(&layers());
    let report = world.convert("out", "a", &options()).await.unwrap();
    assert_eq!(world.check("out").await.unwrap(), []);
    let layers = &report.images[0].layers;
    assert_eq!(
        (layers[1].new_len, layers[1].dedup_len, layers[1].blob_len),
        (0, 2_800_000, 0)
    );
    let inspection = inspect(&world.client, &world.reference("out", "a"))
        .await
        .unwrap();
    let image = &inspection.images[0];
    assert_eq!(
        (image.platform.as_str(), image.layers.len(), image.blobs.len()),
        ("linux/amd64", 2, 1)
    );
    // Again, onto itself and elsewhere: the same.
    let again = world.convert("out", "a", &options()).await.unwrap();
    let elsewhere = world.convert("other", "b", &options()).await.unwrap();
    assert_eq!(
        (&again.digest, &elsewhere.digest),
        (&report.digest, &report.digest)
    );
    assert_eq!(again.blob_len, 0);
    // A converted image converts as its source does.
    let (src, dst) = (world.reference("out", "a"), world.reference("third", "c"));
    let third = convert(&world.client, &src, &dst, &options(), Arc::new(NoProgress))
        .await
        .unwrap();
    assert_eq!(third.digest, report.digest);
    let exported = world.path("exported");
    std::fs::create_dir(&exported).unwrap();
    export(&world.client, &world.reference("out", "a"), &exported)
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_dir(&exported).unwrap().count(),
        3,
        "two indexes and a device"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_image_has_no_layers_but_its_indexes() {
    let world = World::new(&layers());
    let native = ConvertOptions {
        native: true,
        ..options()
    };
    world.convert("out", "a", &native).await.unwrap();
    assert_eq!(world.check("out").await.unwrap(), []);
    let src = world.reference("out", "a");
    let again = convert(
        &world.client,
        &src,
        &world.reference("x", "a"),
        &options(),
        Arc::new(NoProgress),
    )
    .await;
    assert!(matches!(again, Err(Error::Invalid { .. })), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing() {
    let world = World::new(&layers());
    let dry = ConvertOptions {
        dry_run: true,
        ..options()
    };
    let dry = world.convert("out", "a", &dry).await.unwrap();
    assert!(dry.dry_run && !world.path("out").exists());
    let real = world.convert("out", "a", &options()).await.unwrap();
    assert_eq!((dry.digest, dry.blob_len), (real.digest, real.blob_len));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_layer_names_its_entry() {
    let world = World::new(&[
        Tar::default().file("a", b"1").end(),
        Tar::default().link("b", "a").end(),
    ]);
    let error = world
        .convert("out", "a", &options())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"b\"") && error.contains("containerd refuses"),
        "{error}"
    );
    assert!(world.check("out").await.is_err(), "nothing under the tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_image_is_not_converted() {
    let world = World::new(&layers());
    let error = check(&world.client, &world.reference("src", "image"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotConverted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_any_blob_is_noticed() {
    let world = World::new(&layers());
    world.convert("out", "a", &options()).await.unwrap();
    let blobs = world.path("out").join("blobs/sha256");
    for entry in std::fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if bytes == b"{}" {
            // The empty config says nothing: no reader fetches it.
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 4;
        for damaged in [&flipped[..], &bytes[..bytes.len() - 1], b""] {
            std::fs::write(&path, damaged).unwrap();
            let found = world.check("out").await;
            assert!(
                found.as_ref().map_or(true, |list| !list.is_empty()),
                "{path:?} {found:?}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        let found = world.check("out").await;
        // A config is read whenever it is there, and its absence is an error; so is all else's.
        assert!(
            found.as_ref().map_or(true, |list| !list.is_empty()),
            "{path:?} is gone: {found:?}"
        );
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(world.check("out").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_share_what_is_the_same() {
    let world = World::empty();
    let src = world.path("src");
    let shared = Tar::default().dir("srv").file("srv/app", &[7; 100_000]).end();
    let platform = |architecture: &str| {
        let own = Tar::default().dir("bin").file("bin/app", architecture.as_bytes());
        let mut descriptor = manifest(&src, architecture, &[own.end(), shared.clone()]);
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        descriptor
    };
    let manifests = [platform("amd64"), platform("arm64")];
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    layout(
        &src,
        put(&src, index.to_string().as_bytes(), crate::manifest::INDEX),
    );
    let report = world.convert("dst", "a", &options()).await.unwrap();
    let layers: Vec<_> = report.images.iter().map(|image| &image.layers[1]).collect();
    assert_eq!((report.images.len(), &layers[0].index), (2, &layers[1].index));
    assert_eq!((layers[0].new_len, layers[1].new_len), (100_000, 0));
    assert_eq!(world.check("dst").await.unwrap(), []);
}
