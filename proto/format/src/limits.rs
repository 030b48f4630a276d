//! Bounds on everything that comes from outside, each with its reason.

/// Bytes in a block: unit of EROFS, of pack addresses, and of padding. The page size of the
/// machines that mount an index; EROFS block sizes above the page size cannot be mounted.
pub const BLOCK: usize = 4096;

/// Log2 of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;

/// Longest plain chunk in bytes: what one cold random read may have to fetch and decode.
pub const MAX_CHUNK: u32 = 1 << 20;

/// Log2 of [`MAX_CHUNK`]: the largest chunk size of a file that has data.
pub const MAX_CHUNK_BITS: u8 = 20;

/// Log2 of the largest chunk size of a file that is one hole from end to end. What EROFS can say
/// (5 bits above the block size); keeps the chunk list of an empty 8 EiB file at 8 MiB.
pub const MAX_HOLE_CHUNK_BITS: u8 = BLOCK_BITS + 31;

/// Longest decoded frame in bytes: a reader holds one whole frame in memory per fetch.
pub const MAX_FRAME_PLAIN: u32 = 4 << 20;

/// Longest plain index in bytes. About 20 million small files; bounds what a node decompresses
/// and maps before it has seen a single table.
pub const MAX_INDEX: u64 = 1 << 30;

/// Most inodes in an index: [`MAX_INDEX`] in the smallest inodes.
pub const MAX_INODES: u64 = MAX_INDEX / 32;

/// Most devices (data blobs) an index points to. Each one is an open file per EROFS mount.
pub const MAX_DEVICES: usize = 256;

/// Most frames in an index; a frame holds at least one chunk.
pub const MAX_FRAMES: usize = MAX_CHUNKS;

/// Most chunks in an index: 16 TiB in 1 MiB chunks, and 640 MiB of table.
pub const MAX_CHUNKS: usize = 1 << 24;

/// Most blocks in a device: chunk addresses are 32 bits wide and the last value means a hole.
pub const MAX_DEVICE_BLOCKS: u32 = u32::MAX - 1;

/// Longest file name in bytes (NAME_MAX of Linux).
pub const MAX_NAME: usize = 255;

/// Longest symlink target in bytes (PATH_MAX of Linux without the terminating NUL).
pub const MAX_SYMLINK: usize = 4095;

/// Largest file in bytes: sizes are signed 64 bit in every system call.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// Longest full xattr name in bytes (XATTR_NAME_MAX of Linux).
pub const MAX_XATTR_NAME: usize = 255;

/// Longest xattr value in bytes: EROFS has a 16-bit length.
pub const MAX_XATTR_VALUE: usize = 65535;

/// Most xattrs of one inode. Linux lists at most 64 KiB of names; the reader checks each set
/// for duplicates.
pub const MAX_XATTRS: usize = 4096;

/// Most bytes of an inode's xattrs in the image: EROFS counts them in 16 bits, 4 bytes a step.
pub const MAX_XATTR_SIZE: usize = 12 + (u16::MAX as usize - 1) * 4;

/// Largest major device number (12 bits in the kernel).
pub const MAX_MAJOR: u32 = (1 << 12) - 1;

/// Largest minor device number (20 bits in the kernel).
pub const MAX_MINOR: u32 = (1 << 20) - 1;
