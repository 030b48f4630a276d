//! EROFS's own records and constants: the part of the kernel's `fs/erofs/erofs_fs.h` that an index
//! uses. Names are the kernel's, so that they can be looked up there.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::tree::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};

/// Where the superblock starts.
pub(crate) const SUPER_OFFSET: usize = 1024;
/// First bytes of the superblock.
pub(crate) const SUPER_MAGIC: u32 = 0xE0F5_E1E2;
/// Size of a slot of the device table, and the unit of its address.
pub(crate) const DEVICE_SLOT: usize = 128;
/// Where the device table starts: right behind the superblock.
pub(crate) const DEVICE_TABLE_OFFSET: usize = SUPER_OFFSET + DEVICE_SLOT;

/// The superblock carries a checksum.
pub(crate) const COMPAT_SB_CHKSUM: u32 = 0x1;
/// The time in an inode is its mtime.
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// Some file is a list of chunks.
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
/// There is a device table.
pub(crate) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// `i_format` bit 0: the inode is extended (64 bytes), else compact (32).
pub(crate) const I_EXTENDED: u16 = 1;
/// `i_format` from bit 1: data layout.
pub(crate) const I_DATALAYOUT_SHIFT: u16 = 1;
/// Data in whole blocks.
pub(crate) const LAYOUT_FLAT_PLAIN: u16 = 0;
/// Data in whole blocks, the rest behind the inode.
pub(crate) const LAYOUT_FLAT_INLINE: u16 = 2;
/// Data in chunks, their addresses behind the inode.
pub(crate) const LAYOUT_CHUNK_BASED: u16 = 4;

/// `i_u` of a chunk-based file: chunk addresses have 8 bytes.
pub(crate) const CHUNK_FORMAT_INDEXES: u32 = 0x20;
/// `i_u` of a chunk-based file: log2 of the chunk size in blocks.
pub(crate) const CHUNK_FORMAT_BLKBITS: u32 = 0x1f;
/// Address of a hole.
pub(crate) const NULL_ADDR: u32 = u32::MAX;

/// Unit of inode numbers: inode `nid` starts at `nid * 32`.
pub(crate) const ISLOT: u64 = 32;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) blkszbits: u8,
    pub(crate) sb_extslots: u8,
    pub(crate) root_nid: U16,
    pub(crate) inos: U64,
    pub(crate) epoch: U64,
    pub(crate) fixed_nsec: U32,
    pub(crate) blocks: U32,
    pub(crate) meta_blkaddr: U32,
    pub(crate) xattr_blkaddr: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) available_compr_algs: U16,
    pub(crate) extra_devices: U16,
    pub(crate) devt_slotoff: U16,
    pub(crate) dirblkbits: u8,
    pub(crate) xattr_prefix_count: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) reserved: [u8; 24],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    /// Hex digits of the data blob's SHA-256.
    pub(crate) tag: [u8; 64],
    pub(crate) blocks: U32,
    pub(crate) uniaddr: U32,
    pub(crate) reserved: [u8; 56],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct InodeCompact {
    pub(crate) format: U16,
    pub(crate) xattr_icount: U16,
    pub(crate) mode: U16,
    pub(crate) nlink: U16,
    pub(crate) size: U32,
    pub(crate) reserved: U32,
    pub(crate) u: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U16,
    pub(crate) gid: U16,
    pub(crate) reserved2: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct InodeExtended {
    pub(crate) format: U16,
    pub(crate) xattr_icount: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    pub(crate) u: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) mtime: U64,
    pub(crate) mtime_nsec: U32,
    pub(crate) nlink: U32,
    pub(crate) reserved2: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) nameoff: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkIndex {
    pub(crate) startblk_hi: U16,
    /// 0 is the image itself, n the n-th slot of the device table.
    pub(crate) device_id: U16,
    pub(crate) startblk_lo: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) name_filter: U32,
    pub(crate) shared_count: u8,
    pub(crate) reserved: [u8; 7],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_len: u8,
    pub(crate) name_index: u8,
    pub(crate) value_size: U16,
}

