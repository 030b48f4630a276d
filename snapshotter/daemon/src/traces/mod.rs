//! OpenTelemetry traces of pulls, mounts and fetches. Off unless an endpoint is given ([`export`]).
//!
//! ```text
//! (traceparent of the call) ── pull <image> ─┬─ layer ─┬─ index     the index's fetch
//!                                            │         └─ mount
//!                                            ├─ mount               in a container's start
//!                                            └─ fetch               bytes that a read, read-ahead or completion asks for
//! ```
//!
//! Clients ask layer by layer, so a pull's span begins with the first layer and ends where the log's line about the image is
//! written ([`crate::adapters::verdicts`]). Mounts and fetches for [`FOLLOWED`] after it belong to its trace; later fetches
//! are traces of their own, linked to it, or a trace would last as long as a container.
//!
//! Spans are made where the ports are measured, once per call from outside and per fetch, never on a read that finds its
//! bytes here. They wait in a bounded queue for a thread of their own: a collector that is slow or gone loses spans, and costs
//! a pull nothing. What they carry is what the log carries, so no secrets.

mod export;
mod recent;

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lacewing_format::Digest;
use lacewing_format::annotation::IndexRef;
use lacewing_fusefs::Class;
use lacewing_snapshotter::{LAYER_LABEL, LayerRequest, Offer};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    FutureExt, Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::meters::Outcome;
use recent::Recent;

/// What a container reads at its start comes within minutes of its pull.
const FOLLOWED: Duration = Duration::from_secs(600);
/// Pulls under way; containerd runs a few at a time.
const MAX_PULLS: usize = 1000;
/// Longer values than the log's longest reason are cut by the SDK; this is its own limit's place for spans of ours.
const NAME: &str = "lacewing";

/// An image being pulled: containerd's namespace, and the image's name as far as the client says one.
pub(crate) type Pull = (String, String);

/// Traces, or none. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<Inner>>);

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    state: Mutex<State>,
}

struct State {
    pulls: HashMap<Pull, UnderWay>,
    layers: Recent<u64>,
    blobs: Recent<Digest>,
}

struct UnderWay {
    context: Context,
    begun: Instant,
    /// When the latest layer was answered.
    last: SystemTime,
}

/// A fetch's span; None where nothing is traced.
pub(crate) type FetchSpan = Option<<SdkTracer as Tracer>::Span>;

impl Traces {
    fn new(provider: SdkTracerProvider) -> Traces {
        let tracer = opentelemetry::trace::TracerProvider::tracer(&provider, NAME);
        Traces(Some(Arc::new(Inner {
            provider,
            tracer,
            state: Mutex::new(State {
                pulls: HashMap::new(),
                layers: Recent::default(),
                blobs: Recent::default(),
            }),
        })))
    }

    /// Begins a layer's span, and its pull's with the first. The context is the layer's; dropping it ends the span.
    pub(crate) fn layer(&self, pull: &Pull, request: &LayerRequest) -> Context {
        let Some(inner) = &self.0 else {
            return Context::new();
        };
        let parent = inner.pull(pull, request);
        let layer = request.labels.get(LAYER_LABEL).cloned().unwrap_or_default();
        let begun = inner
            .tracer
            .span_builder("layer")
            .with_attributes([
                KeyValue::new("lacewing.layer.digest", layer),
                KeyValue::new("lacewing.layer.chain_id", request.chain_id.clone()),
            ])
            .start_with_context(&inner.tracer, &parent);
        parent.with_span(begun)
    }

    /// Ends a layer's span. `blobs`: what a lazy layer's files are read from.
    pub(crate) fn offered(&self, context: &Context, pull: &Pull, offer: &Offer, blobs: &[Digest]) {
        let Some(inner) = &self.0 else { return };
        let span = context.span();
        let mut state = inner.state();
        match offer {
            Offer::Lazy { layer } => {
                span.set_attribute(KeyValue::new("lacewing.layer.lazy", true));
                let whole = state
                    .pulls
                    .get(pull)
                    .map(|pull| pull.context.span().span_context().clone());
                let whole = whole.unwrap_or_else(|| span.span_context().clone());
                state.layers.put(*layer, whole.clone());
                for blob in blobs {
                    state.blobs.put(*blob, whole.clone());
                }
            }
            Offer::Ordinary { reason } => {
                span.set_attribute(KeyValue::new("lacewing.layer.lazy", false));
                span.set_attribute(KeyValue::new("lacewing.layer.reason", reason.clone()));
            }
        }
        if let Some(pull) = state.pulls.get_mut(pull) {
            pull.last = SystemTime::now();
        }
        drop(state);
        span.end();
    }

    /// Ends a pull's span, at the time of its last layer.
    pub(crate) fn pulled(&self, pull: &Pull, verdict: &str, lazy: u32, ordinary: u32) {
        let Some(inner) = &self.0 else { return };
        let Some(ended) = inner.state().pulls.remove(pull) else {
            return;
        };
        let span = ended.context.span();
        span.set_attributes([
            KeyValue::new("lacewing.image.verdict", verdict.to_owned()),
            KeyValue::new("lacewing.image.lazy_layers", i64::from(lazy)),
            KeyValue::new("lacewing.image.ordinary_layers", i64::from(ordinary)),
        ]);
        span.end_with_timestamp(ended.last);
    }

