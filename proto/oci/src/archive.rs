//! Making an OCI archive: a layout is gathered in a folder beside the target, then packed into a tar.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use crate::{Error, durable::keep};

/// An archive that is being made. The folder is removed with this value.
pub(crate) struct Target {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Target {
    /// Blocking.
    pub(crate) fn new(file: &Path) -> Result<Target, Error> {
        let beside = match file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let folder = tempfile::Builder::new()
            .prefix(".lacewing-archive-")
            .tempdir_in(&beside);
        let folder = folder.map_err(|source| Error::Io {
            path: beside.display().to_string(),
            source,
        })?;
        Ok(Target {
            folder,
            file: file.to_owned(),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Packs the folder, in a fixed order and without times or owners, so that equal content gives equal archives. Blocking.
    ///
    /// Blobs are removed as they are packed: image and archive never take twice the image's space.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: self.file.display().to_string(),
            source,
        };
        let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        let mut blobs = Vec::new();
        for entry in fs::read_dir(self.folder().join("blobs/sha256")).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            // Temporary files of writes that failed begin with a dot.
            blobs.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
        }
        blobs.sort();
        names.extend(blobs.into_iter().map(|name| format!("blobs/sha256/{name}")));

        let beside = self.folder().parent().unwrap_or(Path::new("."));
        let temporary = {
            use std::os::unix::fs::PermissionsExt as _;
            let mut builder = tempfile::Builder::new();
            builder
                .prefix(".lacewing-archive-")
                .permissions(fs::Permissions::from_mode(0o644));
            builder.tempfile_in(beside).map_err(io)?
        };
        let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, temporary.as_file()));
        for folder in ["blobs/", "blobs/sha256/"] {
            let mut header = plain_header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            archive
                .append_data(&mut header, folder, std::io::empty())
                .map_err(io)?;
        }
        for name in names {
            let path = self.folder().join(&name);
            let file = File::open(&path).map_err(io)?;
            let mut header = plain_header(file.metadata().map_err(io)?.len(), 0o644);
            archive.append_data(&mut header, &name, file).map_err(io)?;
            if name.starts_with("blobs/") {
                fs::remove_file(&path).map_err(io)?;
            }
        }
        archive
            .into_inner()
            .and_then(|mut writer| writer.flush())
            .map_err(io)?;
        keep(temporary, &self.file)
    }
}

fn plain_header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
