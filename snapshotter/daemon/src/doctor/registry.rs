//! Registries: their configuration, credentials, and whether an image is there and converted.

use std::path::{Path, PathBuf};
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
    findings.extend(credentials(config));
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

fn read(path: &Path) -> Result<String> {
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

/// The file with credentials, as the daemon looks for it.
fn credentials_file(config: &Config) -> Option<PathBuf> {
    let environment = lacewing_oci::Options::from_environment().docker_config;
    config.docker_config.clone().or(environment)
}

fn credentials(config: &Config) -> Vec<Finding> {
    let Some(file) = credentials_file(config) else {
        return Vec::new();
    };
    let named = config.docker_config.is_some();
    if !file.exists() {
        return match named {
            true => vec![Finding::problem(
                "credentials",
                format!("{} is not there", file.display()),
                "make it (`docker login` does), or take `[registry] docker_config` out",
            )],
            false => vec![Finding::ok("credentials", "none: only what everybody may read")],
        };
    }
    let value = match read(&file).and_then(|text| Ok(serde_json::from_str::<Value>(&text)?)) {
        Ok(value) => value,
        Err(error) => {
            // The parser tells line and column, never the text.
            let advice = "correct that file: without it private images are forbidden";
            return vec![Finding::problem(
                "credentials",
                format!("{}: {error:#}", file.display()),
                advice,
            )];
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<String> = helpers(&value)
        .into_iter()
        .filter(|helper| !std::env::split_paths(&path).any(|dir| dir.join(helper).is_file()))
        .collect();
    match missing.first() {
        None => vec![Finding::ok(
            "credentials",
            format!("{} can be read", file.display()),
        )],
        Some(helper) => vec![Finding::problem(
            "credentials",
            format!(
                "{} names the helper {helper}, which is not in PATH",
                file.display()
            ),
            "install it where the daemon finds it too (a unit's PATH is short), or log in without it",
        )],
    }
}

/// The programs that a docker configuration names.
fn helpers(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value["credHelpers"]
        .as_object()
        .into_iter()
        .flat_map(|helpers| helpers.values())
        .chain([&value["credsStore"]])
        .filter_map(Value::as_str)
        .filter(|name| !name.is_empty())
        .map(|name| format!("docker-credential-{name}"))
        .collect();
    names.sort();
    names.dedup();
    names
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_found() {
        let value = serde_json::json!({"credsStore": "pass", "credHelpers": {"a.example": "ecr-login", "b": "pass", "c": ""}});
        assert_eq!(
            helpers(&value),
            ["docker-credential-ecr-login", "docker-credential-pass"]
        );
        assert!(helpers(&serde_json::json!({"auths": {}})).is_empty());
    }
}
