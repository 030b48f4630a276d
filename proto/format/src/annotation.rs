//! Annotation keys on layer descriptors, and the text form of their values.
//!
//! Keys that begin with `containerd.io/snapshot/` reach a snapshotter as labels through every
//! containerd client.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The layer's index: an [`IndexRef`] in its text form.
pub const INDEX: &str = "containerd.io/snapshot/lacewing/index";

/// Digest of the image's config blob, by which the daemon finds the image in containerd's
/// content store.
pub const CONFIG: &str = "containerd.io/snapshot/lacewing/config";

/// Digest of the layer blob that carries the annotation.
pub const LAYER: &str = "containerd.io/snapshot/lacewing/layer";

/// `<host>:<port>` of the registry that the image was written to; absent if the registry is on its
/// usual port. containerd's content store remembers where content came from without the port.
pub const HOST: &str = "containerd.io/snapshot/lacewing/host";

/// Where a stored index is found: digest and size of its stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexRef {
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Count of the stored bytes.
    pub size: u64,
}

/// A text is no `<digest>,<size>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an index reference (<digest>,<size>): {text:?}")]
pub struct IndexRefParseError {
    /// The refused text, cut after 100 characters.
    pub text: String,
}

impl fmt::Display for IndexRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.digest, self.size)
    }
}

impl FromStr for IndexRef {
    type Err = IndexRefParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| IndexRefParseError {
            text: text.chars().take(100).collect(),
        })
    }
}

fn parse(text: &str) -> Option<IndexRef> {
    let (digest, size) = text.split_once(',')?;
    // `u64::from_str` also takes a leading plus sign; a reference has one spelling.
    if !size.bytes().all(|b| b.is_ascii_digit()) || (size.len() > 1 && size.starts_with('0')) {
        return None;
    }
    Some(IndexRef {
        digest: digest.parse().ok()?,
        size: size.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_form_comes_back() {
        let reference = IndexRef {
            digest: Digest::of(b"x"),
            size: 1234,
        };
        assert_eq!(reference.to_string().parse::<IndexRef>().unwrap(), reference);
    }

    #[test]
    fn other_spellings_are_refused() {
        let digest = Digest::of(b"x");
        for size in ["", "+1", "-1", "01", "1 ", "1,2", "18446744073709551616"] {
            assert!(
                format!("{digest},{size}").parse::<IndexRef>().is_err(),
                "{size:?}"
            );
        }
        assert!(digest.to_string().parse::<IndexRef>().is_err());
    }
}
