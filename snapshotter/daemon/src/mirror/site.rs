//! Answers requests.

use std::sync::Arc;

use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, HOST, HeaderName, HeaderValue, IF_RANGE, RANGE};
use hyper::{Method, Request, StatusCode};
use lacewing_format::Digest;
use lacewing_oci::limits::MAX_MANIFEST;
use lacewing_oci::{Passage, Verb};
use lacewing_p2p::FetchError;
use tracing::{debug, warn};

use super::path::{self, Wanted};
use super::range::{Part, part};
use super::reply::{Reply, failed, passed, refuse, set, stream, whole};
use super::rights::{Found, No, Rights};
use crate::adapters::origins::Place;
use crate::adapters::p2p::Peers;
use crate::foreign::{Blob, Failure, Source};
use crate::http::is_local_name;

/// What is served.
pub(super) struct Site {
    peers: Arc<Peers>,
    registry: String,
    rights: Rights,
}

/// The parts of a request that count.
struct Ask {
    registry: String,
    head: bool,
    authorization: Option<String>,
    accept: Option<String>,
    range: Option<String>,
    if_range: Option<String>,
    query: String,
}

fn text<B>(request: &Request<B>, name: HeaderName) -> Option<String> {
    let values: Vec<&str> = request
        .headers()
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

impl Site {
    pub(super) fn new(peers: Arc<Peers>, registry: String) -> Site {
        Site {
            peers,
            registry,
            rights: Rights::default(),
        }
    }

    /// Answers a request.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Reply {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "a mirror is read only",
            );
            reply
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        if !is_local_name(request.headers().get(HOST)) {
            return refuse(StatusCode::FORBIDDEN, "DENIED", "for this node alone");
        }
        let Some(wanted) = path::read(request.uri().path()) else {
            return refuse(StatusCode::NOT_FOUND, "UNSUPPORTED", "nothing that is mirrored");
        };
        let query = request.uri().query().unwrap_or("");
        let ask = Ask {
            registry: path::registry(query).unwrap_or_else(|| self.registry.clone()),
            head: request.method() == Method::HEAD,
            authorization: text(request, AUTHORIZATION),
            accept: text(request, ACCEPT),
            range: text(request, RANGE),
            if_range: text(request, IF_RANGE),
            query: query.to_owned(),
        };
        debug!(registry = ask.registry, ?wanted, head = ask.head, "mirror");
        match wanted {
            Wanted::Root => self.pass(&ask, "", "").await,
            Wanted::Document(repository, tail) => self.pass(&ask, &repository, &tail).await,
            Wanted::Manifest(repository, digest) => self.manifest(&ask, repository, digest).await,
            Wanted::Blob(repository, digest) => self.blob(&ask, repository, digest).await,
        }
    }

    /// The registry's own answer.
    async fn pass(&self, ask: &Ask, repository: &str, tail: &str) -> Reply {
        let verb = if ask.head { Verb::Head } else { Verb::Get };
        let accept = ask.accept.as_deref().map(|accept| ("accept", accept));
        let headers: Vec<(&str, &str)> = accept.into_iter().collect();
        let own: Vec<&str> = ask
            .query
            .split('&')
            .filter(|pair| !pair.starts_with("ns=") && !pair.is_empty())
            .collect();
        let tail = match own.is_empty() {
            true => tail.to_owned(),
            false => format!("{tail}?{}", own.join("&")),
        };
        let sent = async {
            let passage = Passage::open(self.peers.client(), &ask.registry, repository).await?;
            passage
                .send(verb, &tail, &headers, ask.authorization.as_deref())
                .await
        };
        match sent.await {
            Ok(answer) => {
                if answer.status == 200 {
                    self.peers.knows_host(&ask.registry);
                }
                let told = answer
                    .header("docker-content-digest")
                    .and_then(|told| told.parse::<Digest>().ok());
                if !ask.head
                    && answer.status == 200
                    && told.is_some_and(|told| told != Digest::of(&answer.body))
                {
                    let reason = "the registry's manifest is not what its digest says";
                    return failed(&Failure::new(FetchError::Corrupt, reason));
                }
                passed(answer, ask.head)
            }
            Err(error) => failed_to_ask(&error),
        }
    }

    async fn may_read(
        &self,
        ask: &Ask,
        place: &Place,
        digest: Digest,
        manifest: bool,
    ) -> Result<Found, Reply> {
        let shown = ask.authorization.as_deref();
        match self
            .rights
            .check(&self.peers, place, digest, manifest, shown)
            .await
        {
            Ok(found) => Ok(found),
            Err(No::Answer(answer)) => Err(passed(answer, ask.head)),
            Err(No::Failure(failure)) => Err(failed(&failure)),
        }
    }

    async fn manifest(&self, ask: &Ask, repository: String, digest: Digest) -> Reply {
        let place = Place {
            host: ask.registry.clone(),
            repository,
        };
        let found = match self.may_read(ask, &place, digest, true).await {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        if found.len > MAX_MANIFEST || found.len == 0 {
            return failed(&Failure::new(
                FetchError::Corrupt,
                "a manifest has 1 byte to 4 MiB",
            ));
        }
        let blob = Blob {
            id: digest,
            len: found.len,
            source: Source::Manifest(place),
        };
        let mut reply = if ask.head {
            let (_, nothing) = tokio::sync::mpsc::channel(1);
            stream(StatusCode::OK, found.len, nothing)
        } else {
            match self.peers.small(&blob).await {
                Ok(bytes) => whole(StatusCode::OK, bytes),
                Err(failure) => return failed(&failure),
            }
        };
        let kind = found
            .media_type
            .as_deref()
            .unwrap_or("application/vnd.oci.image.manifest.v1+json");
        set(&mut reply, "content-type", kind);
        describe(&mut reply, &digest);
        reply
    }

    async fn blob(&self, ask: &Ask, repository: String, digest: Digest) -> Reply {
        let place = Place {
            host: ask.registry.clone(),
            repository,
        };
        let found = match self.may_read(ask, &place, digest, false).await {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        if found.len > crate::foreign::MAX_BLOB {
            return failed(&Failure::new(
                FetchError::Unavailable,
                "the blob is longer than any that is shared",
            ));
        }
        let blob = Blob {
            id: digest,
            len: found.len,
            source: Source::Blob(place),
        };
        let same = ask.if_range.as_deref().is_none_or(|tag| tag == etag(&digest));
        let range = match part(ask.range.as_deref().filter(|_| same), found.len) {
            Part::All => None,
            Part::Some(range) => Some(range),
            Part::None => {
                let mut reply = refuse(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "RANGE_INVALID",
                    "beyond its end",
                );
                set(&mut reply, "content-range", &format!("bytes */{}", found.len));
                return reply;
            }
        };
        let status = match range {
            Some(_) if !ask.head => StatusCode::PARTIAL_CONTENT,
            _ => StatusCode::OK,
        };
        let asked = range.clone().filter(|_| !ask.head).unwrap_or(0..found.len);
        let len = asked.end - asked.start;
        let parts = if ask.head {
            tokio::sync::mpsc::channel(1).1
        } else {
            match self.begin(blob, asked.clone()).await {
                Ok(parts) => parts,
                Err(failure) => {
                    warn!(%digest, "mirror: {failure}");
                    return failed(&failure);
                }
            }
        };
        let mut reply = stream(status, len, parts);
        if status == StatusCode::PARTIAL_CONTENT {
            let text = format!(
                "bytes {}-{}/{}",
                asked.start,
                asked.end.saturating_sub(1),
                found.len
            );
            set(&mut reply, "content-range", &text);
        }
        set(&mut reply, "content-type", "application/octet-stream");
        set(&mut reply, "accept-ranges", "bytes");
        describe(&mut reply, &digest);
        reply
    }

    /// Waits for the first part, so that what fails at once is a status and not a broken connection.
    async fn begin(
        &self,
        blob: Blob,
        range: std::ops::Range<u64>,
    ) -> Result<tokio::sync::mpsc::Receiver<Result<bytes::Bytes, Failure>>, Failure> {
        let mut parts = self.peers.stream(blob, range);
        let Some(first) = parts.recv().await.transpose()? else {
            return Ok(parts);
        };
        let (all, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut next = Some(Ok(first));
            while let Some(part) = next {
                if all.send(part).await.is_err() {
                    return;
                }
                next = parts.recv().await;
            }
        });
        Ok(receiver)
    }
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn describe(reply: &mut Reply, digest: &Digest) {
    set(reply, "docker-content-digest", &digest.to_string());
    set(reply, "etag", &etag(digest));
}

fn failed_to_ask(error: &lacewing_oci::Error) -> Reply {
    match error {
        lacewing_oci::Error::Invalid { .. } => {
            refuse(StatusCode::BAD_REQUEST, "NAME_INVALID", &error.to_string())
        }
        _ => failed(&Failure::from(error)),
    }
}
