//! The registry client's settings, and what all stores share: connections, tokens, host states, redirect targets.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Response, StatusCode, Url, redirect::Policy};

use crate::{
    Credentials, Error,
    auth::{Auth, Scope},
    docker_config::DockerConfig,
    endpoint::{Endpoint, TlsMaterial},
    fault::{self, Fault},
    limits::{MAX_REDIRECT_CACHE, REDIRECT_LIFE, STALE_AFTER},
    reference::is_loopback,
    retry::Breaker,
    transport::{Call, Connections, Wire},
};

/// Settings of a [`Client`]. The library reads no environment by itself: see [`Options::from_environment`].
#[derive(Clone)]
pub struct Options {
    /// Folder laid out as containerd's `certs.d` (`HOST/hosts.toml`). Read anew when a [`crate::Store`] is opened.
    pub hosts_dir: Option<PathBuf>,
    /// docker's `config.json`. Read anew at each use; it need not exist.
    pub docker_config: Option<PathBuf>,
    /// Other sources of credentials, asked in order before `docker_config`.
    pub credentials: Vec<Arc<dyn Credentials>>,
    /// `User-Agent` of all requests.
    pub user_agent: String,
    /// Longest wait for a connection, unless `hosts.toml` says otherwise. 10 s: three lost SYNs.
    pub connect_timeout: Duration,
    /// Longest wait without any progress, for the answer's head as for each part of a body. 30 s: as containerd's.
    pub idle_timeout: Duration,
    /// How long one operation is retried without progress before it fails as unavailable. 30 s: a registry's restart.
    pub retry_for: Duration,
    /// Addresses of this machine that are never asked, whatever `hosts.toml` says: this process's own mirror.
    pub not_through: Vec<std::net::SocketAddr>,
    /// Wait before the first retry; later ones double. 200 ms: a dropped connection is mostly a single event.
    pub first_wait: Duration,
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
            not_through: Vec::new(),
            first_wait: Duration::from_millis(200),
        }
    }
}

impl Options {
    /// The defaults plus what docker and containerd use on this machine: `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, and `/etc/containerd/certs.d`.
    pub fn from_environment() -> Options {
        let folder = match std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
            Some(folder) => Some(PathBuf::from(folder)),
            None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")),
        };
        Options {
            docker_config: folder.map(|folder| folder.join("config.json")),
            hosts_dir: Some("/etc/containerd/certs.d".into()),
            ..Options::default()
        }
    }
}

/// Connections, tokens and host states shared by all stores. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    auth: Auth,
    /// Connections for http: directly, and by the system's proxy.
    plain: [reqwest::Client; 2],
    /// Connections for https, by what they trust and show.
    secure: Mutex<HashMap<SecureKey, reqwest::Client>>,
    /// By origin.
    breakers: Mutex<HashMap<String, Arc<Mutex<Breaker>>>>,
    /// Where requests for blobs were sent on, by the address asked first.
    redirects: Mutex<HashMap<Url, (Url, Instant)>>,
}

/// Connections are shared by endpoints that agree in this. The material is shared, not copied.
#[derive(PartialEq, Eq, Hash)]
struct SecureKey {
    tls: Arc<TlsMaterial>,
    connect_timeout: Duration,
    direct: bool,
}

impl Client {
    /// Makes a client. Installs the process's crypto provider if there is none.
    ///
    /// # Errors
    /// `Invalid` if the settings are refused.
    pub fn new(options: Options) -> Result<Client, Error> {
        install_crypto_provider();
        let plain = |direct| {
            // No authorities: http needs none, and a machine without any must still reach a plain registry.
            let builder = builder(&options, options.connect_timeout, direct).tls_certs_only([]);
            builder.build().map_err(|error| refused("http client", error))
        };
        let plain = [plain(true)?, plain(false)?];
        let mut sources = options.credentials.clone();
        if let Some(file) = options.docker_config.clone() {
            sources.push(Arc::new(DockerConfig { file }));
        }
        let inner = Inner {
            options,
            auth: Auth::new(sources),
            plain,
            secure: Mutex::default(),
            breakers: Mutex::default(),
            redirects: Mutex::default(),
        };
        Ok(Client {
            inner: Arc::new(inner),
        })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Makes an endpoint usable. Connections are shared with equal endpoints.
    pub(crate) fn host(&self, endpoint: Endpoint) -> Host {
        let breaker = lock(&self.inner.breakers)
            .entry(endpoint.base.origin().ascii_serialization())
            .or_default()
            .clone();
        let wire = Wire {
            endpoint,
            connections: self.inner.clone(),
            idle_timeout: self.inner.options.idle_timeout,
        };
        Host {
            wire,
            breaker,
            client: self.clone(),
        }
    }
}

impl Connections for Inner {
    fn to(&self, endpoint: &Endpoint, url: &Url) -> Result<reqwest::Client, Error> {
        // As in every other client, no proxy stands before the machine itself.
        let direct = is_loopback(url.authority());
        if url.scheme() == "http" {
            return Ok(self.plain[usize::from(!direct)].clone());
        }
        let connect_timeout = endpoint.dial_timeout.unwrap_or(self.options.connect_timeout);
        let key = SecureKey {
            tls: endpoint.tls.clone(),
            connect_timeout,
            direct,
        };
        let mut clients = lock(&self.secure);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        // Made only here, and once: it costs reading the system's authorities.
        let client = secure(&self.options, &key, &endpoint.authority())?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn secure(options: &Options, key: &SecureKey, host: &str) -> Result<reqwest::Client, Error> {
    let what = format!("TLS for {host}");
    let mut authorities = Vec::new();
    for pem in &key.tls.authorities {
        let bundle = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| refused(&what, error))?;
        authorities.extend(bundle);
    }
    let mut builder = builder(options, key.connect_timeout, key.direct).tls_certs_merge(authorities);
    if let Some(pem) = key.tls.identities.first() {
        let identity = reqwest::Identity::from_pem(pem).map_err(|error| refused(&what, error))?;
        builder = builder.identity(identity);
    }
    if key.tls.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(|error| refused(&what, error))
}

fn builder(options: &Options, connect_timeout: Duration, direct: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        // Redirects are followed by hand: authorisation must not follow, and their targets are remembered.
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true);
    if direct { builder.no_proxy() } else { builder }
}

fn refused(what: &str, error: reqwest::Error) -> Error {
    let reason = fault::reason_of(error);
    Error::Invalid {
        what: what.to_owned(),
        reason,
    }
}

/// The state behind these locks is changed by single calls, so that a panic elsewhere cannot leave it half-made.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An endpoint with its connections, tokens and state of health.
pub(crate) struct Host {
    pub(crate) wire: Wire,
    breaker: Arc<Mutex<Breaker>>,
    client: Client,
}

impl Host {
    /// May the host be asked now, or is it left alone for a while?
    pub(crate) fn admits(&self) -> bool {
        lock(&self.breaker).admits(Instant::now())
    }

