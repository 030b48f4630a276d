//! New files that appear under their names only when they are whole and on the disk.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::Error;

/// Names the file in an error.
pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.display().to_string(),
        source,
    }
}

/// Permissions of blobs: everybody may read them.
pub(crate) fn readable() -> fs::Permissions {
    fs::Permissions::from_mode(0o644)
}

/// A new file in `folder` that vanishes unless it is kept; readable by all, as blobs are.
pub(crate) fn new_temporary(folder: &Path) -> Result<NamedTempFile, Error> {
    tempfile::Builder::new()
        .prefix(".new-")
        .permissions(readable())
        .tempfile_in(folder)
        .map_err(io(folder))
}

/// Brings a file's bytes to the disk, then gives it its name, then brings that to the disk.
pub(crate) fn keep(temporary: NamedTempFile, target: &Path) -> Result<(), Error> {
    temporary.as_file().sync_all().map_err(io(target))?;
    temporary
        .persist(target)
        .map_err(|error| io(target)(error.error))?;
    sync_folder(target)
}

/// Brings a file's name to the disk.
pub(crate) fn sync_folder(target: &Path) -> Result<(), Error> {
    let folder: PathBuf = target.parent().map(Path::to_owned).unwrap_or_default();
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io(&folder))
}

/// A file with these bytes, whatever was there.
pub(crate) fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut temporary = new_temporary(folder)?;
    temporary.write_all(bytes).map_err(io(target))?;
    keep(temporary, target)
}
