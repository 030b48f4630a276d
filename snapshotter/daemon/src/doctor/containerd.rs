//! containerd's configuration: does it know the snapshotter, and does it use it in a way that stays lazy?

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lacewing_rpc::control::StatusResponse;
use toml::{Table, Value};

use super::Finding;
use crate::config::Config;

/// A configuration is some pages of text.
const MAX_FILE: u64 = 4 << 20;
/// More imports than anybody has.
const MAX_IMPORTS: usize = 100;
/// CRI's plugins: one in version 2, two in version 3, where this one has what concerns images.
const CRI_2: &str = "io.containerd.grpc.v1.cri";
const CRI_3: &str = "io.containerd.cri.v1.images";
const TRANSFER: &str = "io.containerd.transfer.v1.local";
const PLUGIN: &str =
    "see misc/docs/containerd.md, or let `misc/deploy/install` write it; then restart containerd";

pub(super) fn look(config: &Config, file: &Path, status: Option<&StatusResponse>) -> Vec<Finding> {
    let mut findings = vec![socket(config, status)];
    match load(file) {
        Ok(table) => findings.extend(judge(&table, config)),
        Err(error) => findings.push(Finding::problem(
            "containerd configuration",
            format!("{}: {error:#}", file.display()),
            "name containerd's own file with --containerd-config; `containerd config default` shows what it may hold",
        )),
    }
    findings
}

fn socket(config: &Config, status: Option<&StatusResponse>) -> Finding {
    let Some(address) = &config.containerd else {
        return Finding::warning(
            "containerd",
            "its content store is never asked: the configuration says so",
            "set `[containerd] address`, or only clients that name the image are lazy",
        );
    };
    let stream = match UnixStream::connect(address) {
        Ok(stream) => stream,
        Err(error) => {
            return Finding::problem(
                "containerd",
                format!("{}: {error}", address.display()),
                "start containerd, or name its socket in `[containerd] address`",
            );
        }
    };
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials);
    match (peer, status) {
        (Ok(peer), Some(status)) if !sees(peer.pid(), config) => Finding::problem(
            "containerd",
            format!(
                "containerd (pid {}) does not see the mounts of the daemon (pid {})",
                peer.pid(),
                status.worker_pid
            ),
            "run both in the host's mount namespace: no PrivateMounts=, ProtectSystem= or the like in the unit, no pod",
        ),
        _ => Finding::ok("containerd", format!("answers at {}", address.display())),
    }
}

/// Whether a process's mounts have the node's FUSE mount in them, where we have it.
fn sees(pid: i32, config: &Config) -> bool {
    let data = lacewing_fusefs::Engine::data_dir(&config.root);
    let here = crate::mountinfo::mount_at(&data).is_ok_and(|mount| mount.is_some());
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    let needle = format!(" {} ", data.display());
    !here || table.is_ok_and(|text| text.contains(&needle))
}

