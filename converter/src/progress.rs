//! What a long conversion tells about itself.

use lacewing_format::Digest;

/// One step of a conversion. Byte counts are totals so far, not differences.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An image manifest is taken up.
    ImageStarted {
        /// `linux/amd64`, or empty if the manifest names no platform.
        platform: String,
        /// Count of its layers.
        layers: usize,
    },
    /// A layer is being read.
    LayerStarted {
        /// Zero-based position in the image.
        layer: usize,
        /// Digest of the original layer.
        digest: Digest,
        /// Stored bytes of the original layer.
        stored_len: u64,
    },
    /// A layer is read up to here.
    LayerRead {
        /// Zero-based position in the image.
        layer: usize,
        /// Stored bytes read of the original layer.
        stored: u64,
    },
    /// A layer's blob and index are ready to be sent.
    LayerConverted {
        /// Zero-based position in the image.
        layer: usize,
        /// Plain bytes of the tar.
        plain_len: u64,
        /// Bytes of the new data blob.
        blob_len: u64,
        /// Bytes of the stored index.
        index_len: u64,
    },
    /// A blob, index or original layer is being sent.
    Upload {
        /// What is sent.
        digest: Digest,
        /// Bytes sent so far.
        sent: u64,
        /// Bytes in all.
        len: u64,
    },
    /// A remark for people, for instance that an earlier image is used for dedup.
    Note(String),
}

/// Receiver of [`Event`]s; called from several threads, must not block for long.
pub trait Progress: Send + Sync + 'static {
    /// Takes note of an event.
    fn event(&self, event: Event);
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _event: Event) {}
}
