//! Trees and tables in, index out.
//!
//! Four steps, each a module: `input` checks the tree and finds the order of inodes, `xattrs`
//! decides which xattrs are shared, `place` gives each inode its address, `emit` writes the bytes.

mod dirblock;
mod emit;
mod input;
mod place;
mod xattrs;

use zerocopy::little_endian::U32;

use crate::error::FormatError;
use crate::limits::MAX_INDEX;
use crate::reader::Index;
use crate::table_rules::TableView;
use crate::tables::Tables;
use crate::tree::Tree;

/// Writes an index in its plain form. The same input gives the same bytes on every machine.
///
/// Inodes that no name reaches are left out. Ends with reading what it has written, so a result
/// always passes [`Index::parse`] and [`Index::check_tree`].
///
/// Cost: O(tree + tables); the result is the only large allocation.
///
/// # Errors
/// [`FormatError::Input`] names the inode that cannot be written, [`FormatError::Table`] the record
/// that breaks a rule, [`FormatError::Limit`] the bound that is exceeded.
pub fn write_index(tree: &Tree, tables: &Tables) -> Result<Vec<u8>, FormatError> {
    let prefetch: Vec<U32> = tables.prefetch.iter().map(|&frame| frame.into()).collect();
    let view = TableView {
        devices: &tables.devices,
        frames: &tables.frames,
        chunks: &tables.chunks,
        prefetch: &prefetch,
    };
    view.check()?;
    let order = input::Order::of(tree, &view)?;
    let xattrs = xattrs::Xattrs::of(tree, &order)?;
    let plan = place::Plan::of(tree, &order, &xattrs, tables.devices.len());
    let len = plan.image_len().saturating_add(emit::tables_len(&view));
    if len as u64 > MAX_INDEX {
        return Err(FormatError::Limit {
            what: "index length",
            value: len as u64,
            limit: MAX_INDEX,
        });
    }
    let mut bytes = emit::image(tree, &order, &xattrs, &plan, tables, len);
    emit::append_tables(&mut bytes, &view, tables);
    Index::parse(&bytes)?.check_tree()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
