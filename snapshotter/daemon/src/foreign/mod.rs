//! Blobs that no index describes: layers and manifests of ordinary images, and files of web servers, through the swarm.
//!
//! ```text
//!   mirror, get ──Blob, range──► Peers::stream ──► runs in order ──► client
//!                                     │
//!                                   Whole: every run, hashed ──► verdict: only then goes the last run out
//! ```
//!
//! Nothing proves a run by itself: the digest of the whole decides. Until then a run is what the first of its tree says,
//! who reads it from the registry and is asked directly: nobody in between can alter it. A client gets runs as they come,
//! but never the last one of a blob that turns out to be another. What was found right leaves the digests of its runs
//! behind, by which each is checked from then on.

mod file;
mod lent;
mod source;
mod stream;
mod sums;
#[cfg(test)]
mod swarm_tests;
mod whole;
mod word;

use std::sync::Arc;

use lacewing_format::Digest;
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{FetchError, PieceId};

pub(crate) use lent::Lent;
pub(crate) use source::Source;
pub(crate) use sums::Sums;
pub(crate) use whole::Wholes;
pub(crate) use word::{Question, Said, Voucher, Word, Words};

/// Length of a run, in bytes; the last one of a blob is shorter.
pub(crate) const RUN: u64 = 4 << 20;

/// Longest blob. Larger than any image layer or model file; bounds arithmetic and tables.
pub(crate) const MAX_BLOB: u64 = 4 << 40;

/// Kinds of manifests, as a client accepts them.
pub(crate) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                                    application/vnd.docker.distribution.manifest.list.v2+json, \
                                    application/vnd.docker.distribution.manifest.v2+json";

/// A blob and where it is in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Its digest, or the name of a file whose digest nobody told.
    pub(crate) id: Digest,
    /// Bytes.
    pub(crate) len: u64,
    /// Its origin.
    pub(crate) source: Source,
}

/// Why a blob, or the rest of it, cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    /// The class.
    pub(crate) class: FetchError,
    /// For people.
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(class: FetchError, reason: impl Into<String>) -> Failure {
        let reason = reason.into();
        let reason = if reason.is_empty() {
            class.to_string()
        } else {
            reason
        };
        Failure { class, reason }
    }
}

impl From<&lacewing_oci::Error> for Failure {
    fn from(error: &lacewing_oci::Error) -> Failure {
        let class = match error {
            lacewing_oci::Error::NotFound { .. } => FetchError::Missing,
            lacewing_oci::Error::Corrupt { .. } => FetchError::Corrupt,
            lacewing_oci::Error::Forbidden { .. } => FetchError::Forbidden,
            _ => FetchError::Unavailable,
        };
        Failure::new(class, error.to_string())
    }
}

impl Blob {
    /// How many runs it has.
    pub(crate) fn runs(&self) -> u64 {
        self.len.div_ceil(RUN)
    }

    /// The piece that a run is.
    pub(crate) fn piece(&self, run: u64) -> Option<PieceId> {
        piece(self.id, self.len, run.checked_mul(RUN)?)
    }

    /// What goes with a request for one of its pieces.
    pub(crate) fn provenance(&self) -> Arc<Provenance> {
        Arc::new(Provenance {
            index: self.id,
            index_len: self.len,
            place: self.source.written(),
        })
    }
}

/// The run that begins at an offset of a blob, if one does.
pub(crate) fn piece(id: Digest, len: u64, offset: u64) -> Option<PieceId> {
    if len > MAX_BLOB || !offset.is_multiple_of(RUN) || offset >= len {
        return None;
    }
    Some(PieceId {
        blob: id,
        offset,
        len: u32::try_from(RUN.min(len - offset)).ok()?,
    })
}

/// Whether a piece is a run of the blob that its provenance names.
pub(crate) fn is_run(asked: &PieceId, of: &Provenance) -> bool {
    asked.blob == of.index && piece(of.index, of.index_len, asked.offset) == Some(*asked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::adapters::origins::Place;

    #[test]
    fn runs_tile_a_blob() {
        for len in [1, RUN - 1, RUN, RUN + 1, 10 * RUN + 7] {
            let place = Place {
                host: "h".to_owned(),
                repository: "r".to_owned(),
            };
            let blob = Blob {
                id: Digest::of(b"blob"),
                len,
                source: Source::Blob(place),
            };
            let mut at = 0;
            for run in 0..blob.runs() {
                let piece = blob.piece(run).unwrap();
                assert_eq!(piece.offset, at);
                assert!(is_run(&piece, &blob.provenance()));
                at += u64::from(piece.len);
            }
            assert_eq!(at, len);
            assert_eq!(blob.piece(blob.runs()), None);
        }
    }

    #[test]
    fn what_is_no_run_is_none() {
        let id = Digest::of(b"blob");
        let of = Provenance {
            index: id,
            index_len: 3 * RUN,
            place: "h/r".to_owned(),
        };
        for (offset, len) in [(1, 5), (0, 5), (RUN, 5), (3 * RUN, 1), (u64::MAX, 1)] {
            assert!(
                !is_run(
                    &PieceId {
                        blob: id,
                        offset,
                        len
                    },
                    &of
                ),
                "{offset} {len}"
            );
        }
        let other = PieceId {
            blob: Digest::of(b"other"),
            offset: 0,
            len: RUN as u32,
        };
        assert!(!is_run(&other, &of));
    }
}
