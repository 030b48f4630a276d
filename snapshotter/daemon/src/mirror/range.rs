//! The part of a blob that a request wants (RFC 9110, 14.2).

use std::ops::Range;

/// What a `Range` header comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// No range, or one that may be passed over: several at once, other units, nonsense.
    All,
    /// These bytes.
    Some(Range<u64>),
    /// Beyond the end.
    None,
}

/// Reads a header's value for content of `len` bytes.
pub(super) fn part(header: Option<&str>, len: u64) -> Part {
    let Some((first, last)) = header
        .and_then(|text| text.trim().strip_prefix("bytes="))
        .filter(|text| !text.contains(','))
        .and_then(|text| text.split_once('-'))
    else {
        return Part::All;
    };
    match (
        number(first),
        number(last),
        first.trim().is_empty(),
        last.trim().is_empty(),
    ) {
        (Some(first), None, _, true) if first < len => Part::Some(first..len),
        (Some(first), Some(last), ..) if first <= last && first < len => {
            Part::Some(first..last.saturating_add(1).min(len))
        }
        (None, Some(count), true, _) if count > 0 && len > 0 => Part::Some(len.saturating_sub(count)..len),
        (Some(first), Some(last), ..) if first > last => Part::All,
        (Some(_), _, _, _) | (None, Some(_), true, _) => Part::None,
        _ => Part::All,
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        for (header, expected) in [
            ("bytes=0-0", Part::Some(0..1)),
            ("bytes=2-", Part::Some(2..10)),
            ("bytes=2-99999999999999999999999", Part::Some(2..10)),
            ("bytes=-3", Part::Some(7..10)),
            ("bytes=-30", Part::Some(0..10)),
            ("bytes=10-", Part::None),
            ("bytes=10-12", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=5-4", Part::All),
            ("bytes=0-1,3-4", Part::All),
            ("bytes=-", Part::All),
            ("bytes=a-b", Part::All),
            ("items=0-1", Part::All),
        ] {
            assert_eq!(part(Some(header), 10), expected, "{header}");
        }
        assert_eq!(part(None, 10), Part::All);
        assert_eq!(part(Some("bytes=0-"), 0), Part::None);
    }
}
