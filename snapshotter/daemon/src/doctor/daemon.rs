//! Whether the daemon is there, answers, and can do what it is there for.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use lacewing_rpc::control::StatusResponse;
use tokio::runtime::Runtime;

use super::Finding;
use crate::config::{Config, Listen};
use crate::{mountinfo, status};

/// Returns what the daemon tells, if it answers.
pub(super) fn look(
    config: &Config,
    runtime: &Runtime,
    findings: &mut Vec<Finding>,
) -> Option<StatusResponse> {
    findings.extend(socket(config));
    findings.extend(dead_mount(config));
    match runtime.block_on(status::ask(&config.address)) {
        Ok(status) => {
            findings.extend(abilities(&status, config.lazy));
            findings.extend(site(config, &status));
            Some(status)
        }
        Err(error) => {
            findings.push(Finding::problem(
                "daemon",
                format!("{error:#}"),
                "start it: `systemctl enable --now lacewing`; if it does not stay up, `journalctl -u lacewing` says why",
            ));
            None
        }
    }
}

fn socket(config: &Config) -> Option<Finding> {
    let found = std::fs::metadata(&config.address).ok()?;
    let mode = found.permissions().mode() & 0o777;
    if found.uid() == 0 && mode & 0o077 == 0 {
        return Some(Finding::ok("socket", "is root's alone"));
    }
    Some(Finding::problem(
        "socket",
        format!(
            "{} may be used by others than root (mode {mode:o}, owner {})",
            config.address.display(),
            found.uid()
        ),
        "whoever reaches it rules the node's containers: `chmod 600` it, and find out who changed it",
    ))
}

/// A FUSE mount that nobody serves answers stat with ENOTCONN.
fn dead_mount(config: &Config) -> Option<Finding> {
    let data = lacewing_fusefs::Engine::data_dir(&config.root);
    mountinfo::mount_at(&data).ok().flatten()?;
    match std::fs::metadata(&data) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Some(Finding::problem(
            "mounts",
            format!(
                "the FUSE mount at {} is dead: the daemon was killed altogether",
                data.display()
            ),
            "start the daemon, then restart the containers whose reads fail; under systemd keep FileDescriptorStoreMax= \
             and KillMode=mixed as in the unit that comes with Lacewing",
        )),
        _ => Some(Finding::ok("mounts", format!("{} is served", data.display()))),
    }
}

fn abilities(status: &StatusResponse, wanted: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for feature in &status.features {
        if feature.used {
            continue;
        }
        let said = format!("{}: {}", feature.name, feature.detail);
        findings.push(match feature.name.as_str() {
            "lazy" if wanted => Finding::problem(
                "daemon",
                format!("layers are not lazy here: {}", feature.detail),
                "mend what it names, then `systemctl restart lacewing`",
            ),
            "lazy" => Finding::warning(
                "daemon",
                "layers are not lazy here: the configuration says so",
                "set `[lazy] enabled = true`",
            ),
            _ => Finding::warning("daemon", said, "a newer kernel has it"),
        });
    }
    for broken in &status.broken {
        findings.push(Finding::problem(
            "layers",
            format!(
                "snapshot {} (layer {}) cannot be shown: {}",
                broken.snapshot, broken.number, broken.reason
            ),
            "remove the images that stand on it and pull them again",
        ));
    }
    if status.version != env!("CARGO_PKG_VERSION") {
        findings.push(Finding::warning(
            "daemon",
            format!(
                "runs release {}, this program is {}",
                status.version,
                env!("CARGO_PKG_VERSION")
            ),
            "`lacewing daemon --upgrade`",
        ));
    }
    findings.push(Finding::ok(
        "daemon",
        format!(
            "release {} answers, {} layers",
            status.version,
            status.layers.len()
        ),
    ));
    findings
}

/// Whether what answers at the HTTP address is this daemon's worker.
fn site(config: &Config, status: &StatusResponse) -> Option<Finding> {
    let Some(Listen::Tcp(address)) = &config.http else {
        return None;
    };
    let listening = std::net::TcpStream::connect_timeout(address, std::time::Duration::from_secs(2));
    if listening.is_ok() && listens(status.worker_pid, address.port()) {
        return Some(Finding::ok("metrics", format!("at {address}")));
    }
    Some(Finding::warning(
        "metrics",
        format!("the daemon does not serve {address}"),
        "another process may have the port: `ss -ltnp`; choose another with `[http] listen`",
    ))
}

/// Whether a process listens on a port: its sockets' inodes in the kernel's table of listeners (proc_net_tcp).
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let owned = |inode: &str| {
        let link = format!("socket:[{inode}]");
        let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        dir.flatten().any(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
        })
    };
    let suffix = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields[..], [_, local, _, LISTEN, _, _, _, _, _, inode, ..] if local.ends_with(&suffix) && owned(inode))
        })
    })
}
