//! The 512-byte header block.

use lacewing_format::Time;

/// Size of a block in a tar stream.
pub(super) const BLOCK: usize = 512;

/// A header block.
pub(super) type Block = [u8; BLOCK];

/// Why a header is refused.
pub(super) type Reason = &'static str;

/// What a header block says, before PAX records and long names.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: Time,
    pub(super) major: i64,
    pub(super) minor: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
    Star,
}

/// Parses a header block.
pub(super) fn parse(block: &Block) -> Result<Raw, Reason> {
    let format = format(block)?;
    let mut raw = Raw {
        kind: block[156],
        name: text(&block[..100]).to_vec(),
        link: text(&block[157..257]).to_vec(),
        size: number(&block[124..136])?,
        mode: number(&block[100..108])?,
        uid: number(&block[108..116])?,
        gid: number(&block[116..124])?,
        mtime: Time {
            secs: number(&block[136..148])?,
            nanos: 0,
        },
        ..Raw::default()
    };
    if format != Format::V7 {
        raw.major = number(&block[329..337])?;
        raw.minor = number(&block[337..345])?;
        let prefix = prefix(block, format)?;
        if !prefix.is_empty() {
            raw.name = [prefix, b"/", &raw.name].concat();
        }
    }
    Ok(raw)
}

/// The part of the name in front of the name field. In GNU headers times stand there, unless they are no times and an
/// old Go has written a name.
fn prefix(block: &Block, format: Format) -> Result<&[u8], Reason> {
    match format {
        Format::V7 => Ok(b""),
        Format::Ustar => Ok(text(&block[345..500])),
        Format::Star => {
            number(&block[476..488])?;
            number(&block[488..500])?;
            Ok(text(&block[345..476]))
        }
        Format::Gnu => {
            let is_time = |field: &[u8]| field[0] == 0 || number(field).is_ok();
            let name = text(&block[345..500]);
            let is_name = !(is_time(&block[345..357]) && is_time(&block[357..369])) && name.is_ascii();
            Ok(if is_name { name } else { b"" })
        }
    }
}

fn format(block: &Block) -> Result<Format, Reason> {
    let sum = octal(&block[148..156]).map_err(|_| "header checksum is no number")?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (i, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if sum != unsigned && sum != signed {
        return Err("header checksum does not match");
    }
    Ok(match (&block[257..263], &block[263..265], &block[508..]) {
        (b"ustar\0", _, b"tar\0") => Format::Star,
        (b"ustar\0", ..) => Format::Ustar,
        (b"ustar ", b" \0", _) => Format::Gnu,
        _ => Format::V7,
    })
}

/// A text field: up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// A numeric field: octal digits, or base 256 in two's complement if the first bit is set.
fn number(field: &[u8]) -> Result<i64, Reason> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let invert = if field[0] & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0u64;
    for (i, &byte) in field.iter().enumerate() {
        let byte = byte ^ invert;
        let byte = if i == 0 { byte & 0x7f } else { byte };
        if value >> 56 != 0 {
            return Err("number in header is too large");
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| "number in header is too large")?;
    Ok(if invert == 0 { value } else { !value })
}

fn octal(field: &[u8]) -> Result<i64, Reason> {
    let pad = |b: &u8| *b == b' ' || *b == 0;
    let Some(start) = field.iter().position(|b| !pad(b)) else {
        return Ok(0);
    };
    let end = field.iter().rposition(|b| !pad(b)).map_or(start, |i| i + 1);
    let mut value = 0i64;
    for &digit in text(&field[start..end]) {
        if !(b'0'..=b'7').contains(&digit) {
            return Err("number in header is not octal");
        }
        // Fields have at most 12 digits: 36 bits.
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let rows: [(&str, &[u8], Result<i64, ()>); 12] = [
            ("empty", b"\0\0\0\0\0\0\0\0", Ok(0)),
            ("octal", b"0000644\0", Ok(0o644)),
            ("spaces", b"   644 \0", Ok(0o644)),
            ("no end", b"00000644", Ok(0o644)),
            ("digits after NUL are not seen", b"64\x0012\0\0\0", Ok(0o64)),
            ("not octal", b"0000648\0", Err(())),
            ("minus", b"-000064\0", Err(())),
            ("plus", b"+000064\0", Err(())),
            ("space within", b"64 4\0\0\0\0", Err(())),
            ("base 256", b"\x80\0\0\0\0\x01\0\0", Ok(65536)),
            ("base 256, negative", b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            ("base 256, too large", b"\x80\x01\0\0\0\0\0\0\0\0\0\0", Err(())),
        ];
        for (name, field, want) in rows {
            assert_eq!(number(field).map_err(|_| ()), want, "{name}");
        }
    }
}
