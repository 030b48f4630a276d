//! `[registry]` and `[kubernetes]`, as far as they say where credentials come from and whether they are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::values::{configured, socket};

/// Where the API server is, where nothing else is said: what kubelet and pods are given by most distributions.
const CA_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Each costs a pull two requests and more when a registry refuses.
const MAX_ACCOUNTS: usize = 64;

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sources {
    /// A docker `config.json` with credentials. None: `$DOCKER_CONFIG` or `~/.docker/config.json`.
    pub(crate) docker_config: Option<PathBuf>,
    /// kubelet's CredentialProviderConfig, and the folder of the programs that it names. None: no such programs.
    pub(crate) providers: Option<(PathBuf, PathBuf)>,
    /// A unix socket of a program that is asked as a provider is. None: nobody is asked.
    pub(crate) helper_socket: Option<PathBuf>,
    /// Pull secrets of service accounts. None: the API server is not asked.
    pub(crate) kubernetes: Option<Kubernetes>,
    /// A file whose content seals what pulls bring, on disk. None: memory only.
    pub(crate) seal_key_file: Option<PathBuf>,
}

/// Whose pull secrets are read, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    /// The API server, `https://HOST[:PORT]`.
    pub(crate) server: String,
    /// Certificates of who may have signed its own.
    pub(crate) ca_file: PathBuf,
    /// The daemon's own token; read anew for each use.
    pub(crate) token_file: PathBuf,
    /// Namespaces and names of service accounts, asked in this order.
    pub(crate) accounts: Vec<(String, String)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) hosts_dir: Option<PathBuf>,
    docker_config: Option<PathBuf>,
    credential_provider_config: Option<PathBuf>,
    credential_provider_bin_dir: Option<PathBuf>,
    credential_socket: Option<PathBuf>,
    seal_key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKubernetes {
    server: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    service_accounts: Vec<String>,
}

fn invalid<T>(field: &'static str, message: impl Into<String>) -> Result<T, ConfigError> {
    let message = message.into();
    Err(ConfigError::Invalid { field, message })
}

pub(super) fn resolve(registry: RawRegistry, kubernetes: RawKubernetes) -> Result<Sources, ConfigError> {
    let providers = providers(&registry)?;
    let path = |field, path: Option<PathBuf>| path.map(|path| configured(field, path)).transpose();
    let helper_socket = path("registry.credential_socket", registry.credential_socket)?;
    Ok(Sources {
        docker_config: path("registry.docker_config", registry.docker_config)?,
        providers,
        helper_socket: helper_socket
            .map(|path| socket("registry.credential_socket", path))
            .transpose()?,
        kubernetes: resolve_kubernetes(kubernetes)?,
        seal_key_file: path("registry.seal_key_file", registry.seal_key_file)?,
    })
}

fn providers(raw: &RawRegistry) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (&raw.credential_provider_config, &raw.credential_provider_bin_dir) {
        (None, None) => Ok(None),
        (Some(config), Some(dir)) => Ok(Some((
            configured("registry.credential_provider_config", config.clone())?,
            configured("registry.credential_provider_bin_dir", dir.clone())?,
        ))),
        _ => invalid(
            "registry.credential_provider_config",
            "and registry.credential_provider_bin_dir need each other, as kubelet's flags of these names do",
        ),
    }
}

fn resolve_kubernetes(raw: RawKubernetes) -> Result<Option<Kubernetes>, ConfigError> {
    if raw.service_accounts.is_empty() {
        return Ok(None);
    }
    if raw.service_accounts.len() > MAX_ACCOUNTS {
        return invalid(
            "kubernetes.service_accounts",
            format!("names more than {MAX_ACCOUNTS}"),
        );
    }
    let mut accounts = Vec::new();
    for account in &raw.service_accounts {
        match account.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                accounts.push((namespace.to_owned(), name.to_owned()));
            }
            _ => {
                return invalid(
                    "kubernetes.service_accounts",
                    format!("has {account:?}; write NAMESPACE/NAME"),
                );
            }
        }
    }
    let server = raw.server.unwrap_or_default();
    match lacewing_oci::check_url(&server) {
        // Only over TLS: the token is shown there, and secrets come back.
        Ok(url) if url.scheme() == "https" && url.query().is_none() => {}
        _ => {
            return invalid(
                "kubernetes.server",
                format!("is {server:?}; write https://HOST:PORT of the API server"),
            );
        }
    }
    Ok(Some(Kubernetes {
        server: server.trim_end_matches('/').to_owned(),
        ca_file: configured(
            "kubernetes.ca_file",
            raw.ca_file.unwrap_or_else(|| CA_FILE.into()),
        )?,
        token_file: configured(
            "kubernetes.token_file",
            raw.token_file.unwrap_or_else(|| TOKEN_FILE.into()),
        )?,
        accounts,
    }))
}

/// A name as Kubernetes has them (RFC 1123 subdomains): nothing that changes an address's path.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || matches!(byte, b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| plain(*byte));
    let bytes = text.as_bytes();
    bytes.len() <= 253 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| inner(*byte))
}
