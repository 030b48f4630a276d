//! Writing blobs to a repository: with resume, or taken over from another repository.
//!
//! A blob is sent as one PATCH (go-containerregistry's way, which every registry takes). After a failure the registry is
//! asked how far it got, and one more PATCH sends the rest. Where PATCH is refused, one PUT sends all (containerd's way).

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lacewing_format::Digest;
use oci_spec::image::Descriptor;
use reqwest::{Method, Response, StatusCode, Url, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::{
    Error, RegistryRef,
    client::Host,
    fault::Fault,
    limits::{IO_PART, UPLOAD_ANSWER},
    range,
    repository::{Need, Repository, text_header},
    transport::{Call, location},
    verify::digest_of,
};

/// Told how many bytes of a blob are sent.
pub(crate) type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// How often progress is told, and looked at.
const TICK: Duration = Duration::from_millis(100);

impl Repository {
    /// Is the blob there, with the described size?
    pub(crate) async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        let digest = digest_of(descriptor)?;
        let what = digest.to_string();
        let size = descriptor.size();
        match self
            .attempt(&what, Need::Content, |host| self.has_blob_at(host, digest, size))
            .await
        {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn has_blob_at(&self, host: Arc<Host>, digest: Digest, size: u64) -> Result<(), Fault> {
        let url = host.wire.endpoint.blob_url(self.repository(), &digest);
        let mut response = host
            .request(&Call::new(Method::HEAD, url.clone()), &self.scope)
            .await?;
        if response.status().is_client_error() && !host.wire.endpoint.owns(response.url()) {
            // An address that is signed for GET refuses HEAD.
            let call = Call::new(Method::GET, url).header(header::RANGE, "bytes=0-0");
            response = host.request(&call, &self.scope).await?;
        }
        match response.status() {
            StatusCode::OK => {
                let length =
                    text_header(&response, "content-length").and_then(|value| value.parse::<u64>().ok());
                match length.filter(|length| *length != size) {
                    Some(length) => Err(Fault::Corrupt(format!("it has {length} bytes, not {size}"))),
                    None => Ok(()),
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(()),
            _ => Err(host.wire.refusal(response).await),
        }
    }

    /// Takes a blob over from another repository of the same host.
    pub(crate) async fn mount_blob(
        &self,
        descriptor: &Descriptor,
        from: &RegistryRef,
    ) -> Result<bool, Error> {
        let digest = digest_of(descriptor)?;
        if from.host != self.reference.host || from.repository == self.reference.repository {
            return Ok(false);
        }
        let what = format!("{digest} of {}", from.repository);
        let mounted = self
            .attempt(&what, Need::Push, |host| {
                self.mount_at(host, digest, &from.repository)
            })
            .await;
        match mounted {
            // No right to read there, or no such thing there: it is sent instead.
            Err(Error::Forbidden { .. } | Error::NotFound { .. } | Error::Invalid { .. }) => Ok(false),
            other => other,
        }
    }

    async fn mount_at(&self, host: Arc<Host>, digest: Digest, from: &str) -> Result<bool, Fault> {
        let mut url = host.wire.endpoint.url(self.repository(), "blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scope = self.scope.clone().and_pull(from);
        let response = host.request(&Call::new(Method::POST, url), &scope).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                // The registry began an upload instead, which nobody will finish.
                if let Ok(upload) = location(&response) {
                    let _ = host
                        .request(&Call::new(Method::DELETE, upload), &self.scope)
                        .await;
                }
                Ok(false)
            }
            _ => Err(host.wire.refusal(response).await),
        }
    }

    /// Sends the blob in `file`, unless it is there.
    pub(crate) async fn put_blob(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        let io = |source| Error::Io {
            path: file.display().to_string(),
            source,
        };
        let length = tokio::fs::metadata(file).await.map_err(io)?.len();
        if length != size {
            let what = format!("{} for {digest}", file.display());
            return Err(Error::Invalid {
                what,
                reason: format!("the file has {length} bytes, not {size}"),
            });
        }
        if self.has_blob(descriptor).await? {
            progress(size);
            return Ok(());
        }
        let host = self.hosts.first().cloned().ok_or_else(|| Error::Invalid {
            what: self.place.clone(),
            reason: "no endpoint to write to".to_owned(),
        })?;
        let source = Source::File(file);
        self.upload(&host, &digest, size, &source, progress).await
    }

    /// Sends a small blob, unless it is there.
    pub(crate) async fn put_bytes(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), Error> {
        if self.has_blob(descriptor).await? {
            return Ok(());
        }
        let host = self.hosts.first().cloned().ok_or_else(|| Error::Invalid {
            what: self.place.clone(),
            reason: "no endpoint to write to".to_owned(),
        })?;
        let digest = digest_of(descriptor)?;
        self.upload(&host, &digest, descriptor.size(), &Source::Bytes(bytes), &|_| {})
            .await
    }

    async fn upload(
        &self,
        host: &Arc<Host>,
        digest: &Digest,
        size: u64,
        source: &Source<'_>,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let what = digest.to_string();
        let mut upload = Upload {
            repository: self,
            host: host.clone(),
            digest: *digest,
            size,
            source,
            progress,
            session: None,
            offset: 0,
            whole: false,
            restarts: 0,
        };
        let mut backoff = self.backoff();
        let mut furthest = 0;
        loop {
            let outcome = upload.advance().await;
            host.note(&outcome);
            let Err(fault) = outcome else { return Ok(()) };
            if upload.offset > furthest {
                furthest = upload.offset;
                backoff.progressed(Instant::now());
            }
            self.pause(&mut backoff, fault, &what).await?;
            upload.find_offset().await;
        }
    }
}

/// Where a blob's bytes come from.
enum Source<'a> {
    File(&'a Path),
    Bytes(Bytes),
}

/// One blob's way to the registry.
struct Upload<'a> {
    repository: &'a Repository,
    host: Arc<Host>,
    digest: Digest,
    size: u64,
    source: &'a Source<'a>,
    progress: Progress<'a>,
    /// The address that the registry gave for the upload under way.
    session: Option<Url>,
    /// Bytes that the registry holds.
    offset: u64,
    /// PATCH was refused: send all with the closing PUT.
    whole: bool,
    restarts: u32,
}

/// Times that an upload is begun anew because the registry lost or refused what it was sent.
const MAX_RESTARTS: u32 = 3;

impl Upload<'_> {
    /// Goes on until the blob is stored, or something fails.
    async fn advance(&mut self) -> Result<(), Fault> {
        loop {
            let session = match &self.session {
                Some(session) => session.clone(),
                None => self.begin().await?,
            };
            (self.progress)(self.offset);
            if !self.whole && self.offset < self.size {
                self.patch(session).await?;
            } else if self.close(session).await? {
                (self.progress)(self.size);
                return Ok(());
            }
        }
    }

    async fn begin(&mut self) -> Result<Url, Fault> {
        let url = self
            .host
            .wire
            .endpoint
            .url(self.repository.repository(), "blobs/uploads/");
        let response = self
            .host
            .request(&Call::new(Method::POST, url), &self.repository.scope)
            .await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(match self.host.wire.refusal(response).await {
                Fault::NotFound => Fault::Invalid("the registry does not know the repository".to_owned()),
                fault => fault,
            });
        }
        let session = location(&response)?;
        self.session = Some(session.clone());
        self.offset = 0;
        Ok(session)
    }

    /// Begins anew after the registry lost the upload or refused its content.
    fn restart(&mut self, fault: Fault) -> Result<(), Fault> {
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            return Err(fault);
        }
        self.session = None;
        self.offset = 0;
        Ok(())
    }

    async fn patch(&mut self, session: Url) -> Result<(), Fault> {
        let mut call =
            Call::new(Method::PATCH, session).header(header::CONTENT_TYPE, "application/octet-stream");
        if self.offset > 0 {
            let range = format!("{}-{}", self.offset, self.size - 1);
            call = call.header(header::CONTENT_RANGE, &range);
        }
        let response = self.send(call, self.offset).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                self.session =
                    Some(location(&response).or_else(|_| self.session.clone().ok_or(Fault::NotFound))?);
                // Without a word from the registry, and at its ambiguous "0-0", what was sent is there.
                let held =
                    text_header(&response, "range").and_then(|value| range::parse_upload_range(&value));
                match held.filter(|held| *held > 0 && *held <= self.size) {
                    Some(held) if held > self.offset => self.offset = held,
                    Some(_) => return self.restart(Fault::broken("the registry took none of what was sent")),
                    None => self.offset = self.size,
                }
                Ok(())
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart(Fault::broken("the registry lost the upload"))
            }
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::NOT_IMPLEMENTED => {
                self.whole = true;
                let fault = self.host.wire.refusal(response).await;
                self.restart(fault)
            }
            _ => Err(self.host.wire.refusal(response).await),
        }
    }

    /// Asks the registry to store what it holds. False: begun anew.
    async fn close(&mut self, mut session: Url) -> Result<bool, Fault> {
        session
            .query_pairs_mut()
            .append_pair("digest", &self.digest.to_string());
        let start = if self.whole { 0 } else { self.size };
        let call = Call::new(Method::PUT, session).header(header::CONTENT_TYPE, "application/octet-stream");
        let response = self.send(call, start).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::ACCEPTED => Ok(true),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                // Perhaps it was stored, and the answer got lost.
                self.restart(Fault::broken("the registry lost the upload"))
                    .map(|()| false)
            }
            StatusCode::BAD_REQUEST => {
                let fault = match self.host.wire.refusal(response).await {
                    Fault::Invalid(reason) if reason.contains("DIGEST_INVALID") => {
                        Fault::Corrupt(format!("what arrived is not the blob: the registry {reason}"))
                    }
                    fault => fault,
                };
                self.restart(fault).map(|()| false)
            }
            _ => Err(self.host.wire.refusal(response).await),
        }
    }

    /// After a failure: how much does the registry hold?
    async fn find_offset(&mut self) {
        let Some(session) = self.session.clone().filter(|_| !self.whole) else {
            self.session = None;
            return;
        };
        let asked = self
            .host
            .request(&Call::new(Method::GET, session), &self.repository.scope)
            .await;
        let held = match &asked {
            Ok(response) if response.status().is_success() => {
                if let Ok(next) = location(response) {
                    self.session = Some(next);
                }
                text_header(response, "range").and_then(|value| range::parse_upload_range(&value))
            }
            // Not reached: the session may still be there at the next try, at the offset known.
            Err(fault) if fault.is_passing() => return,
            _ => None,
        };
        match held.filter(|held| *held <= self.size) {
            Some(held) => self.offset = held,
            None => self.session = None,
        }
    }

    /// Sends bytes from `start` to the end, renewing the log-in once if it is asked for.
    async fn send(&mut self, call: Call, start: u64) -> Result<Response, Fault> {
        let response = self.send_once(&call, start).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.host.wire.endpoint.owns(response.url()) {
            return Ok(response);
        }
        self.host.renew(&response, &self.repository.scope).await?;
        self.send_once(&call, start).await
    }

    async fn send_once(&self, call: &Call, start: u64) -> Result<Response, Fault> {
        let sent = Arc::new(Sent {
            bytes: AtomicU64::new(start),
            done: AtomicBool::new(false),
            error: Mutex::default(),
        });
        let authorization = self.host.authorization(&call.url, &self.repository.scope);
        let request = self.host.wire.request(call, &call.url, authorization.as_ref())?;
        let body = self.source.body(start, self.size, &sent).await?;
        let request = request
            .header(header::CONTENT_LENGTH, self.size - start)
            .body(body);
        let outcome = self.watch(request.send(), &sent).await;
        let failed = sent.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(source), Source::File(path)) = (failed, self.source) {
            return Err(Fault::Local(Error::Io {
                path: path.display().to_string(),
                source,
            }));
        }
        outcome
    }

    /// Waits for an answer while bytes move, and for a while once all are sent; tells progress meanwhile.
    async fn watch(
        &self,
        sending: impl Future<Output = reqwest::Result<Response>>,
        sent: &Sent,
    ) -> Result<Response, Fault> {
        let mut sending = std::pin::pin!(sending);
        let (mut last, mut since) = (sent.bytes.load(Ordering::Relaxed), Instant::now());
        loop {
            match tokio::time::timeout(TICK, &mut sending).await {
                Ok(answer) => return answer.map_err(Fault::transport),
                Err(_) => {
                    let now = sent.bytes.load(Ordering::Relaxed);
                    if now != last {
                        (last, since) = (now, Instant::now());
                        (self.progress)(now);
                    }
                    let patience = if sent.done.load(Ordering::Relaxed) {
                        UPLOAD_ANSWER
                    } else {
                        self.host.wire.idle_timeout
                    };
                    if since.elapsed() >= patience {
                        return Err(Fault::broken(format!("no progress for {} s", patience.as_secs())));
                    }
                }
            }
        }
    }
}

