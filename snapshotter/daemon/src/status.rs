//! `lacewing status`: asks the daemon, prints a table or JSON.
//!
//! The JSON has the fields of `lacewing.v1.StatusResponse`, under the same names; they are explained there and in
//! misc/docs/status.md. Fields are added, never changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{StatusRequest, StatusResponse};
use serde::Serialize;

use crate::adapters::content::connect;
use crate::cli::StatusArgs;
use crate::output::{bytes, percent, print, print_json, short, table};

/// The daemon answers from memory; a longer wait means that it hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A node has some hundred layers; this is for one with tens of thousands.
const MAX_ANSWER: usize = 256 << 20;

/// Asks and prints.
///
/// # Errors
/// Nobody answers at the address.
pub(crate) fn run(args: &StatusArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status: Status = runtime.block_on(ask(&args.address))?.into();
    if args.json {
        return print_json(&status);
    }
    print(&status.text())
}

/// The worker that answers now; None if none does.
pub(crate) fn worker_pid(address: &Path) -> Option<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime
        .block_on(ask(address))
        .ok()
        .map(|answer| answer.worker_pid)
}

pub(crate) async fn ask(address: &Path) -> Result<StatusResponse> {
    if !address.exists() {
        bail!(
            "no daemon: {} does not exist (another socket: --address)",
            address.display()
        );
    }
    let mut client = ControlClient::new(connect(address)).max_decoding_message_size(MAX_ANSWER);
    let answer = tokio::time::timeout(TIMEOUT, client.status(StatusRequest {}))
        .await
        .with_context(|| {
            format!(
                "the daemon at {} did not answer within {TIMEOUT:?}",
                address.display()
            )
        })?;
    Ok(answer
        .with_context(|| format!("asking the daemon at {}", address.display()))?
        .into_inner())
}

/// The answer, under the names of the protocol.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: String,
    root: String,
    worker_pid: u32,
    worker_restarts: u64,
    started_at_ms: i64,
    features: Vec<Feature>,
    layers: Vec<Layer>,
    broken: Vec<Broken>,
    counters: BTreeMap<String, u64>,
    slowest: Vec<Fetch>,
    pulls: Vec<Pull>,
    store: Store,
}

#[derive(Debug, Default, Serialize)]
struct Store {
    used: u64,
    whole: u64,
    quota: u64,
    free_floor: u64,
    pinned: Vec<String>,
}

impl From<lacewing_rpc::control::Store> for Store {
    fn from(store: lacewing_rpc::control::Store) -> Store {
        Store {
            used: store.used,
            whole: store.whole,
            quota: store.quota,
            free_floor: store.free_floor,
            pinned: store.pinned,
        }
    }
}

#[derive(Debug, Serialize)]
struct Fetch {
    blob: String,
    offset: u64,
    bytes: u64,
    took_ms: u64,
    at_ms: i64,
    blocking: bool,
    outcome: String,
}

#[derive(Debug, Serialize)]
struct Pull {
    image: String,
    layer_digest: String,
    since_ms: i64,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: String,
    used: bool,
    detail: String,
}

#[derive(Debug, Default, Serialize)]
struct Layer {
    snapshot: String,
    image: String,
    layer_digest: String,
    index_digest: String,
    chain_id: String,
    namespace: String,
    lazy: bool,
    reason: String,
    number: u64,
    bytes_present: u64,
    bytes_total: u64,
    direct: bool,
    users: u64,
    created_at_ms: i64,
}

#[derive(Debug, Serialize)]
struct Broken {
    snapshot: String,
    number: u64,
    reason: String,
}

impl From<StatusResponse> for Status {
    fn from(answer: StatusResponse) -> Status {
        let feature = |f: lacewing_rpc::control::Feature| Feature {
            name: f.name,
            used: f.used,
            detail: f.detail,
        };
        let broken = |b: lacewing_rpc::control::Broken| Broken {
            snapshot: b.snapshot,
            number: b.number,
            reason: b.reason,
        };
        let fetch = |f: lacewing_rpc::control::Fetch| Fetch {
            blob: f.blob,
            offset: f.offset,
            bytes: f.bytes,
            took_ms: f.took_ms,
            at_ms: f.at_ms,
            blocking: f.blocking,
            outcome: f.outcome,
        };
        let pull = |p: lacewing_rpc::control::Pull| Pull {
            image: p.image,
            layer_digest: p.layer_digest,
            since_ms: p.since_ms,
        };
        Status {
            version: answer.version,
            root: answer.root,
            worker_pid: answer.worker_pid,
            worker_restarts: answer.worker_restarts,
            started_at_ms: answer.started_at_ms,
            features: answer.features.into_iter().map(feature).collect(),
            layers: answer.layers.into_iter().map(Layer::from).collect(),
            broken: answer.broken.into_iter().map(broken).collect(),
            counters: answer.counters.into_iter().collect(),
            slowest: answer.slowest.into_iter().map(fetch).collect(),
            pulls: answer.pulls.into_iter().map(pull).collect(),
            store: answer.store.map(Store::from).unwrap_or_default(),
        }
    }
}

