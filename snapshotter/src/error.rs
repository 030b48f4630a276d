//! The crate's errors, and their one table to gRPC codes.

/// Why a call on the snapshotter failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key or name is unknown. Nothing has changed.
    #[error("{what}: not found")]
    NotFound {
        /// What is unknown.
        what: String,
    },
}
