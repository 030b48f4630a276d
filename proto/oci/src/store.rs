//! One type over registries, OCI layouts and OCI archives.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{
    Stream,
    stream::{BoxStream, StreamExt},
};
use lacewing_format::Digest;
use oci_spec::image::{Descriptor, MediaType};
use tempfile::TempPath;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    Client, Error, Reference, RegistryRef,
    layout::{Entry, Layout},
    limits::MAX_MANIFEST,
    manifests::is_manifest,
    reference,
    repository::Repository,
    verify::{describe, digest_of, verified},
};

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; mirrors may answer.
    Read,
    /// Writing (and reading back) at the place itself.
    Write,
}

/// A repository of a registry, an OCI layout or an OCI archive. Cheap to clone.
///
/// Content is verified by digest and size on the way. Every operation may wait for the network or the disk, at most as
/// long as the client's options say; errors are those of [`Error`], each class meaning the same for all places.
#[derive(Clone)]
pub struct Store {
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Registry(Arc<Repository>),
    Layout(Arc<Layout>),
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    layout: &Arc<Layout>,
    work: impl FnOnce(&Layout) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let layout = layout.clone();
    let place = layout.place.clone();
    match tokio::task::spawn_blocking(move || work(&layout)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Io {
            path: place,
            source: io::Error::other(error),
        }),
    }
}

