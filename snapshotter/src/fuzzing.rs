//! What clients send, parser by parser, for fuzz targets. Not an interface: nothing else uses it.

use std::collections::HashMap;

use crate::Error;
use crate::filter::Filters;
use crate::snapshot::{Kind, Record, kept_labels};

/// Does a committed snapshot match the filters of a List?
///
/// # Errors
/// [`Error::InvalidArgument`] for a filter that does not parse.
pub fn matches(
    filters: &[String],
    name: &str,
    parent: &str,
    labels: HashMap<String, String>,
) -> Result<bool, Error> {
    let record = Record::bare(Kind::Committed, parent, kept_labels(labels));
    Ok(Filters::parse(filters)?.matches(name, &record))
}

/// A client's HTTP/2 bytes after `:authority` was made acceptable, given in parts of `part` bytes.
#[must_use]
pub fn rewritten(bytes: &[u8], part: usize) -> Vec<u8> {
    crate::connection::rewritten(bytes, part)
}

/// Reads a snapshot's record and writes it again.
#[must_use]
pub fn record(text: &[u8]) -> Option<Vec<u8>> {
    let record: Record = serde_json::from_slice(text).ok()?;
    serde_json::to_vec(&record).ok()
}
