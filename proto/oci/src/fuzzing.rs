//! What registries send and users configure, parser by parser, for fuzz targets. Not an interface: nothing else uses it.

use std::path::Path;

use reqwest::Url;

use crate::{
    Error, Reference, auth, challenge, docker_config, hosts, layout_index, manifest_kind, manifests, range,
};
use crate::{files::Files, reference, retry};

/// Each challenge of a `WWW-Authenticate` value with its parameters.
#[must_use]
pub fn challenges(value: &[u8]) -> Vec<(String, Vec<(String, String)>)> {
    let challenges = challenge::parse(value).into_iter();
    challenges.map(|c| (c.scheme, c.params)).collect()
}

/// `Content-Range`.
#[must_use]
pub fn content_range(value: &str) -> Option<(std::ops::Range<u64>, Option<u64>)> {
    range::parse_content_range(value)
}

/// Headers that have no structure of their own to compare: the state of an upload, `Retry-After`, `Link`.
pub fn headers(value: &str) {
    let _ = range::parse_upload_range(value);
    let _ = retry::parse_retry_after(value, std::time::SystemTime::UNIX_EPOCH);
    let _ = manifests::next_link(value);
}

/// A token server's answer: how many seconds its token is used.
#[must_use]
pub fn token_seconds(body: &[u8]) -> Option<u64> {
    auth::parse_token(body).map(|(_, life)| life.as_secs())
}

/// A `hosts.toml`: the addresses it names for a host.
///
/// # Errors
/// [`Error::Invalid`].
pub fn hosts(text: &str, host: &str) -> Result<Vec<Url>, Error> {
    hosts::addresses(text, host)
}

/// A docker `config.json`: does it name a helper for a host, and does it hold a credential?
#[must_use]
pub fn docker_config(text: &[u8], host: &str, repository: &str) -> Option<(bool, bool)> {
    docker_config::answers(text, host, repository)
}

/// An `index.json`: the digest found under a name.
///
/// # Errors
/// Why it is refused.
pub fn layout_index(text: &[u8], name: Option<&str>) -> Result<String, String> {
    let index = layout_index::LayoutIndex::parse(text)?;
    let again = layout_index::LayoutIndex::parse(&index.to_bytes())?;
    assert_eq!(again.names(), index.names());
    let found = index.find(name).map_err(Option::unwrap_or_default)?;
    let mut added = again;
    added.insert(&found, Some("a name of its own"));
    assert_eq!(added.find(Some("a name of its own")).as_ref(), Ok(&found));
    Ok(found.digest().to_string())
}

/// What kind of manifest a document is.
///
/// # Errors
/// Why it is refused.
pub fn manifest_kind(content_type: Option<&str>, document: &[u8]) -> Result<String, String> {
    manifest_kind::of(content_type, document).map(|kind| kind.to_string())
}

/// Reads all members of an OCI archive.
///
/// # Errors
/// What is wrong with it.
pub fn archive(path: &Path, limit: u64) -> Result<(), Error> {
    let files = Files::open_tar(path)?;
    for name in ["oci-layout", "index.json"] {
        let _ = files.read(name, limit)?;
    }
    Ok(())
}

/// A reference; what it prints must mean the same.
///
/// # Errors
/// [`Error::Invalid`].
pub fn reference(text: &str) -> Result<Reference, Error> {
    let parsed: Reference = text.parse()?;
    if let Reference::Registry(registry) = &parsed {
        assert_eq!(reference::check_host(&registry.host), Ok(()));
        assert_eq!(reference::check_repository(&registry.repository), Ok(()));
    }
    Ok(parsed)
}
