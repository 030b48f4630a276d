//! Registries: their configuration, and whether an image is there and converted.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lacewing_format::annotation;
use lacewing_oci::{Access, Error, Reference, Store};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Finding;
use crate::config::Config;

/// Twice as long as the client itself tries.
const PATIENCE: Duration = Duration::from_secs(60);
/// A configuration is a page of text.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn look(config: &Config, image: Option<&str>, runtime: &Runtime) -> Vec<Finding> {
    let mut findings = hosts(config);
    if let Some(image) = image {
        let asked = async { tokio::time::timeout(PATIENCE, ask(config, image)).await };
        findings.push(match runtime.block_on(asked) {
            Ok(finding) => finding,
            Err(_) => Finding::problem(
                "image",
                format!("{image}: no answer within {PATIENCE:?}"),
                "check the network between this node and the registry",
            ),
        });
    }
    findings
}

/// A file of a page or so of text.
///
/// # Errors
/// The system's; a file that is too long.
pub(super) fn read(path: &Path) -> Result<String> {
    let length = std::fs::metadata(path)?.len();
    anyhow::ensure!(length <= MAX_FILE, "has {length} bytes");
    Ok(std::fs::read_to_string(path)?)
}

fn hosts(config: &Config) -> Vec<Finding> {
    let Some(dir) = &config.hosts_dir else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return vec![Finding::ok(
            "hosts",
            format!("{} is not there: no mirrors", dir.display()),
        )];
    };
    let files = entries.flatten().map(|entry| entry.path().join("hosts.toml"));
    let mut findings = Vec::new();
    for file in files.filter(|file| file.exists()) {
        let parsed = read(&file).and_then(|text| Ok(text.parse::<toml::Table>()?));
        if let Err(error) = parsed {
            findings.push(Finding::problem(
                "hosts",
                format!("{}: {error:#}", file.display()),
                "correct that file: layers of this host's images are not lazy, and containerd cannot pull them either",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("hosts", format!("{} can be read", dir.display())));
    }
    findings
}

async fn ask(config: &Config, image: &str) -> Finding {
    let layers = match annotations(config, image).await {
        Ok(layers) => layers,
        Err(error) => return failed(image, &error),
    };
    let converted = layers.iter().filter(|annotated| **annotated).count();
    match (converted, layers.len()) {
        (0, all) => Finding::problem(
            "image",
            format!("{image} is there, and is not converted: none of its {all} layers has an index"),
            format!("`lacewing convert {image} TARGET`, and run TARGET"),
        ),
        (some, all) if some < all => Finding::warning(
            "image",
            format!("{image}: {some} of {all} layers have an index"),
            "layers added on top of a converted image are ordinary ones; convert the result, too",
        ),
        (_, all) => Finding::ok("image", format!("{image} is there and converted, {all} layers")),
    }
}

fn failed(image: &str, error: &anyhow::Error) -> Finding {
    let advice = match error.downcast_ref::<Error>() {
        Some(Error::NotFound { .. }) => {
            "check its name and tag; some registries say so instead of `forbidden`"
        }
        Some(Error::Forbidden { .. }) => {
            "give the daemon credentials: `[registry] docker_config`, or root's ~/.docker/config.json"
        }
        Some(Error::Unavailable { .. }) => {
            "check name resolution, network, proxy and certificates between this node and the registry; for plain http \
             or mirrors write a hosts.toml"
        }
        _ => "mend what it names",
    };
    Finding::problem("image", format!("{image}: {error:#}"), advice)
}

/// For each layer of the image for this machine whether it names an index.
async fn annotations(config: &Config, image: &str) -> Result<Vec<bool>> {
    let reference: Reference = image.parse().context("the reference")?;
    let client = crate::registry::daemon_client(config)?;
    let store = Store::open(&client, &reference, Access::Read).await?;
    let root = store.resolve(None).await?;
    let mut manifest: Value = serde_json::from_slice(&store.manifest(&root).await?)?;
    let ours = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let members = manifest["manifests"].as_array().cloned().unwrap_or_default();
    if let Some(member) = members
        .iter()
        .find(|member| member["platform"]["architecture"] == ours)
        .and_then(|member| member["digest"].as_str())
    {
        let descriptor = store.resolve(Some(member)).await?;
        manifest = serde_json::from_slice(&store.manifest(&descriptor).await?)?;
    }
    let layers = manifest["layers"]
        .as_array()
        .context("it has no layers for this machine")?;
    Ok(layers
        .iter()
        .map(|layer| layer["annotations"][annotation::INDEX].is_string())
        .collect())
}
