//! A layer's index: the tree's chunk numbers become addresses, and the tables list what the tree needs.

use std::collections::HashMap;

use lacewing_format::annotation::IndexRef;
use lacewing_format::limits::{MAX_DEVICES, MAX_INDEX};
use lacewing_format::{Body, Chunk, Device, Digest, Extent, Frame, Tables, Tree, write_index};

use crate::Error;
use crate::blob::{Blob, Place};
use crate::error::io;
use crate::hot::Hot;
use crate::limits::MAX_RECORDED;

/// zstd level of stored indexes: half of an index are digests, which no level compresses; names and addresses gain
/// little beyond this one.
const LEVEL: i32 = 9;

/// Most stored bytes that a layer's prefetch list names by guess. What a node fetches unasked must not stand in the way of
/// what is asked for: at 100 Mbit/s this is a second. What a record names will be asked for.
const MAX_PREFETCH: u64 = 12 << 20;

/// A stored index and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct StoredIndex {
    pub(crate) reference: IndexRef,
    pub(crate) stored: Vec<u8>,
    pub(crate) plain_len: u64,
    /// Numbers of the blobs it points to, in device order.
    pub(crate) blobs: Vec<u16>,
    pub(crate) inodes: u64,
}

impl StoredIndex {
    /// All that is known of it, without its bytes.
    pub(crate) fn without_bytes(&self) -> Self {
        Self {
            stored: Vec::new(),
            blobs: self.blobs.clone(),
            ..*self
        }
    }
}

/// Facts about the layer that the index keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) layer: Digest,
    pub(crate) diff_id: Digest,
}

/// Which blobs and frames a tree needs.
struct Needs {
    /// Numbers of blobs in the order in which the tree names them first.
    blobs: Vec<u16>,
    device: HashMap<u16, u16>,
    /// For each device, which of its blob's frames.
    frames: Vec<Vec<bool>>,
}

fn lost() -> Error {
    Error::Invalid {
        what: "index".to_owned(),
        reason: "a chunk is not in any blob".to_owned(),
    }
}

/// Builds a layer's index. Extents of `tree` are places ([`Place`]); they become addresses here.
pub(crate) fn build(
    mut tree: Tree,
    blobs: &[&Blob],
    hot: &Hot,
    source: Source,
) -> Result<StoredIndex, Error> {
    let needs = needs(&tree, blobs)?;
    let (mut tables, first_frames) = tables(&needs, blobs, source);
    tables.prefetch = prefetch(hot, &needs, blobs, &first_frames, &tables.frames);
    tables.recorded = hot.recorded && !tables.prefetch.is_empty();
    for inode in &mut tree.inodes {
        if let Body::File(file) = &mut inode.body {
            for extent in &mut file.extents {
                *extent = address(extent, &needs, blobs)?;
            }
        }
    }
    let plain = write_index(&tree, &tables)?;
    if plain.len() as u64 > MAX_INDEX {
        return Err(Error::Limit {
            what: "length of the index",
            value: plain.len() as u64,
            limit: MAX_INDEX,
        });
    }
    let stored = encode(&plain)?;
    let reference = IndexRef {
        digest: Digest::of(&stored),
        size: stored.len() as u64,
    };
    let inodes = tree.inodes.len() as u64;
    Ok(StoredIndex {
        reference,
        stored,
        plain_len: plain.len() as u64,
        blobs: needs.blobs,
        inodes,
    })
}

/// Compresses a plain index to its stored form.
pub(crate) fn encode(plain: &[u8]) -> Result<Vec<u8>, Error> {
    zstd::bulk::compress(plain, LEVEL).map_err(io("zstd"))
}

/// Decompresses a stored index, whatever length it claims: at most [`MAX_INDEX`] bytes.
///
/// # Errors
/// [`Error::Decompress`] for what is no zstd frame, [`Error::Limit`] for one that is too long.
pub(crate) fn decode(stored: &[u8]) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let damaged = |e: std::io::Error| Error::Decompress {
        reason: format!("index: {e}"),
    };
    let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(damaged)?;
    let mut plain = Vec::new();
    decoder
        .take(MAX_INDEX + 1)
        .read_to_end(&mut plain)
        .map_err(damaged)?;
    if plain.len() as u64 > MAX_INDEX {
        return Err(Error::Limit {
            what: "length of the index",
            value: plain.len() as u64,
            limit: MAX_INDEX,
        });
    }
    Ok(plain)
}

fn locate<'b>(place: Place, blobs: &[&'b Blob]) -> Result<(&'b Blob, usize), Error> {
    let blob = *blobs.get(usize::from(place.blob)).ok_or_else(lost)?;
    let chunk = blob
        .position(place.chunk)
        .filter(|&at| at < blob.chunks.len())
        .ok_or_else(lost)?;
    Ok((blob, chunk))
}

