//! The tables, and how a record becomes bytes.

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::error::Error;
use crate::snapshot::Record;

pub(super) const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
pub(super) const CHILDREN: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("children");
pub(super) const LAYERS: TableDefinition<'_, u64, u64> = TableDefinition::new("layers");
pub(super) const UNUSED: TableDefinition<'_, u64, ()> = TableDefinition::new("unused");
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Key in `numbers`: the layout of this file.
pub(super) const VERSION: &str = "version";
/// Key in `numbers`: the id of the next snapshot.
pub(super) const NEXT_ID: &str = "next id";

/// All tables of a write transaction.
pub(super) struct Tables<'txn> {
    pub(super) snapshots: Table<'txn, &'static str, &'static [u8]>,
    pub(super) children: Table<'txn, (u64, u64), ()>,
    pub(super) layers: Table<'txn, u64, u64>,
    pub(super) unused: Table<'txn, u64, ()>,
    pub(super) numbers: Table<'txn, &'static str, u64>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            snapshots: txn.open_table(SNAPSHOTS)?,
            children: txn.open_table(CHILDREN)?,
            layers: txn.open_table(LAYERS)?,
            unused: txn.open_table(UNUSED)?,
            numbers: txn.open_table(NUMBERS)?,
        })
    }

    /// Writes a record under its name.
    pub(super) fn put(&mut self, name: &str, record: &Record) -> Result<(), Error> {
        let bytes = serde_json::to_vec(record).map_err(|error| corrupt(name, &error))?;
        self.snapshots.insert(name, bytes.as_slice())?;
        Ok(())
    }

    /// Gives the next id.
    pub(super) fn next_id(&mut self) -> Result<u64, Error> {
        let id = self.numbers.get(NEXT_ID)?.map_or(1, |value| value.value());
        self.numbers.insert(NEXT_ID, id.saturating_add(1))?;
        Ok(id)
    }
}

pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Record, Error> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(name, &error))
}

fn corrupt(name: &str, error: &serde_json::Error) -> Error {
    Error::Corrupt {
        what: format!("snapshot {name}"),
        why: error.to_string(),
    }
}
