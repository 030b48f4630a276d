//! A view over the bytes of an index, for which the bytes are hostile.

use std::borrow::Cow;
use std::ops::Range;

use crate::digest::Digest;
use crate::error::FormatError;
use crate::tables::{Chunk, Device, Frame};
use crate::tree::{Extent, Time};

/// An index whose tables have been checked. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

/// Where an index's parts are: what [`Index::parse`] found out, without the bytes. Lets an owner of
/// mapped bytes make the view again at no cost ([`Index::with_layout`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    len: u64,
}

/// Number of an inode in the EROFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

/// Type of a file as a directory entry tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

/// One name in a directory; `.` and `..` are listed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub nid: Nid,
    /// Type of what it names.
    pub file_type: FileType,
}

/// What [`Index::check_tree`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSummary {
    /// Inodes of all types.
    pub inodes: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices (whiteouts too), FIFOs and sockets.
    pub specials: u64,
    /// Names, without `.` and `..`.
    pub names: u64,
    /// Sum of the sizes of regular files, each inode once, holes included; saturating.
    pub file_bytes: u64,
    /// Sum of the plain bytes that files point to, each reference once; saturating.
    pub data_bytes: u64,
}

impl<'a> Index<'a> {
    /// Checks superblock, trailer, checksum and every record of the tables.
    ///
    /// Cost: O(length of the index) for the checksum (BLAKE3), O(tables) else; no allocation.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let _ = bytes;
        unimplemented!()
    }

    /// Returns where the parts are, to be given to [`Index::with_layout`].
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Makes the view of bytes that [`Index::parse`] has accepted before. Checks their length only:
    /// on other bytes every access stays memory-safe but may panic or answer nonsense.
    pub fn with_layout(bytes: &'a [u8], layout: Layout) -> Result<Self, FormatError> {
        let _ = (bytes, layout);
        unimplemented!()
    }

    /// Walks the whole EROFS tree and checks all of it, so that the kernel may be given it.
    ///
    /// Cost: O(tree); memory: two bits for each 32 bytes of the EROFS image, plus a few bytes for
    /// each directory not yet walked and for each inode with several names.
    pub fn check_tree(&self) -> Result<TreeSummary, FormatError> {
        unimplemented!()
    }

    /// The whole plain index.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the EROFS image in bytes, a multiple of the block size.
    pub fn erofs_len(&self) -> u64 {
        unimplemented!()
    }

    /// Data blobs the index points to, in device order.
    pub fn devices(&self) -> &'a [Device] {
        unimplemented!()
    }

    /// Frames of all devices.
    pub fn frames(&self) -> &'a [Frame] {
        unimplemented!()
    }

    /// Chunks of all frames.
    pub fn chunks(&self) -> &'a [Chunk] {
        unimplemented!()
    }

    /// Frame numbers of a device; empty if there is no such device.
    pub fn device_frames(&self, device: usize) -> Range<usize> {
        let _ = device;
        unimplemented!()
    }

    /// Finds the frame that covers a block of a device. Cost: O(log frames).
    pub fn frame_at(&self, device: usize, block: u32) -> Option<usize> {
        let _ = (device, block);
        unimplemented!()
    }

    /// Finds the chunk that starts at a block of a device. Cost: O(log chunks).
    pub fn chunk_at(&self, device: usize, block: u32) -> Option<usize> {
        let _ = (device, block);
        unimplemented!()
    }

    /// Chunks of a frame; empty if there is no such frame.
    pub fn frame_chunks(&self, frame: usize) -> &'a [Chunk] {
        let _ = frame;
        unimplemented!()
    }

    /// First block of a frame in its device; 0 if there is no such frame.
    pub fn frame_block(&self, frame: usize) -> u32 {
        let _ = frame;
        unimplemented!()
    }

    /// Length of a frame in plain bytes, padding included: a multiple of the block size.
    pub fn frame_plain_len(&self, frame: usize) -> u32 {
        let _ = frame;
        unimplemented!()
    }

    /// Device of a frame. Cost: O(log devices).
    pub fn frame_device(&self, frame: usize) -> usize {
        let _ = frame;
        unimplemented!()
    }

    /// Frame numbers in the order in which they should be fetched ahead.
    pub fn prefetch(&self) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        std::iter::empty()
    }

    /// Digest of the original layer blob.
    pub fn layer(&self) -> Digest {
        unimplemented!()
    }

    /// Digest of the original layer's uncompressed tar.
    pub fn diff_id(&self) -> Digest {
        unimplemented!()
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        unimplemented!()
    }

    /// Count of inodes as the superblock tells it.
    pub fn inode_count(&self) -> u64 {
        unimplemented!()
    }

    /// Reads an inode.
    pub fn inode(&self, nid: Nid) -> Result<InodeView<'a>, FormatError> {
        let _ = nid;
        unimplemented!()
    }
}

/// One inode of the EROFS image. Cheap to copy; each access checks what it reads.
#[derive(Clone, Copy, Debug)]
pub struct InodeView<'a> {
    index: Index<'a>,
    nid: Nid,
}

impl<'a> InodeView<'a> {
    /// Number of the inode.
    pub fn nid(&self) -> Nid {
        self.nid
    }
    /// Type and permission bits.
    pub fn mode(&self) -> u32 {
        let _ = self.index;
        unimplemented!()
    }
    /// Type, from the mode.
    pub fn file_type(&self) -> FileType {
        unimplemented!()
    }
    /// Owner.
    pub fn uid(&self) -> u32 {
        unimplemented!()
    }
    /// Group.
    pub fn gid(&self) -> u32 {
        unimplemented!()
    }
    /// Bytes of a file, of a symlink's target, or of a directory's blocks.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }
    /// Time of last modification.
    pub fn mtime(&self) -> Time {
        unimplemented!()
    }
    /// Count of names; for a directory 2 and one for each subdirectory.
    pub fn nlink(&self) -> u32 {
        unimplemented!()
    }
    /// Major and minor number of a device; 0, 0 for others.
    pub fn rdev(&self) -> (u32, u32) {
        unimplemented!()
    }
    /// Log2 of a file's chunk size in bytes; 12 if the file is empty or no file.
    pub fn chunk_bits(&self) -> u8 {
        unimplemented!()
    }
    /// Entries of a directory in byte order of their names, `.` and `..` included.
    pub fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'a>, FormatError>> + use<'a>, FormatError> {
        Ok(std::iter::empty())
    }
    /// Finds a name in a directory. Cost: O(log entries).
    pub fn lookup(&self, name: &[u8]) -> Result<Option<DirEntry<'a>>, FormatError> {
        let _ = name;
        unimplemented!()
    }
    /// Target of a symbolic link.
    pub fn symlink(&self) -> Result<Cow<'a, [u8]>, FormatError> {
        unimplemented!()
    }
    /// All xattrs with their full names, sorted by name.
    #[allow(clippy::type_complexity)]
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Cow<'a, [u8]>)>, FormatError> {
        unimplemented!()
    }
    /// Chunks of a regular file, in order.
    pub fn extents(
        &self,
    ) -> Result<impl Iterator<Item = Result<Extent, FormatError>> + use<'a>, FormatError> {
        Ok(std::iter::empty())
    }
}