    /// Takes note of how an operation at this host ended.
    pub(crate) fn note<T>(&self, outcome: &Result<T, Fault>) {
        match outcome {
            Err(Fault::Unavailable {
                broken: true, reason, ..
            }) => {
                if lock(&self.breaker).failed(Instant::now()) {
                    tracing::warn!(host = %self.wire.endpoint.authority(), reason, "registry host is left alone for a while");
                }
            }
            Err(Fault::Local(_)) => {}
            _ => lock(&self.breaker).answered(),
        }
    }

    /// Sends a request with the endpoint's log-in, which is obtained or renewed where it is asked for.
    pub(crate) async fn request(&self, call: &Call, scope: &Scope) -> Result<Response, Fault> {
        let auth = &self.client.inner.auth;
        let base = &self.wire.endpoint.base;
        let current = auth.current(&self.wire, scope);
        let response = self
            .wire
            .exchange(call, current.as_ref().map(|a| &a.value), base)
            .await?;
        if !self.asks_for_log_in(&response, current.as_ref().map(|a| a.obtained)) {
            return Ok(response);
        }
        let used = current.as_ref().map(|a| &a.value);
        let renewed = auth.renew(&self.wire, scope, response.headers(), used).await?;
        self.wire.exchange(call, Some(&renewed.value), base).await
    }

    /// Is this refusal one that a new log-in may cure? Only the endpoint itself is believed in that.
    fn asks_for_log_in(&self, response: &Response, obtained: Option<Instant>) -> bool {
        let stale = obtained.is_some_and(|obtained| obtained.elapsed() >= STALE_AFTER);
        self.wire.endpoint.owns(response.url())
            && match response.status() {
                StatusCode::UNAUTHORIZED => true,
                StatusCode::FORBIDDEN => stale,
                _ => false,
            }
    }

    /// The `Authorization` to send with an upload's body, which is not sent twice for a refusal.
    pub(crate) fn authorization(&self, url: &Url, scope: &Scope) -> Option<reqwest::header::HeaderValue> {
        let owned = self.wire.endpoint.owns(url);
        let current = self
            .client
            .inner
            .auth
            .current(&self.wire, scope)
            .filter(|_| owned);
        current.map(|authorization| authorization.value)
    }

    /// Renews the log-in after an upload was refused.
    pub(crate) async fn renew(&self, refusal: &Response, scope: &Scope) -> Result<(), Fault> {
        let auth = &self.client.inner.auth;
        let used = auth.current(&self.wire, scope);
        let used = used.as_ref().map(|a| &a.value);
        auth.renew(&self.wire, scope, refusal.headers(), used)
            .await
            .map(drop)
    }

    /// Where the endpoint last sent requests for `url` on to.
    pub(crate) fn redirect(&self, url: &Url) -> Option<Url> {
        let mut redirects = lock(&self.client.inner.redirects);
        let (target, since) = redirects.get(url)?;
        if since.elapsed() < REDIRECT_LIFE {
            return Some(target.clone());
        }
        redirects.remove(url);
        None
    }

    /// Remembers, or with `None` forgets, where the endpoint sends requests for `url` on to.
    pub(crate) fn set_redirect(&self, url: &Url, target: Option<Url>) {
        let mut redirects = lock(&self.client.inner.redirects);
        let Some(target) = target else {
            redirects.remove(url);
            return;
        };
        if redirects.len() >= MAX_REDIRECT_CACHE {
            redirects.retain(|_, (_, since)| since.elapsed() < REDIRECT_LIFE);
            if redirects.len() >= MAX_REDIRECT_CACHE {
                redirects.clear();
            }
        }
        redirects.insert(url.clone(), (target, Instant::now()));
    }
}

/// Makes ring the process's rustls provider, unless one is installed already. May be called any number of times.
pub fn install_crypto_provider() {
    // The only failure is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
