//! The crate's errors, and their one table to gRPC codes.

use std::io;
use std::path::{Path, PathBuf};

use tonic::{Code, Status};

use crate::layers::MountError;

/// Why a call on the snapshotter failed.
///
/// Whatever the variant, nothing has changed: mutations are one transaction each. The texts end as those of
/// containerd's own errors do, which its clients cut off and replace by the code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key, name or parent is unknown. Trying again helps only after it was made.
    #[error("{what}: not found")]
    NotFound {
        /// What is unknown.
        what: String,
    },
    /// The key or name is taken; also the answer to a Prepare of a layer that is there lazily.
    #[error("{what}: already exists")]
    AlreadyExists {
        /// What is there.
        what: String,
    },
    /// The snapshot is of another kind than the call needs, or others stand on it.
    #[error("{what}: failed precondition")]
    FailedPrecondition {
        /// What is in the way.
        what: String,
    },
    /// The request cannot be understood or asks for what may not be. Trying again never helps.
    #[error("{what}: invalid argument")]
    InvalidArgument {
        /// What is wrong.
        what: String,
    },
    /// The snapshot stood on layers that changed while it was prepared. Trying again helps.
    #[error("{what}: changed by another call, try again")]
    Changed {
        /// What changed.
        what: String,
    },
    /// A layer that the snapshot stands on cannot be shown. Trying again helps once the cause is gone.
    #[error("snapshot {snapshot}: {source}")]
    Layer {
        /// The snapshot's key.
        snapshot: String,
        /// Which layer, and why.
        source: MountError,
    },
    /// A record cannot be read. An operator must act.
    #[error("metadata of {what} is corrupt: {why}")]
    Corrupt {
        /// Whose record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The metadata store failed. Trying again helps if its disk does.
    #[error("metadata store: {0}")]
    Store(#[source] Box<redb::Error>),
    /// A file operation failed. Trying again helps if the disk does.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "rename".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread that worked on the call died. A defect.
    #[error("the call was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    pub(crate) fn already_exists(what: impl Into<String>) -> Self {
        Self::AlreadyExists { what: what.into() }
    }

    pub(crate) fn precondition(what: impl Into<String>) -> Self {
        Self::FailedPrecondition { what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }

    /// For `map_err` on file operations.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// The gRPC code that containerd turns back into its own error.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::Changed { .. } | Self::Layer { .. } => Code::Unavailable,
            Self::Corrupt { .. } => Code::DataLoss,
            Self::Store(_) | Self::Io { .. } | Self::Lost(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// redb has an error type per operation; here they are one.
macro_rules! from_redb {
    ($($name:ident),*) => {$(
        impl From<redb::$name> for Error {
            fn from(error: redb::$name) -> Self {
                Self::Store(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(
    DatabaseError,
    TransactionError,
    TableError,
    StorageError,
    CommitError
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_as_containerds_do() {
        // errdefs.FromGRPC cuts exactly these endings.
        for (error, code, ending) in [
            (Error::not_found("x"), Code::NotFound, ": not found"),
            (
                Error::already_exists("x"),
                Code::AlreadyExists,
                ": already exists",
            ),
            (
                Error::precondition("x"),
                Code::FailedPrecondition,
                ": failed precondition",
            ),
            (Error::invalid("x"), Code::InvalidArgument, ": invalid argument"),
        ] {
            assert!(error.to_string().ends_with(ending), "{error}");
            assert_eq!(Status::from(error).code(), code);
        }
    }
}
