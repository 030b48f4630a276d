//! What a conversion did, for people and for machines.

use serde::Serialize;

/// Result of [`crate::convert`]. The JSON form is stable: fields are only ever added.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where the image was read from.
    pub source: String,
    /// Where it was written to.
    pub target: String,
    /// Digest of what the target reference names now: an image index. Empty for a dry run.
    pub digest: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// One per platform.
    pub images: Vec<ImageReport>,
    /// Sum of `plain_len` of all layers converted (a layer that several platforms share counts once).
    pub plain_len: u64,
    /// Sum of the new blobs' stored bytes.
    pub blob_len: u64,
    /// Sum of the stored indexes.
    pub index_len: u64,
    /// Sum of the original layers' stored bytes.
    pub layer_len: u64,
    /// Sum of `recorded_len` of all layers; 0 without a record.
    pub recorded_len: u64,
    /// Count of files that the record names; 0 without one.
    pub record_files: u64,
    /// Of these, how many any layer has.
    pub record_files_found: u64,
    /// Seconds from start to end.
    pub wall_seconds: f64,
    /// Seconds of CPU of the whole process in that time, user and system.
    pub cpu_seconds: f64,
}

/// One platform's image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ImageReport {
    /// `linux/amd64`; empty if unknown.
    pub platform: String,
    /// Digest of the converted image manifest.
    pub manifest: String,
    /// Digest of the accelerator manifest; empty for a native image.
    pub accelerator: String,
    /// Its layers, bottom first.
    pub layers: Vec<LayerReport>,
}

/// One layer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LayerReport {
    /// Digest of the original layer.
    pub layer: String,
    /// Stored bytes of the original layer.
    pub layer_len: u64,
    /// Plain bytes of its tar.
    pub plain_len: u64,
    /// Digest of the stored index.
    pub index: String,
    /// Stored bytes of the index.
    pub index_len: u64,
    /// Bytes of the plain index.
    pub index_plain_len: u64,
    /// Digest of the new data blob; empty if the layer brought nothing new.
    pub blob: String,
    /// Stored bytes of the new data blob.
    pub blob_len: u64,
    /// Plain bytes in chunks of the new blob.
    pub new_len: u64,
    /// Plain bytes of chunks found in this image's blobs.
    pub dedup_len: u64,
    /// Plain bytes of chunks found in blobs of earlier images.
    pub dedup_earlier_len: u64,
    /// Plain bytes that are holes.
    pub hole_len: u64,
    /// Plain bytes of chunks that the record names.
    pub recorded_len: u64,
    /// Count of inodes.
    pub inodes: u64,
    /// Count of frames in the new blob.
    pub frames: u64,
    /// Count of chunks in the new blob.
    pub chunks: u64,
}
