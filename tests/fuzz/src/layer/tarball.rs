//! Tars that the input describes: well-formed as far as their checksums go, and otherwise as odd as it likes.

use super::super::input::Input;

const BLOCK: usize = 512;

const NAMES: [&[u8]; 24] = [
    b"a",
    b"b",
    b"a/b",
    b"a/b/c",
    b"./",
    b"",
    b"/",
    b"..",
    b"../../x",
    b"/a/../b",
    b"a/.wh.b",
    b".wh.a",
    b".wh..wh..opq",
    b"a/.wh..wh..opq",
    b".wh.",
    b".wh...",
    b"a/.wh..wh.aufs",
    b"link/x",
    b"link",
    b"a//b/",
    b"\xff\xfe",
    b"new\nline",
    b"a/b/c/d/e/f/g/h",
    b"./a",
];

const KINDS: &[u8] = b"00055212x5x6347gLKSx\0D00";

const KEYS: [&str; 18] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "SCHILY.xattr.user.x",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.system.posix_acl_access",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.map",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.numblocks",
    "GNU.sparse.name",
];

/// Reads entries up to a limit off the input, and writes their tar.
pub(super) fn tar(input: &mut Input<'_>) -> Vec<u8> {
    let mut tar = Vec::new();
    let count = input.byte() % 16;
    for _ in 0..count {
        entry(input, &mut tar);
    }
    // Archives end with two blocks of zeros; ones that do not are read, too.
    let end = if count % 5 == 4 { 0 } else { 2 };
    tar.resize(tar.len() + end * BLOCK, 0);
    tar
}

fn entry(input: &mut Input<'_>, tar: &mut Vec<u8>) {
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let shape = input.byte();
    let name = name(input);
    let data = match kind {
        b'x' | b'g' => records(input),
        b'0' | b'7' | 0 | b'L' | b'K' | b'D' => data(input, shape),
        _ => Vec::new(),
    };
    let mut block = [0; BLOCK];
    put(&mut block[..100], name);
    number(
        &mut block[100..108],
        [0o644, 0o755, 0o7777, 0o10_0644][usize::from(shape & 3)],
    );
    number(&mut block[108..116], u64::from(shape >> 4) * 70_000);
    number(&mut block[116..124], u64::from(shape >> 5));
    number(&mut block[124..136], data.len() as u64);
    number(&mut block[136..148], u64::from(shape) << (shape & 31));
    block[156] = kind;
    if matches!(kind, b'1' | b'2') {
        put(&mut block[157..257], self::name(input));
    }
    match shape & 12 {
        0 => {}
        4 => block[257..265].copy_from_slice(b"ustar  \0"),
        _ => block[257..265].copy_from_slice(b"ustar\x0000"),
    }
    if matches!(kind, b'3' | b'4') {
        number(&mut block[329..337], u64::from(input.byte()) << 4);
        number(&mut block[337..345], u64::from(input.short()));
    }
    // Anything anywhere in the header, before the checksum is made.
    if shape & 0x80 != 0 {
        super::super::input::change(&mut block, input.counted());
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(&data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

fn name<'a>(input: &mut Input<'a>) -> &'a [u8] {
    match input.byte() {
        byte @ 0..=0xbf => NAMES[usize::from(byte) % NAMES.len()],
        _ => input.counted(),
    }
}

/// A file's bytes: spelt out, or repeated to lengths around those of blocks and chunks.
fn data(input: &mut Input<'_>, shape: u8) -> Vec<u8> {
    let seed = input.counted();
    let long = [1, 100, 4096, 65_536, 65_537, 140_000];
    if shape & 0x40 == 0 || seed.is_empty() {
        return seed.to_vec();
    }
    let len = long[seed.len() % long.len()];
    seed.iter().copied().cycle().take(len).collect()
}

/// PAX records: known keys with values from the input, then what the input spells out.
fn records(input: &mut Input<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..input.byte() % 6 {
        let key = usize::from(input.byte());
        let Some(key) = KEYS.get(key % (KEYS.len() + 2)) else {
            data.extend_from_slice(input.counted());
            continue;
        };
        let value = input.counted();
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len = body + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Octal, or base 256 for what is too long for it.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value >> (3 * digits) == 0 {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let bytes = value.to_be_bytes();
        let from = bytes.len().saturating_sub(field.len());
        let start = field.len() - (bytes.len() - from);
        field[start..].copy_from_slice(&bytes[from..]);
        field[0] |= 0x80;
    }
}
