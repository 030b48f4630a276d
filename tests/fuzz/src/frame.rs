//! Stored bytes of a frame that a hostile registry may send, under an index that is right.
//!
//! The input says what the chunks are; so their plain bytes are known, and what a reader accepts must be these and no
//! others. Then it gives the stored bytes: as they are, or as changes to the right ones.

use std::collections::BTreeMap;

use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Index, Inode, InodeId, Tables,
    Time, Tree, write_index,
};

use super::input::{Input, change};

const BLOCK: usize = 4096;

/// Reads a hostile frame both as a node and as `check` does.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mode = input.byte();
    let (lens, plain) = chunks(&mut input);
    let codec = if mode & 1 == 0 { Codec::Zstd } else { Codec::Raw };
    let right = match codec {
        Codec::Zstd => zstd::bulk::compress(&plain, i32::from(mode >> 6)).expect("zstd compresses"),
        Codec::Raw => plain.clone(),
    };
    let mut index = index(&lens, &plain, codec, right.len());
    let mut stored = right;
    match mode >> 1 & 3 {
        0 => stored = input.0.to_vec(),
        1 => change(&mut stored, input.0),
        2 => {
            let kept = usize::from(input.short()) % (stored.len() + 1);
            stored.truncate(kept);
            stored.extend_from_slice(input.0);
        }
        // The index lies, too.
        _ => {
            change(&mut index, input.0);
            super::index::reseal(&mut index);
            return lying(&index, &stored);
        }
    }
    let index = Index::parse(&index).expect("an index just written is sound");
    assert_eq!(index.frames().len(), 1);
    let node = lacewing_fusefs::fuzzing::decoded(&index, 0, &stored);
    let check = lacewing_converter::fuzzing::frame(index, 0, &stored).ok();
    assert!(node.as_ref().is_none_or(|found| *found == plain), "wrong bytes");
    assert_eq!(node, check, "node and check disagree");
}

/// Any index that is accepted: what is taken for a chunk has its digest, and nothing panics.
fn lying(index: &[u8], stored: &[u8]) {
    let Ok(index) = Index::parse(index) else { return };
    for frame in 0..index.frames().len() {
        let node = lacewing_fusefs::fuzzing::decoded(&index, frame, stored);
        let check = lacewing_converter::fuzzing::frame(index, frame, stored).ok();
        assert_eq!(node, check, "node and check disagree");
        let Some(plain) = node else { continue };
        for chunk in index.frame_chunks(frame) {
            let at = (chunk.block() - index.frame_block(frame)) as usize * BLOCK;
            assert_eq!(ChunkId::of(&plain[at..at + chunk.len() as usize]), chunk.id());
        }
    }
}

/// Lengths of up to four chunks, and their bytes with padding.
fn chunks(input: &mut Input<'_>) -> (Vec<usize>, Vec<u8>) {
    let (mut lens, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..=input.byte() % 4 {
        let len = usize::from(input.short()) % (3 * BLOCK) + 1;
        let (seed, step) = (input.byte(), input.byte());
        // Steps of 0 to 3 compress, others hardly.
        let noise =
            |at: usize| seed.wrapping_add((at as u32).wrapping_mul((u32::from(step) * 0x9e37) >> 2) as u8);
        lens.push(len);
        plain.extend((0..len).map(noise));
        plain.resize(plain.len().next_multiple_of(BLOCK), 0);
    }
    (lens, plain)
}

/// The index of a layer with one file for each chunk, all in one frame.
fn index(lens: &[usize], plain: &[u8], codec: Codec, stored_len: usize) -> Vec<u8> {
    let (mut names, mut chunks, mut block) = (BTreeMap::new(), Vec::new(), 0);
    let mut inodes = vec![inode(0o040_755, Body::Dir(BTreeMap::new()))];
    for (number, &len) in lens.iter().enumerate() {
        let bytes = &plain[block as usize * BLOCK..][..len];
        chunks.push(Chunk::new(block, len as u32, ChunkId::of(bytes)));
        let file = FileBody {
            size: len as u64,
            chunk_bits: 14,
            extents: vec![Extent::Data { device: 0, block }],
        };
        names.insert(vec![b'a' + number as u8], InodeId(inodes.len() as u32));
        inodes.push(inode(0o100_644, Body::File(file)));
        block += len.div_ceil(BLOCK) as u32;
    }
    inodes[0].body = Body::Dir(names);
    let tables = Tables {
        devices: vec![Device::new(Digest::of(b"blob"), stored_len as u64, block, 0, 1)],
        frames: vec![Frame::new(0, stored_len as u32, 0, chunks.len() as u32, codec)],
        chunks,
        prefetch: vec![0],
        recorded: false,
        layer: Digest::of(b"layer"),
        diff_id: Digest::of(b"tar"),
    };
    write_index(&Tree { inodes }, &tables).expect("a sound tree")
}

fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
        body,
    }
}
