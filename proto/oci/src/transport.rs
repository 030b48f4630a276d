//! One request to one host: connections, deadlines, redirects, and what statuses mean.
//!
//! Invariant: what is secret (authorisation, headers of hosts.toml) goes only to the origin it was meant for; a redirect
//! elsewhere is followed without it.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    Error,
    endpoint::Endpoint,
    fault::Fault,
    limits::{MAX_ERROR_ANSWER, MAX_MESSAGE, MAX_REDIRECTS},
    retry::parse_retry_after,
};

/// A request without a body, or with a small one, which may be sent again.
///
/// No `Debug`: a body may be a secret.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, url: Url) -> Call {
        Call {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header of our own making; values that no header can hold are left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Call {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(crate) fn body(mut self, body: Bytes) -> Call {
        self.body = body;
        self
    }
}

/// Gives the connections that suit an endpoint and an address.
pub(crate) trait Connections: Send + Sync {
    fn to(&self, endpoint: &Endpoint, url: &Url) -> Result<reqwest::Client, Error>;
}

/// The way to one endpoint, and to where it redirects.
pub(crate) struct Wire {
    pub(crate) endpoint: Endpoint,
    pub(crate) connections: Arc<dyn Connections>,
    pub(crate) idle_timeout: Duration,
}

impl Wire {
    /// Sends a request and follows its redirects. `authorization` goes to `owner`'s origin only.
    pub(crate) async fn exchange(
        &self,
        call: &Call,
        authorization: Option<&HeaderValue>,
        owner: &Url,
    ) -> Result<Response, Fault> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(
                call,
                &url,
                authorization.filter(|_| url.origin() == owner.origin()),
            );
            let response = self.answer(request?.body(call.body.clone()).send()).await?;
            match redirect_target(call, &response)? {
                // A body may be a secret as well (a refresh token), so it stays at its origin.
                Some(target) if !call.body.is_empty() && target.origin() != url.origin() => {
                    return Err(Fault::Forbidden(
                        "it redirects a request that has a body elsewhere".to_owned(),
                    ));
                }
                Some(target) => url = target,
                None => return Ok(response),
            }
        }
        Err(Fault::broken("more redirects than are followed"))
    }

    /// Prepares one request, with the endpoint's own headers if it goes there.
    pub(crate) fn request(
        &self,
        call: &Call,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<reqwest::RequestBuilder, Fault> {
        let client = self.connections.to(&self.endpoint, url)?;
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone());
        if self.endpoint.owns(url) {
            for (name, value) in &self.endpoint.headers {
                request = request.header(name, value);
            }
        }
        Ok(match authorization {
            Some(value) => request.header(header::AUTHORIZATION, value.clone()),
            None => request,
        })
    }

    /// Waits for an answer's head, not longer than the idle timeout.
    async fn answer(
        &self,
        sending: impl Future<Output = reqwest::Result<Response>>,
    ) -> Result<Response, Fault> {
        match tokio::time::timeout(self.idle_timeout, sending).await {
            Ok(answer) => answer.map_err(Fault::transport),
            Err(_) => Err(self.too_slow()),
        }
    }

    /// Waits for the next part of a body, not longer than the idle timeout.
    pub(crate) async fn part(&self, response: &mut Response) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.idle_timeout, response.chunk()).await {
            Ok(part) => part.map_err(Fault::transport),
            Err(_) => Err(self.too_slow()),
        }
    }

    pub(crate) fn too_slow(&self) -> Fault {
        Fault::broken(format!("no progress for {} ms", self.idle_timeout.as_millis()))
    }

    /// Reads a whole body of at most `limit` bytes, which are few: a body that trickles in is as good as none.
    pub(crate) async fn body(&self, response: &mut Response, limit: u64) -> Result<Bytes, Fault> {
        match tokio::time::timeout(self.idle_timeout * 4, self.whole_body(response, limit)).await {
            Ok(body) => body,
            Err(_) => Err(self.too_slow()),
        }
    }

    async fn whole_body(&self, response: &mut Response, limit: u64) -> Result<Bytes, Fault> {
        let too_large = || Fault::Corrupt(format!("the answer has more than {limit} bytes"));
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(part) = self.part(response).await? {
            if (body.len() + part.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    /// Makes an answer that is not the hoped-for one a fault, with the server's message.
    pub(crate) async fn refusal(&self, mut response: Response) -> Fault {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| parse_retry_after(value, std::time::SystemTime::now()));
        let body = self
            .body(&mut response, MAX_ERROR_ANSWER)
            .await
            .unwrap_or_default();
        let reason = match server_message(&body) {
            Some(message) => format!("answers {status}: {message}"),
            None => format!("answers {status}"),
        };
        classify(status, reason, retry_after)
    }
}

/// What a status that is no success means.
fn classify(status: StatusCode, reason: String, retry_after: Option<Duration>) -> Fault {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Fault::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Fault::Forbidden(reason)
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            Fault::Unavailable {
                reason,
                retry_after,
                broken: false,
            }
        }
        status if status.is_server_error() => {
            // A server that names a time works as it should.
            Fault::Unavailable {
                reason,
                broken: retry_after.is_none(),
                retry_after,
            }
        }
        _ => Fault::Invalid(reason),
    }
}