/// Reads the file and what it imports, as containerd merges them: later ones win, table by table.
fn load(file: &Path) -> Result<Table> {
    let mut table = parse(file)?;
    let imports: Vec<String> = table
        .get("imports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let dir = file.parent().unwrap_or(Path::new("/"));
    for pattern in imports.iter().take(MAX_IMPORTS) {
        for import in expand(&dir.join(pattern)) {
            merge(
                &mut table,
                parse(&import).with_context(|| format!("import {}", import.display()))?,
            );
        }
    }
    Ok(table)
}

fn parse(file: &Path) -> Result<Table> {
    let length = std::fs::metadata(file)?.len();
    if length > MAX_FILE {
        bail!("has {length} bytes");
    }
    Ok(std::fs::read_to_string(file)?.parse()?)
}

/// `DIR/*.toml`, which is all that is in use; any other path is itself.
fn expand(pattern: &Path) -> Vec<std::path::PathBuf> {
    let name = pattern
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let (Some(suffix), Some(dir)) = (name.strip_prefix('*'), pattern.parent()) else {
        return vec![pattern.to_owned()];
    };
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    found
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn judge(table: &Table, config: &Config) -> Vec<Finding> {
    let version = table.get("version").and_then(Value::as_integer).unwrap_or(1);
    let mut findings = plugin(table, config);
    match version {
        2 => findings.push(cri(table, CRI_2, &["containerd"])),
        // A file of version 2 is turned into this one by containerd 2 itself.
        3.. => {
            findings.push(cri(table, CRI_3, &[]));
            findings.extend(transfer(table));
        }
        _ => findings.push(Finding::problem(
            "containerd configuration",
            "is of version 1",
            "`containerd config migrate` makes it one of today's",
        )),
    }
    findings
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(table.get(*first)?, |value, key| value.get(key))
}

fn plugin(table: &Table, config: &Config) -> Vec<Finding> {
    const CHECK: &str = "containerd plugin";
    let Some(plugin) = at(table, &["proxy_plugins", "lacewing"]) else {
        return vec![Finding::problem(
            CHECK,
            "containerd has no plugin `lacewing`",
            format!("add [proxy_plugins.lacewing]: {PLUGIN}"),
        )];
    };
    let text = |key: &str| plugin.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut findings = Vec::new();
    if text("type") != "snapshot" {
        let found = format!("its type is {:?}", text("type"));
        findings.push(Finding::problem(CHECK, found, "set type = \"snapshot\""));
    }
    if Path::new(text("address")) != config.address {
        findings.push(Finding::problem(
            CHECK,
            format!(
                "containerd looks for the daemon at {:?}, it listens at {}",
                text("address"),
                config.address.display()
            ),
            format!(
                "set address = \"{}\", then restart containerd",
                config.address.display()
            ),
        ));
    }
    let capabilities = plugin.get("capabilities").and_then(Value::as_array);
    if capabilities.is_some_and(|list| list.iter().any(|name| name.as_str() == Some("rebase"))) {
        findings.push(Finding::problem(
            CHECK,
            "the capability `rebase` is declared",
            "take it out: parallel unpack does not know a layer's parent, and lazy layers need to",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("is there, at {}", text("address"))));
    }
    findings
}

/// `below`: where in CRI's section the snapshotter is named.
fn cri(table: &Table, section: &'static str, below: &[&str]) -> Finding {
    const CHECK: &str = "containerd CRI";
    let path: Vec<&str> = [&["plugins", section], below].concat();
    let place = format!("[plugins.\"{}\"]", [&[section], below].concat().join("\"."));
    let value = |key: &str| at(table, &[&path[..], &[key]].concat());
    let named = value("snapshotter")
        .and_then(Value::as_str)
        .unwrap_or("overlayfs");
    if named != "lacewing" && !runtime_uses_it(table) {
        return Finding::problem(
            CHECK,
            format!("pods use the snapshotter {named:?}"),
            format!(
                "set snapshotter = \"lacewing\" in {place} if kubelet's pods are to be lazy, then restart containerd"
            ),
        );
    }
    match value("disable_snapshot_annotations").and_then(Value::as_bool) {
        Some(false) => Finding::ok(CHECK, "pods use lacewing"),
        _ => Finding::warning(
            CHECK,
            "containerd does not tell the snapshotter the image's name (disable_snapshot_annotations)",
            format!(
                "set disable_snapshot_annotations = false in {place}; until then the daemon asks containerd for it"
            ),
        ),
    }
}

/// From containerd 1.7 on a runtime may have a snapshotter of its own.
fn runtime_uses_it(table: &Table) -> bool {
    let places: [&[&str]; 2] = [
        &["plugins", CRI_2, "containerd", "runtimes"],
        &[
            "plugins",
            "io.containerd.cri.v1.runtime",
            "containerd",
            "runtimes",
        ],
    ];
    places
        .iter()
        .filter_map(|path| at(table, path)?.as_table())
        .flat_map(Table::values)
        .any(|runtime| runtime.get("snapshotter").and_then(Value::as_str) == Some("lacewing"))
}

/// What `ctr` and nerdctl need, by way of the transfer service.
fn transfer(table: &Table) -> Vec<Finding> {
    const CHECK: &str = "containerd transfer";
    let mut findings = Vec::new();
    let entries = at(table, &["plugins", TRANSFER, "unpack_config"]).and_then(Value::as_array);
    let listed = entries.is_some_and(|entries| {
        entries
            .iter()
            .any(|entry| entry.get("snapshotter").and_then(Value::as_str) == Some("lacewing"))
    });
    if !listed {
        findings.push(Finding::problem(
            CHECK,
            "the transfer service does not unpack with lacewing: `ctr image pull --snapshotter lacewing` fails",
            format!("add an unpack_config for lacewing to [plugins.\"{TRANSFER}\"]: {PLUGIN}"),
        ));
    }
    let export = at(
        table,
        &[
            "proxy_plugins",
            "lacewing",
            "exports",
            "enable_remote_snapshot_annotations",
        ],
    );
    if export.and_then(Value::as_str) != Some("true") {
        findings.push(Finding::warning(
            CHECK,
            "the transfer service does not tell the image's name",
            "add enable_remote_snapshot_annotations = \"true\" to [proxy_plugins.lacewing.exports]",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "unpacks with lacewing"));
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Verdict;
    use super::*;
    use crate::config::Overrides;

    const GOOD_3: &str = r#"
version = 3
[proxy_plugins.lacewing]
  type = "snapshot"
  address = "/s"
  [proxy_plugins.lacewing.exports]
    enable_remote_snapshot_annotations = "true"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "lacewing"
  disable_snapshot_annotations = false
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  snapshotter = "lacewing"
"#;
    const GOOD_2: &str = r#"
version = 2
[proxy_plugins.lacewing]
  type = "snapshot"
  address = "/s"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "lacewing"
  disable_snapshot_annotations = false
"#;

    fn worst(text: &str) -> (Verdict, String) {
        let overrides = Overrides {
            root: Some("/r".into()),
            address: Some("/s".into()),
        };
        let config = Config::defaults(overrides).unwrap();
        let findings = judge(&text.parse().unwrap(), &config);
        let rank = |finding: &&Finding| finding.verdict as u8;
        let worst = findings.iter().max_by_key(rank).unwrap();
        (worst.verdict, worst.found.clone())
    }

    #[test]
    fn good_ones_are_good() {
        for text in [GOOD_2, GOOD_3] {
            assert_eq!(worst(text).0, Verdict::Ok, "{text}");
        }
    }

    #[test]
    fn each_missing_line_is_seen() {
        for (good, line, replacement, expected) in [
            (GOOD_2, "\"/s\"", "\"/other\"", "looks for the daemon at"),
            (GOOD_2, "\"snapshot\"", "\"content\"", "its type is"),
            (
                GOOD_2,
                "\"lacewing\"",
                "\"overlayfs\"",
                "pods use the snapshotter",
            ),
            (
                GOOD_2,
                "annotations = false",
                "annotations = true",
                "does not tell the snapshotter",
            ),
            (GOOD_2, "version = 2", "version = 1", "is of version 1"),
            (
                GOOD_2,
                "[proxy_plugins.lacewing]",
                "[proxy_plugins.other]",
                "no plugin",
            ),
            (
                GOOD_2,
                "address = \"/s\"",
                "address = \"/s\"\ncapabilities = [\"rebase\"]",
                "rebase",
            ),
            (
                GOOD_3,
                "unpack_config]]\n  snapshotter = \"lacewing\"",
                "unpack_config]]",
                "does not unpack",
            ),
            (GOOD_3, "\"true\"", "\"false\"", "does not tell the image's name"),
        ] {
            assert!(good.contains(line), "{line}");
            let (verdict, found) = worst(&good.replace(line, replacement));
            assert_ne!(verdict, Verdict::Ok, "{line}");
            assert!(found.contains(expected), "{line}: {found}");
        }
    }

    #[test]
    fn a_runtimes_own_snapshotter_counts() {
        let text = GOOD_2.replace("snapshotter = \"lacewing\"", "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  snapshotter = \"lacewing\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.other]");
        assert!(!worst(&text).1.contains("pods use the snapshotter"));
    }

    #[test]
    fn imports_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(
            &file,
            "version = 2\nimports = [\"conf.d/*.toml\"]\n[proxy_plugins.a]\ntype = \"snapshot\"\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("conf.d/b.toml"),
            "version = 2\n[proxy_plugins.lacewing]\ntype = \"snapshot\"\n",
        )
        .unwrap();
        let table = load(&file).unwrap();
        assert!(at(&table, &["proxy_plugins", "a"]).is_some());
        assert!(at(&table, &["proxy_plugins", "lacewing", "type"]).is_some());
    }
}
