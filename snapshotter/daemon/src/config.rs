//! The daemon's configuration: a TOML file, checked whole before anything starts.
//!
//! What the file says (`Raw`) and what the program uses ([`Config`]) are two types: the first refuses unknown
//! fields and reports line and column, the second is complete and valid. The supervisor resolves it once and hands
//! the result to every worker it starts, so that a file edited meanwhile cannot keep a worker from starting.

use std::net::SocketAddr;
pub(crate) mod mirror;
pub(crate) mod p2p;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::places;

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
    /// kubelet's CredentialProviderConfig, and the folder of the programs that it names. None: no such programs.
    pub(crate) credential_providers: Option<(PathBuf, PathBuf)>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    root: Option<PathBuf>,
    address: Option<PathBuf>,
    containerd: RawContainerd,
    registry: RawRegistry,
    store: RawStore,
    lazy: RawLazy,
    background: RawBackground,
    http: RawHttp,
    p2p: p2p::RawP2p,
    mirror: mirror::RawMirror,
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
    credential_provider_config: Option<PathBuf>,
    credential_provider_bin_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStore {
    quota: Option<String>,
    free_floor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBackground {
    window: Option<String>,
    rate: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLazy {
    enabled: Option<bool>,
    trees: Trees,
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
    let credential_providers = credential_providers(&raw.registry)?;
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
        hosts_dir: match raw.registry.hosts_dir {
            None => Some("/etc/containerd/certs.d".into()),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(configured("registry.hosts_dir", path)?),
        },
        docker_config: match raw.registry.docker_config {
            None => None,
            Some(path) => Some(configured("registry.docker_config", path)?),
        },
        credential_providers,
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

fn credential_providers(raw: &RawRegistry) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let (Some(config), Some(dir)) = (&raw.credential_provider_config, &raw.credential_provider_bin_dir)
    else {
        if raw.credential_provider_config.is_none() && raw.credential_provider_bin_dir.is_none() {
            return Ok(None);
        }
        return Err(ConfigError::Invalid {
            field: "registry.credential_provider_config",
            message: "and registry.credential_provider_bin_dir need each other, as kubelet's flags of these names do"
                .to_owned(),
        });
    };
    Ok(Some((
        configured("registry.credential_provider_config", config.clone())?,
        configured("registry.credential_provider_bin_dir", dir.clone())?,
    )))
}

/// Reads `20GiB`, `500MB`, `10G` or a count of bytes. Nothing and `""` mean no bound.
fn size(field: &'static str, text: Option<String>, least: u64) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => 0,
    };
    let bytes = digits
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes >= least => Ok(Some(bytes)),
        Some(bytes) if unit > 0 => Err(ConfigError::Invalid {
            field,
            message: format!("is {bytes} bytes; it must be {least} or more, or \"\" for no bound"),
        }),
        _ => Err(ConfigError::Invalid {
            field,
            message: format!("is {text:?}; write a size such as 20GiB, 500MB or 1048576"),
        }),
    }
}

fn window(text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<lacewing_fusefs::Window>() {
        Ok(_) => Ok(Some(text)),
        Err(message) => Err(ConfigError::Invalid {
            field: "background.window",
            message,
        }),
    }
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
        assert_eq!(config.root, places::root());
        assert_eq!(config.address, places::address());
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
    fn sizes_and_times() {
        let good = config(
            "[store]\nquota = \"20GiB\"\nfree_floor = \"500MB\"\n[background]\nwindow = \"22:00-06:00\"\nrate = \"1M\"",
        )
        .unwrap();
        assert_eq!((good.quota, good.free_floor), (Some(20 << 30), Some(500_000_000)));
        assert_eq!(
            (good.window.as_deref(), good.rate),
            (Some("22:00-06:00"), Some(1 << 20))
        );
        for (text, expected) in [
            (
                "[store]\nquota = \"20 elephants\"",
                "store.quota is \"20 elephants\"",
            ),
            ("[store]\nquota = \"1MB\"", "store.quota is 1000000 bytes"),
            ("[store]\nfree_floor = \"99999999999T\"", "store.free_floor"),
            ("[background]\nrate = \"-1\"", "background.rate"),
            ("[background]\nwindow = \"25:00-26:00\"", "background.window"),
            (
                "[registry]\ncredential_provider_bin_dir = \"/x\"",
                "need each other",
            ),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
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
        let mut defaults = config("").unwrap();
        // Those of the system's root.
        defaults.root = DEFAULT_ROOT.into();
        defaults.address = DEFAULT_ADDRESS.into();
        assert_eq!(config(example).unwrap(), defaults);
    }

    #[test]
    fn a_worker_gets_the_same_configuration() {
        let config = config("").unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
}