/// Where a redirect leads, if the answer is one that this request follows.
fn redirect_target(call: &Call, response: &Response) -> Result<Option<Url>, Fault> {
    let reading = matches!(call.method, Method::GET | Method::HEAD);
    let follows = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => reading,
        _ => false,
    };
    if !follows {
        return Ok(None);
    }
    location(response).map(Some)
}

/// The answer's `Location`, made absolute.
pub(crate) fn location(response: &Response) -> Result<Url, Fault> {
    let value = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Fault::broken("an answer lacks its Location"))?;
    let url = response
        .url()
        .join(value)
        .map_err(|_| Fault::broken("an answer's Location is no address"))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err(Fault::broken("an answer's Location is no http address"))
    }
}

/// The first error of an OCI error answer, made fit for a terminal.
fn server_message(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text =
        |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let message = match json.get("errors").and_then(|errors| errors.get(0)) {
        Some(first) => format!("{} {}", text(first.get("code")), text(first.get("message"))),
        None => text(json.get("message").or_else(|| json.get("details"))),
    };
    let clean: String = message
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let rows = [
            (404, "NotFound"),
            (401, "Forbidden"),
            (403, "Forbidden"),
            (429, "Unavailable patient"),
            (500, "Unavailable broken"),
            (503, "Unavailable broken"),
            (400, "Invalid"),
            (416, "Invalid"),
            (302, "Invalid"),
        ];
        for (status, expected) in rows {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let shown = match classify(status, String::new(), None) {
                Fault::NotFound => "NotFound",
                Fault::Forbidden(_) => "Forbidden",
                Fault::Unavailable { broken: true, .. } => "Unavailable broken",
                Fault::Unavailable { .. } => "Unavailable patient",
                Fault::Invalid(_) => "Invalid",
                _ => "other",
            };
            assert_eq!(shown, expected, "{status}");
        }
    }

    #[test]
    fn server_messages_are_cleaned() {
        let rows: [(&[u8], Option<&str>); 6] = [
            (
                br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"}]}"#,
                Some("DENIED no[31m way"),
            ),
            (
                br#"{"details":"incorrect username or password"}"#,
                Some("incorrect username or password"),
            ),
            (br#"{"message":"x"}"#, Some("x")),
            (br#"{"errors":[]}"#, None),
            (br#"{"errors":"x"}"#, None),
            (b"<html>", None),
        ];
        for (body, expected) in rows {
            assert_eq!(server_message(body).as_deref(), expected);
        }
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(5000));
        assert_eq!(
            server_message(long.as_bytes()).map(|m| m.len()),
            Some(MAX_MESSAGE)
        );
    }
}
