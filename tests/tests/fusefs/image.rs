//! Small converted layers, made by hand.

use std::collections::BTreeMap;

use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Inode, InodeId, Tables, Time, Tree,
    write_index,
};

const BLOCK: usize = 4096;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// How files are cut up.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// Log2 of the chunk size.
    pub(crate) chunk_bits: u8,
    /// Most plain bytes of a frame.
    pub(crate) frame: usize,
    /// Whether every third frame is stored raw.
    pub(crate) raw: bool,
    /// Whether the prefetch list, the first two frames, is that of a recorded start.
    pub(crate) recorded: bool,
}

impl Default for Cut {
    fn default() -> Cut {
        Cut {
            chunk_bits: 18,
            frame: 256 << 10,
            raw: true,
            recorded: false,
        }
    }
}

/// A layer as a registry would hold it.
#[derive(Clone)]
pub(crate) struct Layer {
    /// Stored index.
    pub(crate) index: Vec<u8>,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Data blob.
    pub(crate) blob: Vec<u8>,
    /// Its digest.
    pub(crate) blob_digest: Digest,
    /// What must be read: name and bytes.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// Bytes that compress a little and differ by seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&(state & 0x0f0f_ffff_0f0f_0f0f).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One chunk on its way into a frame.
struct Piece {
    block: u32,
    bytes: Vec<u8>,
}

/// Makes a layer of files in one directory. Empty chunks of zeros are not treated as holes.
pub(crate) fn layer(files: Vec<(String, Vec<u8>)>, cut: Cut) -> Layer {
    let mut inodes = vec![];
    let mut names = BTreeMap::new();
    let mut frames: Vec<Vec<Piece>> = vec![];
    let mut room = 0;
    let mut block = 0_u32;
    for (name, bytes) in &files {
        let mut extents = vec![];
        for chunk in bytes.chunks(1 << cut.chunk_bits) {
            let padded = chunk.len().next_multiple_of(BLOCK);
            if padded > room || frames.is_empty() {
                frames.push(vec![]);
                room = cut.frame;
            }
            room -= padded;
            extents.push(Extent::Data { device: 0, block });
            frames.last_mut().unwrap().push(Piece {
                block,
                bytes: chunk.to_vec(),
            });
            block += (padded / BLOCK) as u32;
        }
        let file = FileBody {
            size: bytes.len() as u64,
            chunk_bits: cut.chunk_bits,
            extents,
        };
        names.insert(name.clone().into_bytes(), InodeId(inodes.len() as u32 + 1));
        inodes.push(inode(S_IFREG | 0o644, Body::File(file)));
    }
    inodes.insert(0, inode(S_IFDIR | 0o755, Body::Dir(names)));
    let (blob, records, chunks) = store(&frames, cut);
    let blob_digest = Digest::of(&blob);
    let device = Device::new(blob_digest, blob.len() as u64, block, 0, records.len() as u32);
    let tables = Tables {
        devices: if block == 0 { vec![] } else { vec![device] },
        prefetch: (0..records.len().min(2) as u32).collect(),
        recorded: cut.recorded,
        frames: records,
        chunks,
        layer: Digest::of(b"layer"),
        diff_id: Digest::of(b"diff"),
    };
    let plain = write_index(&Tree { inodes }, &tables).unwrap();
    let index = zstd::bulk::compress(&plain, 1).unwrap();
    Layer {
        digest: Digest::of(&index),
        index,
        blob,
        blob_digest,
        files,
    }
}

fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time { secs: 1, nanos: 2 },
        xattrs: vec![],
        body,
    }
}

/// Encodes frames end to end.
fn store(frames: &[Vec<Piece>], cut: Cut) -> (Vec<u8>, Vec<Frame>, Vec<Chunk>) {
    let (mut blob, mut records, mut chunks) = (vec![], vec![], vec![]);
    for (number, pieces) in frames.iter().enumerate() {
        let mut plain = vec![];
        let first = chunks.len() as u32;
        for piece in pieces {
            plain.extend_from_slice(&piece.bytes);
            plain.resize(plain.len().next_multiple_of(BLOCK), 0);
            chunks.push(Chunk::new(
                piece.block,
                piece.bytes.len() as u32,
                ChunkId::of(&piece.bytes),
            ));
        }
        let packed = zstd::bulk::compress(&plain, 3).unwrap();
        let raw = packed.len() >= plain.len() || cut.raw && number % 3 == 2;
        let (stored, codec) = if raw {
            (plain, Codec::Raw)
        } else {
            (packed, Codec::Zstd)
        };
        let count = pieces.len() as u32;
        records.push(Frame::new(
            blob.len() as u64,
            stored.len() as u32,
            first,
            count,
            codec,
        ));
        blob.extend_from_slice(&stored);
    }
    (blob, records, chunks)
}

