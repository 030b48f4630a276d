//! What can go wrong, in six classes that callers treat differently.

use std::time::Duration;

/// Why a place could not be read or written. Every text names the place and the content.
///
/// No variant carries a secret. State is never changed by a failed read; a failed write may leave blobs behind, which
/// nothing refers to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The place answers, and has not got it. Retrying does not help; another place may have it.
    #[error("{what}: not found in {place}")]
    NotFound {
        /// Registry host and repository, or path.
        place: String,
        /// Tag, digest or kind of content.
        what: String,
    },
    /// The place gave bytes that are not what the digest, size or protocol promise. Another place may be right.
    #[error("{what} from {place} is corrupt: {reason}")]
    Corrupt {
        /// Registry host and repository, or path.
        place: String,
        /// Tag, digest or kind of content.
        what: String,
        /// What differs.
        reason: String,
    },
    /// The place does not answer, or says that it cannot now; retries were used up. Later may help.
    #[error("{what}: {place} is unavailable: {reason}")]
    Unavailable {
        /// Registry host and repository, or path.
        place: String,
        /// Tag, digest or kind of content.
        what: String,
        /// The last failure.
        reason: String,
        /// For how long the place wants to be left alone (429 or 503 with `Retry-After`), if it said so.
        retry_after: Option<Duration>,
    },
    /// The place refuses: no credentials, wrong ones, or not enough rights. Retrying does not help until these change.
    #[error("{what}: {place} forbids it: {reason}")]
    Forbidden {
        /// Registry host and repository, or path.
        place: String,
        /// Tag, digest or kind of content.
        what: String,
        /// What the place said.
        reason: String,
    },
    /// The request, a configuration file or the content's kind is not one that can be served. Never retry.
    #[error("{what}: {reason}")]
    Invalid {
        /// The reference, file or content at fault.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
}