fn needs(tree: &Tree, blobs: &[&Blob]) -> Result<Needs, Error> {
    let mut needs = Needs {
        blobs: Vec::new(),
        device: HashMap::new(),
        frames: Vec::new(),
    };
    for inode in &tree.inodes {
        let Body::File(file) = &inode.body else { continue };
        for extent in &file.extents {
            let Extent::Data {
                device: number,
                block: chunk,
            } = *extent
            else {
                continue;
            };
            let (blob, chunk) = locate(Place { blob: number, chunk }, blobs)?;
            let next = needs.blobs.len();
            let device = *needs.device.entry(number).or_insert(next as u16);
            if usize::from(device) == next {
                needs.blobs.push(number);
                needs.frames.push(vec![false; blob.frames.len()]);
            }
            needs.frames[usize::from(device)][blob.frame_of(chunk)] = true;
        }
    }
    if needs.blobs.len() > MAX_DEVICES {
        let (value, limit) = (needs.blobs.len() as u64, MAX_DEVICES as u64);
        return Err(Error::Limit {
            what: "count of blobs that a layer points to",
            value,
            limit,
        });
    }
    Ok(needs)
}

/// The tables without a prefetch list, and for each device the number in the frame table of each of its blob's frames.
fn tables(needs: &Needs, blobs: &[&Blob], source: Source) -> (Tables, Vec<Vec<Option<u32>>>) {
    let mut tables = Tables {
        devices: Vec::new(),
        frames: Vec::new(),
        chunks: Vec::new(),
        prefetch: Vec::new(),
        recorded: false,
        layer: source.layer,
        diff_id: source.diff_id,
    };
    let mut numbers = Vec::new();
    for (device, &number) in needs.blobs.iter().enumerate() {
        let blob = blobs[usize::from(number)];
        let first = tables.frames.len() as u32;
        let mut in_table = vec![None; blob.frames.len()];
        for (at, frame) in blob
            .frames
            .iter()
            .enumerate()
            .filter(|(at, _)| needs.frames[device][*at])
        {
            in_table[at] = Some(tables.frames.len() as u32);
            let chunks: &[Chunk] =
                &blob.chunks[frame.first_chunk() as usize..][..frame.chunk_count() as usize];
            let first_chunk = tables.chunks.len() as u32;
            tables.chunks.extend_from_slice(chunks);
            // A frame's codec is known: it was written here, or parsed and checked.
            let codec = frame.codec().unwrap_or(lacewing_format::Codec::Raw);
            let (offset, len) = (frame.stored_offset(), frame.stored_len());
            tables
                .frames
                .push(Frame::new(offset, len, first_chunk, frame.chunk_count(), codec));
        }
        let count = tables.frames.len() as u32 - first;
        tables.devices.push(Device::new(
            blob.digest,
            blob.stored_len,
            blob.blocks,
            first,
            count,
        ));
        numbers.push(in_table);
    }
    (tables, numbers)
}

/// Frames of hot chunks in their order, then as the layer names them, up to the bound.
fn prefetch(
    hot: &Hot,
    needs: &Needs,
    blobs: &[&Blob],
    numbers: &[Vec<Option<u32>>],
    frames: &[Frame],
) -> Vec<u32> {
    let mut left = if hot.recorded { MAX_RECORDED } else { MAX_PREFETCH };
    let mut hot = hot.chunks.clone();
    hot.sort_by_key(|(order, _)| *order);
    let mut taken = vec![false; frames.len()];
    let mut list = Vec::new();
    for (_, place) in hot {
        // A file that the layer itself has replaced later is hot for nobody.
        let Some(&device) = needs.device.get(&place.blob) else {
            continue;
        };
        let Ok((blob, chunk)) = locate(place, blobs) else {
            continue;
        };
        let Some(frame) = numbers[usize::from(device)][blob.frame_of(chunk)] else {
            continue;
        };
        let stored_len = u64::from(frames[frame as usize].stored_len());
        if taken[frame as usize] || stored_len > left {
            continue;
        }
        taken[frame as usize] = true;
        left -= stored_len;
        list.push(frame);
    }
    list
}

fn address(extent: &Extent, needs: &Needs, blobs: &[&Blob]) -> Result<Extent, Error> {
    let Extent::Data {
        device: number,
        block: chunk,
    } = *extent
    else {
        return Ok(Extent::Hole);
    };
    let (blob, chunk) = locate(Place { blob: number, chunk }, blobs)?;
    let device = *needs.device.get(&number).ok_or_else(lost)?;
    Ok(Extent::Data {
        device,
        block: blob.chunks[chunk].block(),
    })
}
