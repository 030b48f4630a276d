//! What comes of a converted layer.

use lacewing_format::Digest;
use tempfile::TempPath;

use crate::chunker::Counts;
use crate::index::StoredIndex;

/// A converted layer.
pub(crate) struct Output {
    /// Digest, length and file of the new blob; none if nothing was new.
    pub(crate) blob: Option<(Digest, u64, TempPath)>,
    /// The same without the file, once it is sent.
    pub(crate) new_blob: Option<(Digest, u64)>,
    pub(crate) index: StoredIndex,
    pub(crate) plain_len: u64,
    pub(crate) counts: Counts,
    pub(crate) frames: u64,
    pub(crate) chunks: u64,
    /// Digest and stored length of all blobs the index points to.
    pub(crate) blobs: Vec<(Digest, u64)>,
}

impl Output {
    /// The same for another platform: nothing is new then, and there is nothing to send. Its index has no bytes.
    pub(crate) fn again(&self) -> Self {
        let counts = Counts {
            new: 0,
            dedup: self.counts.new + self.counts.dedup,
            ..self.counts
        };
        Self {
            blob: None,
            new_blob: None,
            index: self.index.without_bytes(),
            plain_len: self.plain_len,
            counts,
            frames: 0,
            chunks: 0,
            blobs: self.blobs.clone(),
        }
    }
}
