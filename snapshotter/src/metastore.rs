//! The metadata store: which snapshots there are, and which layers they use.
//!
//! One redb file. Every change is one durable transaction (about 3 ms), so a kill at any instant leaves the
//! state before or after it. Reads see one state for as long as they last, and wait for nobody.
//!
//! ```text
//! snapshots  name                  -> record (JSON)
//! children   (parent id, child id) -> ()
//! layers     layer                 -> count of lazy snapshots of it
//! unused     layer                 -> ()     no snapshot any more, release not yet done
//! numbers    "version", "next id"  -> value
//! ```
//!
//! Invariant: an id is given once; ids begin at 1.
//! Invariant: a layer is in `layers` or in `unused`, never in both.

mod change;
mod open;
mod tables;

use std::collections::{HashMap, HashSet};

use redb::{Database, ReadableDatabase, ReadableTable};

use crate::error::Error;
use crate::limits::MAX_CHAIN;
use crate::snapshot::{Kind, Link, Record};
pub(crate) use change::{NewLazy, NewSnapshot};
use tables::{SNAPSHOTS, Tables, UNUSED, decode};

/// The open store.
#[derive(Debug)]
pub(crate) struct Metastore {
    db: Database,
}

impl Metastore {
    /// Returns the snapshot with this key or name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or that the store cannot be read.
    pub(crate) fn get(&self, name: &str) -> Result<Record, Error> {
        self.find(name)?.ok_or_else(|| not_found(name))
    }

    /// As [`Self::get`], for callers to whom absence is no error.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Record>, Error> {
        let read = self.db.begin_read()?;
        record(&read.open_table(SNAPSHOTS)?, name)
    }

    /// Returns a parent and what it stands on, top first; nothing for the empty name.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::InvalidArgument`] if the parent is unknown or not committed.
    pub(crate) fn chain(&self, parent: &str) -> Result<Vec<Link>, Error> {
        let read = self.db.begin_read()?;
        chain(&read.open_table(SNAPSHOTS)?, parent)
    }

    /// Calls `each` with every snapshot by name, until it says no.
    ///
    /// # Errors
    /// That the store cannot be read.
    pub(crate) fn walk(&self, mut each: impl FnMut(&str, Record) -> bool) -> Result<(), Error> {
        let read = self.db.begin_read()?;
        for entry in read.open_table(SNAPSHOTS)?.iter()? {
            let (name, bytes) = entry?;
            if !each(name.value(), decode(name.value(), bytes.value())?) {
                break;
            }
        }
        Ok(())
    }

    /// Returns the ids of all snapshots and calls `look` with them while no snapshot can be made.
    ///
    /// # Errors
    /// That the store cannot be read, or what `look` returns.
    pub(crate) fn with_ids<T>(
        &self,
        look: impl FnOnce(&HashSet<u64>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let write = self.db.begin_write()?;
        let mut ids = HashSet::new();
        {
            let tables = Tables::open(&write)?;
            for entry in tables.snapshots.iter()? {
                let (name, bytes) = entry?;
                ids.insert(decode(name.value(), bytes.value())?.id);
            }
        }
        let looked = look(&ids);
        write.abort()?;
        looked
    }

    /// Lists the layers whose last snapshot was removed and that were not released since.
    pub(crate) fn unused_layers(&self) -> Result<Vec<u64>, Error> {
        let read = self.db.begin_read()?;
        let table = read.open_table(UNUSED)?;
        let layers = table.iter()?.map(|entry| Ok(entry?.0.value()));
        layers.collect()
    }

    /// Counts for each name how many active and view snapshots stand on it, at any height.
    pub(crate) fn users(&self) -> Result<HashMap<String, u64>, Error> {
        let mut parents = HashMap::new();
        let mut ends = Vec::new();
        self.walk(|name, record| {
            match record.kind {
                Kind::Committed => _ = parents.insert(name.to_owned(), record.parent),
                _ => ends.push(record.parent),
            }
            true
        })?;
        let mut users = HashMap::new();
        for end in &ends {
            let mut at = end;
            for _ in 0..MAX_CHAIN {
                let Some(next) = parents.get(at) else { break };
                *users.entry(at.clone()).or_default() += 1;
                at = next;
            }
        }
        Ok(users)
    }
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("snapshot {name}"))
}

fn record(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Record>, Error> {
    match table.get(name)? {
        Some(bytes) => Ok(Some(decode(name, bytes.value())?)),
        None => Ok(None),
    }
}

/// Follows parents from `parent` down, checking the first as containerd does.
fn chain(table: &impl ReadableTable<&'static str, &'static [u8]>, parent: &str) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    let mut name = parent.to_owned();
    while !name.is_empty() {
        let found =
            record(table, &name)?.ok_or_else(|| Error::not_found(format!("parent snapshot {name}")))?;
        if found.kind != Kind::Committed {
            return Err(Error::invalid(format!(
                "parent {name:?} is not a committed snapshot"
            )));
        }
        if links.len() == MAX_CHAIN {
            return Err(Error::Corrupt {
                what: name,
                why: "its chain of parents has no end".to_owned(),
            });
        }
        links.push(Link {
            id: found.id,
            layer: found.layer,
        });
        name = found.parent;
    }
    Ok(links)
}

#[cfg(test)]
mod tests;
