//! `[mirror]`: a registry's pull API on this node, for images that are not converted. Without an address there is none.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Whose images are meant where a client does not say it: Docker mirrors its hub alone.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The resolved section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mirror {
    /// Where clients of this node reach it. A loopback address.
    pub(crate) listen: SocketAddr,
    /// The registry that a client means which names none (`?ns=`).
    pub(crate) registry: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMirror {
    listen: Option<String>,
    registry: Option<String>,
}

/// Resolves the section. `shares`: there is a piece layer.
pub(super) fn resolve(raw: RawMirror, shares: bool) -> Result<Option<Mirror>, ConfigError> {
    let invalid = |field, message: String| Err(ConfigError::Invalid { field, message });
    let Some(text) = raw.listen.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let listen: SocketAddr = match text.parse() {
        Ok(listen) => listen,
        Err(_) => {
            return invalid(
                "mirror.listen",
                format!("is {text:?}; write 127.0.0.1:9764 or \"\""),
            );
        }
    };
    if !listen.ip().is_loopback() {
        // Clients show their log-ins here, unencrypted.
        return invalid(
            "mirror.listen",
            format!("is {text}; only a loopback address will do"),
        );
    }
    if !shares {
        return invalid(
            "mirror.listen",
            "goes with [p2p] only: pieces come from other nodes".to_owned(),
        );
    }
    let registry = raw.registry.unwrap_or_else(|| DEFAULT_REGISTRY.to_owned());
    if registry.is_empty() || registry.contains('/') {
        return invalid(
            "mirror.registry",
            format!("is {registry:?}; write HOST or HOST:PORT"),
        );
    }
    Ok(Some(Mirror { listen, registry }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn section(text: &str, shares: bool) -> Result<Option<Mirror>, String> {
        resolve(toml::from_str(text).map_err(|error| error.to_string())?, shares)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_is_enough_and_nothing_is_nothing() {
        assert_eq!(section("", false).unwrap(), None);
        assert_eq!(section("listen = \"\"", false).unwrap(), None);
        let mirror = section("listen = \"127.0.0.1:9764\"", true).unwrap().unwrap();
        assert_eq!(mirror.registry, DEFAULT_REGISTRY);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, shares, field) in [
            ("listen = \"9764\"", true, "mirror.listen"),
            ("listen = \"0.0.0.0:9764\"", true, "mirror.listen"),
            ("listen = \"127.0.0.1:9764\"", false, "mirror.listen"),
            (
                "listen = \"127.0.0.1:9764\"\nregistry = \"http://x\"",
                true,
                "mirror.registry",
            ),
        ] {
            let error = section(text, shares).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
