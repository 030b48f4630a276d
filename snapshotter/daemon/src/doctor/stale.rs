//! Whether what runs has read what is configured: a file that was changed since counts from the next start on.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lacewing_rpc::control::StatusResponse;

use super::Finding;
use crate::config::Config;

/// The kernel counts a process's start in hundredths of a second, and a file may be written right before it.
const SLACK: Duration = Duration::from_secs(2);
/// Linux' USER_HZ, a part of its interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// `file`: the daemon's configuration; `containerd_file`: containerd's.
pub(super) fn look(
    config: &Config,
    file: &Path,
    containerd_file: &Path,
    status: Option<&StatusResponse>,
) -> Vec<Finding> {
    let daemon = status.and_then(|status| {
        let since = Duration::from_millis(u64::try_from(status.started_at_ms).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    });
    let containerd = config.containerd.as_deref().and_then(serving);
    [
        ("configuration", file, daemon, "systemctl reload lacewing"),
        (
            "containerd configuration",
            containerd_file,
            containerd,
            "systemctl restart containerd",
        ),
    ]
    .into_iter()
    .filter_map(|(check, file, started, advice)| {
        let changed = std::fs::metadata(file).and_then(|found| found.modified()).ok()?;
        (changed > started?.checked_add(SLACK)?).then(|| {
            let found = format!("{} was changed since it was read", file.display());
            Finding::warning(check, found, format!("`{advice}`"))
        })
    })
    .collect()
}

/// When the process began that listens on a unix socket.
fn serving(socket: &Path) -> Option<SystemTime> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid())).ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    SystemTime::now().checked_sub(age(&stat, &uptime)?)
}

/// How long ago a process began, by its `stat` and the machine's `uptime` (proc_pid_stat(5), proc_uptime(5)).
fn age(stat: &str, uptime: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, and may hold anything; the start is the 22nd.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let up: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(up - ticks as f64 / TICKS_PER_SECOND).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_from_proc() {
        let stat = "7 (a) b)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4250 1000 1";
        assert_eq!(age(stat, "100.50 200.00\n"), Some(Duration::from_millis(58_000)));
        for (stat, uptime) in [("", "1 2"), (stat, ""), (stat, "1.0 2"), ("7 (a) S 1", "100 1")] {
            assert_eq!(age(stat, uptime), None, "{stat} {uptime}");
        }
    }
}