impl From<lacewing_rpc::control::Layer> for Layer {
    fn from(layer: lacewing_rpc::control::Layer) -> Layer {
        Layer {
            snapshot: layer.snapshot,
            image: layer.image,
            layer_digest: layer.layer_digest,
            index_digest: layer.index_digest,
            chain_id: layer.chain_id,
            namespace: layer.namespace,
            lazy: layer.lazy,
            reason: layer.reason,
            number: layer.number,
            bytes_present: layer.bytes_present,
            bytes_total: layer.bytes_total,
            direct: layer.direct,
            users: layer.users,
            created_at_ms: layer.created_at_ms,
        }
    }
}

impl Status {
    fn text(&self) -> String {
        let mut text = format!(
            "lacewing {}, root {}, worker {} (restarts: {})\n\n",
            self.version, self.root, self.worker_pid, self.worker_restarts
        );
        let features: Vec<_> = self.features.iter().map(Feature::row).collect();
        text.push_str(&table(&["FEATURE", "USED", "DETAIL"], &features));
        text.push('\n');
        match self.layers.is_empty() {
            true => text.push_str("no layers yet\n"),
            false => {
                // In order of pulling, so that an image's layers stand together.
                let mut layers: Vec<&Layer> = self.layers.iter().collect();
                layers.sort_by_key(|layer| (layer.created_at_ms, layer.number));
                let layers: Vec<_> = layers.into_iter().map(Layer::row).collect();
                text.push_str(&table(
                    &["IMAGE", "LAYER", "LAZY", "PRESENT", "WHOLE", "USERS", "NOTE"],
                    &layers,
                ));
            }
        }
        for broken in &self.broken {
            text.push_str(&format!(
                "broken: {} (layer {}): {}\n",
                broken.snapshot, broken.number, broken.reason
            ));
        }
        text.push_str(&self.sources());
        text
    }

    fn sources(&self) -> String {
        let count = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        format!(
            "\nsince the worker began: {} read in {} reads ({} waited, {} failed); {} from registries in {} requests, \
             {} from other layers\n",
            bytes(count("read_bytes")),
            count("reads"),
            count("misses"),
            count("read_errors"),
            bytes(count("source_bytes")),
            count("source_reads"),
            bytes(count("dedup_bytes")),
        )
    }
}

impl Feature {
    fn row(&self) -> Vec<String> {
        let used = if self.used { "yes" } else { "no" };
        vec![self.name.clone(), used.to_owned(), self.detail.clone()]
    }
}

impl Layer {
    fn row(&self) -> Vec<String> {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let (present, whole) = match self.lazy {
            true => (
                percent(self.bytes_present, self.bytes_total),
                bytes(self.bytes_total),
            ),
            false => ("-".to_owned(), "-".to_owned()),
        };
        let note = match (self.lazy, self.direct, self.reason.is_empty()) {
            (true, true, true) => format!("l/{}, complete: no daemon needed", self.number),
            (true, _, true) => format!("l/{}", self.number),
            (true, _, false) => format!("l/{}, {}", self.number, self.reason),
            (false, ..) => self.reason.clone(),
        };
        vec![
            dash(self.image.clone()),
            dash(short(&self.layer_digest)),
            if self.lazy { "yes" } else { "no" }.to_owned(),
            present,
            whole,
            self.users.to_string(),
            note,
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status() -> Status {
        let lazy = Layer {
            image: "example/app:1".to_owned(),
            layer_digest: "sha256:0123456789abcdef".to_owned(),
            lazy: true,
            number: 7,
            bytes_present: 1 << 20,
            bytes_total: 4 << 20,
            ..Layer::default()
        };
        let ordinary = Layer {
            reason: "the image is not converted".to_owned(),
            ..Layer::default()
        };
        Status {
            version: "1.2.3".to_owned(),
            root: "/r".to_owned(),
            worker_pid: 1,
            worker_restarts: 0,
            started_at_ms: 0,
            features: vec![Feature {
                name: "resend".to_owned(),
                used: true,
                detail: "yes".to_owned(),
            }],
            layers: vec![lazy, ordinary],
            broken: Vec::new(),
            counters: BTreeMap::from([("reads".to_owned(), 3)]),
            slowest: Vec::new(),
            pulls: Vec::new(),
            store: Store::default(),
        }
    }

    #[test]
    fn a_person_sees_why() {
        let text = status().text();
        assert!(text.contains("example/app:1  0123456789ab  yes   25 %"), "{text}");
        assert!(text.contains("no    -"), "{text}");
        assert!(text.contains("the image is not converted"), "{text}");
    }

    #[test]
    fn json_names_are_those_of_the_protocol() {
        let json = serde_json::to_value(status()).unwrap();
        for name in [
            "version",
            "root",
            "worker_pid",
            "worker_restarts",
            "started_at_ms",
            "features",
            "layers",
            "slowest",
            "pulls",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in [
            "snapshot",
            "image",
            "layer_digest",
            "lazy",
            "reason",
            "bytes_present",
            "bytes_total",
            "users",
        ] {
            assert!(json["layers"][0].get(name).is_some(), "{name}");
        }
    }
}
