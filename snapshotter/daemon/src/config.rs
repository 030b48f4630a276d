//! The daemon's configuration: a TOML file, checked whole before anything starts.
//!
//! What the file says (`Raw`) and what the program uses ([`Config`]) are two types: the first refuses unknown
//! fields and reports line and column, the second is complete and valid. The supervisor resolves it once and hands
//! the result to every worker it starts, so that a file edited meanwhile cannot keep a worker from starting.

pub(crate) mod credentials;
pub(crate) mod mirror;
pub(crate) mod p2p;
mod raw;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::places;
use raw::{Raw, parse, read};
use values::{absolute, collector, configured, listen, seconds, size, socket, window};

/// Metrics and status page: for this node alone, unless told otherwise.
pub(crate) const DEFAULT_HTTP: &str = "127.0.0.1:9763";

/// Why a configuration was refused. Nothing was started; the user has to change the file or the command line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, or a field that does not exist or has another type; the message has line and column.
    #[error("configuration {path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's message, with an excerpt of the line.
        message: String,
    },
    /// A value that cannot work.
    #[error("configuration: {field} {message}")]
    Invalid {
        /// The field's full name.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        message: String,
    },
}

/// The resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Absolute; everything the daemon keeps lies below.
    pub(crate) root: PathBuf,
    /// Absolute path of the unix socket.
    pub(crate) address: PathBuf,
    /// containerd's own socket, asked where an image came from when a client does not say so. None: never asked.
    pub(crate) containerd: Option<PathBuf>,
    /// containerd's `certs.d`: mirrors, certificates, plain http, by host.
    pub(crate) hosts_dir: Option<PathBuf>,
    /// Where credentials come from.
    pub(crate) credentials: credentials::Sources,
    /// Most bytes of disk that the store may take.
    pub(crate) quota: Option<u64>,
    /// Bytes that must stay free on the store's disk.
    pub(crate) free_floor: Option<u64>,
    /// False: every layer is an ordinary one.
    pub(crate) lazy: bool,
    /// How layers are shown.
    pub(crate) trees: Trees,
    /// Longest time Prepare may wait for an index before the layer becomes an ordinary one.
    pub(crate) offer_timeout: Duration,
    /// Longest time a reader waits for missing bytes before it gets EIO.
    pub(crate) read_timeout: Duration,
    /// Fetch the rest of an image at low priority once it is mounted.
    pub(crate) background: bool,
    /// At which times of the day, in UTC: `22:00-06:00`. None: always.
    pub(crate) window: Option<String>,
    /// Most stored bytes per second of that. None: as fast as they come.
    pub(crate) rate: Option<u64>,
    /// Where metrics, health and the status page are served. None: nowhere.
    pub(crate) http: Option<Listen>,
    /// Where traces are sent. None: where OpenTelemetry's environment variables say; empty: nowhere.
    pub(crate) traces: Option<String>,
    /// Sharing pieces with other nodes; none: registries only.
    pub(crate) p2p: Option<p2p::P2p>,
    /// Serving ordinary images to this node's clients; none: nobody is served.
    pub(crate) mirror: Option<mirror::Mirror>,
    /// Without a serving worker for so long, readers get errors rather than wait on.
    pub(crate) watchdog: Duration,
    /// A worker that is silent for so long is taken for hung and killed.
    pub(crate) silence: Duration,
}

/// Who shows layers as directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trees {
    /// The kernel where it can, else this program.
    #[default]
    Auto,
    /// The kernel, by EROFS mounts.
    Kernel,
    /// This program, over FUSE.
    Fuse,
}

impl From<Trees> for lacewing_fusefs::Way {
    fn from(trees: Trees) -> lacewing_fusefs::Way {
        match trees {
            Trees::Auto => lacewing_fusefs::Way::Auto,
            Trees::Kernel => lacewing_fusefs::Way::Kernel,
            Trees::Fuse => lacewing_fusefs::Way::Fuse,
        }
    }
}

/// Where the HTTP server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Less is no cache but a bottleneck: the indexes and tables of some images alone take as much.
const MIN_QUOTA: u64 = 64 << 20;
/// Bytes per second. Less would complete no image within a month.
const MIN_RATE: u64 = 16 << 10;

/// What a command line may override.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--root`
    pub(crate) root: Option<PathBuf>,
    /// `--address`
    pub(crate) address: Option<PathBuf>,
}

impl Config {
    /// Reads `file` (or the default file, if that exists) and resolves it.
    ///
    /// # Errors
    /// [`ConfigError`], always with the name of what is wrong.
    pub(crate) fn load(file: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
        let raw = match file {
            Some(path) => parse(path, &read(path)?)?,
            None => match read(&places::config_file()) {
                Ok(text) => parse(&places::config_file(), &text)?,
                Err(ConfigError::Unreadable { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    Raw::default()
                }
                Err(error) => return Err(error),
            },
        };
        resolve(raw, overrides, Some(file.unwrap_or(&places::config_file())))
    }

    /// What holds where no file says anything.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for what the command line says.
    pub(crate) fn defaults(overrides: Overrides) -> Result<Config, ConfigError> {
        resolve(Raw::default(), overrides, None)
    }
}

fn resolve(mut raw: Raw, overrides: Overrides, file: Option<&Path>) -> Result<Config, ConfigError> {
    let root = overrides.root.or(raw.root).unwrap_or_else(places::root);
    let address = overrides.address.or(raw.address).unwrap_or_else(places::address);
    let p2p = p2p::resolve(raw.p2p, file)?;
    Ok(Config {
        root: absolute("root", root)?,
        address: socket("address", absolute("address", address)?)?,
        containerd: match raw.containerd.address {
            None => Some("/run/containerd/containerd.sock".into()),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(configured("containerd.address", path)?),
        },
        hosts_dir: match raw.registry.hosts_dir.take() {
            None => Some("/etc/containerd/certs.d".into()),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(configured("registry.hosts_dir", path)?),
        },
        credentials: credentials::resolve(raw.registry, raw.kubernetes)?,
        quota: size("store.quota", raw.store.quota, MIN_QUOTA)?,
        free_floor: size("store.free_floor", raw.store.free_floor, 1)?,
        window: window(raw.background.window)?,
        rate: size("background.rate", raw.background.rate, MIN_RATE)?,
        lazy: raw.lazy.enabled.unwrap_or(true),
        trees: raw.lazy.trees,
        // Kubelet's runtime request timeout is two minutes; an ordinary pull must still fit behind a vain wait.
        offer_timeout: seconds("lazy.offer_timeout_s", raw.lazy.offer_timeout_s, 30, 1..=600)?,
        // As long as a hard NFS client's first complaint: short registry trouble passes unseen.
        read_timeout: seconds("lazy.read_timeout_s", raw.lazy.read_timeout_s, 60, 1..=3600)?,
        background: raw.lazy.background.unwrap_or(true),
        http: listen(raw.http.listen.as_deref().unwrap_or(DEFAULT_HTTP))?,
        traces: collector(raw.traces.endpoint)?,
        mirror: mirror::resolve(raw.mirror, p2p.is_some())?,
        p2p,
        // Longer than any restart, short enough that a node drains.
        watchdog: seconds(
            "supervisor.watchdog_s",
            raw.supervisor.watchdog_s,
            300,
            1..=86_400,
        )?,
        // A worker reports every five seconds; a machine that swaps may starve it for some of them.
        silence: seconds("supervisor.silence_s", raw.supervisor.silence_s, 60, 10..=3600)?,
    })
}

#[cfg(test)]
mod tests;
