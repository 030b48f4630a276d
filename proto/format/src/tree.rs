//! A layer's tree in memory: what the converter builds and the writer takes.

use std::collections::BTreeMap;

/// Type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Mode bits of a socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// Mode bits of a symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// Mode bits of a regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Mode bits of a block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Mode bits of a directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Mode bits of a character device.
pub const S_IFCHR: u32 = 0o020_000;
/// Mode bits of a FIFO.
pub const S_IFIFO: u32 = 0o010_000;

/// Xattr that marks a directory as opaque; its value is `y`.
pub const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// One layer's files. Names refer to inodes, so a hard link is a second name of one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// All inodes; the first is the root directory. Each must be reachable from it.
    pub inodes: Vec<Inode>,
}

/// Position of an inode in [`Tree::inodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

/// One file of any type. Link counts are not here: the writer computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// `S_IFMT` type bits, which agree with `body`, and the 07777 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Full names with values; sorted by name, each name once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the type carries.
    pub body: Body,
}

/// A point in time since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What an inode's type carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Names of a directory, without `.` and `..`.
    Dir(BTreeMap<Vec<u8>, InodeId>),
    /// Content of a regular file.
    File(FileBody),
    /// Target of a symbolic link: 1 to 4095 bytes without NUL.
    Symlink(Vec<u8>),
    /// A character or block device, as the mode says. A whiteout is the character device 0:0.
    Device {
        /// Major number, below 2^12.
        major: u32,
        /// Minor number, below 2^20.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// Content of a regular file as a list of chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileBody {
    /// Length in bytes.
    pub size: u64,
    /// Log2 of the chunk size in bytes: 12 to 20, more only for a file without data. Unused if
    /// `size` is 0.
    pub chunk_bits: u8,
    /// One per chunk, `ceil(size / chunk size)` in all.
    pub extents: Vec<Extent>,
}

/// Where a file's chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// All zeros, stored nowhere.
    Hole,
    /// The chunk that starts at a block of a device's plain address space.
    Data {
        /// Position in [`crate::Tables::devices`].
        device: u16,
        /// First block.
        block: u32,
    },
}
