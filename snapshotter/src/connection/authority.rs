//! Makes `:authority` acceptable in a client's HTTP/2 bytes, without changing the length of anything.
//!
//! The bytes are a preface and frames (RFC 9113). Frames of type HEADERS carry fields compressed by HPACK
//! (RFC 7541); of these, only a value spelt out for `:authority` matters, and in it only `/` and `%`, which
//! become `.`. In the Huffman code of HPACK all three have six bits; so lengths stay as they are, plain and coded,
//! and both sides' tables of earlier fields stay in step. Whatever cannot be parsed passes unchanged: to refuse
//! it is the HTTP/2 library's business.

/// `PRI * HTTP/2.0...` (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Length, type, flags, stream (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of the field that flag [`PRIORITY`] announces.
const PRIORITY_LEN: usize = 5;
/// A server that says nothing else takes frames up to this length (RFC 9113, 4.2); a longer one is refused by
/// the HTTP/2 library, and is not kept waiting here.
const MAX_FRAME: usize = 16_384;

/// The index of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// Follows one client's bytes.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// Bytes of the preface seen.
    preface: usize,
    /// A frame header, or a HEADERS frame, not yet whole.
    held: Vec<u8>,
    /// Bytes of another frame's payload still to come.
    passing: usize,
}

impl Rewriter {
    /// Takes bytes; appends to `out` what may go on.
    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        let rest_of_preface = (PREFACE - self.preface).min(bytes.len());
        self.preface += rest_of_preface;
        pass(&mut bytes, rest_of_preface, out);
        while !bytes.is_empty() {
            if self.passing > 0 {
                let count = self.passing.min(bytes.len());
                self.passing -= count;
                pass(&mut bytes, count, out);
                continue;
            }
            let count = (self.wanted() - self.held.len()).min(bytes.len());
            pass(&mut bytes, count, &mut self.held);
            if self.held.len() == self.wanted() {
                self.complete(out);
            }
        }
    }

    /// Hands out what is held: the client will send no more.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// How many bytes to hold before anything can be decided.
    fn wanted(&self) -> usize {
        match self.header() {
            Some((length, HEADERS)) if length <= MAX_FRAME => FRAME_HEADER + length,
            _ => FRAME_HEADER,
        }
    }

    /// Length and type of the frame held.
    fn header(&self) -> Option<(usize, u8)> {
        let header = self.held.get(..FRAME_HEADER)?;
        Some((
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]),
            header[3],
        ))
    }

    fn complete(&mut self, out: &mut Vec<u8>) {
        if let Some((length, _)) = self.header() {
            if self.held.len() == FRAME_HEADER {
                self.passing = length;
            }
            rewrite_frame(&mut self.held);
        }
        out.append(&mut self.held);
    }
}

fn pass(from: &mut &[u8], count: usize, to: &mut Vec<u8>) {
    let (now, later) = from.split_at(count);
    to.extend_from_slice(now);
    *from = later;
}

/// Rewrites a HEADERS frame; others hold no payload here.
fn rewrite_frame(frame: &mut [u8]) {
    let Some((header, payload)) = frame.split_at_mut_checked(FRAME_HEADER) else {
        return;
    };
    if header[3] != HEADERS {
        return;
    }
    let (mut start, mut end) = (0, payload.len());
    if header[4] & PADDED != 0 {
        let Some(padding) = payload.first() else { return };
        start += 1;
        end = end.saturating_sub(usize::from(*padding));
    }
    if header[4] & PRIORITY != 0 {
        start += PRIORITY_LEN;
    }
    if let Some(fields) = payload.get_mut(start..end) {
        // None: not well-formed, or cut; what was understood until then is done.
        let _: Option<()> = rewrite_fields(fields);
    }
}

/// Walks the representations of a header block (RFC 7541, 6).
fn rewrite_fields(fields: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < fields.len() {
        let prefix_bits = match fields[at] {
            0x80.. => 7,
            0x40..=0x7f => 6,
            0x20..=0x3f => 5,
            _ => 4,
        };
        let literal = matches!(prefix_bits, 4 | 6);
        let (index, next) = integer(fields, at, prefix_bits)?;
        at = next;
        if !literal {
            continue;
        }
        let mut is_authority = index == AUTHORITY;
        if index == 0 {
            let (_, name) = string(fields, at)?;
            is_authority = fields.get(name.clone())? == b":authority";
            at = name.end;
        }
        let (coded, value) = string(fields, at)?;
        at = value.end;
        if is_authority {
            let value = fields.get_mut(value)?;
            if coded {
                rewrite_coded(value)
            } else {
                rewrite_plain(value)
            }
        }
    }
    Some(())
}