    /// Traces the fetch of an index, if whoever asks for it is traced.
    pub(crate) async fn index<T, E>(
        &self,
        index: IndexRef,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let parent = Context::current();
        let Some(inner) = self.0.as_ref().filter(|_| parent.has_active_span()) else {
            return fetch.await;
        };
        let span = inner
            .tracer
            .span_builder("index")
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("lacewing.index.digest", index.digest.to_string()),
                KeyValue::new("lacewing.bytes", count(index.size)),
            ])
            .start_with_context(&inner.tracer, &parent);
        let context = parent.with_span(span);
        let result = fetch.with_context(context.clone()).await;
        if result.is_err() {
            context.span().set_status(Status::error("failed"));
        }
        context.span().end();
        result
    }

    /// Tells of a mount that has just ended, of a layer that was pulled not long ago.
    pub(crate) fn mounted<T, E: ToString>(
        &self,
        layer: u64,
        copy: u32,
        begun: SystemTime,
        result: &Result<T, E>,
    ) {
        let Some(inner) = &self.0 else { return };
        let Some((pull, true)) = inner.state().layers.get(&layer) else {
            return;
        };
        let mut span = inner
            .tracer
            .span_builder("mount")
            .with_start_time(begun)
            .with_attributes([
                KeyValue::new("lacewing.layer.number", count(layer)),
                KeyValue::new("lacewing.layer.copy", i64::from(copy)),
            ])
            .start_with_context(&inner.tracer, &Context::new().with_remote_span_context(pull));
        if let Err(error) = result {
            span.set_status(Status::error(error.to_string()));
        }
        span.end();
    }

    /// Begins a fetch's span; [`end_fetch`] ends it.
    pub(crate) fn fetch(&self, blob: &Digest, range: &Range<u64>, class: Class) -> FetchSpan {
        let inner = self.0.as_ref()?;
        let pull = inner.state().blobs.get(blob);
        let mut builder = inner
            .tracer
            .span_builder("fetch")
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("lacewing.blob.digest", blob.to_string()),
                KeyValue::new("lacewing.offset", count(range.start)),
                KeyValue::new("lacewing.bytes", count(range.end.saturating_sub(range.start))),
                KeyValue::new("lacewing.blocking", class == Class::Blocking),
            ]);
        let mut parent = Context::new();
        match pull {
            Some((pull, true)) => parent = parent.with_remote_span_context(pull),
            Some((pull, false)) => builder = builder.with_links(vec![Link::with_context(pull)]),
            None => {}
        }
        Some(builder.start_with_context(&inner.tracer, &parent))
    }

    /// Ends what is open and sends what waits. Blocking, for `patience` at most.
    pub(crate) fn finish(&self, patience: Duration) {
        let Some(inner) = &self.0 else { return };
        let open: Vec<UnderWay> = inner.state().pulls.drain().map(|(_, pull)| pull).collect();
        for pull in open {
            pull.context.span().end_with_timestamp(pull.last);
        }
        // A collector that is gone was told of when it went.
        let _ = inner.provider.shutdown_with_timeout(patience);
    }
}

/// Ends a fetch's span.
pub(crate) fn end_fetch(span: &mut FetchSpan, outcome: Outcome) {
    let Some(span) = span else { return };
    span.set_attribute(KeyValue::new("lacewing.outcome", outcome.name()));
    if !matches!(outcome, Outcome::Ok | Outcome::Abandoned) {
        span.set_status(Status::error(outcome.name()));
    }
    span.end();
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of a pull under way, or of one that begins with this layer.
    fn pull(&self, pull: &Pull, request: &LayerRequest) -> Context {
        let mut state = self.state();
        if let Some(known) = state.pulls.get(pull) {
            return known.context.clone();
        }
        if state.pulls.len() >= MAX_PULLS {
            let oldest = state.pulls.iter().min_by_key(|(_, pull)| pull.begun);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                // Dropping the context ends the span.
                state.pulls.remove(&oldest);
            }
        }
        let (namespace, image) = pull.clone();
        let span = self
            .tracer
            .span_builder("pull")
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("container.image.name", image),
                KeyValue::new("lacewing.namespace", namespace),
            ])
            .start_with_context(&self.tracer, &parent(request.traceparent.as_deref()));
        let context = Context::new().with_span(span);
        let under_way = UnderWay {
            context: context.clone(),
            begun: Instant::now(),
            last: SystemTime::now(),
        };
        state.pulls.insert(pull.clone(), under_way);
        context
    }
}

/// The caller's span, as W3C's Trace Context writes it; what is not that is no parent.
fn parent(traceparent: Option<&str>) -> Context {
    let Some(traceparent) = traceparent else {
        return Context::new();
    };
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// Attributes have no unsigned numbers.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether, for a context that a pull left, so little time has passed that it is still followed.
fn followed(since: Instant) -> bool {
    since.elapsed() < FOLLOWED
}

pub(crate) use export::start;

#[cfg(test)]
mod tests;
