//! What a file says: sections and fields as they are written. Unknown ones are refused, with line and column.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Trees, credentials, mirror, p2p};

/// A configuration is a page of text; more is a mistaken path.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) root: Option<PathBuf>,
    pub(super) address: Option<PathBuf>,
    pub(super) containerd: RawContainerd,
    pub(super) registry: credentials::RawRegistry,
    pub(super) kubernetes: credentials::RawKubernetes,
    pub(super) store: RawStore,
    pub(super) lazy: RawLazy,
    pub(super) background: RawBackground,
    pub(super) http: RawHttp,
    pub(super) traces: RawTraces,
    pub(super) p2p: p2p::RawP2p,
    pub(super) mirror: mirror::RawMirror,
    pub(super) supervisor: RawSupervisor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHttp {
    pub(super) listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraces {
    pub(super) endpoint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawContainerd {
    pub(super) address: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    pub(super) quota: Option<String>,
    pub(super) free_floor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBackground {
    pub(super) window: Option<String>,
    pub(super) rate: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLazy {
    pub(super) enabled: Option<bool>,
    pub(super) trees: Trees,
    pub(super) offer_timeout_s: Option<u64>,
    pub(super) read_timeout_s: Option<u64>,
    pub(super) background: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSupervisor {
    pub(super) watchdog_s: Option<u64>,
    pub(super) silence_s: Option<u64>,
}

/// Reads a file as text.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
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

/// Understands a file's text.
///
/// # Errors
/// [`ConfigError::Malformed`], with line and column.
pub(super) fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        message: error.to_string(),
    })
}
