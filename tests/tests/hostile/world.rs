//! Images in layouts, and what becomes of them.

use std::path::PathBuf;

use lacewing_converter::{ConvertOptions, Difference, NoProgress, check, convert, load_indexes};
use lacewing_format::Digest;
use lacewing_oci::{Access, Client, Options, Reference, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const ANNOTATION: &str = "containerd.io/snapshot/lacewing/index";

/// A layout in a folder of its own, and another one that images are converted to.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// A digest and a length.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl World {
    pub(crate) fn new() -> World {
        lacewing_oci::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        for layout in ["source", "target"] {
            let folder = dir.path().join(layout);
            std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
            std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
            std::fs::write(folder.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        }
        let options = Options {
            hosts_dir: None,
            docker_config: None,
            ..Options::default()
        };
        World {
            client: Client::new(options).unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            dir,
        }
    }

    pub(crate) fn path(&self, layout: &str, blob: &str) -> PathBuf {
        let hex = blob.trim_start_matches("sha256:");
        self.dir.path().join(layout).join("blobs/sha256").join(hex)
    }

    pub(crate) fn put(&self, layout: &str, bytes: &[u8]) -> Blob {
        let digest = Digest::of(bytes).to_string();
        std::fs::write(self.path(layout, &digest), bytes).unwrap();
        Blob {
            digest,
            size: bytes.len() as u64,
        }
    }

    pub(crate) fn read(&self, layout: &str, blob: &str) -> Vec<u8> {
        std::fs::read(self.path(layout, blob)).unwrap()
    }

    /// Makes a manifest or image index what `t` names.
    pub(crate) fn tag(&self, layout: &str, media_type: &str, blob: &Blob) {
        let entry = json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size,
            "annotations": {"org.opencontainers.image.ref.name": "t"}});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        std::fs::write(self.dir.path().join(layout).join("index.json"), index.to_string()).unwrap();
    }

    /// An image of these tars, at the source.
    pub(crate) fn image(&self, tars: &[Vec<u8>]) -> Value {
        let layers: Vec<Value> = tars
            .iter()
            .map(|tar| describe(LAYER, &self.put("source", tar)))
            .collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/f"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.put("source", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, &config),
            "layers": layers});
        self.manifest("source", &manifest);
        manifest
    }

    /// Stores a manifest under `t`.
    pub(crate) fn manifest(&self, layout: &str, manifest: &Value) {
        let blob = self.put(layout, manifest.to_string().as_bytes());
        self.tag(layout, MANIFEST, &blob);
    }

    fn reference(&self, layout: &str) -> Reference {
        let text = format!("oci:{}:t", self.dir.path().join(layout).display());
        text.parse().unwrap()
    }

    /// Converts the source to the target; the error's text.
    pub(crate) fn convert(&self) -> Result<(), String> {
        let options = ConvertOptions {
            jobs: 1,
            spool_dir: Some(self.dir.path().to_owned()),
            platforms: Vec::new(),
            ..ConvertOptions::default()
        };
        let (from, to) = (self.reference("source"), self.reference("target"));
        let converted = self.runtime.block_on(convert(
            &self.client,
            &from,
            &to,
            &options,
            std::sync::Arc::new(NoProgress),
        ));
        converted.map(drop).map_err(|error| error.to_string())
    }

    /// Checks the target: differences or an error as texts; nothing if all is well.
    pub(crate) fn check(&self) -> Vec<String> {
        let show = |d: Difference| format!("{} {}: {}", d.layer, d.path, d.what);
        match self
            .runtime
            .block_on(check(&self.client, &self.reference("target")))
        {
            Ok(differences) => differences.into_iter().map(show).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    /// Loads the target's indexes as mount does, then takes them in as a node does.
    pub(crate) fn mount(&self) -> Result<Vec<Vec<u8>>, String> {
        let load = async {
            let store = Store::open(&self.client, &self.reference("target"), Access::Read).await;
            let store = store.map_err(|error| error.to_string())?;
            let indexes = load_indexes(&store, Some("linux/amd64")).await;
            indexes.map_err(|error| error.to_string())
        };
        let indexes = self.runtime.block_on(load)?;
        let folder = self.dir.path().join("indexes");
        for index in &indexes {
            lacewing_fusefs::fuzzing::index(&folder, &index.stored).map_err(|error| error.to_string())?;
        }
        Ok(indexes.into_iter().map(|index| index.plain).collect())
    }

    /// The converted image's manifest at the target.
    pub(crate) fn converted(&self) -> Value {
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let top = parse(&std::fs::read(self.dir.path().join("target/index.json")).unwrap());
        let digest = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
        let mut document = parse(&self.read("target", &digest(&top["manifests"][0])));
        if document["manifests"].is_array() {
            document = parse(&self.read("target", &digest(&document["manifests"][0])));
        }
        document
    }

    /// Binds another stored index to the converted image's last layer, digests and all.
    pub(crate) fn bind(&self, converted: &Value, stored: &[u8]) {
        let blob = self.put("target", stored);
        let mut manifest = converted.clone();
        let layer = manifest["layers"].as_array_mut().unwrap().last_mut().unwrap();
        layer["annotations"][ANNOTATION] = json!(format!("{},{}", blob.digest, blob.size));
        self.manifest("target", &manifest);
    }
}

pub(crate) fn describe(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size})
}

/// One tar entry.
pub(crate) fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, link: &str, size: u64, data: &[u8]) {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000755");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000001000");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A small layer: two files, a folder and a link.
pub(crate) fn small_tar() -> Vec<u8> {
    let mut tar = Vec::new();
    entry(&mut tar, "d/", b'5', "", 0, b"");
    let text: Vec<u8> = (0..9000u32).map(|at| (at / 7) as u8).collect();
    entry(&mut tar, "d/f", b'0', "", 9000, &text);
    entry(&mut tar, "d/g", b'0', "", 3, b"abc");
    entry(&mut tar, "s", b'2', "d/f", 0, b"");
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Numbers that look random and are the same on each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
