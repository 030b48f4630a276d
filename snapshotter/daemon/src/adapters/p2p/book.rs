//! What indexes say about the pieces of data blobs, in a form that is quick to hold bytes against.
//!
//! An index of a layer of this node is read from the store's folder, where it was checked. An index of a layer that only
//! other nodes have is got from them, by digest, to be able to verify what passes through here.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lacewing_format::limits::{BLOCK, MAX_FRAME_PLAIN};
use lacewing_format::{ChunkId, Codec, Digest, Index};

/// Plain bytes of a foreign index, at most: its tables are kept in memory for a while.
pub(crate) const MAX_FOREIGN_INDEX: u64 = 64 << 20;

/// Chunks of all tables in memory: 64 MiB of them.
const MOST_CHUNKS: usize = 1 << 20;

/// Largest zstd window that is accepted, as for indexes that are taken in.
const WINDOW_LOG_MAX: u32 = 27;

/// A frame.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Stored bytes in the blob.
    pub(crate) stored: Range<u64>,
    codec: Codec,
    plain_len: usize,
    chunks: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    /// First byte in the plain frame, bytes, and bytes with padding.
    at: usize,
    len: usize,
    padded: usize,
    id: ChunkId,
}

/// An index's tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    blobs: HashMap<Digest, Vec<Row>>,
    chunks: Vec<Bound>,
}

impl Tables {
    /// Takes the tables of a plain index.
    ///
    /// # Errors
    /// The index is none.
    pub(crate) fn of(plain: &[u8]) -> Result<Tables, String> {
        let index = Index::parse(plain).map_err(|error| error.to_string())?;
        let mut tables = Tables::default();
        for (number, device) in index.devices().iter().enumerate() {
            let mut rows = Vec::new();
            for frame in index.device_frames(number) {
                let row = tables.row(&index, frame).ok_or("a frame of unknown form")?;
                rows.push(row);
            }
            rows.sort_unstable_by_key(|row| row.stored.start);
            // Two devices may name one blob; the first is as good as the second for whoever verifies by it.
            tables.blobs.entry(device.blob()).or_insert(rows);
        }
        Ok(tables)
    }

    fn row(&mut self, index: &Index<'_>, number: usize) -> Option<Row> {
        let frame = index.frames().get(number)?;
        let first = index.frame_block(number);
        let begin = self.chunks.len();
        for chunk in index.frame_chunks(number) {
            self.chunks.push(Bound {
                at: chunk.block().checked_sub(first)? as usize * BLOCK,
                len: chunk.len() as usize,
                padded: chunk.blocks() as usize * BLOCK,
                id: chunk.id(),
            });
        }
        let end = frame.stored_offset().checked_add(u64::from(frame.stored_len()))?;
        Some(Row {
            stored: frame.stored_offset()..end,
            codec: frame.codec()?,
            plain_len: index.frame_plain_len(number).min(MAX_FRAME_PLAIN) as usize,
            chunks: begin..self.chunks.len(),
        })
    }

    /// The frames that lie end to end in a range of a blob; nothing if they are others.
    pub(crate) fn tiling(&self, blob: &Digest, range: &Range<u64>) -> Option<&[Row]> {
        let rows = self.blobs.get(blob)?;
        let begin = rows.partition_point(|row| row.stored.start < range.start);
        let mut end = begin;
        let mut at = range.start;
        while at < range.end {
            let row = rows.get(end)?;
            if row.stored.start != at {
                return None;
            }
            at = row.stored.end;
            end += 1;
        }
        (at == range.end).then(|| &rows[begin..end])
    }

    /// The frames that begin after a range, at most `count`.
    pub(crate) fn following(&self, blob: &Digest, offset: u64, count: usize) -> &[Row] {
        let rows = self.blobs.get(blob).map_or(&[][..], Vec::as_slice);
        let begin = rows.partition_point(|row| row.stored.start < offset);
        &rows[begin..(begin + count).min(rows.len())]
    }

    /// Whether stored bytes decode to exactly the chunks of a frame, padded with zeros.
    pub(crate) fn proves(&self, row: &Row, stored: &[u8]) -> bool {
        let decoded;
        let plain = match row.codec {
            Codec::Raw => stored,
            Codec::Zstd => match zstd::bulk::decompress(stored, row.plain_len) {
                Ok(plain) => {
                    decoded = plain;
                    decoded.as_slice()
                }
                Err(_) => return false,
            },
        };
        plain.len() == row.plain_len
            && self.chunks[row.chunks.clone()].iter().all(|chunk| {
                let Some(bytes) = plain.get(chunk.at..chunk.at + chunk.padded) else {
                    return false;
                };
                let (bytes, padding) = bytes.split_at(chunk.len.min(chunk.padded));
                ChunkId::of(bytes) == chunk.id && padding.iter().all(|byte| *byte == 0)
            })
    }
}

/// Tables of indexes, those used last in memory.
#[derive(Debug)]
pub(crate) struct Book {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<Digest, (Arc<Tables>, u64)>,
    uses: u64,
}

impl Book {
    /// `root`: the daemon's, in whose `indexes` the store keeps plain indexes by digest.
    pub(crate) fn new(root: &Path) -> Book {
        Book {
            dir: root.join("indexes"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tables that are in memory.
    pub(crate) fn known(&self, index: &Digest) -> Option<Arc<Tables>> {
        let mut state = self.state();
        state.uses += 1;
        let uses = state.uses;
        let (tables, used) = state.tables.get_mut(index)?;
        *used = uses;
        Some(tables.clone())
    }

    /// Whether the index is of a layer of this node.
    pub(crate) fn is_own(&self, index: &Digest) -> bool {
        self.dir.join(index.hex()).exists()
    }

    /// Tables of an index of this node.
    pub(crate) async fn own(self: &Arc<Self>, index: Digest) -> Option<Arc<Tables>> {
        if let Some(tables) = self.known(&index) {
            return Some(tables);
        }
        let this = self.clone();
        let load = tokio::task::spawn_blocking(move || {
            let plain = std::fs::read(this.dir.join(index.hex())).ok()?;
            let tables = Tables::of(&plain).ok()?;
            Some(this.keep(index, tables))
        });
        load.await.ok()?
    }

    /// Takes in the stored bytes of a foreign index, whose digest was verified.
    pub(crate) async fn take(self: &Arc<Self>, index: Digest, stored: bytes::Bytes) -> Option<Arc<Tables>> {
        let this = self.clone();
        let load = tokio::task::spawn_blocking(move || {
            let plain = decode(&stored)?;
            let tables = Tables::of(&plain).ok()?;
            Some(this.keep(index, tables))
        });
        load.await.ok()?
    }

    fn keep(&self, index: Digest, tables: Tables) -> Arc<Tables> {
        let tables = Arc::new(tables);
        let mut state = self.state();
        state.uses += 1;
        let uses = state.uses;
        state.tables.insert(index, (tables.clone(), uses));
        let mut chunks: usize = state.tables.values().map(|(tables, _)| tables.chunks.len()).sum();
        while chunks > MOST_CHUNKS && state.tables.len() > 1 {
            let oldest = state.tables.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(index, _)| *index) else {
                break;
            };
            if let Some((gone, _)) = state.tables.remove(&oldest) {
                chunks -= gone.chunks.len();
            }
        }
        tables
    }
}

/// One zstd frame of bounded length.
fn decode(stored: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)
        .ok()?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
    let mut plain = Vec::new();
    let read = decoder.take(MAX_FOREIGN_INDEX + 1).read_to_end(&mut plain).ok()?;
    (read as u64 <= MAX_FOREIGN_INDEX).then_some(plain)
}
