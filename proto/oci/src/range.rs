//! `Range` and `Content-Range` (RFC 9110, 14), and the `Range` of an upload's state (OCI distribution).

use std::ops::Range;

/// The request header's value for a non-empty range; without an end: to the end of the content.
pub(crate) fn request(start: u64, end: Option<u64>) -> String {
    match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    }
}

/// Reads `bytes A-B/TOTAL` or `bytes A-B/*` as the range `A..B+1`. `None`: anything else.
pub(crate) fn parse_content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
    let range = parse_pair(range)?;
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    if total.is_some_and(|total| range.end > total) {
        return None;
    }
    Some((range, total))
}

/// Reads an upload's state, `0-N` or `bytes=0-N`, as the count of bytes held. `None`: anything else.
///
/// Registries say `0-0` both for nothing and for one byte; nothing is meant, and one byte sent again is refused by none
/// that counts.
pub(crate) fn parse_upload_range(value: &str) -> Option<u64> {
    let value = value.trim();
    let range = parse_pair(value.strip_prefix("bytes=").unwrap_or(value))?;
    match (range.start, range.end) {
        (0, 1) => Some(0),
        (0, end) => Some(end),
        _ => None,
    }
}

fn parse_pair(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1)?;
    (first <= last).then_some(first..end)
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_requests() {
        assert_eq!(request(0, Some(1)), "bytes=0-0");
        assert_eq!(request(10, Some(20)), "bytes=10-19");
        assert_eq!(request(10, None), "bytes=10-");
    }

    #[test]
    fn reads_content_ranges() {
        let rows = [
            ("bytes 0-0/1", Some((0..1, Some(1)))),
            ("bytes 5-9/10", Some((5..10, Some(10)))),
            (" bytes 5-9/* ", Some((5..10, None))),
            ("bytes 5-9/9", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes +5-9/10", None),
            ("bytes 5-9", None),
            ("items 5-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn reads_upload_states() {
        let rows = [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("5-99", None),
            ("0-", None),
            ("0--1", None),
            ("x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_upload_range(text), expected, "{text}");
        }
    }
}
