//! Writes tars for tests, also such as no tool writes.

use super::kind;

/// A tar in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// One header to be.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) size: Option<u64>,
    pub(crate) device: (u64, u64),
    pub(crate) magic: [u8; 8],
    pub(crate) pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) fn header(name: &str, kind: u8) -> Header {
    Header {
        name: name.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1000,
        link: Vec::new(),
        size: None,
        device: (0, 0),
        magic: *b"ustar\x0000",
        pax: Vec::new(),
    }
}

impl Header {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
    pub(crate) fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }
    pub(crate) fn device(mut self, major: u64, minor: u64) -> Self {
        self.device = (major, minor);
        self
    }
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.to_vec()));
        self
    }
    pub(crate) fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

pub(crate) fn dir(name: &str) -> Header {
    header(name, kind::DIR).mode(0o755)
}

pub(crate) fn link(name: &str, kind: u8, target: &str) -> Header {
    Header {
        link: target.into(),
        ..header(name, kind)
    }
}

fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value >> (3 * digits) == 0 {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let start = field.len() - 8.min(field.len());
        field[..start].fill(if value >> 63 == 1 { 0xff } else { 0 });
        let bytes = value.to_be_bytes();
        let from = 8 - field[start..].len();
        field[start..].copy_from_slice(&bytes[from..]);
        field[0] |= 0x80;
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// A header block.
pub(crate) fn block(header: &Header, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    put(&mut block[..100], &header.name);
    number(&mut block[100..108], header.mode.into());
    number(&mut block[108..116], header.uid);
    number(&mut block[116..124], header.gid);
    number(&mut block[124..136], header.size.unwrap_or(size));
    number(&mut block[136..148], header.mtime);
    block[148..156].fill(b' ');
    block[156] = header.kind;
    put(&mut block[157..257], &header.link);
    block[257..265].copy_from_slice(&header.magic);
    if header.magic[0] != 0 {
        number(&mut block[329..337], header.device.0);
        number(&mut block[337..345], header.device.1);
    }
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// PAX records as they stand in a header's data.
pub(crate) fn records(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len = body + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} ").as_bytes());
        data.extend_from_slice(key);
        data.push(b'=');
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

impl Tar {
    /// Adds data, padded to whole blocks.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds an entry; long names and what else needs it go into PAX records.
    pub(crate) fn add(mut self, mut header: Header, data: &[u8]) -> Self {
        if header.name.len() > 100 {
            header.pax.push((b"path".to_vec(), header.name.clone()));
        }
        if header.link.len() > 100 {
            header.pax.push((b"linkpath".to_vec(), header.link.clone()));
        }
        if !header.pax.is_empty() {
            let data = records(&header.pax);
            self.0
                .extend_from_slice(&block(&super::build::header("pax", kind::PAX), data.len() as u64));
            self = self.data(&data);
        }
        self.0.extend_from_slice(&block(&header, data.len() as u64));
        self.data(data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(dir(name), b"")
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(header(name, kind::REGULAR), data)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.add(link(name, kind::SYMLINK, target).mode(0o777), b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.add(link(name, kind::LINK, target), b"")
    }

    /// Ends the archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
