//! What helps whoever reads a bug report, with nothing in it that must not leave the node.
//!
//! The configuration holds paths and numbers, no secrets; should a field ever hold one, it is hidden by its name.
//! Image names are told: a report without them is of little use, so it says itself that they are in it.

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::mountinfo;
use crate::status::Status;

/// Fields whose names hold one of these are hidden, whatever they are.
const SECRET: [&str; 5] = ["password", "secret", "token", "auth", "credential"];
/// What a hidden value looks like.
const HIDDEN: &str = "(hidden)";
/// A node has some hundred mounts of ours; a report needs no more.
const MAX_MOUNTS: usize = 1000;

/// A bug report's beginning.
#[derive(Debug, Serialize)]
pub(super) struct Dump {
    note: &'static str,
    kernel: String,
    cmdline: String,
    config: Value,
    status: Status,
    metrics: Vec<String>,
    mounts: Vec<String>,
    limits: String,
    threads: usize,
    pressure: String,
}

/// Gathers. What cannot be read is empty: the dump is for when things are broken.
pub(super) fn dump(config: &Config, status: Status, metrics: &str) -> Dump {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut hidden = serde_json::to_value(config).unwrap_or_default();
    hide(&mut hidden);
    let mounts = mountinfo::mounts().unwrap_or_default();
    let ours = mounts
        .iter()
        .filter(|mount| mount.point.starts_with(&config.root));
    Dump {
        note: "holds names of images and paths of this node; no credentials",
        kernel: read("/proc/version").trim().to_owned(),
        cmdline: read("/proc/cmdline").trim().to_owned(),
        config: hidden,
        status,
        metrics: metrics
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect(),
        mounts: ours
            .take(MAX_MOUNTS)
            .map(|mount| format!("{} {}", mount.device, mount.point.display()))
            .collect(),
        limits: read("/proc/self/limits"),
        threads: std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count),
        pressure: read("/proc/pressure/io"),
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.to_ascii_lowercase();
                match field {
                    Value::Object(_) | Value::Array(_) => hide(field),
                    _ if SECRET.iter().any(|word| name.contains(word)) => {
                        *field = HIDDEN.into();
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sounds_secret_is_hidden() {
        let mut value = serde_json::json!({
            "root": "/r",
            "registry": {"Password": "p", "list": [{"api_token": "t"}]},
        });
        hide(&mut value);
        let expected = serde_json::json!({
            "root": "/r",
            "registry": {"Password": HIDDEN, "list": [{"api_token": HIDDEN}]},
        });
        assert_eq!(value, expected);
    }
}