/// Reads an integer (RFC 7541, 5.1) whose first byte is at `at`; returns it and what follows.
fn integer(bytes: &[u8], at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let full = (1_usize << prefix_bits) - 1;
    let first = usize::from(*bytes.get(at)?) & full;
    if first < full {
        return Some((first, at + 1));
    }
    // Three more bytes reach 2 MiB, beyond any frame here.
    let mut value = full;
    for (i, byte) in bytes.get(at + 1..)?.iter().take(3).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, at + 2 + i));
        }
    }
    None
}

/// Reads a string's header (RFC 7541, 5.2); returns whether it is Huffman-coded, and where it is.
fn string(bytes: &[u8], at: usize) -> Option<(bool, std::ops::Range<usize>)> {
    let coded = bytes.get(at)? & 0x80 != 0;
    let (length, start) = integer(bytes, at, 7)?;
    let end = start.checked_add(length).filter(|end| *end <= bytes.len())?;
    Some((coded, start..end))
}

fn rewrite_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(byte, b'/' | b'%') {
            *byte = b'.';
        }
    }
}

/// How many symbols of HPACK's Huffman code have so many bits (RFC 7541, appendix B). The code is canonical, so
/// these counts tell where each symbol ends.
const SYMBOLS: [u32; 31] = {
    let mut counts = [0; 31];
    let table = [
        (5, 10),
        (6, 26),
        (7, 32),
        (8, 6),
        (10, 5),
        (11, 3),
        (12, 2),
        (13, 6),
        (14, 2),
        (15, 3),
        (19, 3),
        (20, 8),
        (21, 13),
        (22, 26),
        (23, 29),
        (24, 12),
        (25, 4),
        (26, 15),
        (27, 19),
        (28, 29),
        (30, 4),
    ];
    let mut i = 0;
    while i < table.len() {
        counts[table[i].0] = table[i].1;
        i += 1;
    }
    counts
};
/// Bits of the codes below.
const SIX: usize = 6;
const CODE_PERCENT: u32 = 0x15;
const CODE_DOT: u32 = 0x17;
const CODE_SLASH: u32 = 0x18;

fn rewrite_coded(value: &mut [u8]) {
    let (mut code, mut bits) = (0_u32, 0_usize);
    // The first code of the present length.
    let mut first = 0_u32;
    for at in 0..value.len() * 8 {
        code = code << 1 | u32::from(value[at / 8] >> (7 - at % 8) & 1);
        first = (first + SYMBOLS[bits]) << 1;
        bits += 1;
        if bits == SYMBOLS.len() {
            return;
        }
        if code.wrapping_sub(first) < SYMBOLS[bits] {
            if bits == SIX && matches!(code, CODE_PERCENT | CODE_SLASH) {
                put_six(value, at + 1 - SIX, CODE_DOT);
            }
            (code, bits, first) = (0, 0, 0);
        }
    }
}

