//! What a conversion says about itself in the end.

use std::collections::HashSet;

use lacewing_oci::Descriptor;

use crate::output::Output;
use crate::report::{LayerReport, Report};

/// What is said about a converted layer.
pub(super) fn layer_report(layer: &Descriptor, output: &Output) -> LayerReport {
    let (blob, blob_len) = output
        .new_blob
        .map_or((String::new(), 0), |(digest, len)| (digest.to_string(), len));
    LayerReport {
        layer: layer.digest().to_string(),
        layer_len: layer.size(),
        plain_len: output.plain_len,
        index: output.index.reference.digest.to_string(),
        index_len: output.index.reference.size,
        index_plain_len: output.index.plain_len,
        blob,
        blob_len,
        new_len: output.counts.new,
        dedup_len: output.counts.dedup,
        dedup_earlier_len: output.counts.dedup_earlier,
        hole_len: output.counts.hole,
        recorded_len: output.counts.recorded,
        inodes: output.index.inodes,
        frames: output.frames,
        chunks: output.chunks,
    }
}

/// Adds up what the layers report, each distinct layer once.
pub(super) fn total(report: &mut Report) {
    let mut seen = HashSet::new();
    for layer in report.images.iter().flat_map(|image| &image.layers) {
        report.blob_len += layer.blob_len;
        if seen.insert(&layer.index) {
            report.index_len += layer.index_len;
        }
        if seen.insert(&layer.layer) {
            report.layer_len += layer.layer_len;
            report.plain_len += layer.plain_len;
            report.recorded_len += layer.recorded_len;
        }
    }
}

/// CPU seconds of this process so far, user and system; 0 where /proc does not tell.
pub(super) fn cpu_seconds() -> f64 {
    // Fields 14 and 15, counted behind the command's name, in ticks of 10 ms (USER_HZ is 100 on all Linux).
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(11)
        .take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