impl Store {
    /// Opens the place that `reference` names. A registry is not contacted yet; a layout or archive must exist for
    /// reading, and is made for writing.
    ///
    /// # Errors
    /// `Invalid` (configuration, not a layout, a digest as target), `NotFound`, `Io`.
    pub async fn open(client: &Client, reference: &Reference, access: Access) -> Result<Store, Error> {
        let (path, tag, archive) = match reference {
            Reference::Registry(reference) => {
                if access == Access::Write && reference.digest.is_some() {
                    let reason = "a digest cannot be written to: name a tag".to_owned();
                    return Err(Error::Invalid {
                        what: reference.to_string(),
                        reason,
                    });
                }
                let repository = Repository::open(client, reference, access).await?;
                return Ok(Store {
                    inner: Inner::Registry(Arc::new(repository)),
                });
            }
            Reference::Layout { dir, tag } => (dir.clone(), tag.clone(), false),
            Reference::Archive { file, tag } => (file.clone(), tag.clone(), true),
        };
        let place = format!(
            "{}:{}",
            if archive { "oci-archive" } else { "oci" },
            path.display()
        );
        let what = place.clone();
        let open = move || match (archive, access) {
            (false, Access::Read) => Layout::read_folder(&path, tag, place),
            (false, Access::Write) => Layout::write_folder(&path, tag, place),
            (true, Access::Read) => Layout::read_archive(&path, tag, place),
            (true, Access::Write) => Layout::write_archive(&path, tag, place),
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let layout = opened.map_err(|error| Error::Io {
            path: what,
            source: io::Error::other(error),
        })??;
        Ok(Store {
            inner: Inner::Layout(Arc::new(layout)),
        })
    }

    /// The same place for a caller who has others to turn to: where it asks for time, the error says so at once, and how
    /// long; nothing is waited for in its place.
    #[must_use]
    pub fn impatient(&self) -> Store {
        let inner = match &self.inner {
            Inner::Registry(repository) => Inner::Registry(Arc::new(Repository {
                impatient: true,
                ..Repository::clone(repository)
            })),
            Inner::Layout(layout) => Inner::Layout(layout.clone()),
        };
        Store { inner }
    }

    /// Finds the manifest or image index that `reference` (tag or `sha256:..`), or by default the store's own
    /// reference, names.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for content that is no manifest, docker schema 1 included; the rest of [`Error`].
    pub async fn resolve(&self, reference: Option<&str>) -> Result<Descriptor, Error> {
        match &self.inner {
            Inner::Registry(repository) => {
                let identifier = match reference {
                    Some(reference) => reference.to_owned(),
                    None => repository.reference.identifier(),
                };
                if identifier.parse::<Digest>().is_err() {
                    check_tag(&identifier)?;
                }
                repository.resolve(&identifier).await
            }
            Inner::Layout(layout) => {
                let reference = reference.map(str::to_owned);
                blocking(layout, move |layout| layout.resolve(reference.as_deref())).await
            }
        }
    }

    /// Reads a whole manifest, image index, config or other small document, verified, at most
    /// [`crate::limits::MAX_MANIFEST`] bytes.
    ///
    /// # Errors
    /// `Invalid` if the descriptor says more than that; `Corrupt` if the bytes are not the described ones.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        if descriptor.size() > MAX_MANIFEST {
            let reason = format!(
                "it has {} bytes, more than the {MAX_MANIFEST} allowed",
                descriptor.size()
            );
            return Err(Error::Invalid {
                what: format!("{} in {}", descriptor.digest(), self.place()),
                reason,
            });
        }
        match &self.inner {
            Inner::Registry(repository) if is_manifest(descriptor.media_type()) => {
                repository.manifest(descriptor).await
            }
            Inner::Registry(_) => {
                let mut blob = self.blob(descriptor).await?;
                let mut bytes = BytesMut::new();
                while let Some(part) = blob.next().await {
                    bytes.extend_from_slice(&part?);
                }
                Ok(bytes.freeze())
            }
            Inner::Layout(layout) => {
                let descriptor = descriptor.clone();
                blocking(layout, move |layout| layout.manifest(&descriptor)).await
            }
        }
    }

    /// Streams a blob. A broken connection is resumed. The last part is handed out only after the digest was found right;
    /// a wrong digest or size ends the stream with `Corrupt` instead.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Blob, Error> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        let stream = match &self.inner {
            Inner::Registry(repository) => repository.blob(digest, size).await?,
            Inner::Layout(layout) => blocking(layout, move |layout| layout.blob(&digest, size)).await?,
        };
        let stream = verified(stream, digest, size, self.place().to_owned());
        Ok(Blob {
            stream,
            rest: Bytes::new(),
        })
    }

    /// Reads `range` of a blob, exactly that many bytes, at most [`crate::limits::MAX_READ`]. NOT verified.
    ///
    /// # Errors
    /// `Corrupt` also where the blob ends before the range.
    pub async fn read_at(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, Error> {
        self.read_checked(digest, range, &|_| true).await
    }

    /// As [`Store::read_at`], with bytes that `check` accepts: endpoints that give others are not asked again in this
    /// call, and the next mirror is.
    ///
    /// # Errors
    /// `Corrupt` if no endpoint gives bytes that `check` accepts.
    pub async fn read_checked(
        &self,
        digest: &Digest,
        range: Range<u64>,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes, Error> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        match &self.inner {
            Inner::Registry(repository) => repository.read_at(digest, range, check).await,
            Inner::Layout(layout) => {
                let digest = *digest;
                let bytes = blocking(layout, move |layout| layout.read_at(&digest, range)).await?;
                if check(&bytes) {
                    return Ok(bytes);
                }
                let reason = "its bytes are not what their digests say".to_owned();
                Err(Error::Corrupt {
                    place: layout.place.clone(),
                    what: digest.to_string(),
                    reason,
                })
            }
        }
    }

    /// Is the blob there, with the descriptor's size?
    ///
    /// # Errors
    /// `Corrupt` if it is there with another size.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        match &self.inner {
            Inner::Registry(repository) => repository.has_blob(descriptor).await,
            Inner::Layout(layout) => {
                let descriptor = descriptor.clone();
                blocking(layout, move |layout| layout.has_blob(&descriptor)).await
            }
        }
    }

    /// Takes a blob over from another repository of the same registry, without sending it. `false`: not possible, send it.
    pub async fn mount_blob(&self, descriptor: &Descriptor, from: &RegistryRef) -> Result<bool, Error> {
        match &self.inner {
            Inner::Registry(repository) => repository.mount_blob(descriptor, from).await,
            Inner::Layout(_) => Ok(false),
        }
    }

    /// Writes the blob in `file`, unless it is there already; resumes after failures. `progress` is told how many bytes of
    /// it are sent so far; the number may go back when a part is sent again, and is the whole size at the end.
    ///
    /// # Errors
    /// `Invalid` if the file has not the descriptor's size, or (layouts) digest.
    pub async fn put_blob(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        match &self.inner {
            Inner::Registry(repository) => repository.put_blob(descriptor, file, progress).await,
            Inner::Layout(layout) => layout.put_blob(descriptor, file, progress).await,
        }
    }

    /// Where files for [`Store::move_blob`] are best written: from a layout's own folder they become blobs without a copy.
    /// None: anywhere.
    pub fn spool_dir(&self) -> Option<PathBuf> {
        match &self.inner {
            Inner::Registry(_) => None,
            Inner::Layout(layout) => layout.spool_dir(),
        }
    }

    /// As [`Store::put_blob`], with a file that the caller gives up, and whose bytes the caller has compared with the
    /// digest while writing them. In a layout on the same file system it becomes the blob itself.
    ///
    /// # Errors
    /// `Invalid` if the file has not the descriptor's size.
    pub async fn move_blob(
        &self,
        descriptor: &Descriptor,
        file: TempPath,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let file = match &self.inner {
            Inner::Registry(_) => Some(file),
            Inner::Layout(layout) => {
                let descriptor = descriptor.clone();
                blocking(layout, move |layout| layout.move_blob(&descriptor, file)).await?
            }
        };
        match file {
            Some(file) => self.put_blob(descriptor, &file, progress).await,
            None => {
                progress(descriptor.size());
                Ok(())
            }
        }
    }

    /// Writes a small blob, unless it is there already.
    pub async fn put_bytes(&self, media_type: MediaType, bytes: Bytes) -> Result<Descriptor, Error> {
        let descriptor = describe(media_type, &Digest::of(&bytes), bytes.len() as u64);
        match &self.inner {
            Inner::Registry(repository) => repository.put_bytes(&descriptor, bytes).await?,
            Inner::Layout(layout) => {
                let descriptor = descriptor.clone();
                blocking(layout, move |layout| layout.put_bytes(&descriptor, &bytes)).await?;
            }
        }
        Ok(descriptor)
    }

    /// Writes a manifest or image index, under `tag` or by its digest only. What it refers to must be there.
    pub async fn put_manifest(
        &self,
        media_type: MediaType,
        bytes: Bytes,
        tag: Option<&str>,
    ) -> Result<Descriptor, Error> {
        match &self.inner {
            Inner::Registry(repository) => {
                tag.map_or(Ok(()), check_tag)?;
                repository.put_manifest(media_type, bytes, tag).await
            }
            Inner::Layout(layout) => {
                let tag = tag.map(str::to_owned);
                if let Some(tag) = &tag {
                    let invalid = |reason: &str| Error::Invalid {
                        what: tag.clone(),
                        reason: reason.to_owned(),
                    };
                    reference::check_layout_name(tag).map_err(invalid)?;
                }
                let put = move |layout: &Layout| {
                    let entry = tag.as_deref().map_or(Entry::None, Entry::Named);
                    layout.put_manifest(media_type, &bytes, entry)
                };
                blocking(layout, put).await
            }
        }
    }

    /// Writes the manifest or image index that the store's own reference names: under its tag, or, in a layout or archive
    /// without a tag, as an entry without a name.
    pub async fn put_root(&self, media_type: MediaType, bytes: Bytes) -> Result<Descriptor, Error> {
        match &self.inner {
            Inner::Registry(repository) => {
                let tag = repository.reference.identifier();
                repository.put_manifest(media_type, bytes, Some(&tag)).await
            }
            Inner::Layout(layout) => {
                let put = move |layout: &Layout| {
                    let entry = layout.tag.as_deref().map_or(Entry::Nameless, Entry::Named);
                    layout.put_manifest(media_type, &bytes, entry)
                };
                blocking(layout, put).await
            }
        }
    }

    /// Lists tags, sorted, at most [`crate::limits::MAX_TAGS`]; of a layout, the names in its index.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        match &self.inner {
            Inner::Registry(repository) => repository.tags().await,
            Inner::Layout(layout) => blocking(layout, Layout::names).await,
        }
    }

    /// Ends writing. An archive appears at its path only now, in one step; for the others nothing is left to do.
    ///
    /// Nothing may be written after this.
    pub async fn finish(self) -> Result<(), Error> {
        match &self.inner {
            Inner::Registry(_) => Ok(()),
            Inner::Layout(layout) => blocking(layout, Layout::finish).await,
        }
    }

    /// What the store is, for people: `ghcr.io/x/y`, `oci:DIR`, `oci-archive:FILE`.
    pub fn place(&self) -> &str {
        match &self.inner {
            Inner::Registry(repository) => &repository.place,
            Inner::Layout(layout) => &layout.place,
        }
    }
}

/// Names from outside become parts of addresses: only tags may.
fn check_tag(tag: &str) -> Result<(), Error> {
    reference::check_tag(tag).map_err(|reason| {
        let shown: String = tag.chars().take(crate::limits::MAX_TAG).collect();
        Error::Invalid {
            what: format!("tag {shown:?}"),
            reason: reason.to_owned(),
        }
    })
}

/// A blob's bytes in order: a `Stream` of parts and an `AsyncRead` (use one of the two). Read to its end, it is verified.
pub struct Blob {
    stream: BoxStream<'static, Result<Bytes, Error>>,
    /// Of the last part, what `AsyncRead` has not given yet.
    rest: Bytes,
}

impl Stream for Blob {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl AsyncRead for Blob {
    /// Errors carry the crate's [`Error`] as their source.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.stream.as_mut().poll_next(cx)) {
                Some(Ok(part)) => self.rest = part,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}
