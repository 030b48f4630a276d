//! What can go wrong, one enum for the crate.

use std::io;
use std::path::PathBuf;

use lacewing_format::Digest;

use crate::report::LayerId;
use crate::source::SourceError;

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
    /// As many recordings as may be are under way. Retrying helps once one has ended.
    #[error("others record already; one of them must end first")]
    TooManyRecordings,
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

/// Why a read of a pack failed. Nothing was kept; the next read starts afresh.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No index that is present describes these bytes. Happens to read-ahead of the kernel's only:
    /// a file's own bytes are always described.
    #[error("no index describes these bytes")]
    Undescribed,
    /// See [`SourceError::Missing`].
    #[error("missing: {0}")]
    Missing(String),
    /// See [`SourceError::Corrupt`]; also bytes that do not have the chunk's digest.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// See [`SourceError::Unavailable`]; also the end of the time a read may take.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// See [`SourceError::Forbidden`].
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The store on this node could not be read.
    #[error("store: {0}")]
    Store(String),
    /// The reading process is being killed.
    #[error("interrupted")]
    Interrupted,
}

impl ReadError {
    /// The one table from reasons to error numbers. All reasons but the last are EIO: that is what
    /// a device gives whose bytes cannot be read, and what the kernel makes of any other number on
    /// its way through EROFS. The reason itself is logged and counted.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            ReadError::Undescribed
            | ReadError::Missing(_)
            | ReadError::Corrupt(_)
            | ReadError::Unavailable(_)
            | ReadError::Forbidden(_)
            | ReadError::Store(_) => libc::EIO,
            ReadError::Interrupted => libc::EINTR,
        }
    }
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> ReadError {
        match error {
            SourceError::Missing(reason) => ReadError::Missing(reason),
            SourceError::Corrupt(reason) => ReadError::Corrupt(reason),
            SourceError::Unavailable(reason) => ReadError::Unavailable(reason),
            SourceError::Forbidden(reason) => ReadError::Forbidden(reason),
        }
    }
}
