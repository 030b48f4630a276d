//! Both ports once more, with a watch: what passes through is timed, counted and, per image, told in the log.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_fusefs::{BlobSource, Class, SourceError};
use lacewing_rpc::control::Fetch;
use lacewing_snapshotter::{
    IMAGE_LABEL, LAYER_LABEL, LayerRequest, Layers, MountError, Offer, ShownLayer, Usage,
};

use super::verdicts::Verdicts;
use crate::meters::{Meters, Outcome};

/// A source whose reads are timed.
pub(crate) struct MeasuredSource<S> {
    source: S,
    meters: Arc<Meters>,
}

impl<S> MeasuredSource<S> {
    /// Times `source`.
    pub(crate) fn new(source: S, meters: Arc<Meters>) -> MeasuredSource<S> {
        MeasuredSource { source, meters }
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
            blob,
            range: range.clone(),
            class,
            begun: Instant::now(),
            outcome: Outcome::Abandoned,
        };
        let read = self.source.read(blob, range, class);
        async move {
            let mut watch = watch;
            let result = read.await;
            watch.outcome = outcome(&result);
            result
        }
        .boxed()
    }
}

/// Counts a fetch when it is dropped: the store drops one that takes too long, or that nobody needs any more.
struct Watch {
    meters: Arc<Meters>,
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
pub(crate) struct MeasuredLayers<L> {
    layers: Arc<L>,
    meters: Arc<Meters>,
    verdicts: Verdicts,
}

impl<L> MeasuredLayers<L> {
    /// Times `layers`.
    pub(crate) fn new(layers: Arc<L>, meters: Arc<Meters>) -> MeasuredLayers<L> {
        MeasuredLayers {
            layers,
            meters,
            verdicts: Verdicts::default(),
        }
    }
}

#[tonic::async_trait]
impl<L: Layers> Layers for MeasuredLayers<L> {
    async fn offer(&self, request: &LayerRequest) -> Offer {
        let label = |key: &str| request.labels.get(key).map_or("", String::as_str);
        let under_way = self.meters.pulls.begin(label(IMAGE_LABEL), label(LAYER_LABEL));
        let begun = Instant::now();
        let offer = self.layers.offer(request).await;
        self.meters.offers.record(begun.elapsed());
        let counter = match offer {
            Offer::Lazy { .. } => &self.meters.lazy,
            Offer::Ordinary { .. } => &self.meters.ordinary,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        drop(under_way);
        self.verdicts.enter(request, &offer);
        offer
    }

    fn show(&self, layer: u64, copy: u32) -> Result<ShownLayer, MountError> {
        let begun = Instant::now();
        let shown = self.layers.show(layer, copy);
        self.meters.shows.record(begun.elapsed());
        shown
    }

    fn show_as(&self, layer: u64, copy: u32, direct: bool) -> Result<PathBuf, MountError> {
        let begun = Instant::now();
        let shown = self.layers.show_as(layer, copy, direct);
        self.meters.shows.record(begun.elapsed());
        shown
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
