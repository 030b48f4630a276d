//! The tables behind the EROFS image: fixed-size little-endian records.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::{ChunkId, Digest};
use crate::limits::BLOCK;

/// A data blob that the index points to: an EROFS device. 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Device {
    blob: [u8; 32],
    stored_len: U64,
    blocks: U32,
    first_frame: U32,
    frame_count: U32,
    /// Where the stored bytes come from and how they are cut; 0 is a Lacewing data blob.
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 11],
}

/// An independently decodable run of stored bytes that holds whole chunks. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Frame {
    stored_offset: U64,
    stored_len: U32,
    first_chunk: U32,
    chunk_count: U32,
    codec: u8,
    pub(crate) reserved: [u8; 3],
}

/// A run of plain bytes of one file, verified by its id. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Chunk {
    block: U32,
    len: U32,
    id: [u8; 32],
}

const _: () = assert!(size_of::<Device>() == 64);
const _: () = assert!(size_of::<Frame>() == 24);
const _: () = assert!(size_of::<Chunk>() == 40);

/// How a frame's stored bytes become plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Stored as they are, padding included.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// Returns the number that stands for the codec in a frame record.
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// Returns the codec for a number, or nothing if it is unknown.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl Device {
    /// Makes the record of a Lacewing data blob. `blocks` is the blob's whole plain address space,
    /// `first_frame` and `frame_count` say which records of [`Tables::frames`] are its frames.
    pub fn new(blob: Digest, stored_len: u64, blocks: u32, first_frame: u32, frame_count: u32) -> Self {
        Self {
            blob: blob.0,
            stored_len: stored_len.into(),
            blocks: blocks.into(),
            first_frame: first_frame.into(),
            frame_count: frame_count.into(),
            kind: 0,
            reserved: [0; 11],
        }
    }

    /// Digest of the blob's stored bytes.
    pub fn blob(&self) -> Digest {
        Digest(self.blob)
    }

    /// Length of the whole blob in stored bytes.
    pub fn stored_len(&self) -> u64 {
        self.stored_len.get()
    }

    /// Blocks in the blob's whole plain address space.
    pub fn blocks(&self) -> u32 {
        self.blocks.get()
    }

    /// First of the blob's frames in the frame table.
    pub fn first_frame(&self) -> u32 {
        self.first_frame.get()
    }

    /// Count of the blob's frames in the frame table.
    pub fn frame_count(&self) -> u32 {
        self.frame_count.get()
    }
}

impl Frame {
    /// Makes a frame record. `first_chunk` and `chunk_count` say which records of
    /// [`Tables::chunks`] the frame holds, all of them.
    pub fn new(
        stored_offset: u64,
        stored_len: u32,
        first_chunk: u32,
        chunk_count: u32,
        codec: Codec,
    ) -> Self {
        Self {
            stored_offset: stored_offset.into(),
            stored_len: stored_len.into(),
            first_chunk: first_chunk.into(),
            chunk_count: chunk_count.into(),
            codec: codec.code(),
            reserved: [0; 3],
        }
    }

    /// Where the frame starts in the blob's stored bytes.
    pub fn stored_offset(&self) -> u64 {
        self.stored_offset.get()
    }

    /// Length of the frame's stored bytes.
    pub fn stored_len(&self) -> u32 {
        self.stored_len.get()
    }

    /// First of the frame's chunks in the chunk table.
    pub fn first_chunk(&self) -> u32 {
        self.first_chunk.get()
    }

    /// Count of the frame's chunks.
    pub fn chunk_count(&self) -> u32 {
        self.chunk_count.get()
    }

    /// How the frame is encoded; nothing if the number is unknown, which a parsed index never has.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_code(self.codec)
    }

    /// Number of the codec as it stands in the record.
    pub(crate) fn codec_code(&self) -> u8 {
        self.codec
    }
}

impl Chunk {
    /// Makes a chunk record: `len` plain bytes that start at `block` of the device.
    pub fn new(block: u32, len: u32, id: ChunkId) -> Self {
        Self {
            block: block.into(),
            len: len.into(),
            id: id.0,
        }
    }

    /// First block in the device's plain address space.
    pub fn block(&self) -> u32 {
        self.block.get()
    }

    /// Plain bytes, without padding.
    #[allow(clippy::len_without_is_empty)] // A chunk is never empty.
    pub fn len(&self) -> u32 {
        self.len.get()
    }

    /// BLAKE3 of the plain bytes.
    pub fn id(&self) -> ChunkId {
        ChunkId(self.id)
    }

    /// Blocks the chunk takes, its padding included.
    pub fn blocks(&self) -> u32 {
        self.len().div_ceil(BLOCK as u32)
    }
}

/// Everything behind the EROFS image, as the writer takes it.
///
/// Devices, frames and chunks are packed: the frames of device 0 come first, then those of device
/// 1, and so on; the chunks of frame 0 come first, then those of frame 1. Within a device both are
/// sorted by block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Data blobs, at most [`crate::limits::MAX_DEVICES`], each once.
    pub devices: Vec<Device>,
    /// Every frame that holds a chunk the tree needs.
    pub frames: Vec<Frame>,
    /// All chunks of these frames.
    pub chunks: Vec<Chunk>,
    /// Frame numbers in the order in which they should be fetched ahead, each at most once.
    pub prefetch: Vec<u32>,
    /// Whether the prefetch list is of a recorded start, not of a guess.
    pub recorded: bool,
    /// Digest of the original layer blob.
    pub layer: Digest,
    /// Digest of the original layer's uncompressed tar.
    pub diff_id: Digest,
}
