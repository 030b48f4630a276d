//! What a recorded start has read: it waits until the whole layer is read, and then becomes frames in the record's order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;
use crate::error::io;
use crate::limits::MAX_RECORDED;

/// Most plain bytes in a frame, padding included. All of it is wanted, so that it may be as large as frames get.
const FRAME: usize = 1 << 20;

/// A chunk that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The record's line that named it first.
    line: u32,
    /// Number in the layer's plan.
    chunk: u32,
    offset: u64,
    /// Plain bytes with padding.
    len: u32,
}

/// Chunks of one layer that come first.
#[derive(Debug, Default)]
pub(crate) struct Early {
    /// Made with the first chunk; has no name and goes with this.
    file: Option<File>,
    len: u64,
    chunks: Vec<Waiting>,
}

impl Early {
    /// Whether there is room for so many bytes more.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.len + len as u64 <= MAX_RECORDED
    }

    /// Keeps a chunk's plain bytes with their padding.
    pub(crate) fn put(&mut self, dir: &Path, line: u32, chunk: u32, plain: &[u8]) -> Result<(), Error> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(dir).map_err(io("file of recorded chunks"))?),
        };
        file.write_all_at(plain, self.len)
            .map_err(io("file of recorded chunks"))?;
        self.chunks.push(Waiting {
            line,
            chunk,
            offset: self.len,
            len: plain.len() as u32,
        });
        self.len += plain.len() as u64;
        Ok(())
    }

    /// Hands out frames in the record's order: plain bytes, and the numbers of their chunks.
    pub(crate) fn frames(
        &mut self,
        mut each: impl FnMut(Vec<u8>, Vec<u32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let mut waiting = std::mem::take(&mut self.chunks);
        waiting.sort_by_key(|chunk| (chunk.line, chunk.chunk));
        let (mut plain, mut chunks) = (Vec::new(), Vec::new());
        for chunk in waiting {
            let start = plain.len();
            if start > 0 && start + chunk.len as usize > FRAME {
                each(std::mem::take(&mut plain), std::mem::take(&mut chunks))?;
            }
            let start = plain.len();
            plain.resize(start + chunk.len as usize, 0);
            file.read_exact_at(&mut plain[start..], chunk.offset)
                .map_err(io("file of recorded chunks"))?;
            chunks.push(chunk.chunk);
        }
        each(plain, chunks)
    }
}
