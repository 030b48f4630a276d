//! PAX records: `LEN KEY=VALUE\n`.

use std::collections::BTreeMap;

use lacewing_format::Time;

use super::header::{Raw, Reason};

/// PAX records of one header by key; of a key given twice the last counts.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of sparse files.
pub(super) const SPARSE_OFFSET: &[u8] = b"GNU.sparse.offset";
pub(super) const SPARSE_NUMBYTES: &[u8] = b"GNU.sparse.numbytes";
pub(super) const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Parses the data of a PAX header. Pairs of sparse format 0.0 become a map as in format 0.1.
pub(super) fn parse(mut data: &[u8]) -> Result<Records, Reason> {
    let mut records = Records::new();
    let mut map: Vec<&[u8]> = Vec::new();
    while !data.is_empty() {
        let (key, value, rest) = record(data).ok_or("malformed PAX record")?;
        data = rest;
        if key == SPARSE_OFFSET || key == SPARSE_NUMBYTES {
            let expected = if map.len().is_multiple_of(2) {
                SPARSE_OFFSET
            } else {
                SPARSE_NUMBYTES
            };
            if key != expected || value.contains(&b',') {
                return Err("malformed PAX sparse map");
            }
            map.push(value);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
    }
    if !map.is_empty() {
        records.insert(SPARSE_MAP.to_vec(), map.join(&b','));
    }
    Ok(records)
}

/// Splits off one record: key, value, rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|&b| b == b' ')?;
    let len = usize::try_from(int(&data[..space])?).ok()?;
    if len < 5 || len > data.len() || len <= space + 1 {
        return None;
    }
    let (record, rest) = data.split_at(len);
    let (newline, record) = record[space + 1..].split_last()?;
    let equals = record.iter().position(|&b| b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    let nul_free = match key {
        b"path" | b"linkpath" | b"uname" | b"gname" => value,
        _ => key,
    };
    (*newline == b'\n' && !key.is_empty() && !nul_free.contains(&0)).then_some((key, value, rest))
}

/// Lets records replace what the header says.
pub(super) fn merge(raw: &mut Raw, records: &Records) -> Result<(), Reason> {
    let number = |value: &[u8]| int(value).ok_or("PAX record is no number");
    for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
        match key.as_slice() {
            b"path" => raw.name.clone_from(value),
            b"linkpath" => raw.link.clone_from(value),
            b"uid" => raw.uid = number(value)?,
            b"gid" => raw.gid = number(value)?,
            b"size" => raw.size = number(value)?,
            b"mtime" => raw.mtime = time(value)?,
            b"atime" | b"ctime" => drop(time(value)?),
            _ => {}
        }
    }
    Ok(())
}

/// The extended attributes among records, in order of their names.
pub(super) fn xattrs(records: &Records) -> Vec<(Vec<u8>, Vec<u8>)> {
    let xattr = |(key, value): (&Vec<u8>, &Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()));
    records.iter().filter_map(xattr).collect()
}

/// A decimal number as Go's ParseInt takes it.
pub(super) fn int(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction; a minus sign holds for both.
fn time(text: &[u8]) -> Result<Time, Reason> {
    const WRONG: Reason = "PAX time is no number";
    let point = text.iter().position(|&b| b == b'.');
    let (whole, fraction) = point.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    let secs = int(whole).ok_or(WRONG)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let digit = |i| u32::from(fraction.get(i).map_or(0, |d| d - b'0'));
    let nanos = (0..9).fold(0, |n, i| n * 10 + digit(i));
    if whole.starts_with(b"-") && nanos > 0 {
        return Ok(Time {
            secs: secs.checked_sub(1).ok_or(WRONG)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Ok(Time { secs, nanos })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::type_complexity)]
    use super::*;

    #[test]
    fn times() {
        let rows: [(&[u8], Option<(i64, u32)>); 11] = [
            (b"1350244992.023960108", Some((1350244992, 23960108))),
            (b"1350244992.02396010", Some((1350244992, 23960100))),
            (b"1350244992.0239601089", Some((1350244992, 23960108))),
            (b"1350244992", Some((1350244992, 0))),
            (b"1350244992.", Some((1350244992, 0))),
            (b"-1.000000001", Some((-2, 999999999))),
            (b"-1", Some((-1, 0))),
            (b"-0.5", Some((-1, 500000000))),
            (b".5", None),
            (b"1.2.3", None),
            (b"1.-5", None),
        ];
        for (text, want) in rows {
            let got = time(text).ok().map(|t| (t.secs, t.nanos));
            assert_eq!(got, want, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn records() {
        let rows: [(&str, &[u8], Option<(&[u8], &[u8])>); 10] = [
            ("plain", b"6 k=1\n", Some((b"k", b"1"))),
            ("equals in value", b"8 k=a=b\n", Some((b"k", b"a=b"))),
            ("newline in value", b"8 k=a\nb\n", Some((b"k", b"a\nb"))),
            ("no key", b"5 =1\n", None),
            ("no newline", b"6 k=1 ", None),
            ("too long", b"7 k=1\n", None),
            ("too short", b"4 k=\n", None),
            ("NUL in a path", b"10 path=\0\n", None),
            ("NUL in another value", b"6 k=\0\n", Some((b"k", b"\0"))),
            ("NUL in a key", b"6 \0=1\n", None),
        ];
        for (name, data, want) in rows {
            let records = parse(data).ok();
            let got = records
                .as_ref()
                .and_then(|r| r.iter().next())
                .map(|(k, v)| (k.as_slice(), v.as_slice()));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn sparse_pairs_become_a_map() {
        let data = b"22 GNU.sparse.offset=1\n24 GNU.sparse.numbytes=2\n";
        // Lengths of the two records as written above.
        assert_eq!(data.len(), 23 + 25);
        let data = b"23 GNU.sparse.offset=1\n25 GNU.sparse.numbytes=2\n";
        assert_eq!(parse(data).unwrap()[SPARSE_MAP], b"1,2");
        assert!(parse(b"25 GNU.sparse.numbytes=2\n").is_err());
    }
}
