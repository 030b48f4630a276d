//! Passing a client's own requests on to a registry itself, with that client's log-in and nobody else's.
//!
//! Mirrors are left out: what a client may read is the registry's to say.

use bytes::Bytes;
use lacewing_format::Digest;
use reqwest::{
    Method, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use std::{ops::Range, time::Instant};

use crate::{
    Client, Error,
    client::Host,
    fault::Fault,
    hosts,
    limits::{MAX_MANIFEST, MAX_PASSED_HEADER, MAX_READ},
    range,
    reference::{check_host, check_repository},
    repository::text_header,
    transport::Call,
};

/// What is told of an answer's head. Cookies, dates and what belongs to a connection stay behind.
const PASSED: [&str; 8] = [
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "link",
    "oci-filters-applied",
    "retry-after",
    "www-authenticate",
];

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers that a client of the registry needs.
    pub headers: Vec<(String, String)>,
    /// `Content-Length`: of a HEAD, the length of what a GET would bring.
    pub len: Option<u64>,
    /// At most [`crate::limits::MAX_MANIFEST`] bytes; empty for HEAD.
    pub body: Bytes,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Head and body.
    Get,
    /// Head alone.
    Head,
}

/// A way to one repository of a registry.
pub struct Passage {
    host: Host,
    place: String,
    repository: String,
}

impl Passage {
    /// Finds the way; nobody is asked yet. Without a repository only the registry's root can be asked for.
    ///
    /// # Errors
    /// `Invalid` for names that are none and a `hosts.toml` that cannot be understood; `Io`.
    pub async fn open(client: &Client, host: &str, repository: &str) -> Result<Passage, Error> {
        let place = format!("{host}/{repository}");
        let invalid = |reason: &str| Error::Invalid {
            what: place.chars().take(300).collect(),
            reason: reason.to_owned(),
        };
        check_host(host).map_err(invalid)?;
        if !repository.is_empty() {
            check_repository(repository).map_err(invalid)?;
        }
        let (folder, name) = (client.options().hosts_dir.clone(), host.to_owned());
        let found = tokio::task::spawn_blocking(move || hosts::endpoints(folder.as_deref(), &name)).await;
        let endpoints = found.map_err(|error| invalid(&error.to_string()))??;
        let own = &client.options().not_through;
        let server = endpoints
            .into_iter()
            .rfind(|endpoint| !endpoint.is_one_of(own))
            .ok_or_else(|| invalid("hosts.toml names no server but this daemon's own mirror"))?;
        Ok(Passage {
            host: client.host(server),
            place,
            repository: repository.to_owned(),
        })
    }

