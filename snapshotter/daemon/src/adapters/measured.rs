//! Both ports once more, with a watch: what passes through is timed, counted, traced and, per image, told in the log.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_fusefs::{BlobSource, Class, SourceError};
use lacewing_rpc::control::Fetch;
use lacewing_snapshotter::{
    IMAGE_LABEL, LAYER_LABEL, LayerRequest, Layers, MountError, Offer, ShownLayer, Usage,
};
use opentelemetry::trace::FutureExt;

use super::layers::NodeLayers;
use super::verdicts::{Verdicts, image_of};
use crate::meters::{Meters, Outcome};
use crate::traces::{FetchSpan, Traces, end_fetch};

/// A source whose reads are timed.
pub(crate) struct MeasuredSource<S> {
    source: S,
    meters: Arc<Meters>,
    traces: Traces,
}

impl<S> MeasuredSource<S> {
    /// Times `source`.
    pub(crate) fn new(source: S, meters: Arc<Meters>, traces: Traces) -> MeasuredSource<S> {
        MeasuredSource {
            source,
            meters,
            traces,
        }
    }
}

impl<S: BlobSource> BlobSource for MeasuredSource<Arc<S>> {
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        class: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let watch = Watch {
            meters: Arc::clone(&self.meters),
            span: self.traces.fetch(&blob, &range, class),
            blob,
            range: range.clone(),
            class,
            begun: Instant::now(),
            outcome: Outcome::Abandoned,
        };
        let read = self.source.read(blob, range, class);
        Box::pin(async move {
            let mut watch = watch;
            let result = read.await;
            watch.outcome = outcome(&result);
            result
        })
    }

    fn hurry(&self, blob: Digest, range: Range<u64>) {
        self.source.hurry(blob, range);
    }

    fn expect(&self, blob: Digest, range: Range<u64>) {
        self.source.expect(blob, range);
    }

    fn asks_around(&self) -> bool {
        self.source.asks_around()
    }
}

/// Counts a fetch when it is dropped: the store drops one that takes too long, or that nobody needs any more.
struct Watch {
    meters: Arc<Meters>,
    span: FetchSpan,
    blob: Digest,
    range: Range<u64>,
    class: Class,
    begun: Instant,
    outcome: Outcome,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let fetch = Fetch {
            blob: self.blob.to_string(),
            offset: self.range.start,
            bytes: self.range.end.saturating_sub(self.range.start),
            blocking: self.class == Class::Blocking,
            ..Fetch::default()
        };
        self.meters.fetched(fetch, self.outcome, self.begun.elapsed());
        end_fetch(&mut self.span, self.outcome);
    }
}

fn outcome(result: &Result<Bytes, SourceError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Ok,
        Err(SourceError::Missing(_)) => Outcome::Missing,
        Err(SourceError::Corrupt(_)) => Outcome::Corrupt,
        Err(SourceError::Forbidden(_)) => Outcome::Forbidden,
        // What a later release adds is most likely worth another try.
        Err(_) => Outcome::Unavailable,
    }
}

/// Layers whose offers and mounts are timed.
pub(crate) struct MeasuredLayers {
    layers: Arc<NodeLayers>,
    meters: Arc<Meters>,
    verdicts: Verdicts,
    traces: Traces,
}

impl MeasuredLayers {
    /// Times `layers`.
    pub(crate) fn new(layers: Arc<NodeLayers>, meters: Arc<Meters>, traces: Traces) -> MeasuredLayers {
        MeasuredLayers {
            layers,
            meters,
            verdicts: Verdicts::new(traces.clone()),
            traces,
        }
    }

    /// Shows a layer, with a watch.
    fn timed<T>(
        &self,
        (layer, copy): (u64, u32),
        show: impl FnOnce() -> Result<T, MountError>,
    ) -> Result<T, MountError> {
        let (begun, since) = (Instant::now(), SystemTime::now());
        let shown = show();
        self.meters.shows.record(begun.elapsed());
        self.traces.mounted(layer, copy, since, &shown);
        shown
    }
}

#[tonic::async_trait]
impl Layers for MeasuredLayers {
    async fn offer(&self, request: &LayerRequest) -> Offer {
        let label = |key: &str| request.labels.get(key).map_or("", String::as_str);
        let under_way = self.meters.pulls.begin(label(IMAGE_LABEL), label(LAYER_LABEL));
        let (pull, _) = image_of(request);
        let span = self.traces.layer(&pull, request);
        let begun = Instant::now();
        let offer = self.layers.offer(request).with_context(span.clone()).await;
        self.meters.offers.record(begun.elapsed());
        let (counter, blobs) = match offer {
            Offer::Lazy { layer } => (&self.meters.lazy, self.layers.blobs(layer)),
            Offer::Ordinary { .. } => (&self.meters.ordinary, Vec::new()),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        drop(under_way);
        self.traces.offered(&span, &pull, &offer, &blobs);
        self.verdicts.enter(request, &offer);
        offer
    }

    fn show(&self, layer: u64, copy: u32) -> Result<ShownLayer, MountError> {
        self.timed((layer, copy), || self.layers.show(layer, copy))
    }

    fn show_as(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError> {
        self.timed((layer, copy), || self.layers.show_as(layer, copy, direct))
    }

    async fn release(&self, layer: u64) {
        self.layers.release(layer).await;
    }

    fn usage(&self, layer: u64) -> Usage {
        self.layers.usage(layer)
    }

    fn known(&self) -> Vec<u64> {
        self.layers.known()
    }
}