pub(crate) const COMPACT_LEN: usize = size_of::<InodeCompact>();
pub(crate) const EXTENDED_LEN: usize = size_of::<InodeExtended>();
pub(crate) const DIRENT_LEN: usize = size_of::<Dirent>();
pub(crate) const CHUNK_INDEX_LEN: usize = size_of::<ChunkIndex>();
pub(crate) const XATTR_HEADER_LEN: usize = size_of::<XattrHeader>();
pub(crate) const XATTR_ENTRY_LEN: usize = size_of::<XattrEntry>();

const _: () = assert!(size_of::<SuperBlock>() == 128);
const _: () = assert!(core::mem::offset_of!(SuperBlock, uuid) == 48);
const _: () = assert!(core::mem::offset_of!(SuperBlock, feature_incompat) == 80);
const _: () = assert!(core::mem::offset_of!(SuperBlock, packed_nid) == 96);
const _: () = assert!(size_of::<DeviceSlot>() == DEVICE_SLOT);
const _: () = assert!(COMPACT_LEN == 32);
const _: () = assert!(EXTENDED_LEN == 64);
const _: () = assert!(core::mem::offset_of!(InodeExtended, mtime) == 32);
const _: () = assert!(DIRENT_LEN == 12);
const _: () = assert!(CHUNK_INDEX_LEN == 8);
const _: () = assert!(XATTR_HEADER_LEN == 12);
const _: () = assert!(XATTR_ENTRY_LEN == 4);

/// Computes the superblock's checksum: CRC-32C without the final inversion, over the first block
/// from the superblock on, with the checksum's own field as zeros.
pub(crate) fn super_checksum(first_block: &[u8]) -> u32 {
    let covered = first_block.get(SUPER_OFFSET..).unwrap_or_default();
    let (head, rest) = covered.split_at(covered.len().min(4));
    let behind = rest.get(4..).unwrap_or_default();
    let mut crc = crc32c::crc32c(head);
    crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc = crc32c::crc32c_append(crc, behind);
    !crc
}

/// Packs a device number as the kernel's `new_encode_dev` does. Both parts are in their limits.
pub(crate) fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Unpacks a device number; the reverse of [`encode_dev`].
pub(crate) fn decode_dev(dev: u32) -> (u32, u32) {
    ((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00))
}

/// Type number of a directory entry for a mode, `FT_*` of the kernel's `fs_types.h`; 0 for none.
pub(crate) fn dirent_type(mode: u32) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFSOCK => 6,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// Namespaces of xattr names that EROFS can say: number, text, and whether the text is the whole
/// name (POSIX ACLs) or its beginning.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8], bool); 5] = [
    (1, b"user.", false),
    (2, b"system.posix_acl_access", true),
    (3, b"system.posix_acl_default", true),
    (4, b"trusted.", false),
    (6, b"security.", false),
];

/// Splits a full xattr name into its namespace's number and the rest; nothing if EROFS cannot say
/// the name.
pub(crate) fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix, whole)| {
        let rest = name.strip_prefix(prefix)?;
        (rest.is_empty() == whole).then_some((index, rest))
    })
}

/// Finds the namespace of an xattr by its number: the text, and whether it is the whole name.
pub(crate) fn xattr_prefix(index: u8) -> Option<(&'static [u8], bool)> {
    XATTR_PREFIXES
        .iter()
        .find(|row| row.0 == index)
        .map(|&(_, prefix, whole)| (prefix, whole))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (4095, (1 << 20) - 1)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), (major, minor));
        }
        assert_eq!(encode_dev(1, 3), 0x103);
        assert_eq!(encode_dev(259, 0x12345), 0x1231_0345);
    }

    #[test]
    fn xattr_names_split() {
        type Row = (&'static [u8], Option<(u8, &'static [u8])>);
        let rows: [Row; 8] = [
            (b"user.a", Some((1, b"a"))),
            (b"user.", None),
            (b"user", None),
            (b"system.posix_acl_access", Some((2, b""))),
            (b"system.posix_acl_accessx", None),
            (b"security.capability", Some((6, b"capability"))),
            (b"trusted.overlay.opaque", Some((4, b"overlay.opaque"))),
            (b"system.nfs4_acl", None),
        ];
        for (name, expected) in rows {
            assert_eq!(split_xattr_name(name), expected, "{name:?}");
        }
    }
}
