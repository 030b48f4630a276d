//! Reading blobs, whole or in part: by mirrors in order, then the registry itself, over as many connections as it takes.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use lacewing_format::Digest;
use reqwest::{Method, Response, StatusCode, Url, header};

use crate::{
    Error,
    client::Host,
    fault::Fault,
    limits::{MAX_READ, PROGRESS},
    range,
    repository::{Need, Repository, text_header},
    retry::Backoff,
    transport::Call,
};

impl Repository {
    /// Reads part of a blob. Endpoints whose bytes `check` refuses are not asked again.
    pub(crate) async fn read_at(
        &self,
        digest: &Digest,
        range: Range<u64>,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes, Error> {
        let what = format!("{digest}[{}..{}]", range.start, range.end);
        let length = range.end.saturating_sub(range.start);
        if length > MAX_READ {
            return Err(Error::Invalid {
                what,
                reason: format!("more than {MAX_READ} bytes at once"),
            });
        }
        let (mut givers, mut avoided) = (Vec::new(), Vec::new());
        loop {
            let bytes = self
                .read_part(digest, &range, &what, &avoided, &mut givers)
                .await?;
            if check(&bytes) {
                return Ok(bytes);
            }
            for giver in givers.drain(..) {
                let host: &Arc<Host> = &giver;
                tracing::warn!(host = %host.wire.endpoint.authority(), %what, "wrong bytes from a registry host");
                avoided.push(giver);
            }
        }
    }

    /// Reads a range by as many answers as it takes, and tells who gave them.
    async fn read_part(
        &self,
        digest: &Digest,
        range: &Range<u64>,
        what: &str,
        avoided: &[Arc<Host>],
        givers: &mut Vec<Arc<Host>>,
    ) -> Result<Bytes, Error> {
        let mut backoff = self.backoff();
        let mut whole = BytesMut::new();
        loop {
            let missing = range.start + whole.len() as u64..range.end;
            if missing.is_empty() {
                return Ok(whole.freeze());
            }
            let length = missing.end - missing.start;
            let read = |host: Arc<Host>| {
                let (missing, bad) = (missing.clone(), avoided.iter().any(|bad| Arc::ptr_eq(bad, &host)));
                async move {
                    if bad {
                        return Err(Fault::Corrupt(
                            "its bytes are not what their digests say".to_owned(),
                        ));
                    }
                    Ok((self.read_some(&host, digest, missing).await?, host))
                }
            };
            let fault = match self.round(Need::Content, &read).await {
                Ok((part, giver)) => {
                    givers.push(giver);
                    if whole.is_empty() && part.len() as u64 == length {
                        return Ok(part);
                    }
                    if whole.is_empty() {
                        whole.reserve(usize::try_from(length).unwrap_or(0));
                    }
                    whole.extend_from_slice(&part);
                    if part.len() as u64 == length {
                        return Ok(whole.freeze());
                    }
                    if part.len() as u64 >= PROGRESS {
                        backoff.progressed(Instant::now());
                    }
                    Fault::broken("answers end early")
                }
                Err(fault) => fault,
            };
            self.pause(&mut backoff, fault, what).await?;
        }
    }

    /// One request's worth of a range: all of it, or what came before the connection broke, if anything.
    async fn read_some(&self, host: &Arc<Host>, digest: &Digest, range: Range<u64>) -> Result<Bytes, Fault> {
        let length = range.end - range.start;
        let mut body = self.open_range(host.clone(), digest, range, Extent::Part).await?;
        let mut bytes = BytesMut::new();
        loop {
            match body.next().await {
                Ok(Some(part)) if bytes.is_empty() && part.len() as u64 == length => return Ok(part),
                Ok(Some(part)) => {
                    if bytes.is_empty() {
                        bytes.reserve(usize::try_from(length).unwrap_or(0));
                    }
                    bytes.extend_from_slice(&part);
                }
                Ok(None) => return Ok(bytes.freeze()),
                Err(fault) if bytes.is_empty() || !fault.is_passing() => return Err(fault),
                Err(_) => return Ok(bytes.freeze()),
            }
        }
    }

    /// Streams a blob, not verified yet. The first answer is awaited here, so that a missing blob is an error now.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        digest: Digest,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let mut download = Download {
            repository: self.clone(),
            digest,
            size,
            offset: 0,
            since_progress: 0,
            body: None,
            backoff: self.backoff(),
        };
        download.open().await?;
        Ok(stream::try_unfold(download, |mut download| async move {
            let part = download.next().await?;
            Ok(part.map(|part| (part, download)))
        })
        .boxed())
    }

    /// Asks for a part of a blob, or for all of it, and checks that the answer is for that part.
    async fn open_range(
        &self,
        host: Arc<Host>,
        digest: &Digest,
        wanted: Range<u64>,
        extent: Extent,
    ) -> Result<RangeBody, Fault> {
        let ranged = extent == Extent::Part || wanted.start > 0;
        let header = ranged.then(|| range::request(wanted.start, Some(wanted.end)));
        let response = self.get_blob(&host, digest, header.as_deref()).await?;
        let held = |total: u64| {
            let wrong = match extent {
                Extent::Part => total < wanted.end,
                Extent::Whole => total != wanted.end,
            };
            if wrong {
                Err(Fault::Corrupt(format!(
                    "it has {total} bytes, not {}",
                    wanted.end
                )))
            } else {
                Ok(())
            }
        };
        let length = wanted.end - wanted.start;
        let (skip, left) = match response.status() {
            StatusCode::OK => {
                response.content_length().map_or(Ok(()), held)?;
                (wanted.start, length)
            }
            StatusCode::PARTIAL_CONTENT if ranged => {
                let told = text_header(&response, "content-range");
                let Some((range, total)) = told.as_deref().and_then(range::parse_content_range) else {
                    return Err(Fault::Corrupt(
                        "a partial answer does not say which part it is".to_owned(),
                    ));
                };
                total.map_or(Ok(()), held)?;
                if range.start != wanted.start || range.end > wanted.end {
                    let reason = format!(
                        "bytes {}..{} came for {}..{}",
                        range.start, range.end, wanted.start, wanted.end
                    );
                    return Err(Fault::Corrupt(reason));
                }
                (0, range.end - range.start)
            }
            StatusCode::RANGE_NOT_SATISFIABLE if ranged => {
                return Err(Fault::Corrupt(format!("it has fewer than {} bytes", wanted.end)));
            }
            _ => return Err(host.wire.refusal(response).await),
        };
        let exact = extent == Extent::Whole && response.status() == StatusCode::OK;
        Ok(RangeBody {
            host,
            response,
            skip,
            left,
            exact,
            pace: Pace::default(),
        })
    }

    /// Asks the place that the endpoint named last time; where that fails, the endpoint.
    async fn get_blob(&self, host: &Host, digest: &Digest, range: Option<&str>) -> Result<Response, Fault> {
        let url = host
            .wire
            .endpoint
            .url(self.repository(), &format!("blobs/{digest}"));
        let call = |url: Url| {
            let call = Call::new(Method::GET, url);
            match range {
                Some(range) => call.header(header::RANGE, range),
                None => call,
            }
        };
        if let Some(target) = host.redirect(&url) {
            match host
                .wire
                .exchange(&call(target), None, &host.wire.endpoint.base)
                .await
            {
                Ok(response) if response.status().is_success() => return Ok(response),
                // An expired signature, mostly; what else it may be shows when the endpoint is asked anew.
                _ => host.set_redirect(&url, None),
            }
        }
        let response = host.request(&call(url.clone()), &self.scope).await?;
        if response.status().is_success() && !host.wire.endpoint.owns(response.url()) {
            host.set_redirect(&url, Some(response.url().clone()));
        }
        Ok(response)
    }
}

