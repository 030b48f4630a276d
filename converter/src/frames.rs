//! Data blobs read back: every frame decoded, every chunk compared with its id.

use std::collections::BTreeMap;
use std::io::Read;

use lacewing_format::limits::{BLOCK, MAX_FRAME_PLAIN};
use lacewing_format::{Chunk, ChunkId, Codec, Digest, Frame, Index, media_type};
use lacewing_oci::Store;
use tokio::runtime::Handle;

use crate::Error;
use crate::manifest;
use crate::stream::BlobReader;

/// The frames of a blob that indexes name, by where they are stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needed {
    pub(crate) stored_len: u64,
    pub(crate) blocks: u32,
    pub(crate) frames: BTreeMap<u64, NeededFrame>,
}

/// A frame and its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NeededFrame {
    pub(crate) len: u32,
    pub(crate) codec: Option<Codec>,
    pub(crate) chunks: Vec<Chunk>,
}

/// Blobs that indexes point to, with all frames they name.
pub(crate) type Blobs = BTreeMap<Digest, Needed>;

/// Adds what an index points to. Says where it contradicts another index.
pub(crate) fn collect(index: Index<'_>, blobs: &mut Blobs) -> Result<(), String> {
    for (number, device) in index.devices().iter().enumerate() {
        let blob = blobs.entry(device.blob()).or_default();
        let first = blob.frames.is_empty();
        if !first && (blob.stored_len, blob.blocks) != (device.stored_len(), device.blocks()) {
            return Err(format!(
                "indexes do not agree on the length of blob {}",
                device.blob()
            ));
        }
        (blob.stored_len, blob.blocks) = (device.stored_len(), device.blocks());
        for frame in index.device_frames(number) {
            let record: &Frame = &index.frames()[frame];
            let needed = NeededFrame {
                len: record.stored_len(),
                codec: record.codec(),
                chunks: index.frame_chunks(frame).to_vec(),
            };
            let known = blob
                .frames
                .entry(record.stored_offset())
                .or_insert_with(|| needed.clone());
            if *known != needed {
                return Err(format!(
                    "indexes do not agree on a frame of blob {}",
                    device.blob()
                ));
            }
        }
    }
    Ok(())
}

/// Decodes a frame to its plain bytes with padding.
pub(crate) fn decode(frame: &NeededFrame, stored: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
    let blocks: u64 = frame.chunks.iter().map(|chunk| u64::from(chunk.blocks())).sum();
    let len = blocks * BLOCK as u64;
    if len > u64::from(MAX_FRAME_PLAIN) {
        return Err(format!("a frame of {len} plain bytes is too long"));
    }
    let len = len as usize;
    plain.clear();
    match frame.codec {
        Some(Codec::Raw) => plain.extend_from_slice(stored),
        Some(Codec::Zstd) => {
            plain.reserve(len);
            let mut decoder = zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?;
            decoder
                .decompress_to_buffer(stored, plain)
                .map_err(|e| format!("a frame cannot be decoded: {e}"))?;
        }
        None => return Err("a frame's codec is unknown".to_owned()),
    }
    if plain.len() != len {
        return Err(format!(
            "a frame has {} plain bytes instead of {len}",
            plain.len()
        ));
    }
    Ok(())
}

/// Compares each chunk of a decoded frame with its id, and the padding with zeros.
pub(crate) fn verify(frame: &NeededFrame, plain: &[u8]) -> Result<(), String> {
    let mut at = 0;
    for chunk in &frame.chunks {
        let end = at + chunk.blocks() as usize * BLOCK;
        let (bytes, padding) = plain[at..end].split_at(chunk.len() as usize);
        if ChunkId::of(bytes) != chunk.id() {
            return Err(format!(
                "the chunk at block {} does not have its digest",
                chunk.block()
            ));
        }
        if padding.iter().any(|&byte| byte != 0) {
            return Err(format!(
                "the padding behind the chunk at block {} is not zero",
                chunk.block()
            ));
        }
        at = end;
    }
    Ok(())
}

/// Takes a frame's plain bytes, or what is wrong with it.
pub(crate) type EachFrame<'a> = dyn FnMut(&NeededFrame, Result<&[u8], String>) -> Result<(), Error> + 'a;

/// Streams a blob and hands out its needed frames in order of their place, decoded: the frame, plain bytes, or what is
/// wrong with it. The whole blob's digest is verified, too. Blocks.
///
/// # Errors
/// Those of the store, [`lacewing_oci::Error::Corrupt`] for a wrong digest included.
pub(crate) fn read_blob(
    runtime: &Handle,
    store: &Store,
    digest: Digest,
    needed: &Needed,
    each: &mut EachFrame<'_>,
) -> Result<(), Error> {
    let descriptor = lacewing_oci::describe(manifest::media(media_type::BLOB), &digest, needed.stored_len);
    let mut stream = BlobReader::open(runtime, store, &descriptor, None, Box::new(|_| {}))?;
    let mut position = 0;
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for (&offset, frame) in &needed.frames {
        if offset < position {
            each(frame, Err("frames overlap in the blob".to_owned()))?;
            continue;
        }
        skip(&mut stream, offset - position)?;
        stored.resize(frame.len as usize, 0);
        stream.read_exact(&mut stored).map_err(cut_off)?;
        position = offset + u64::from(frame.len);
        let decoded = decode(frame, &stored, &mut plain).and_then(|()| verify(frame, &plain));
        each(frame, decoded.map(|()| plain.as_slice()))?;
    }
    skip(&mut stream, u64::MAX)
}

fn skip(stream: &mut BlobReader, len: u64) -> Result<(), Error> {
    std::io::copy(&mut stream.take(len), &mut std::io::sink()).map_err(cut_off)?;
    Ok(())
}

fn cut_off(error: std::io::Error) -> Error {
    crate::tar::stream_error(error)
}
