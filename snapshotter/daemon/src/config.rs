//! The daemon's configuration: a TOML file, checked whole before anything starts.
//!
//! What the file says (`Raw`) and what the program uses ([`Config`]) are two types: the first refuses unknown
//! fields and reports line and column, the second is complete and valid. The supervisor resolves it once and hands
//! the result to every worker it starts, so that a file edited meanwhile cannot keep a worker from starting.

use std::net::SocketAddr;
pub(crate) mod p2p;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the daemon keeps everything, unless told otherwise.
pub(crate) const DEFAULT_ROOT: &str = "/var/lib/lacewing";
/// The socket containerd's proxy plugin connects to, unless told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/lacewing/lacewing.sock";
/// Read if it exists and `--config` is not given.
pub(crate) const DEFAULT_FILE: &str = "/etc/lacewing/config.toml";
/// Metrics and status page: for this node alone, unless told otherwise.
pub(crate) const DEFAULT_HTTP: &str = "127.0.0.1:9763";
/// A configuration is a page of text; more is a mistaken path.
const MAX_FILE: u64 = 1 << 20;
/// `sockaddr_un` holds 108 bytes with the closing NUL, and the hand-over socket appends five.
const MAX_ADDRESS: usize = 102;

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
    /// A docker `config.json` with credentials. None: `$DOCKER_CONFIG` or `~/.docker/config.json`.
    pub(crate) docker_config: Option<PathBuf>,
    /// False: every layer is an ordinary one.
    pub(crate) lazy: bool,
    /// Longest time Prepare may wait for an index before the layer becomes an ordinary one.
    pub(crate) offer_timeout: Duration,
    /// Longest time a reader waits for missing bytes before it gets EIO.
    pub(crate) read_timeout: Duration,
    /// Fetch the rest of an image at low priority once it is mounted.
    pub(crate) background: bool,
    /// Where metrics, health and the status page are served. None: nowhere.
    pub(crate) http: Option<Listen>,
    /// Sharing pieces with other nodes; none: registries only.
    pub(crate) p2p: Option<p2p::P2p>,
    /// Without a serving worker for so long, readers get errors rather than wait on.
    pub(crate) watchdog: Duration,
    /// A worker that is silent for so long is taken for hung and killed.
    pub(crate) silence: Duration,
}