/// Is a request for a blob's whole content, or for some of it?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Part,
}

/// The part of an answer's body that was asked for.
struct RangeBody {
    host: Arc<Host>,
    response: Response,
    /// Bytes to drop first: the server sent the whole blob instead of a part.
    skip: u64,
    /// Bytes still to come.
    left: u64,
    /// Nothing may follow.
    exact: bool,
    pace: Pace,
}

/// Waiting time, without the time that the reader takes, and what came in it.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// False: less than [`PROGRESS`] came in a whole `window` of waiting.
    fn keeps(&mut self, waited: Duration, bytes: u64, window: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < window {
            return true;
        }
        let enough = self.bytes >= PROGRESS;
        *self = Pace::default();
        enough
    }
}

impl RangeBody {
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.left == 0 && !self.exact {
                return Ok(None);
            }
            let since = Instant::now();
            let part = self.host.wire.part(&mut self.response).await?;
            let (len, window) = (
                part.as_ref().map_or(0, |part| part.len() as u64),
                self.host.wire.idle_timeout,
            );
            if !self.pace.keeps(since.elapsed(), len, window) && len < self.left {
                return Err(self.host.wire.too_slow());
            }
            let Some(mut part) = part else {
                return if self.left == 0 {
                    Ok(None)
                } else {
                    Err(Fault::broken("an answer ends early"))
                };
            };
            let dropped = self.skip.min(part.len() as u64);
            self.skip -= dropped;
            let _ = part.split_to(usize::try_from(dropped).unwrap_or(part.len()));
            if part.is_empty() {
                continue;
            }
            if part.len() as u64 > self.left {
                if self.exact {
                    return Err(Fault::Corrupt(
                        "it has more bytes than its descriptor says".to_owned(),
                    ));
                }
                part.truncate(usize::try_from(self.left).unwrap_or(0));
            }
            self.left -= part.len() as u64;
            return Ok(Some(part));
        }
    }
}

/// A blob on its way, over as many connections as it takes.
struct Download {
    repository: Arc<Repository>,
    digest: Digest,
    size: u64,
    /// Bytes handed out.
    offset: u64,
    /// Bytes handed out since the retry clock was started.
    since_progress: u64,
    body: Option<RangeBody>,
    backoff: Backoff,
}

impl Download {
    async fn open(&mut self) -> Result<(), Error> {
        let what = self.digest.to_string();
        let (repository, wanted) = (self.repository.clone(), self.offset..self.size);
        let open = |host| repository.open_range(host, &self.digest, wanted.clone(), Extent::Whole);
        loop {
            match repository.round(Need::Content, &open).await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(fault) => repository.pause(&mut self.backoff, fault, &what).await?,
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(body) = &mut self.body else {
                if self.offset == self.size {
                    return Ok(None);
                }
                self.open().await?;
                continue;
            };
            let outcome = body.next().await;
            let fault = match outcome {
                Ok(Some(part)) => {
                    self.offset += part.len() as u64;
                    self.since_progress += part.len() as u64;
                    if self.since_progress >= PROGRESS {
                        self.since_progress = 0;
                        self.backoff.progressed(Instant::now());
                    }
                    return Ok(Some(part));
                }
                Ok(None) if self.offset == self.size => return Ok(None),
                // A partial answer may be shorter than what was asked for.
                Ok(None) => Fault::broken("answers end early"),
                Err(fault) => fault,
            };
            let outcome: Result<(), Fault> = Err(fault);
            body.host.note(&outcome);
            self.body = None;
            if let Err(fault) = outcome {
                self.repository
                    .pause(&mut self.backoff, fault, &self.digest.to_string())
                    .await?;
            }
        }
    }
}
