//! Opening and making the file.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use redb::{Database, ReadableTable};

use super::Metastore;
use super::tables::{Tables, VERSION};
use crate::error::Error;
use crate::limits::STORE_CACHE;

/// The file's name under the root.
const FILE: &str = "metadata.redb";
/// The file while it is made.
const NEW_FILE: &str = "metadata.redb.new";
/// The layout described in [`super`]. A greater one was written by a later release that could not keep to it.
const LAYOUT: u64 = 1;

impl Metastore {
    /// Opens the store under `root`, making it if there is none.
    ///
    /// redb writes a new file in several steps; so it is made under another name and renamed once whole.
    ///
    /// # Errors
    /// [`Error::Store`] if the file is corrupt or open in another process, [`Error::Corrupt`] if it is of a later
    /// release, [`Error::Io`] if it cannot be made.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join(FILE);
        if !path.try_exists().map_err(Error::io("look for", &path))? {
            make(root, &path)?;
        }
        let store = Self {
            db: Database::builder().set_cache_size(STORE_CACHE).open(&path)?,
        };
        store.check_layout()?;
        Ok(store)
    }

    fn check_layout(&self) -> Result<(), Error> {
        let write = self.db.begin_write()?;
        {
            // Opening a table makes it: reads may then count on all of them.
            let mut tables = Tables::open(&write)?;
            let layout = tables.numbers.get(VERSION)?.map_or(LAYOUT, |value| value.value());
            if layout > LAYOUT {
                let why = format!("layout {layout} is that of a later release, this one knows {LAYOUT}");
                return Err(Error::Corrupt {
                    what: "the store".to_owned(),
                    why,
                });
            }
            tables.numbers.insert(VERSION, LAYOUT)?;
        }
        write.commit()?;
        Ok(())
    }
}

fn make(root: &Path, path: &Path) -> Result<(), Error> {
    let new = root.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &new)(error)),
        _ => {}
    }
    drop(Database::builder().set_cache_size(STORE_CACHE).create(&new)?);
    fs::rename(&new, path).map_err(Error::io("rename", &new))?;
    let sync = File::open(root).and_then(|dir| dir.sync_all());
    sync.map_err(Error::io("sync", root))
}