fn put_six(value: &mut [u8], start: usize, code: u32) {
    for i in 0..SIX {
        let (byte, mask) = ((start + i) / 8, 0x80 >> ((start + i) % 8));
        if code >> (SIX - 1 - i) & 1 == 1 {
            value[byte] |= mask;
        } else {
            value[byte] &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of a few symbols (RFC 7541, appendix B).
    fn coded(text: &str) -> Vec<u8> {
        let code = |c| match c {
            '/' => (CODE_SLASH, 6),
            '.' => (CODE_DOT, 6),
            '%' => (CODE_PERCENT, 6),
            's' => (0x8, 5),
            'o' => (0x7, 5),
            'c' => (0x4, 5),
            'k' => (0x75, 7),
            'X' => (0xfc, 8),
            '|' => (0x7fc, 11),
            '\u{1}' => (0x007f_ffd8, 23),
            _ => (0x3, 5),
        };
        let (mut bits, mut bytes) = (Vec::new(), Vec::new());
        for c in text.chars() {
            let (code, length) = code(c);
            bits.extend((0..length).rev().map(|i| code >> i & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        for eight in bits.chunks(8) {
            bytes.push(eight.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        }
        bytes
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn field(first: u8, value: &[u8], huffman: bool) -> Vec<u8> {
        let mut field = vec![first, value.len() as u8 | if huffman { 0x80 } else { 0 }];
        field.extend_from_slice(value);
        field
    }

    fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
        for piece in bytes.chunks(step) {
            rewriter.push(piece, &mut out);
        }
        rewriter.finish(&mut out);
        out
    }

    /// `value` becomes `expected` wherever it stands for the authority, however the bytes are cut.
    fn check(fields: impl Fn(&[u8]) -> Vec<u8>, value: &[u8], expected: &[u8]) {
        let stream = |value: &[u8]| {
            let mut bytes = vec![b'P'; PREFACE];
            bytes.extend(frame(4, 0, &[0; 12]));
            bytes.extend(frame(HEADERS, 0x4, &fields(value)));
            bytes.extend(frame(0, 1, b"/%/data is never touched"));
            bytes.extend(frame(HEADERS, 0x4 | PADDED | PRIORITY, &{
                let mut payload = vec![3, 0, 0, 0, 0, 16];
                payload.extend(fields(value));
                payload.extend([0x41, 1, b'/']);
                payload
            }));
            bytes
        };
        for step in [1, 2, 7, 24, 1000] {
            assert_eq!(
                through(&stream(value), step),
                stream(expected),
                "{step} bytes at a time"
            );
        }
    }

    #[test]
    fn the_code_is_complete() {
        let kraft: u64 = SYMBOLS
            .iter()
            .enumerate()
            .map(|(bits, count)| u64::from(*count) << (30 - bits))
            .sum();
        assert_eq!((SYMBOLS.iter().sum::<u32>(), kraft), (257, 1 << 30));
    }

    #[test]
    fn paths_become_hosts() {
        let (path, host) = ("/\u{1}sock|X/%/s.sock", ".\u{1}sock|X...s.sock");
        for first in [0x41, 0x01, 0x11] {
            check(|value| field(first, value, true), &coded(path), &coded(host));
            check(
                |value| field(first, value, false),
                path.as_bytes(),
                host.as_bytes(),
            );
        }
        let named = |value: &[u8]| [&b"\x40\x0a:authority"[..], &field(0, value, false)[1..]].concat();
        check(named, b"/a/b", b".a.b");
    }

    #[test]
    fn other_fields_are_not_touched() {
        let fields = |value: &[u8]| {
            let mut fields = vec![0x3f, 0xe1, 0x1f, 0x83, 0x86];
            fields.extend(field(
                0x44,
                b"/containerd.services.snapshots.v1.Snapshots/Prepare",
                false,
            ));
            fields.extend(field(0x44, &coded("/s/o/c"), true));
            fields.extend(field(0x41, value, false));
            fields.extend(*b"\x40\x01/\x01/\xbe");
            fields
        };
        check(fields, b"/x", b".x");
        check(fields, b"localhost:80", b"localhost:80");
    }

    #[test]
    fn no_bytes_make_it_panic_or_lose_any() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..20_000 {
            let fields: Vec<u8> = (0..random(40))
                .map(|_| match random(3) {
                    0 => [0x41, 0x40, 0x00, 0xff, 0x7f, b'/'][random(6) as usize],
                    _ => random(256) as u8,
                })
                .collect();
            let mut bytes = vec![b'P'; PREFACE];
            bytes.extend(frame(HEADERS, random(256) as u8, &fields));
            bytes.extend(frame(random(12) as u8, random(256) as u8, &fields));
            bytes.truncate(bytes.len() - random(4) as usize);
            let out = through(&bytes, 1 + random(50) as usize);
            assert_eq!(out.len(), bytes.len());
            assert_eq!(out[..PREFACE + FRAME_HEADER], bytes[..PREFACE + FRAME_HEADER]);
        }
    }

    #[test]
    fn what_is_cut_or_broken_passes_as_it_is() {
        let whole = frame(HEADERS, 4, &field(0x41, b"/a", false));
        let preface = [b'P'; PREFACE];
        for cut in 0..whole.len() {
            let bytes = [&preface, &whole[..cut]].concat();
            assert_eq!(through(&bytes, 5), bytes);
        }
        for payload in [
            &b"\x41"[..],
            b"\x41\x7f",
            b"\x41\x7f\xff\xff\xff\xff",
            b"\x41\x05/",
            b"\x40",
            b"\x7f\xff",
        ] {
            for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
                let bytes = [&preface[..], &frame(HEADERS, flags, payload)].concat();
                assert_eq!(through(&bytes, 3), bytes);
            }
        }
        let long = [&preface[..], &frame(HEADERS, 4, &vec![0x41; MAX_FRAME + 1])].concat();
        assert_eq!(through(&long, 999), long);
    }
}
