//! Files of an OCI layout, in a folder or in a tar, read by position.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    Error,
    limits::{MAX_ARCHIVE_ENTRIES, MAX_ARCHIVE_HEADERS},
};

/// Where a layout's files are. All calls block on the disk.
pub(crate) enum Files {
    Folder(PathBuf),
    /// Offset and length of each regular file in the tar, by name.
    Tar {
        path: PathBuf,
        file: Arc<File>,
        entries: HashMap<String, (u64, u64)>,
    },
}

/// One file of a layout, or one member of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    file: Arc<File>,
    offset: u64,
    pub(crate) len: u64,
}

impl Content {
    /// Reads up to `range`'s end or the content's, whichever is first.
    pub(crate) fn read(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        let end = range.end.min(self.len);
        let length = usize::try_from(end.saturating_sub(range.start)).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        if length > 0 {
            self.file.read_exact_at(&mut bytes, self.offset + range.start)?;
        }
        Ok(bytes.into())
    }
}

impl Files {
    /// Opens a file by its name in the layout. `None`: there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Content>, Error> {
        match self {
            Files::Folder(folder) => open_file(&folder.join(name)),
            Files::Tar { file, entries, .. } => Ok(entries.get(name).map(|(offset, len)| Content {
                file: file.clone(),
                offset: *offset,
                len: *len,
            })),
        }
    }

    /// Reads a whole file of at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, Error> {
        let Some(content) = self.open(name)? else {
            return Ok(None);
        };
        let path = self.path().join(name).display().to_string();
        if content.len > limit {
            return Err(Error::Invalid {
                what: path,
                reason: format!("it has more than {limit} bytes"),
            });
        }
        content
            .read(0..content.len)
            .map(Some)
            .map_err(|source| Error::Io { path, source })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Files::Folder(path) | Files::Tar { path, .. } => path,
        }
    }

    /// Opens an archive and finds its members; their bytes are not read.
    pub(crate) fn open_tar(path: &Path) -> Result<Files, Error> {
        let io = |source| Error::Io {
            path: path.display().to_string(),
            source,
        };
        let corrupt = |reason: String| Error::Corrupt {
            place: path.display().to_string(),
            what: "archive".to_owned(),
            reason,
        };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound {
                    place: path.display().to_string(),
                    what: "archive".to_owned(),
                });
            }
            Err(source) => return Err(io(source)),
        };
        refuse_compressed(&mut file, path)?;
        let length = file.metadata().map_err(io)?.len();
        let mut entries = HashMap::new();
        let headers = Headers::new(&file);
        let mut archive = tar::Archive::new(&headers);
        let members = archive
            .entries_with_seek()
            .map_err(|error| corrupt(error.to_string()))?;
        for (count, member) in members.enumerate() {
            headers.allow_next();
            if count >= MAX_ARCHIVE_ENTRIES {
                return Err(corrupt(format!("it has more than {MAX_ARCHIVE_ENTRIES} members")));
            }
            let member = member.map_err(|error| corrupt(error.to_string()))?;
            if !member.header().entry_type().is_file() {
                continue;
            }
            let name = member.path_bytes();
            let Ok(name) = std::str::from_utf8(&name) else {
                continue;
            };
            let (offset, len) = (member.raw_file_position(), member.size());
            if offset.checked_add(len).is_none_or(|end| end > length) {
                return Err(corrupt(format!("member {name:?} reaches beyond its end")));
            }
            // As for tar itself, the last member of a name counts.
            entries.insert(name.trim_start_matches("./").to_owned(), (offset, len));
        }
        Ok(Files::Tar {
            path: path.to_owned(),
            file: Arc::new(file),
            entries,
        })
    }
}

/// An archive's headers as they are read; contents are passed over by seeking. Bounded for each member: a long name would
/// fill the memory otherwise.
struct Headers<'a> {
    file: &'a File,
    left: Cell<u64>,
}

impl<'a> Headers<'a> {
    fn new(file: &'a File) -> Self {
        Self {
            file,
            left: Cell::new(MAX_ARCHIVE_HEADERS),
        }
    }

    /// Allows the next member's headers to be read.
    fn allow_next(&self) {
        self.left.set(MAX_ARCHIVE_HEADERS);
    }
}

impl std::io::Read for &Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            let reason = format!("the headers of a member have more than {MAX_ARCHIVE_HEADERS} bytes");
            return Err(std::io::Error::other(reason));
        }
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut file = self.file;
        let read = file.read(&mut buffer[..len])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

impl std::io::Seek for &Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let mut file = self.file;
        file.seek(to)
    }
}

fn open_file(path: &Path) -> Result<Option<Content>, Error> {
    let io = |source| Error::Io {
        path: path.display().to_string(),
        source,
    };
    // Asked first: opening a pipe would wait for its writer.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => {
            let what = path.display().to_string();
            return Err(Error::Invalid {
                what,
                reason: "it is not a regular file".to_owned(),
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Ok(Some(Content {
        file: Arc::new(file),
        offset: 0,
        len,
    }))
}

fn refuse_compressed(file: &mut File, path: &Path) -> Result<(), Error> {
    let io = |source| Error::Io {
        path: path.display().to_string(),
        source,
    };
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let kind = match magic.as_slice() {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [0xfd, b'7', b'z', b'X'] => "xz",
        [b'B', b'Z', b'h', _] => "bzip2",
        _ => return Ok(()),
    };
    let reason = format!("the archive is compressed with {kind}: unpack it to a plain tar first");
    Err(Error::Invalid {
        what: path.display().to_string(),
        reason,
    })
}
