//! What a start was seen to read: files of an image and ranges of them, in the order of first reads.
//!
//! The file has one JSON object per line, `{"path":"/usr/bin/python3","offset":0,"length":131072}`. Without `length` the
//! whole rest of the file is meant; other fields are passed over, so that the records of stargz-snapshotter's `ctr-remote`
//! do, too. Whatever it says, it decides where bytes stand and never which bytes there are.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::limits::{MAX_PATH, MAX_READS, MAX_RECORD};

/// A line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Path in the image; a missing slash in front is added.
    pub path: String,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// How many; none: up to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// A range of a file, and the number of the line that names it.
#[derive(Clone, Debug)]
struct Part {
    line: u32,
    range: Range<u64>,
}

/// A record that was checked.
#[derive(Clone, Debug, Default)]
pub struct Record {
    files: HashMap<Vec<u8>, Vec<Part>>,
}

impl Record {
    /// Reads a record, whoever wrote it.
    ///
    /// # Errors
    /// [`Error::Limit`] if it is too long, [`Error::Invalid`] with the line's number for what is no such object, and for a
    /// record that names nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        limit("length of the record", bytes.len() as u64, MAX_RECORD)?;
        let mut record = Self::default();
        let mut number: u32 = 0;
        for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let invalid = |reason: String| Error::Invalid {
                what: format!("line {} of the record", at + 1),
                reason,
            };
            number += 1;
            limit("count of reads in the record", number.into(), MAX_READS)?;
            let read: Read = serde_json::from_slice(line).map_err(|error| invalid(error.to_string()))?;
            let path = absolute(read.path.as_bytes());
            if path.len() > MAX_PATH {
                return Err(invalid(format!("the path has more than {MAX_PATH} bytes")));
            }
            let end = read
                .length
                .map_or(Some(u64::MAX), |len| read.offset.checked_add(len))
                .ok_or_else(|| invalid("offset and length are too large".to_owned()))?;
            record.files.entry(path).or_default().push(Part {
                line: number,
                range: read.offset..end,
            });
        }
        if record.files.is_empty() {
            return Err(Error::Invalid {
                what: "the record".to_owned(),
                reason: "names no file".to_owned(),
            });
        }
        Ok(record)
    }

    /// Count of files that it names.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// What it says of a file, by absolute path.
    pub(crate) fn of(&self, path: &[u8]) -> Option<Reads<'_>> {
        self.files.get(path).map(|parts| Reads(parts))
    }
}

/// What is said of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads<'a>(&'a [Part]);

impl Reads<'_> {
    /// The first line that names a byte of a range.
    pub(crate) fn first(&self, range: Range<u64>) -> Option<u32> {
        let meets = |part: &&Part| part.range.start < range.end && range.start < part.range.end;
        self.0.iter().find(meets).map(|part| part.line)
    }
}

/// The path with one slash in front and between names, without `.`.
fn absolute(path: &[u8]) -> Vec<u8> {
    let mut absolute = Vec::with_capacity(path.len() + 1);
    for name in path.split(|&byte| byte == b'/') {
        if !name.is_empty() && name != b"." {
            absolute.push(b'/');
            absolute.extend_from_slice(name);
        }
    }
    absolute
}

fn limit(what: &'static str, value: u64, limit: u64) -> Result<(), Error> {
    match value > limit {
        true => Err(Error::Limit { what, value, limit }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_line_that_names_a_byte_counts() {
        let text = br#"
            {"path":"usr/bin/x","offset":4096,"length":4096}
            {"path":"/usr//./bin/x"}
            {"path":"./y","manifestDigest":"sha256:0","layerIndex":3}
        "#;
        let record = Record::parse(text).unwrap();
        assert_eq!(record.files(), 2);
        let x = record.of(b"/usr/bin/x").unwrap();
        assert_eq!(x.first(0..4096), Some(2));
        assert_eq!(x.first(0..4097), Some(1));
        assert_eq!(x.first(8192..9000), Some(2));
        assert_eq!(record.of(b"/y").unwrap().first(1 << 40..1 << 41), Some(3));
        assert!(record.of(b"/z").is_none());
    }

    #[test]
    fn what_is_no_record_is_refused_by_line() {
        for (text, told) in [
            ("", "names no file"),
            ("\n\n", "names no file"),
            ("{\"path\":\"/a\"}\n/usr/bin/x\n", "line 2"),
            ("{}", "missing field `path`"),
            (r#"{"path":"/a","offset":-1}"#, "line 1"),
            (
                r#"{"path":"/a","offset":18446744073709551615,"length":1}"#,
                "too large",
            ),
            (r#"{"path":7}"#, "line 1"),
            ("\u{0}\u{1}", "line 1"),
        ] {
            let error = Record::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(told), "{text}: {error}");
        }
        let long = format!("{{\"path\":\"{}\"}}", "a".repeat(5000));
        assert!(
            Record::parse(long.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("4095")
        );
        assert!(matches!(
            Record::parse(&vec![b'\n'; MAX_RECORD as usize + 1]),
            Err(Error::Limit { .. })
        ));
        assert!(
            Record::parse(&[&b"["[..]; 100_000].concat()).is_err(),
            "no deep recursion"
        );
    }

    #[test]
    fn a_read_is_written_as_it_is_read() {
        let read = Read {
            path: "/a \"b\"\n".to_owned(),
            offset: 5,
            length: None,
        };
        let line = serde_json::to_string(&read).unwrap();
        assert_eq!(line, r#"{"path":"/a \"b\"\n","offset":5}"#);
        assert_eq!(serde_json::from_str::<Read>(&line).unwrap(), read);
    }
}
