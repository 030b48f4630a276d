//! What can go wrong, one enum for the crate.

use std::io;
use std::path::PathBuf;

use lacewing_format::Digest;

use crate::engine::LayerId;

/// An error of the engine. Nothing is half done when one is returned, unless the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stored index is not what its format demands. Retrying never helps; nothing was kept.
    #[error("index {digest} is invalid: {reason}")]
    Invalid {
        /// Digest of the stored index.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// This node cannot show the layer as a tree. Pulling it in the ordinary way helps.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// What is lacking.
        reason: String,
    },
    /// No such layer in the catalogue.
    #[error("no layer {0}")]
    NoLayer(LayerId),
    /// The layer is incomplete and no connection is being served, so a mount would wait for ever.
    #[error("layer {0} is incomplete and nothing serves its bytes")]
    NotServing(LayerId),
    /// A file or directory of the store could not be used. Retrying helps once its cause is gone.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A mount or an unmount failed.
    #[error("{what} {path}: {reason}")]
    Mount {
        /// What was tried.
        what: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The kernel's words, or the error number's.
        reason: String,
    },
    /// The store on disk was written by a release this one does not understand, or is damaged.
    #[error("{path}: {reason}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Gives an [`io::Error`] its place.
pub(crate) trait IoContext<T> {
    /// Wraps the error with what was tried on which file.
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io {
            what,
            path: path.into(),
            source: source.into(),
        })
    }
}
