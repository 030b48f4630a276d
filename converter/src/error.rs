//! Why an image cannot be converted, checked or shown.

use lacewing_format::{Digest, FormatError};

/// Everything that can go wrong here. Nothing is ever half done at the target: an image appears under its tag only after
/// all it points to is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A registry, layout or archive failed; its own error says whether trying again helps.
    #[error(transparent)]
    Store(#[from] lacewing_oci::Error),
    /// An index is damaged or too new, or a tree cannot become one.
    #[error("index: {0}")]
    Format(#[from] FormatError),
    /// The layer's tar stream is damaged. Never retry: the same bytes were verified by digest, or will fail that too.
    #[error("malformed tar at byte {offset}: {reason}")]
    Tar {
        /// Plain bytes before the header at fault.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// containerd's own unpack refuses this entry, so the converter does too.
    #[error("tar entry {entry:?}: {reason} (containerd refuses to unpack such a layer)")]
    Refused {
        /// The entry's name, lossy.
        entry: String,
        /// What is refused.
        reason: String,
    },
    /// A bound of [`crate::limits`] is exceeded.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// The layer's compressed stream is damaged.
    #[error("layer cannot be decompressed: {reason}")]
    Decompress {
        /// What the decompressor says.
        reason: String,
    },
    /// Bytes do not have the digest that binds them.
    #[error("{what} is corrupt: expected {expected}, found {found}")]
    Corrupt {
        /// Which bytes.
        what: String,
        /// The digest they must have.
        expected: Digest,
        /// The digest they have.
        found: Digest,
    },
    /// A manifest, config or annotation says something that makes no sense.
    #[error("{what}: {reason}")]
    Invalid {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image was not made by `lacewing convert`.
    #[error("{what} is not a converted image: {reason}")]
    NotConverted {
        /// Reference or digest.
        what: String,
        /// What is missing.
        reason: &'static str,
    },
    /// A local file failed.
    #[error("{what}: {source}")]
    Io {
        /// Which file, or what for.
        what: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// Another part of the conversion failed first; its error is the one that is reported.
    #[error("stopped, because another part of the work failed")]
    Stopped,
}

/// Attaches what a local file was for to its error.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
