//! Maps of sparse files: which runs of a file are in the archive.

use super::header::{BLOCK, Raw, Reason};
use super::pax::{Records, SPARSE_MAP, int};
use crate::limits::MAX_SPARSE_RUNS;

/// Runs of data as (start, end), ascending, without overlap and within the file.
pub(super) type Runs = Vec<(u64, u64)>;

/// Which PAX sparse format an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 0.0 and 0.1: the map is among the records.
    InRecords,
    /// 1.0: the map is in front of the data.
    InData,
}

/// Finds out whether the records describe a sparse file, and takes over its true name and size.
pub(super) fn detect(raw: &mut Raw, records: &Records) -> Result<Option<Version>, Reason> {
    let get = |key: &str| records.get(key.as_bytes()).map_or(&b""[..], Vec::as_slice);
    let version = match (get("GNU.sparse.major"), get("GNU.sparse.minor")) {
        (b"0", b"0" | b"1") => Version::InRecords,
        (b"1", b"0") => Version::InData,
        (b"", b"") if !get("GNU.sparse.map").is_empty() => Version::InRecords,
        _ => return Ok(None),
    };
    if !get("GNU.sparse.name").is_empty() {
        raw.name = get("GNU.sparse.name").to_vec();
    }
    let size = [get("GNU.sparse.size"), get("GNU.sparse.realsize")]
        .into_iter()
        .find(|s| !s.is_empty());
    if let Some(size) = size {
        raw.size = int(size).ok_or("size of sparse file is no number")?;
    }
    Ok(Some(version))
}

/// Reads the map of formats 0.0 and 0.1.
pub(super) fn from_records(records: &Records) -> Result<Runs, Reason> {
    let count = records
        .get(b"GNU.sparse.numblocks".as_slice())
        .and_then(|v| int(v));
    let count = count
        .and_then(|n| usize::try_from(n).ok())
        .ok_or("sparse map has no count")?;
    let map = records.get(SPARSE_MAP).map_or(&b""[..], Vec::as_slice);
    let mut numbers = map.split(|&b| b == b',').filter(|_| !map.is_empty());
    let found = if map.is_empty() {
        0
    } else {
        map.iter().filter(|&&b| b == b',').count() + 1
    };
    if count > MAX_SPARSE_RUNS || count.checked_mul(2) != Some(found) {
        return Err("sparse map does not have as many runs as it says");
    }
    pairs(count, || numbers.next().and_then(int))
}

/// Reads the map of format 1.0 from in front of the data: decimal numbers in lines, padded to whole blocks.
/// `next` reads a block; its error is the outer one.
pub(super) fn from_data<E>(
    mut next: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<Result<Runs, Reason>, E> {
    let mut lines = Lines::default();
    let count = lines.next(&mut next)?.and_then(|n| usize::try_from(n).ok());
    let Some(count) = count.filter(|&n| n <= MAX_SPARSE_RUNS) else {
        return Ok(Err("count of sparse runs is no number or too large"));
    };
    let mut runs = Runs::new();
    for _ in 0..count {
        match run(lines.next(&mut next)?, lines.next(&mut next)?) {
            Ok(run) => runs.push(run),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(runs))
}

/// Numbers in lines, read block by block and no block more than needed.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    at: usize,
}

impl Lines {
    /// The next line's number; nothing if it is none.
    fn next<E>(&mut self, more: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Option<i64>, E> {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let number = int(&rest[..end]);
                self.at += end + 1;
                return Ok(number);
            }
            // A number has at most 20 digits: a longer rest is none.
            if rest.len() > BLOCK {
                return Ok(None);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let len = self.buffer.len();
            self.buffer.resize(len + BLOCK, 0);
            more(&mut self.buffer[len..])?;
        }
    }
}

fn pairs(count: usize, mut next: impl FnMut() -> Option<i64>) -> Result<Runs, Reason> {
    (0..count).map(|_| run(next(), next())).collect()
}

fn run(start: Option<i64>, len: Option<i64>) -> Result<(u64, u64), Reason> {
    const WRONG: Reason = "malformed run in sparse map";
    let start = start.and_then(|n| u64::try_from(n).ok()).ok_or(WRONG)?;
    let len = len.and_then(|n| u64::try_from(n).ok()).ok_or(WRONG)?;
    Ok((
        start,
        start
            .checked_add(len)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or(WRONG)?,
    ))
}

/// Checks order and bounds, and that the archive holds exactly the runs' bytes. Empty runs fall away.
pub(super) fn validate(mut runs: Runs, size: i64, stored: u64) -> Result<Runs, Reason> {
    let size = u64::try_from(size).map_err(|_| "size of sparse file is negative")?;
    let mut end = 0;
    let mut total = 0;
    for &(start, stop) in &runs {
        if start < end || stop > size {
            return Err("runs of sparse map overlap or leave the file");
        }
        end = stop;
        total += stop - start;
    }
    if total != stored {
        return Err("sparse map does not agree with the data in the archive");
    }
    runs.retain(|&(start, stop)| start < stop);
    Ok(runs)
}
