//! The registry client's settings and shared state.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{Credentials, Error};

/// Settings of a [`Client`]. The library reads no environment by itself: see [`Options::from_environment`].
#[derive(Clone)]
pub struct Options {
    /// Folder laid out as containerd's `certs.d` (`HOST/hosts.toml`). Read anew when a [`crate::Store`] is opened.
    pub hosts_dir: Option<PathBuf>,
    /// docker's `config.json`. Read anew at each use.
    pub docker_config: Option<PathBuf>,
    /// Other sources of credentials, asked in order before `docker_config`.
    pub credentials: Vec<Arc<dyn Credentials>>,
    /// `User-Agent` of all requests.
    pub user_agent: String,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait without any progress, for the answer's head as for each part of a body.
    pub idle_timeout: Duration,
    /// How long one operation is retried without progress before it fails as unavailable.
    pub retry_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hosts_dir: None,
            docker_config: None,
            credentials: Vec::new(),
            user_agent: concat!("lacewing/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// The defaults plus what docker and containerd use on this machine: `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, and `/etc/containerd/certs.d`.
    pub fn from_environment() -> Options {
        unimplemented!()
    }
}

/// Connections, tokens and host states shared by all stores. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<()>,
}

impl Client {
    /// Makes a client. Installs the process's crypto provider if there is none.
    ///
    /// # Errors
    /// `Invalid` if the TLS set-up is refused.
    pub fn new(_options: Options) -> Result<Client, Error> {
        let _ = Client { inner: Arc::new(()) }.inner;
        unimplemented!()
    }
}

/// Makes ring the process's rustls provider, unless one is installed already. May be called any number of times.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
