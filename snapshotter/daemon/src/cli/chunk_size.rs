//! A chunk size as people write it.

/// Reads `256K`, `1M` or a count of bytes.
pub(super) fn chunk_size(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text} is no size; write 65536, 256K or 1M");
    let (digits, unit) = match text
        .trim_end_matches("iB")
        .trim_end_matches(['b', 'B'])
        .to_ascii_uppercase()
    {
        t if t.ends_with('K') => (t.trim_end_matches('K').to_owned(), 1 << 10),
        t if t.ends_with('M') => (t.trim_end_matches('M').to_owned(), 1 << 20),
        t => (t, 1),
    };
    let size = digits
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(wrong)?;
    if size.is_power_of_two() && (64 << 10..=1 << 20).contains(&size) {
        return Ok(size);
    }
    Err(format!("{text} is not a power of two from 64K to 1M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("65536", Some(65536)),
            ("256K", Some(262_144)),
            ("64KiB", Some(65536)),
            ("1m", Some(1 << 20)),
        ] {
            assert_eq!(chunk_size(text).ok(), expected, "{text}");
        }
        for text in [
            "",
            "K",
            "3000",
            "2M",
            "-4K",
            "2K",
            "4096",
            "32K",
            "99999999999",
            "256KK1",
        ] {
            assert!(chunk_size(text).is_err(), "{text}");
        }
    }
}
