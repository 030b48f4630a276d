//! Trees and tables in, index out.

use crate::error::FormatError;
use crate::tables::Tables;
use crate::tree::Tree;

/// Writes an index in its plain form. The same input gives the same bytes on every machine.
///
/// Cost: O(tree + tables); one pass, the result is the only large allocation.
///
/// # Errors
/// [`FormatError::Input`] names the inode that cannot be written, [`FormatError::Table`] the record
/// that breaks a rule, [`FormatError::Limit`] the bound that is exceeded.
pub fn write_index(tree: &Tree, tables: &Tables) -> Result<Vec<u8>, FormatError> {
    let _ = (tree, tables);
    unimplemented!()
}
