//! OCI image layouts in folders, and archives of them.
//!
//! Invariant: a blob's file appears under its name only when it is whole, compared with its digest, and on the disk; the
//! index that names it is replaced after that, in one step.

use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lacewing_format::Digest;
use oci_spec::image::{Descriptor, MediaType};
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Error,
    archive::{self, Target},
    durable::{io, keep, new_temporary, readable, sync_folder, write_whole},
    files::{Content, Files},
    layout_index::LayoutIndex,
    limits::{IO_PART, MAX_MANIFEST, MAX_READ},
    manifest_kind,
    upload::Progress,
    verify::{describe, digest_of},
};

const MARKER: &str = "oci-layout";
const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";

/// A layout in a folder or archive.
pub(crate) struct Layout {
    /// As the user wrote it, for errors.
    pub(crate) place: String,
    pub(crate) tag: Option<String>,
    files: Files,
    /// An archive that is being made: its content is gathered in a folder first.
    target: Option<Target>,
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Io {
            path: "file work".to_owned(),
            source: std::io::Error::other(error),
        }),
    }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

impl Layout {
    pub(crate) fn read_folder(folder: &Path, tag: Option<String>, place: String) -> Result<Layout, Error> {
        if !folder.is_dir() {
            return Err(Error::NotFound {
                place,
                what: "OCI layout".to_owned(),
            });
        }
        let layout = Layout {
            place,
            tag,
            files: Files::Folder(folder.to_owned()),
            target: None,
        };
        layout.check_marker()?;
        Ok(layout)
    }

    pub(crate) fn read_archive(file: &Path, tag: Option<String>, place: String) -> Result<Layout, Error> {
        let layout = Layout {
            place,
            tag,
            files: Files::open_tar(file)?,
            target: None,
        };
        layout.check_marker()?;
        Ok(layout)
    }

    /// Makes the folder, or goes on in one that is a layout, or empty.
    pub(crate) fn write_folder(folder: &Path, tag: Option<String>, place: String) -> Result<Layout, Error> {
        let layout = Layout {
            place,
            tag,
            files: Files::Folder(folder.to_owned()),
            target: None,
        };
        let is_new = match fs::read_dir(folder) {
            Ok(mut listing) => listing.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(source) => return Err(io(folder)(source)),
        };
        if !is_new {
            layout.check_marker()?;
        }
        let blobs = folder.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(io(&blobs))?;
        if is_new {
            write_whole(&folder.join(INDEX), &LayoutIndex::empty().to_bytes())?;
            write_whole(&folder.join(MARKER), MARKER_TEXT.as_bytes())?;
        }
        Ok(layout)
    }

    pub(crate) fn write_archive(file: &Path, tag: Option<String>, place: String) -> Result<Layout, Error> {
        let target = Target::new(file)?;
        let mut layout = Layout::write_folder(target.folder(), tag, place)?;
        layout.target = Some(target);
        Ok(layout)
    }

    fn check_marker(&self) -> Result<(), Error> {
        let refuse = |reason: &str| {
            Err(Error::Invalid {
                what: self.place.clone(),
                reason: reason.to_owned(),
            })
        };
        let Some(text) = self.files.read(MARKER, MAX_MANIFEST)? else {
            return refuse(match self.files.open("manifest.json")? {
                Some(_) => "it is a docker archive, not an OCI layout",
                None => "it is not an OCI layout: the file oci-layout is missing",
            });
        };
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        match json
            .get("imageLayoutVersion")
            .and_then(|version| version.as_str())
        {
            Some(version) if version.starts_with("1.") => Ok(()),
            Some(_) => refuse("its layout version is not 1"),
            None => refuse("its file oci-layout cannot be read"),
        }
    }

    fn index(&self) -> Result<LayoutIndex, Error> {
        let text = self
            .files
            .read(INDEX, MAX_MANIFEST)?
            .ok_or_else(|| self.not_found(INDEX))?;
        LayoutIndex::parse(&text).map_err(|reason| Error::Corrupt {
            place: self.place.clone(),
            what: INDEX.to_owned(),
            reason,
        })
    }

    fn not_found(&self, what: &str) -> Error {
        Error::NotFound {
            place: self.place.clone(),
            what: what.to_owned(),
        }
    }