    /// Sends a request for `tail` (`manifests/TAG`, `blobs/DIGEST`, ..; empty: the root) with a client's headers.
    /// Redirects are followed without the log-in.
    ///
    /// # Errors
    /// `Unavailable` if no answer comes; `Corrupt` for one that is too large.
    pub async fn send(
        &self,
        verb: Verb,
        tail: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Answer, Error> {
        let fail = |fault: Fault| fault.into_error(&self.place, tail);
        let mut response = self
            .exchange(verb, tail, headers, authorization)
            .await
            .map_err(fail)?;
        let len = text_header(&response, "content-length").and_then(|text| text.parse().ok());
        let headers = PASSED.iter().filter_map(|name| {
            let value = text_header(&response, name)?;
            (value.len() <= MAX_PASSED_HEADER).then(|| ((*name).to_owned(), value))
        });
        let (status, headers) = (response.status().as_u16(), headers.collect());
        let body = match verb {
            Verb::Head => Bytes::new(),
            Verb::Get => self
                .host
                .wire
                .body(&mut response, MAX_MANIFEST)
                .await
                .map_err(fail)?,
        };
        Ok(Answer {
            status,
            headers,
            len,
            body,
        })
    }

    /// How long a blob is, or the registry's answer to who may not know. No bytes of it are read.
    ///
    /// # Errors
    /// As [`Passage::send`]; `Invalid` if the registry does not tell the length.
    pub async fn blob_len(
        &self,
        digest: &Digest,
        authorization: Option<&str>,
    ) -> Result<Result<u64, Answer>, Error> {
        let tail = format!("blobs/{digest}");
        let head = self.send(Verb::Head, &tail, &[], authorization).await?;
        if let (200, Some(len)) = (head.status, head.len) {
            return Ok(Ok(len));
        }
        if matches!(head.status, 401 | 404 | 429 | 500..) {
            return Ok(Err(head));
        }
        // Storage behind a redirect may know GET alone: its first byte tells the length.
        let fail = |fault: Fault| fault.into_error(&self.place, &tail);
        let first = [("range", "bytes=0-0")];
        let response = self
            .exchange(Verb::Get, &tail, &first, authorization)
            .await
            .map_err(fail)?;
        let told = text_header(&response, "content-range");
        match told.as_deref().and_then(range::parse_content_range) {
            Some((_, Some(total))) if response.status() == StatusCode::PARTIAL_CONTENT => Ok(Ok(total)),
            _ if response.status() == StatusCode::OK => match response.content_length() {
                Some(len) => Ok(Ok(len)),
                None => Err(Error::Invalid {
                    what: format!("{tail} in {}", self.place),
                    reason: "the registry does not tell its length".to_owned(),
                }),
            },
            _ => Ok(Err(head)),
        }
    }

    /// Reads a range of a blob, at most [`crate::limits::MAX_READ`] bytes, exactly that many. NOT verified.
    ///
    /// # Errors
    /// [`Error`], as the registry answers; one try.
    pub async fn read_at(
        &self,
        digest: &Digest,
        range: Range<u64>,
        authorization: Option<&str>,
    ) -> Result<Bytes, Error> {
        let tail = format!("blobs/{digest}");
        let read = self.read(&tail, &range, authorization).await;
        self.host.note(&read);
        read.map_err(|fault| fault.into_error(&self.place, &tail))
    }

    async fn read(
        &self,
        tail: &str,
        range: &Range<u64>,
        authorization: Option<&str>,
    ) -> Result<Bytes, Fault> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 || len > MAX_READ {
            return Err(Fault::Invalid(format!("{len} bytes at once")));
        }
        let asked = range::request(range.start, Some(range.end));
        let asked = [("range", asked.as_str())];
        let mut response = self.exchange(Verb::Get, tail, &asked, authorization).await?;
        let told = text_header(&response, "content-range");
        match (
            response.status(),
            told.as_deref().and_then(range::parse_content_range),
        ) {
            (StatusCode::PARTIAL_CONTENT, Some((part, _))) if part == *range => {}
            (StatusCode::OK, _) if range.start == 0 && response.content_length() == Some(len) => {}
            (StatusCode::PARTIAL_CONTENT | StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                return Err(Fault::Corrupt(format!(
                    "it has no bytes {}..{}",
                    range.start, range.end
                )));
            }
            _ => return Err(self.host.wire.refusal(response).await),
        }
        let bytes = self.host.wire.body(&mut response, len).await?;
        if bytes.len() as u64 != len {
            return Err(Fault::broken("an answer ends early"));
        }
        Ok(bytes)
    }

    async fn exchange(
        &self,
        verb: Verb,
        tail: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Response, Fault> {
        let endpoint = &self.host.wire.endpoint;
        let method = match verb {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
        };
        let mut url = endpoint.base.clone();
        let root = endpoint.base.path().trim_end_matches('/');
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        if self.repository.is_empty() {
            url.set_path(&format!("{root}/{path}"));
        } else {
            url.set_path(&format!("{root}/{}/{path}", self.repository));
        }
        url.set_query((!query.is_empty()).then_some(query));
        let mut call = Call::new(method, url);
        for (name, value) in headers {
            if let Ok(name) = HeaderName::try_from(*name) {
                call = call.header(name, value);
            }
        }
        let mut secret = authorization.and_then(|value| HeaderValue::from_str(value).ok());
        if let Some(secret) = &mut secret {
            secret.set_sensitive(true);
        }
        call.headers.remove(header::AUTHORIZATION);
        if !self.host.admits() {
            let reason = "it failed several times in a row and is left alone for a while".to_owned();
            return Err(Fault::Unavailable {
                reason,
                retry_after: None,
                broken: false,
            });
        }
        let begun = Instant::now();
        let answer = self
            .host
            .wire
            .exchange(&call, secret.as_ref(), &endpoint.base)
            .await;
        tracing::debug!(place = %self.place, tail, took = ?begun.elapsed(), "passed on");
        self.host.note(&answer);
        answer
    }
}
