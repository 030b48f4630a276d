//! How spans leave: OTLP over HTTP with protobuf, by OpenTelemetry's own environment variables and one line of configuration.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use lacewing_oci::reason_of;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::{NAME, Traces};

/// A collector near by answers in milliseconds; OTLP's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read: an ExportTraceServiceResponse is a few numbers and one message.
const MAX_ANSWER: usize = 64 << 10;
/// OpenTelemetry's names of an endpoint; the first wins.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// Its names of the protocol; likewise.
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];

/// Starts sending to `endpoint`, such as `http://127.0.0.1:4318`; without one to where the environment says, if it does. An
/// empty one switches traces off. What else OpenTelemetry's SDK reads from the environment holds: headers, sampler, queue, resource.
///
/// # Errors
/// An endpoint or a setting of the environment that cannot be used.
pub(crate) fn start(endpoint: Option<&str>, runtime: &Handle) -> Result<Traces> {
    if !wanted(endpoint, &variable) {
        return Ok(Traces::default());
    }
    if let Some(other) = first(&PROTOCOLS, &variable).filter(|protocol| protocol != "http/protobuf") {
        bail!("OTLP is spoken as http/protobuf here, not as {other}");
    }
    let sender = Sender {
        client: reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("an HTTP client")?,
        runtime: runtime.clone(),
        failing: AtomicBool::new(false),
    };
    let mut exporter = SpanExporter::builder().with_http().with_http_client(sender);
    if let Some(endpoint) = endpoint {
        exporter = exporter.with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')));
    }
    let exporter = exporter.build().context("the collector's endpoint")?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    info!("traces are sent by OTLP");
    Ok(Traces::new(provider))
}

fn wanted(endpoint: Option<&str>, variable: &impl Fn(&str) -> Option<String>) -> bool {
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    match endpoint {
        Some(endpoint) => !endpoint.is_empty() && !off,
        None => first(&ENDPOINTS, variable).is_some() && !off,
    }
}

/// An environment variable; an empty one is as good as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn first(names: &[&str], variable: &impl Fn(&str) -> Option<String>) -> Option<String> {
    names.iter().find_map(|name| variable(name))
}

/// What tells this node's spans from others: the environment's word, and where it is silent ours.
fn resource() -> Resource {
    let mut ours = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if let Ok(node) = rustix::system::uname().nodename().to_str() {
        ours.push(KeyValue::new("host.name", node.to_owned()));
    }
    if variable("OTEL_SERVICE_NAME").is_none() {
        ours.push(KeyValue::new("service.name", NAME));
    }
    let said = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_said = |key: &str| {
        said.split(',')
            .any(|pair| pair.split('=').next().map(str::trim) == Some(key))
    };
    ours.retain(|attribute| !is_said(attribute.key.as_str()));
    Resource::builder().with_attributes(ours).build()
}

/// The SDK's thread has no runtime, and our HTTP client needs one.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    /// Said in the log once per trouble, not once per batch.
    failing: AtomicBool,
}

impl Sender {
    fn told(&self, answer: &Result<Response<Bytes>, String>) {
        let trouble = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.clone()),
        };
        let failed_before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(trouble) if !failed_before => warn!("traces are lost: the collector: {trouble}"),
            None if failed_before => info!("the collector takes traces again"),
            _ => {}
        }
    }
}

#[tonic::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { send(&client, request).await });
        let answer = sent.await.unwrap_or_else(|error| Err(error.to_string()));
        self.told(&answer);
        Ok(answer?)
    }
}

/// One request. Errors do not name the address, which may hold more than one wants to log.
async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let request = reqwest::Request::try_from(request).map_err(reason_of)?;
    let answer = client.execute(request).await.map_err(reason_of)?;
    let answer = tonic::codegen::http::Response::<reqwest::Body>::from(answer);
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok(Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_unless_somebody_wants_them() {
        let none = |_: &str| None;
        let said = |name: &'static str, value: &'static str| {
            move |asked: &str| match asked {
                _ if asked == name => Some(value.to_owned()),
                "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://c".to_owned()),
                _ => None,
            }
        };
        assert!(!wanted(None, &none));
        assert!(wanted(Some("http://c"), &none));
        assert!(wanted(
            None,
            &said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c")
        ));
        assert!(wanted(None, &said("", "")));
        assert!(!wanted(Some(""), &said("", "")), "the file's word is the last");
        assert!(!wanted(None, &said("OTEL_SDK_DISABLED", "True")));
        assert!(!wanted(Some("http://c"), &said("OTEL_TRACES_EXPORTER", "none")));
    }
}