    fn corrupt(&self, digest: &Digest, reason: String) -> Error {
        Error::Corrupt {
            place: self.place.clone(),
            what: digest.to_string(),
            reason,
        }
    }

    fn content(&self, digest: &Digest) -> Result<Content, Error> {
        self.files
            .open(&blob_name(digest))?
            .ok_or_else(|| self.not_found(&digest.to_string()))
    }

    fn io_at<'a>(&'a self, digest: &'a Digest) -> impl Fn(std::io::Error) -> Error + 'a {
        move |source| {
            let path = self.files.path().join(blob_name(digest)).display().to_string();
            Error::Io { path, source }
        }
    }

    /// Finds an image by name, or by digest. Blocking.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Result<Descriptor, Error> {
        if let Some(digest) = name.and_then(|name| name.parse::<Digest>().ok()) {
            return match self.index()?.by_digest(&digest.to_string()) {
                Some(found) => Ok(found),
                None => self.describe_blob(&digest),
            };
        }
        let name = name.or(self.tag.as_deref());
        self.index()?.find(name).map_err(|reason| match reason {
            None => self.not_found(name.unwrap_or("image")),
            Some(reason) => Error::Invalid {
                what: self.place.clone(),
                reason,
            },
        })
    }

    /// A manifest that only others in the layout refer to.
    fn describe_blob(&self, digest: &Digest) -> Result<Descriptor, Error> {
        let text = self.files.read(&blob_name(digest), MAX_MANIFEST)?;
        let text = text.ok_or_else(|| self.not_found(&digest.to_string()))?;
        let media_type = manifest_kind::of(None, &text).map_err(|reason| Error::Invalid {
            what: format!("{digest} in {}", self.place),
            reason,
        })?;
        Ok(describe(media_type, digest, text.len() as u64))
    }

    /// Reads a small document, verified. Blocking.
    pub(crate) fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let digest = digest_of(descriptor)?;
        let content = self.content(&digest)?;
        self.check_len(&digest, content.len, descriptor.size())?;
        let text = content.read(0..content.len).map_err(self.io_at(&digest))?;
        let actual = Digest::of(&text);
        if actual == digest {
            Ok(text)
        } else {
            Err(self.corrupt(&digest, format!("its digest is {actual}")))
        }
    }

    fn check_len(&self, digest: &Digest, found: u64, expected: u64) -> Result<(), Error> {
        if found == expected {
            return Ok(());
        }
        Err(self.corrupt(digest, format!("it has {found} bytes, not {expected}")))
    }

    /// Streams a blob, not verified yet.
    pub(crate) fn blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let content = self.content(digest)?;
        self.check_len(digest, content.len, size)?;
        let path = self.files.path().join(blob_name(digest));
        Ok(stream::try_unfold(0, move |at| {
            let (content, path) = (content.clone(), path.clone());
            async move {
                if at >= content.len {
                    return Ok(None);
                }
                let next = (at + IO_PART as u64).min(content.len);
                let part = blocking(move || content.read(at..next).map_err(io(&path))).await?;
                Ok(Some((part, next)))
            }
        })
        .boxed())
    }

    /// Reads part of a blob. Blocking.
    pub(crate) fn read_at(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, Error> {
        let what = format!("{digest}[{}..{}]", range.start, range.end);
        if range.end.saturating_sub(range.start) > MAX_READ {
            return Err(Error::Invalid {
                what,
                reason: format!("more than {MAX_READ} bytes at once"),
            });
        }
        let content = self.content(digest)?;
        if range.end > content.len {
            return Err(self.corrupt(digest, format!("it has {} bytes, not {}", content.len, range.end)));
        }
        content.read(range).map_err(self.io_at(digest))
    }

    /// Is the blob there with that size? Blocking.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        let digest = digest_of(descriptor)?;
        match self.files.open(&blob_name(&digest))? {
            None => Ok(false),
            Some(content) => self
                .check_len(&digest, content.len, descriptor.size())
                .map(|()| true),
        }
    }

    /// Names of the images. Blocking.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        self.index().map(|index| index.names())
    }

    /// The folder to write to.
    fn folder(&self) -> Result<&Path, Error> {
        match &self.files {
            Files::Folder(folder) => Ok(folder),
            Files::Tar { .. } => {
                let reason = "it was opened for reading".to_owned();
                Err(Error::Invalid {
                    what: self.place.clone(),
                    reason,
                })
            }
        }
    }

    /// Copies a file in as a blob, and compares it with its digest on the way.
    pub(crate) async fn put_blob(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        let blobs = self.folder()?.join(BLOBS);
        if self.has_blob(descriptor)? {
            progress(size);
            return Ok(());
        }
        let mut source = tokio::fs::File::open(file).await.map_err(io(file))?;
        let place = blobs.clone();
        let temporary = blocking(move || new_temporary(&place)).await?;
        let handle = temporary.as_file().try_clone().map_err(io(&blobs))?;
        let mut sink = tokio::fs::File::from_std(handle);
        let (mut hasher, mut done) = (Sha256::new(), 0);
        let mut part = vec![0; IO_PART];
        loop {
            let count = source.read(&mut part).await.map_err(io(file))?;
            if count == 0 {
                break;
            }
            hasher.update(&part[..count]);
            sink.write_all(&part[..count]).await.map_err(io(&blobs))?;
            done += count as u64;
            progress(done.min(size));
        }
        sink.flush().await.map_err(io(&blobs))?;
        let actual = Digest(hasher.finalize().into());
        if actual != digest || done != size {
            let what = format!("{} for {digest}", file.display());
            return Err(Error::Invalid {
                what,
                reason: format!("the file has {done} bytes and digest {actual}"),
            });
        }
        let target = blobs.join(digest.hex());
        blocking(move || keep(temporary, &target)).await
    }

    /// A folder from which files can become blobs without being copied.
    pub(crate) fn spool_dir(&self) -> Option<PathBuf> {
        Some(self.folder().ok()?.join(BLOBS))
    }

    /// Makes a file a blob whose bytes were compared with the digest when they were written. Blocking. Gives the file back
    /// if it lies on another file system, and has to be copied.
    pub(crate) fn move_blob(
        &self,
        descriptor: &Descriptor,
        file: TempPath,
    ) -> Result<Option<TempPath>, Error> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        if self.has_blob(descriptor)? {
            return Ok(None);
        }
        let handle = File::open(&file).map_err(io(&file))?;
        let len = handle.metadata().map_err(io(&file))?.len();
        if len != size {
            let what = format!("{} for {digest}", file.display());
            let reason = format!("the file has {len} bytes instead of {size}");
            return Err(Error::Invalid { what, reason });
        }
        handle.set_permissions(readable()).map_err(io(&file))?;
        handle.sync_all().map_err(io(&file))?;
        let target = self.folder()?.join(blob_name(&digest));
        match file.persist(&target) {
            Ok(()) => sync_folder(&target).map(|()| None),
            Err(error) if error.error.kind() == std::io::ErrorKind::CrossesDevices => Ok(Some(error.path)),
            Err(error) => Err(io(&target)(error.error)),
        }
    }

    /// Writes a small blob. Blocking.
    pub(crate) fn put_bytes(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
        if self.has_blob(descriptor)? {
            return Ok(());
        }
        write_whole(&self.folder()?.join(blob_name(&digest_of(descriptor)?)), bytes)
    }

    /// Writes a manifest and, if it has a name or is the root, an entry for it. Blocking.
    pub(crate) fn put_manifest(
        &self,
        media_type: MediaType,
        bytes: &[u8],
        entry: Entry<'_>,
    ) -> Result<Descriptor, Error> {
        let descriptor = describe(media_type, &Digest::of(bytes), bytes.len() as u64);
        self.put_bytes(&descriptor, bytes)?;
        let name = match entry {
            Entry::None => return Ok(descriptor),
            Entry::Nameless => None,
            Entry::Named(name) => Some(name),
        };
        let folder = self.folder()?;
        // Another process may be adding an image to the same layout.
        let marker = folder.join(MARKER);
        let lock = File::open(&marker).map_err(io(&marker))?;
        lock.lock().map_err(io(&marker))?;
        let mut index = self.index()?;
        index.insert(&descriptor, name);
        write_whole(&folder.join(INDEX), &index.to_bytes())?;
        Ok(descriptor)
    }

    /// Makes the archive, if this is one. Blocking.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        self.target.as_ref().map_or(Ok(()), archive::Target::write)
    }
}

/// How an image stands in the index.
#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    None,
    Nameless,
    Named(&'a str),
}
