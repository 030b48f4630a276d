//! Go string literals, with `/` and `|` as further quotes.

/// Returns the bytes that a quoted text means, or `None` if it is no legal literal.
///
/// An escape gives a byte (`\x`, octal) or a character (`\u`, `\U`); the quote itself may be escaped, other
/// quotes not (containerd's `filters/quote.go`, after Go's `strconv`).
pub(super) fn unquote(quoted: &str) -> Option<Vec<u8>> {
    let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '/' | '|'))?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(rest, quote, &mut out)?,
            '\n' => return None,
            c if c == quote => return None,
            c => push(&mut out, c),
        }
    }
    Some(out)
}

/// Decodes what follows a backslash; returns what follows that.
fn escape<'a>(rest: &'a str, quote: char, out: &mut Vec<u8>) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let after = &rest[c.len_utf8()..];
    match c {
        'a' => out.push(0x07),
        'b' => out.push(0x08),
        'f' => out.push(0x0c),
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        'v' => out.push(0x0b),
        '\\' => out.push(b'\\'),
        'x' => {
            out.push(u8::try_from(digits(after, 2, 16)?).ok()?);
            return after.get(2..);
        }
        'u' | 'U' => {
            let count = if c == 'u' { 4 } else { 8 };
            push(out, char::from_u32(digits(after, count, 16)?)?);
            return after.get(count..);
        }
        '0'..='7' => {
            out.push(u8::try_from(digits(rest, 3, 8)?).ok()?);
            return rest.get(3..);
        }
        c if c == quote => push(out, c),
        _ => return None,
    }
    Some(after)
}

fn digits(text: &str, count: usize, radix: u32) -> Option<u32> {
    let digits = text.get(..count)?;
    // `from_str_radix` would take a sign.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let rows: &[(&str, Option<&[u8]>)] = &[
            (r#""""#, Some(b"")),
            (r#""a/b|c'""#, Some(b"a/b|c'")),
            (r#""\a\b\f\n\r\t\v\\\"""#, Some(b"\x07\x08\x0c\n\r\t\x0b\\\"")),
            (r#""\x41\101\u00e9\U0001F40B""#, Some("AAé🐋".as_bytes())),
            (r#""\xff""#, Some(b"\xff")),
            (r"/\//", Some(b"/")),
            (r"|\||", Some(b"|")),
            (r#""\/""#, None),
            (r#""\q""#, None),
            (r#""\x4""#, None),
            (r#""\x+4""#, None),
            (r#""\400""#, None),
            (r#""\ud800""#, None),
            (r#"""#, None),
            (r"'a'", None),
        ];
        for (quoted, expected) in rows {
            assert_eq!(unquote(quoted).as_deref(), *expected, "{quoted}");
        }
    }
}
