//! Contents of original files, as chunk ids only.

use lacewing_format::{ChunkId, Extent, FileBody};

use crate::Error;
use crate::apply::{Contents, Data};
use crate::tar::Run;

/// Read at once; a multiple of every chunk size there is.
const STEP: usize = lacewing_format::limits::MAX_CHUNK as usize;

/// Ids of one file's chunks for each chunk size that the index uses; nothing for a chunk of zeros.
#[derive(Clone, Debug, Default)]
struct File {
    zero: bool,
    /// First id in `all`, for each size.
    starts: Vec<usize>,
}

/// Computes ids while a layer is applied. The tree's files refer to them by number.
#[derive(Debug, Default)]
pub(super) struct Ids {
    bits: Vec<u8>,
    files: Vec<File>,
    all: Vec<Option<ChunkId>>,
}

impl Ids {
    /// `bits`: log2 of the chunk sizes, at most [`STEP`].
    pub(super) fn new(bits: Vec<u8>) -> Self {
        Self {
            bits,
            ..Self::default()
        }
    }

    fn file_of(&self, body: &FileBody) -> Option<&File> {
        match body.extents.first() {
            Some(Extent::Data { block, .. }) => self.files.get(*block as usize),
            _ => None,
        }
    }

    /// Is the file all zeros?
    pub(super) fn is_zero(&self, body: &FileBody) -> bool {
        self.file_of(body).is_none_or(|file| file.zero)
    }

    /// The id of a file's chunk; nothing for zeros, and for a chunk size that was not asked for.
    pub(super) fn chunk(&self, body: &FileBody, bits: u8, number: usize) -> Option<ChunkId> {
        let size = self.bits.iter().position(|&b| b == bits)?;
        let start = *self.file_of(body)?.starts.get(size)?;
        *self.all.get(start + number)?
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

impl Contents for Ids {
    fn file(&mut self, _path: &[u8], _mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        let size = data.size();
        let mut body = FileBody {
            size,
            ..FileBody::default()
        };
        if data.run() == Some(Run::Hole(size)) || size == 0 {
            data.skip_hole(size);
            return Ok(body);
        }
        body.extents = vec![Extent::Data {
            device: 0,
            block: self.files.len() as u32,
        }];
        let mut ids: Vec<Vec<Option<ChunkId>>> = vec![Vec::new(); self.bits.len()];
        let mut zero = true;
        let mut left = size;
        let mut buffer = Vec::new();
        while left > 0 {
            let len = left.min(STEP as u64) as usize;
            left -= len as u64;
            buffer.resize(len, 0);
            data.read(&mut buffer)?;
            zero &= is_zero(&buffer);
            for (ids, &bits) in ids.iter_mut().zip(&self.bits) {
                ids.extend(
                    buffer
                        .chunks(1 << bits)
                        .map(|chunk| (!is_zero(chunk)).then(|| ChunkId::of(chunk))),
                );
            }
        }
        let mut file = File {
            zero,
            starts: Vec::new(),
        };
        for mut ids in ids {
            file.starts.push(self.all.len());
            self.all.append(&mut ids);
        }
        self.files.push(file);
        Ok(body)
    }
}