/// What an upload's body tells about itself.
struct Sent {
    bytes: AtomicU64,
    done: AtomicBool,
    error: Mutex<Option<std::io::Error>>,
}

impl Source<'_> {
    async fn body(&self, start: u64, end: u64, sent: &Arc<Sent>) -> Result<reqwest::Body, Fault> {
        if start == end {
            sent.done.store(true, Ordering::Relaxed);
            return Ok(reqwest::Body::from(Bytes::new()));
        }
        let stream = match self {
            Source::Bytes(bytes) => {
                let start = usize::try_from(start).unwrap_or(bytes.len()).min(bytes.len());
                futures::stream::iter([Ok(bytes.slice(start..))]).boxed()
            }
            Source::File(path) => {
                let io = |source| {
                    Fault::Local(Error::Io {
                        path: path.display().to_string(),
                        source,
                    })
                };
                let mut file = tokio::fs::File::open(path).await.map_err(io)?;
                file.seek(std::io::SeekFrom::Start(start)).await.map_err(io)?;
                ReaderStream::with_capacity(file.take(end - start), IO_PART).boxed()
            }
        };
        let (counter, failure) = (sent.clone(), sent.clone());
        let stream = stream
            .inspect_ok(move |part| {
                let before = counter.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                counter
                    .done
                    .store(before + part.len() as u64 >= end, Ordering::Relaxed);
            })
            .map_err(move |error| {
                let shown = std::io::Error::from(error.kind());
                *failure.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                shown
            });
        Ok(reqwest::Body::wrap_stream(stream))
    }
}
