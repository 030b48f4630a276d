//! Answers, in the form that registries give them.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use lacewing_oci::Answer;
use lacewing_p2p::FetchError;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::foreign::Failure;

/// An answer on its way.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A whole body.
pub(super) fn whole(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let full = Full::new(body.into()).map_err(|never| match never {});
    let mut reply = Response::new(full.boxed_unsync());
    *reply.status_mut() = status;
    set(&mut reply, "docker-distribution-api-version", "registry/2.0");
    reply
}

/// A body that comes in parts. When one fails the connection is cut, so that nobody takes what came for all of it.
pub(super) fn stream(status: StatusCode, len: u64, parts: mpsc::Receiver<Result<Bytes, Failure>>) -> Reply {
    let frames = ReceiverStream::new(parts).map(|part| match part {
        Ok(bytes) => Ok(Frame::data(bytes)),
        Err(failure) => Err(io::Error::other(failure)),
    });
    let mut reply = whole(status, Bytes::new());
    *reply.body_mut() = StreamBody::new(frames).boxed_unsync();
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    reply
}

/// Sets a header, if it can be one.
pub(super) fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// A refusal in the registry's form.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    let mut reply = whole(status, body.to_string());
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Missing, forbidden, unavailable and corrupt stay four different answers.
pub(super) fn failed(failure: &Failure) -> Reply {
    let (status, code) = match failure.class {
        FetchError::Missing => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        FetchError::Forbidden => (StatusCode::FORBIDDEN, "DENIED"),
        FetchError::Corrupt => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    };
    refuse(status, code, &failure.reason)
}

/// What the registry itself said. Its own troubles are a gateway's here.
pub(super) fn passed(answer: Answer, head: bool) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let status = match status.as_u16() {
        // Redirects are followed before they come here.
        200..=299 | 400..=499 => status,
        503 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut reply = whole(status, answer.body);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            reply.headers_mut().insert(name, value);
        }
    }
    if let (true, Some(len)) = (head && status.is_success(), answer.len) {
        reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    reply
}
