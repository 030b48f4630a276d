#![allow(clippy::unwrap_used)]
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use super::*;

/// Keeps what is exported, at once.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn named(&self, name: &str) -> Vec<SpanData> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|span| span.name == name).cloned().collect()
    }
}

fn traces() -> (Traces, Kept) {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(kept.clone())
        .build();
    (Traces::new(provider), kept)
}

fn pull() -> Pull {
    ("default".to_owned(), "r.example/a:1".to_owned())
}

fn offer(traces: &Traces, request: &LayerRequest, layer: u64, blob: &Digest) {
    let context = traces.layer(&pull(), request);
    traces.offered(&context, &pull(), &Offer::Lazy { layer }, &[*blob]);
}

#[test]
fn what_a_pull_brings_about_is_one_trace_below_the_callers_span() {
    let (traces, kept) = traces();
    let blob = Digest::of(b"blob");
    let called = LayerRequest {
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ..LayerRequest::default()
    };
    offer(&traces, &called, 7, &blob);
    offer(&traces, &LayerRequest::default(), 8, &blob);
    traces.mounted(7, 0, SystemTime::now(), &Ok::<(), String>(()));
    let mut fetch = traces.fetch(&blob, &(0..10), Class::Blocking);
    end_fetch(&mut fetch, Outcome::Ok);
    traces.pulled(&pull(), "lazy image", 2, 0);

    let whole = kept.named("pull").remove(0);
    assert_eq!(
        whole.span_context.trace_id().to_string(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!(whole.parent_span_id.to_string(), "b7ad6b7169203331");
    for (name, how_many) in [("layer", 2), ("mount", 1), ("fetch", 1)] {
        let found = kept.named(name);
        assert_eq!(found.len(), how_many, "{name}");
        for span in found {
            assert_eq!(
                span.span_context.trace_id(),
                whole.span_context.trace_id(),
                "{name}"
            );
            assert_eq!(span.parent_span_id, whole.span_context.span_id(), "{name}");
        }
    }
}

#[test]
fn a_traceparent_that_is_none_is_no_parent() {
    let (traces, kept) = traces();
    for text in [
        "",
        "00-xyz",
        "00-00000000000000000000000000000000-0000000000000000-01",
    ] {
        let request = LayerRequest {
            traceparent: Some(text.to_owned()),
            ..LayerRequest::default()
        };
        offer(&traces, &request, 1, &Digest::of(b""));
        traces.pulled(&pull(), "lazy image", 1, 0);
    }
    let pulls = kept.named("pull");
    assert_eq!(pulls.len(), 3);
    assert!(
        pulls
            .iter()
            .all(|pull| pull.parent_span_id == opentelemetry::SpanId::INVALID)
    );
}

#[test]
fn failures_are_errors_and_what_nobody_needs_is_none() {
    let (traces, kept) = traces();
    for (outcome, failed) in [
        (Outcome::Forbidden, true),
        (Outcome::Abandoned, false),
        (Outcome::Ok, false),
    ] {
        let mut fetch = traces.fetch(&Digest::of(b"x"), &(0..1), Class::Ahead);
        end_fetch(&mut fetch, outcome);
        let span = kept.named("fetch").pop().unwrap();
        assert_eq!(matches!(span.status, Status::Error { .. }), failed, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_index_is_traced_for_whom_is_traced() {
    let (traces, kept) = traces();
    let index = IndexRef {
        digest: Digest::of(b"index"),
        size: 10,
    };
    let fetched = || async { Ok::<(), String>(()) };
    traces.index(index, fetched()).await.unwrap();
    assert!(kept.named("index").is_empty());
    let context = traces.layer(&pull(), &LayerRequest::default());
    let within = traces.index(index, fetched()).with_context(context.clone());
    within.await.unwrap();
    assert_eq!(
        kept.named("index")[0].parent_span_id,
        context.span().span_context().span_id()
    );
}

#[test]
fn without_traces_nothing_happens() {
    let traces = Traces::default();
    offer(&traces, &LayerRequest::default(), 1, &Digest::of(b""));
    traces.pulled(&pull(), "lazy image", 1, 0);
    assert!(traces.fetch(&Digest::of(b""), &(0..1), Class::Blocking).is_none());
    traces.finish(Duration::ZERO);
}