/// A layer with many small files and some large ones.
pub(crate) fn mixed(seed: u64, small: usize, large: usize) -> Layer {
    let mut files = vec![];
    for n in 0..small {
        let len = (noise(seed + n as u64, 2)[0] as usize * 97 + n * 131) % 30_000 + 1;
        files.push((format!("small-{n:05}"), noise(seed * 1000 + n as u64, len)));
    }
    for n in 0..large {
        files.push((
            format!("large-{n:02}"),
            noise(seed * 7000 + n as u64, 3_000_000 + n * 12_345),
        ));
    }
    layer(files, Cut::default())
}

/// An index that is true about its own blob and lies about another's: it claims that the first
/// chunk of `victim`'s blob is that of `own`. Both have one file of one chunk of the same length.
pub(crate) fn lie(own: &Layer, victim: &Layer) -> (Vec<u8>, Digest) {
    let tables = |layer: &Layer| {
        let plain = zstd::stream::decode_all(&layer.index[..]).unwrap();
        let index = lacewing_format::Index::parse(&plain).unwrap();
        (index.devices()[0], index.frames()[0], index.chunks()[0])
    };
    let ((d0, f0, c0), (d1, f1, _)) = (tables(own), tables(victim));
    let device = |of: Device, first| Device::new(of.blob(), of.stored_len(), of.blocks(), first, 1);
    let frame =
        |of: Frame, first| Frame::new(of.stored_offset(), of.stored_len(), first, 1, of.codec().unwrap());
    let file = |device| {
        let extents = vec![Extent::Data { device, block: 0 }];
        let size = u64::from(c0.len());
        inode(
            S_IFREG | 0o644,
            Body::File(FileBody {
                size,
                chunk_bits: 18,
                extents,
            }),
        )
    };
    let names = BTreeMap::from([(b"own".to_vec(), InodeId(1)), (b"victim".to_vec(), InodeId(2))]);
    let inodes = vec![inode(S_IFDIR | 0o755, Body::Dir(names)), file(0), file(1)];
    let tables = Tables {
        devices: vec![device(d0, 0), device(d1, 1)],
        frames: vec![frame(f0, 0), frame(f1, 1)],
        chunks: vec![c0, c0],
        prefetch: vec![],
        recorded: false,
        layer: Digest::of(b"lie"),
        diff_id: Digest::of(b"lie"),
    };
    let index = zstd::bulk::compress(&write_index(&Tree { inodes }, &tables).unwrap(), 1).unwrap();
    let digest = Digest::of(&index);
    (index, digest)
}

/// A layer that uses every other frame of another layer's blob, with the first file that begins in
/// each of them.
pub(crate) fn partial(whole: &Layer) -> Layer {
    let plain = zstd::stream::decode_all(&whole.index[..]).unwrap();
    let index = lacewing_format::Index::parse(&plain).unwrap();
    let (mut frames, mut chunks, mut inodes) = (vec![], vec![], vec![]);
    let (mut names, mut files) = (BTreeMap::new(), vec![]);
    for number in (0..index.frames().len()).step_by(2) {
        let frame = index.frames()[number];
        let all = index.frame_chunks(number);
        let (offset, len) = (frame.stored_offset(), frame.stored_len());
        let codec = frame.codec().unwrap();
        frames.push(Frame::new(
            offset,
            len,
            chunks.len() as u32,
            all.len() as u32,
            codec,
        ));
        chunks.extend_from_slice(all);
        let stored = &whole.blob[offset as usize..][..len as usize];
        let bytes = match codec {
            Codec::Raw => stored.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(stored, 4 << 20).unwrap(),
        };
        let chunk = all[all.len() - 1];
        let at = (chunk.block() - all[0].block()) as usize * BLOCK;
        let bytes = bytes[at..at + chunk.len() as usize].to_vec();
        let extents = vec![Extent::Data {
            device: 0,
            block: chunk.block(),
        }];
        let file = FileBody {
            size: bytes.len() as u64,
            chunk_bits: 20,
            extents,
        };
        let name = format!("part-{number:04}");
        names.insert(name.clone().into_bytes(), InodeId(inodes.len() as u32 + 1));
        inodes.push(inode(S_IFREG | 0o644, Body::File(file)));
        files.push((name, bytes));
    }
    inodes.insert(0, inode(S_IFDIR | 0o755, Body::Dir(names)));
    let device = index.devices()[0];
    let count = frames.len() as u32;
    let device = Device::new(device.blob(), device.stored_len(), device.blocks(), 0, count);
    let tables = Tables {
        devices: vec![device],
        frames,
        chunks,
        prefetch: vec![],
        recorded: false,
        layer: Digest::of(b"part"),
        diff_id: Digest::of(b"part"),
    };
    let index = zstd::bulk::compress(&write_index(&Tree { inodes }, &tables).unwrap(), 1).unwrap();
    Layer {
        digest: Digest::of(&index),
        index,
        blob: whole.blob.clone(),
        blob_digest: whole.blob_digest,
        files,
    }
}