/// Where the HTTP server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What a command line may override.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--root`
    pub(crate) root: Option<PathBuf>,
    /// `--address`
    pub(crate) address: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    root: Option<PathBuf>,
    address: Option<PathBuf>,
    containerd: RawContainerd,
    registry: RawRegistry,
    lazy: RawLazy,
    http: RawHttp,
    p2p: p2p::RawP2p,
    supervisor: RawSupervisor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawContainerd {
    address: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRegistry {
    hosts_dir: Option<PathBuf>,
    docker_config: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLazy {
    enabled: Option<bool>,
    offer_timeout_s: Option<u64>,
    read_timeout_s: Option<u64>,
    background: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSupervisor {
    watchdog_s: Option<u64>,
    silence_s: Option<u64>,
}

impl Config {
    /// Reads `file` (or the default file, if that exists) and resolves it.
    ///
    /// # Errors
    /// [`ConfigError`], always with the name of what is wrong.
    pub(crate) fn load(file: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
        let raw = match file {
            Some(path) => parse(path, &read(path)?)?,
            None => match read(Path::new(DEFAULT_FILE)) {
                Ok(text) => parse(Path::new(DEFAULT_FILE), &text)?,
                Err(ConfigError::Unreadable { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    Raw::default()
                }
                Err(error) => return Err(error),
            },
        };
        resolve(raw, overrides, Some(file.unwrap_or(Path::new(DEFAULT_FILE))))
    }

    /// What holds where no file says anything.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for what the command line says.
    pub(crate) fn defaults(overrides: Overrides) -> Result<Config, ConfigError> {
        resolve(Raw::default(), overrides, None)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

fn resolve(raw: Raw, overrides: Overrides, file: Option<&Path>) -> Result<Config, ConfigError> {
    let root = overrides.root.or(raw.root).unwrap_or_else(|| DEFAULT_ROOT.into());
    let address = overrides
        .address
        .or(raw.address)
        .unwrap_or_else(|| DEFAULT_ADDRESS.into());
    Ok(Config {
        root: absolute("root", root)?,
        address: socket("address", absolute("address", address)?)?,
        containerd: match raw.containerd.address {
            None => Some("/run/containerd/containerd.sock".into()),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(configured("containerd.address", path)?),
        },
        hosts_dir: match raw.registry.hosts_dir {
            None => Some("/etc/containerd/certs.d".into()),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(configured("registry.hosts_dir", path)?),
        },
        docker_config: match raw.registry.docker_config {
            None => None,
            Some(path) => Some(configured("registry.docker_config", path)?),
        },
        lazy: raw.lazy.enabled.unwrap_or(true),
        // Kubelet's runtime request timeout is two minutes; an ordinary pull must still fit behind a vain wait.
        offer_timeout: seconds("lazy.offer_timeout_s", raw.lazy.offer_timeout_s, 30, 1..=600)?,
        // As long as a hard NFS client's first complaint: short registry trouble passes unseen.
        read_timeout: seconds("lazy.read_timeout_s", raw.lazy.read_timeout_s, 60, 1..=3600)?,
        background: raw.lazy.background.unwrap_or(true),
        http: listen(raw.http.listen.as_deref().unwrap_or(DEFAULT_HTTP))?,
        p2p: p2p::resolve(raw.p2p, file)?,
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

/// A path of the command line may be relative to the current directory.
fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| ConfigError::Invalid {
        field,
        message: format!("is no path: {error}"),
    })
}

/// A path of the file must be absolute: a service has no current directory worth relying on.
fn configured(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::Invalid {
        field,
        message: format!("must be an absolute path, not {}", path.display()),
    })
}

fn listen(text: &str) -> Result<Option<Listen>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = socket("http.listen", configured("http.listen", path.into())?)?;
        return Ok(Some(Listen::Unix(path)));
    }
    match text.parse() {
        Ok(address) => Ok(Some(Listen::Tcp(address))),
        Err(_) => Err(ConfigError::Invalid {
            field: "http.listen",
            message: format!(
                "is {text:?}; write 127.0.0.1:9763, [::1]:9763, unix:/path, or \"\" for nowhere"
            ),
        }),
    }
}

fn socket(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let len = path.as_os_str().len();
    if len <= MAX_ADDRESS {
        return Ok(path);
    }
    Err(ConfigError::Invalid {
        field,
        message: format!("has {len} bytes; a unix socket's path may have {MAX_ADDRESS}"),
    })
}

fn seconds(
    field: &'static str,
    value: Option<u64>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(Duration::from_secs(value));
    }
    let message = format!(
        "is {value}; it must be from {} to {} seconds",
        range.start(),
        range.end()
    );
    Err(ConfigError::Invalid { field, message })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let raw = parse(Path::new("test.toml"), text).map_err(|e| e.to_string())?;
        resolve(raw, Overrides::default(), None).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_is_the_defaults() {
        let config = config("").unwrap();
        assert_eq!(config.root, Path::new(DEFAULT_ROOT));
        assert_eq!(config.address, Path::new(DEFAULT_ADDRESS));
        assert_eq!(config.read_timeout, Duration::from_secs(60));
        assert!(config.lazy && config.background);
    }

    #[test]
    fn unknown_fields_are_refused_with_their_line() {
        let error = config("[lazy]\nenabled = true\nread_timeout = 3\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains("read_timeout"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, field) in [
            ("[lazy]\nread_timeout_s = 0", "lazy.read_timeout_s"),
            ("[supervisor]\nsilence_s = 1", "supervisor.silence_s"),
            ("[containerd]\naddress = \"run/sock\"", "containerd.address"),
            ("[registry]\nhosts_dir = \"certs.d\"", "registry.hosts_dir"),
            ("[http]\nlisten = \"localhost\"", "http.listen"),
            ("[http]\nlisten = \"unix:run/sock\"", "http.listen"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
        let long = format!("address = \"/{}\"", "a".repeat(200));
        assert!(config(&long).unwrap_err().contains("address has 201 bytes"));
    }

    #[test]
    fn empty_paths_turn_things_off() {
        let config =
            config("[containerd]\naddress = \"\"\n[registry]\nhosts_dir = \"\"\n[http]\nlisten = \"\"")
                .unwrap();
        assert_eq!(config.http, None);
        assert_eq!(config.containerd, None);
        assert_eq!(config.hosts_dir, None);
    }

    #[test]
    fn the_command_line_wins() {
        let raw = parse(Path::new("test.toml"), "root = \"/a\"\naddress = \"/b\"").unwrap();
        let overrides = Overrides {
            root: Some("/c".into()),
            address: Some("/d".into()),
        };
        let config = resolve(raw, overrides, None).unwrap();
        assert_eq!((config.root, config.address), ("/c".into(), "/d".into()));
    }

    #[test]
    fn the_example_file_is_the_defaults() {
        let example = include_str!("../../../misc/examples/config.toml");
        assert_eq!(config(example).unwrap(), config("").unwrap());
    }

    #[test]
    fn a_worker_gets_the_same_configuration() {
        let config = config("").unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
}
