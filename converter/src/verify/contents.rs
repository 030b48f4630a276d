//! Contents of original files, as chunk ids only.

use std::ops::Range;

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
    /// Which of `all` are its own, for each size.
    ids: Vec<Range<usize>>,
}

/// Computes ids while a layer is applied. The tree's files refer to them by number.
#[derive(Debug, Default)]
pub(super) struct Ids {
    bits: Vec<u8>,
    files: Vec<File>,
    /// Numbers of chunks that are not zeros, and their ids: memory goes with data, whatever a sparse file claims to be.
    all: Vec<(u64, ChunkId)>,
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
        let ids = self.all.get(self.file_of(body)?.ids.get(size)?.clone())?;
        let at = ids
            .binary_search_by_key(&(number as u64), |(number, _)| *number)
            .ok()?;
        Some(ids[at].1)
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
        let mut ids: Vec<Vec<(u64, ChunkId)>> = vec![Vec::new(); self.bits.len()];
        let mut zero = true;
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size {
            if let Some(Run::Hole(hole)) = data.run() {
                let left = size - at;
                let whole = if hole >= left {
                    left
                } else {
                    hole - hole % STEP as u64
                };
                if whole > 0 {
                    data.skip_hole(whole);
                    at += whole;
                    continue;
                }
            }
            let len = (size - at).min(STEP as u64) as usize;
            buffer.resize(len, 0);
            data.read(&mut buffer)?;
            for (ids, &bits) in ids.iter_mut().zip(&self.bits) {
                let chunks = (at >> bits..).zip(buffer.chunks(1 << bits));
                let data = chunks.filter(|(_, chunk)| !is_zero(chunk));
                ids.extend(data.map(|(number, chunk)| (number, ChunkId::of(chunk))));
            }
            zero &= is_zero(&buffer);
            at += len as u64;
        }
        let mut file = File {
            zero,
            ids: Vec::new(),
        };
        for mut ids in ids {
            let start = self.all.len();
            self.all.append(&mut ids);
            file.ids.push(start..self.all.len());
        }
        self.files.push(file);
        Ok(body)
    }
}
