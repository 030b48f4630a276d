//! Data blobs: while they are made, and when they are whole.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{BufWriter, Write};
use std::path::Path;

use lacewing_format::limits::{BLOCK, MAX_DEVICE_BLOCKS};
use lacewing_format::{Chunk, ChunkId, Digest, Frame, Index};
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;

use crate::Error;
use crate::error::io;
use crate::spool::Spool;

/// A chunk that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewChunk {
    pub(crate) id: ChunkId,
    pub(crate) len: u32,
}

/// A frame that was sent to be compressed.
#[derive(Clone, Debug)]
pub(crate) struct NewFrame {
    pub(crate) rank: u8,
    /// Numbers of its chunks, in the order in which they stand in it.
    pub(crate) chunks: Vec<u32>,
}

/// Chunks and frames of a blob in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) chunks: Vec<NewChunk>,
    pub(crate) frames: Vec<NewFrame>,
}

/// A whole blob, new or of an earlier image.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) stored_len: u64,
    pub(crate) blocks: u32,
    /// Frames in order of their blocks; `first_chunk` counts in `chunks`.
    pub(crate) frames: Vec<Frame>,
    pub(crate) chunks: Vec<Chunk>,
    /// Of an earlier image's blob: frames that hold what a record named, by number.
    pub(crate) recorded: HashSet<usize>,
    /// For a new blob: where the chunk that was found n-th is in `chunks`.
    order: Option<Vec<u32>>,
}

impl Blob {
    /// Position in `chunks` of the chunk that the dedup map calls `number`.
    pub(crate) fn position(&self, number: u32) -> Option<usize> {
        match &self.order {
            Some(order) => order.get(number as usize).map(|&at| at as usize),
            None => Some(number as usize),
        }
    }

    /// The frame that holds a chunk, by its position in `chunks`.
    pub(crate) fn frame_of(&self, chunk: usize) -> usize {
        self.frames
            .partition_point(|f| f.first_chunk() as usize <= chunk)
            .saturating_sub(1)
    }
}

/// A new blob and its file.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) blob: Blob,
    /// None for a blob without a frame.
    pub(crate) file: Option<TempPath>,
}

/// Puts a spool's frames into their final order and writes the blob: by rank, then as they were found.
pub(crate) fn seal(plan: &Plan, spool: &Spool, dir: &Path) -> Result<Sealed, Error> {
    let stored = spool.wait(plan.frames.len())?;
    let mut order: Vec<u32> = (0..plan.frames.len() as u32).collect();
    order.sort_by_key(|&frame| (plan.frames[frame as usize].rank, frame));
    let mut blob = Blob {
        digest: Digest::of(b""),
        stored_len: 0,
        blocks: 0,
        frames: Vec::with_capacity(order.len()),
        chunks: Vec::with_capacity(plan.chunks.len()),
        recorded: HashSet::new(),
        order: None,
    };
    let mut position = vec![0; plan.chunks.len()];
    for &frame in &order {
        let at = &stored[frame as usize];
        let chunks = &plan.frames[frame as usize].chunks;
        let first = blob.chunks.len() as u32;
        blob.frames.push(Frame::new(
            blob.stored_len,
            at.len,
            first,
            chunks.len() as u32,
            at.codec,
        ));
        blob.stored_len += u64::from(at.len);
        for &number in chunks {
            let chunk = &plan.chunks[number as usize];
            position[number as usize] = blob.chunks.len() as u32;
            let record = Chunk::new(blob.blocks, chunk.len, chunk.id);
            let end = u64::from(blob.blocks) + u64::from(record.blocks());
            if end > u64::from(MAX_DEVICE_BLOCKS) {
                let limit = u64::from(MAX_DEVICE_BLOCKS);
                return Err(Error::Limit {
                    what: "count of blocks in the blob",
                    value: end,
                    limit,
                });
            }
            blob.blocks = end as u32;
            blob.chunks.push(record);
        }
    }
    blob.order = Some(position);
    if order.is_empty() {
        return Ok(Sealed { blob, file: None });
    }
    let (digest, file) = write(order.iter().map(|&frame| &stored[frame as usize]), spool, dir)?;
    blob.digest = digest;
    Ok(Sealed {
        blob,
        file: Some(file),
    })
}

