//! The last bytes of an index: where everything is, what it is, and its checksum.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Last bytes of every index, of any version.
pub(crate) const MAGIC: [u8; 8] = *b"Lacewing";
/// Readers refuse other major versions.
pub(crate) const MAJOR: u16 = 1;
/// Readers accept any minor version; what they must know is in the feature bits. An index says the version that has all it
/// uses: 0, or [`MINOR_RECORDED`].
pub(crate) const MINOR: u16 = 0;
/// The version that has [`COMPAT_RECORDED`].
pub(crate) const MINOR_RECORDED: u16 = 1;
/// Bit of `feature_compat`: the prefetch list is of a recorded start.
pub(crate) const COMPAT_RECORDED: u64 = 1;
/// Length of the trailer in bytes.
pub(crate) const TRAILER_LEN: usize = size_of::<Trailer>();
/// Length of what stands at the very end in every version: trailer length, version, magic.
pub(crate) const TAIL_LEN: usize = 16;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Trailer {
    pub(crate) erofs_len: U64,
    pub(crate) devices_offset: U64,
    pub(crate) frames_offset: U64,
    pub(crate) chunks_offset: U64,
    pub(crate) prefetch_offset: U64,
    pub(crate) device_count: U32,
    pub(crate) frame_count: U32,
    pub(crate) chunk_count: U32,
    pub(crate) prefetch_count: U32,
    pub(crate) feature_incompat: U64,
    pub(crate) feature_compat: U64,
    pub(crate) layer: [u8; 32],
    pub(crate) diff_id: [u8; 32],
    pub(crate) reserved: [u8; 72],
    /// BLAKE3 of every other byte of the index.
    pub(crate) checksum: [u8; 32],
    pub(crate) trailer_len: U32,
    pub(crate) major: U16,
    pub(crate) minor: U16,
    pub(crate) magic: [u8; 8],
}

const _: () = assert!(TRAILER_LEN == 256);
const _: () = assert!(core::mem::offset_of!(Trailer, layer) == 72);
const _: () = assert!(core::mem::offset_of!(Trailer, checksum) == 208);
const _: () = assert!(core::mem::offset_of!(Trailer, trailer_len) == TRAILER_LEN - TAIL_LEN);

/// Distance of the checksum from the end of the index.
const CHECKSUM_FROM_END: usize = TAIL_LEN + 32;

/// Computes the checksum of a whole index, whose length is at least [`TRAILER_LEN`].
pub(crate) fn checksum(index: &[u8]) -> [u8; 32] {
    let before = index.len().saturating_sub(CHECKSUM_FROM_END);
    let tail = index.len().saturating_sub(TAIL_LEN);
    let mut hasher = blake3::Hasher::new();
    hasher.update(index.get(..before).unwrap_or_default());
    hasher.update(index.get(tail..).unwrap_or_default());
    *hasher.finalize().as_bytes()
}
