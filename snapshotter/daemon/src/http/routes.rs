//! What is answered to which path.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use lacewing_rpc::control::StatusResponse;
use nix::sys::statvfs::statvfs;

use super::dump;
use super::peers::Roll;
use crate::config::{Config, Listen};
use crate::control::Control;
use crate::meters::Meters;
use crate::metrics::{self, Disk, Process, Sample};
use crate::status::Status;

const PAGE: &str = include_str!("page.html");
/// The page may ask nobody but its own server for anything.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The exposition format's own type.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// What is served.
pub(crate) struct Site {
    config: Config,
    control: Control,
    meters: Arc<Meters>,
    peers: Mutex<Roll>,
}

impl Site {
    /// Over what the daemon tells of itself.
    pub(crate) fn new(config: Config, control: Control, meters: Arc<Meters>) -> Site {
        Site {
            config,
            control,
            meters,
            peers: Mutex::default(),
        }
    }

    /// Takes down which peers there are. False: this node has no piece layer.
    pub(super) async fn look_at_peers(&self) -> bool {
        let Some(members) = self.control.members().await else {
            return false;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(members, now_ms);
        true
    }

    /// Where to listen.
    pub(crate) fn listen(&self) -> Option<Listen> {
        self.config.http.clone()
    }

    /// Answers a request; `local` says that it comes from this node.
    pub(super) async fn answer<B>(self: &Arc<Self>, request: &Request<B>, local: bool) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let path = request.uri().path().to_owned();
        if is_private(&path) && !(local && is_local_name(request.headers().get(HOST))) {
            return reply(StatusCode::FORBIDDEN, TEXT, "for this node alone\n");
        }
        if path == "/peers.json" {
            self.look_at_peers().await;
            return json(&self.peers.lock().unwrap_or_else(PoisonError::into_inner).all());
        }
        // Metadata and counters are read from disk and behind locks.
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || this.find(&path)).await {
            Ok(answer) => answer,
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    fn find(&self, path: &str) -> Answer {
        match path {
            "/" => page(),
            "/healthz" => reply(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.with_status(|status| ready(status, self.config.lazy)),
            "/metrics" => self.with_status(|status| reply(StatusCode::OK, METRICS, self.metrics(status))),
            "/status.json" => self.with_status(|status| json(&Status::from(status.clone()))),
            "/debug" => self.with_status(|status| {
                let metrics = self.metrics(status);
                json(&dump::dump(&self.config, Status::from(status.clone()), &metrics))
            }),
            _ => reply(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are / /metrics /healthz /readyz /status.json /peers.json /debug\n",
            ),
        }
    }

    fn with_status(&self, answer: impl FnOnce(&StatusResponse) -> Answer) -> Answer {
        match self.control.answer() {
            Ok(status) => answer(&status),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    fn metrics(&self, status: &StatusResponse) -> String {
        metrics::render(&Sample {
            status,
            meters: &self.meters,
            process: process(),
            disk: disk(&self.config),
        })
    }
}

/// Ready is who can make layers lazy, or was told not to.
fn ready(status: &StatusResponse, wanted: bool) -> Answer {
    let lazy = status.features.iter().find(|feature| feature.name == "lazy");
    match lazy {
        Some(lazy) if !lazy.used && wanted => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("layers are ordinary ones: {}\n", lazy.detail),
        ),
        _ => reply(StatusCode::OK, TEXT, "ok\n"),
    }
}

/// Whether an answer names images, paths or the like.
fn is_private(path: &str) -> bool {
    !matches!(path, "/metrics" | "/healthz" | "/readyz")
}

/// Whether a request was meant for this node. A web page elsewhere may have its own name resolved to 127.0.0.1 and then
/// read the answers, but it cannot choose what the browser sends as `Host`.
pub(crate) fn is_local_name(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn page() -> Answer {
    let mut answer = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    answer
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(text) => reply(StatusCode::OK, JSON, text),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// The worker's own numbers; what cannot be read is 0.
fn process() -> Process {
    let seconds = |time: nix::sys::time::TimeVal| {
        std::time::Duration::from_micros(
            u64::try_from(time.tv_sec())
                .unwrap_or(0)
                .saturating_mul(1_000_000)
                .saturating_add(u64::try_from(time.tv_usec()).unwrap_or(0)),
        )
    };
    let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
    let said = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = said.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    Process {
        cpu: used.map_or(std::time::Duration::ZERO, |used| {
            seconds(used.user_time()) + seconds(used.system_time())
        }),
        resident: kib.unwrap_or_default().saturating_mul(1024),
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
    }
}

fn disk(config: &Config) -> Disk {
    statvfs(&config.root).map_or(Disk::default(), |found| Disk {
        total: found.blocks().saturating_mul(found.fragment_size()),
        free: found.blocks_free().saturating_mul(found.fragment_size()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_nodes_names_are_local() {
        for (host, expected) in [
            ("127.0.0.1:9763", true),
            ("127.0.0.1", true),
            ("localhost:1", true),
            ("[::1]:9763", true),
            ("evil.example", false),
            ("evil.example:9763", false),
            ("10.0.0.1:9763", false),
            ("127.0.0.1.evil.example", false),
        ] {
            let value = HeaderValue::from_static(host);
            assert_eq!(is_local_name(Some(&value)), expected, "{host}");
        }
    }

    #[test]
    fn ready_is_who_can_be_lazy_or_need_not() {
        let feature = lacewing_rpc::control::Feature {
            name: "lazy".to_owned(),
            used: false,
            detail: "no FUSE".to_owned(),
        };
        let status = StatusResponse {
            features: vec![feature],
            ..StatusResponse::default()
        };
        assert_eq!(ready(&status, true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ready(&status, false).status(), StatusCode::OK);
    }

    #[test]
    fn the_page_asks_nobody_else() {
        for text in ["http://", "https://", "//cdn", "@import", "url("] {
            assert!(!PAGE.contains(text), "{text}");
        }
    }
}