fn write<'a>(
    frames: impl Iterator<Item = &'a crate::spool::Stored>,
    spool: &Spool,
    dir: &Path,
) -> Result<(Digest, TempPath), Error> {
    let file = tempfile::NamedTempFile::new_in(dir).map_err(io("blob file"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut hash = Sha256::new();
    let mut buffer = Vec::new();
    for stored in frames {
        spool.read(stored, &mut buffer)?;
        hash.update(&buffer);
        out.write_all(&buffer).map_err(io("blob file"))?;
    }
    let file = out
        .into_inner()
        .map_err(|e| e.into_error())
        .map_err(io("blob file"))?;
    Ok((Digest(hash.finalize().into()), file.into_temp_path()))
}

/// Takes the blobs over that an earlier image's index points to. Blobs already known only gain frames.
pub(crate) fn from_index(index: Index<'_>, blobs: &mut Vec<Blob>) {
    let recorded = recorded_frames(index);
    for (number, device) in index.devices().iter().enumerate() {
        let known = blobs.iter_mut().find(|blob| blob.digest == device.blob());
        let mut frames: Vec<Found> = index
            .device_frames(number)
            .map(|frame| Found {
                frame: index.frames()[frame],
                chunks: index.frame_chunks(frame).to_vec(),
                recorded: recorded.contains(&frame),
            })
            .collect();
        match known {
            None => blobs.push(Blob {
                digest: device.blob(),
                stored_len: device.stored_len(),
                blocks: device.blocks(),
                frames: Vec::new(),
                chunks: Vec::new(),
                recorded: HashSet::new(),
                order: None,
            }),
            Some(blob) if blob.stored_len != device.stored_len() || blob.blocks != device.blocks() => {
                continue;
            }
            Some(blob) => {
                let own = blob.frames.iter().enumerate().map(|(at, frame)| {
                    let first = frame.first_chunk() as usize;
                    Found {
                        frame: *frame,
                        chunks: blob.chunks[first..first + frame.chunk_count() as usize].to_vec(),
                        recorded: blob.recorded.contains(&at),
                    }
                });
                frames.extend(own);
            }
        }
        let digest = device.blob();
        if let Some(blob) = blobs.iter_mut().find(|blob| blob.digest == digest) {
            rebuild(blob, frames);
        }
    }
}

/// A frame that an earlier image's index lists.
struct Found {
    frame: Frame,
    chunks: Vec<Chunk>,
    recorded: bool,
}

/// Frames that were made of what a record named: they stand at the front of their blobs, without others between them. Ones
/// further back are listed because a chunk of theirs was stored before, among others.
fn recorded_frames(index: Index<'_>) -> HashSet<usize> {
    if !index.recorded() {
        return HashSet::new();
    }
    let listed: HashSet<usize> = index.prefetch().collect();
    let mut recorded = HashSet::new();
    for device in 0..index.devices().len() {
        let front = index
            .device_frames(device)
            .take_while(|frame| listed.contains(frame));
        recorded.extend(front);
    }
    recorded
}

fn rebuild(blob: &mut Blob, mut frames: Vec<Found>) {
    // Of a frame in several indexes, that of one with a record comes first, and stays.
    frames.sort_by_key(|found| (found.chunks.first().map(Chunk::block), !found.recorded));
    blob.frames.clear();
    blob.chunks.clear();
    blob.recorded.clear();
    let mut end = 0;
    for Found {
        frame,
        chunks,
        recorded,
    } in frames
    {
        let Some(block) = chunks.first().map(Chunk::block) else {
            continue;
        };
        let codec = frame.codec();
        let (false, Some(codec)) = (block < end, codec) else {
            continue;
        };
        let first = blob.chunks.len() as u32;
        end = chunks.last().map_or(end, |c| c.block() + c.blocks());
        blob.chunks.extend_from_slice(&chunks);
        let count = chunks.len() as u32;
        if recorded {
            blob.recorded.insert(blob.frames.len());
        }
        blob.frames.push(Frame::new(
            frame.stored_offset(),
            frame.stored_len(),
            first,
            count,
            codec,
        ));
    }
}

/// Where a chunk is: blob and number of the chunk in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) blob: u16,
    pub(crate) chunk: u32,
}

/// Hashes a chunk id by its first bytes: it is a hash already.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            // The length of the array comes as eight bytes, too: keep what is more.
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _len: usize) {}
}

/// All chunks known so far.
pub(crate) type Dedup = HashMap<ChunkId, Place, BuildHasherDefault<FirstBytes>>;

/// Length of plain bytes with padding to whole blocks.
pub(crate) const fn padded(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}
