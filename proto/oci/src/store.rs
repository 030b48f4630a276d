//! One type over registries, OCI layouts and OCI archives.

use std::{
    ops::Range,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use lacewing_format::Digest;
use oci_spec::image::{Descriptor, MediaType};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{Client, Error, Reference, RegistryRef};

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; mirrors may answer.
    Read,
    /// Writing (and reading back) at the place itself.
    Write,
}

/// A repository of a registry, an OCI layout or an OCI archive. Content is verified by digest and size on the way.
#[derive(Clone)]
pub struct Store {
    _private: (),
}

#[allow(unused_variables, clippy::unused_async)]
impl Store {
    /// Opens the place that `reference` names. A registry is not contacted yet; a layout or archive must exist for
    /// reading, and is made for writing.
    ///
    /// # Errors
    /// `Invalid` (configuration, not a layout, a digest as target), `NotFound`, `Io`.
    pub async fn open(client: &Client, reference: &Reference, access: Access) -> Result<Store, Error> {
        unimplemented!()
    }

    /// Finds the manifest or image index that `reference` (tag or `sha256:..`), or by default the store's own
    /// reference, names.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for content that is no manifest, docker schema 1 included; the rest of [`Error`].
    pub async fn resolve(&self, reference: Option<&str>) -> Result<Descriptor, Error> {
        unimplemented!()
    }

    /// Reads a whole manifest, image index or other small document, verified, at most [`crate::limits::MAX_MANIFEST`] bytes.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        unimplemented!()
    }

    /// Streams a blob. A broken connection is resumed. A wrong digest or size ends the stream with `Corrupt`: only a
    /// stream read to its end is verified.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Blob, Error> {
        unimplemented!()
    }

    /// Reads `range` of a blob, exactly that many bytes. NOT verified: the caller knows the digests of parts.
    ///
    /// # Errors
    /// `Corrupt` also where the blob ends before the range.
    pub async fn read_at(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, Error> {
        unimplemented!()
    }

    /// Is the blob there, with the descriptor's size?
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        unimplemented!()
    }

    /// Takes a blob over from another repository of the same registry, without sending it. `false`: not possible, send it.
    pub async fn mount_blob(&self, descriptor: &Descriptor, from: &RegistryRef) -> Result<bool, Error> {
        unimplemented!()
    }

    /// Writes the blob in `file`, unless it is there already; resumes after failures. `progress` is told how many bytes of
    /// it are sent so far; the number may go back when a part is sent again, and is the whole size at the end.
    pub async fn put_blob(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Writes a small blob, unless it is there already.
    pub async fn put_bytes(&self, media_type: MediaType, bytes: Bytes) -> Result<Descriptor, Error> {
        unimplemented!()
    }

    /// Writes a manifest or image index, under `tag` or by its digest only.
    pub async fn put_manifest(
        &self,
        media_type: MediaType,
        bytes: Bytes,
        tag: Option<&str>,
    ) -> Result<Descriptor, Error> {
        unimplemented!()
    }

    /// Writes the manifest or image index that the store's own reference names: under its tag, or, in a layout or archive
    /// without a tag, as an entry without a name.
    pub async fn put_root(&self, media_type: MediaType, bytes: Bytes) -> Result<Descriptor, Error> {
        unimplemented!()
    }

    /// Lists tags, sorted, at most [`crate::limits::MAX_TAGS`].
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        unimplemented!()
    }

    /// Ends writing. An archive appears at its path only now; for the others nothing is left to do.
    pub async fn finish(self) -> Result<(), Error> {
        unimplemented!()
    }

    /// What the store is, for people: `ghcr.io/x/y`, `oci:DIR`, `oci-archive:FILE`.
    pub fn place(&self) -> &str {
        unimplemented!()
    }
}

/// A blob's bytes in order: a `Stream` of parts and an `AsyncRead`.
pub struct Blob {
    stream: BoxStream<'static, Result<Bytes, Error>>,
}

impl Stream for Blob {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl AsyncRead for Blob {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        unimplemented!()
    }
}

/// The digest of a descriptor.
///
/// # Errors
/// `Invalid` for any algorithm but sha256.
pub fn digest_of(_descriptor: &Descriptor) -> Result<Digest, Error> {
    unimplemented!()
}

/// A descriptor of content with a known digest and size.
pub fn describe(_media_type: MediaType, _digest: &Digest, _size: u64) -> Descriptor {
    unimplemented!()
}
