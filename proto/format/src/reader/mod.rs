//! A view over the bytes of an index, for which the bytes are hostile.

mod check;
mod claims;
mod dir;
mod inode;
mod open;
mod xattr;

use std::ops::Range;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::digest::Digest;
use crate::error::FormatError;
use crate::limits::BLOCK;
use crate::table_rules::TableView;
use crate::tables::{Chunk, Device, Frame};

pub use dir::{DirEntries, DirEntry, FileType};
pub use inode::{Extents, InodeView};
pub(crate) use open::inodes_start;

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
    /// Length of the whole index.
    len: usize,
    /// Length of the EROFS image.
    erofs_len: usize,
    devices: Span,
    frames: Span,
    chunks: Span,
    prefetch: Span,
    /// Whether the prefetch list is of a recorded start.
    recorded: bool,
    layer: Digest,
    diff_id: Digest,
    root: Nid,
    inode_count: u64,
    /// Seconds and nanoseconds that compact inodes share.
    epoch: crate::tree::Time,
    /// First byte that an inode may take, behind superblock and device table.
    inodes_start: usize,
    /// End of inodes and directory blocks; from here to `erofs_len` are the shared xattrs.
    xattrs_start: usize,
}

/// A range of bytes that is known to be inside of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

/// Number of an inode in the EROFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

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
    ///
    /// # Errors
    /// Every variant of [`FormatError`] but `Input` and `Inode`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let layout = open::layout(bytes)?;
        let index = Self { bytes, layout };
        index.tables().check()?;
        open::check_device_slots(&index)?;
        Ok(index)
    }

    /// Returns where the parts are, to be given to [`Index::with_layout`].
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Makes the view of bytes that [`Index::parse`] has accepted before, at no cost. Only their
    /// length is checked: on other bytes answers are nonsense, yet still without panics.
    pub fn with_layout(bytes: &'a [u8], layout: Layout) -> Result<Self, FormatError> {
        if bytes.len() != layout.len {
            return Err(FormatError::NotAnIndex {
                what: "its length is not the one that was checked",
            });
        }
        Ok(Self { bytes, layout })
    }

    /// Walks the whole EROFS tree and checks all of it, so that the kernel may be given it.
    ///
    /// Cost: O(tree); memory: two bits for each 32 bytes of the EROFS image, plus a few bytes for
    /// each directory not yet walked and for each inode with several names.
    ///
    /// # Errors
    /// [`FormatError::Inode`] names the first inode found that breaks a rule.
    pub fn check_tree(&self) -> Result<TreeSummary, FormatError> {
        check::check_tree(*self)
    }

    /// The whole plain index.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the EROFS image in bytes, a multiple of the block size.
    pub fn erofs_len(&self) -> u64 {
        self.layout.erofs_len as u64
    }

    /// The EROFS image.
    pub fn erofs(&self) -> &'a [u8] {
        self.bytes.get(..self.layout.erofs_len).unwrap_or_default()
    }

    /// Data blobs the index points to, in device order.
    pub fn devices(&self) -> &'a [Device] {
        self.records(self.layout.devices)
    }

    /// Frames of all devices.
    pub fn frames(&self) -> &'a [Frame] {
        self.records(self.layout.frames)
    }

    /// Chunks of all frames.
    pub fn chunks(&self) -> &'a [Chunk] {
        self.records(self.layout.chunks)
    }

    /// Frame numbers of a device; empty if there is no such device.
    pub fn device_frames(&self, device: usize) -> Range<usize> {
        self.devices().get(device).map_or(0..0, |device| {
            let first = device.first_frame() as usize;
            first..first.saturating_add(device.frame_count() as usize)
        })
    }

    /// Finds the frame that covers a block of a device; nothing if no listed frame does. Cost:
    /// O(log frames).
    pub fn frame_at(&self, device: usize, block: u32) -> Option<usize> {
        let range = self.device_frames(device);
        let frames = self.frames().get(range.clone())?;
        let behind = frames.partition_point(|frame| self.first_block(frame) <= block);
        let number = range.start.checked_add(behind.checked_sub(1)?)?;
        let blocks = self.frame_plain_len(number) / BLOCK as u32;
        (block.checked_sub(self.frame_block(number))? < blocks).then_some(number)
    }

    /// Finds the chunk that starts at a block of a device. Cost: O(log chunks).
    pub fn chunk_at(&self, device: usize, block: u32) -> Option<usize> {
        self.tables().chunk_at(device, block, usize::MAX)
    }

    /// Chunks of a frame; empty if there is no such frame.
    pub fn frame_chunks(&self, frame: usize) -> &'a [Chunk] {
        let frame = self.frames().get(frame);
        frame.map_or(&[], |frame| self.tables().frame_chunks(frame))
    }

    /// First block of a frame in its device; 0 if there is no such frame.
    pub fn frame_block(&self, frame: usize) -> u32 {
        self.frame_chunks(frame).first().map_or(0, Chunk::block)
    }

    /// Length of a frame in plain bytes, padding included: a multiple of the block size. 0 if
    /// there is no such frame.
    pub fn frame_plain_len(&self, frame: usize) -> u32 {
        let (Some(first), Some(last)) = (self.frame_chunks(frame).first(), self.frame_chunks(frame).last())
        else {
            return 0;
        };
        let end = last.block().saturating_add(last.blocks());
        end.saturating_sub(first.block()).saturating_mul(BLOCK as u32)
    }

    /// Device of a frame. Cost: O(log devices).
    pub fn frame_device(&self, frame: usize) -> usize {
        let starts_before = |device: &Device| device.first_frame() as usize <= frame;
        self.devices().partition_point(starts_before).saturating_sub(1)
    }

    /// Frame numbers in the order in which they should be fetched ahead.
    pub fn prefetch(&self) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        let list: &'a [U32] = self.records(self.layout.prefetch);
        list.iter().map(|frame| frame.get() as usize)
    }

    /// Whether [`Index::prefetch`] lists what a recorded start has read, and not what was guessed.
    pub fn recorded(&self) -> bool {
        self.layout.recorded
    }

    /// Digest of the original layer blob.
    pub fn layer(&self) -> Digest {
        self.layout.layer
    }

    /// Digest of the original layer's uncompressed tar.
    pub fn diff_id(&self) -> Digest {
        self.layout.diff_id
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.layout.root
    }

    /// Count of inodes as the superblock tells it.
    pub fn inode_count(&self) -> u64 {
        self.layout.inode_count
    }

    /// Reads an inode and checks its fixed part.
    ///
    /// # Errors
    /// [`FormatError::Inode`] if `nid` is outside of the image or the inode breaks a rule.
    pub fn inode(&self, nid: Nid) -> Result<InodeView<'a>, FormatError> {
        InodeView::read(*self, nid)
    }

    fn tables(&self) -> TableView<'a> {
        TableView {
            devices: self.devices(),
            frames: self.frames(),
            chunks: self.chunks(),
            prefetch: self.records(self.layout.prefetch),
        }
    }

    fn first_block(&self, frame: &Frame) -> u32 {
        let chunks = self.tables().frame_chunks(frame);
        chunks.first().map_or(0, Chunk::block)
    }

    /// Returns the records in a range of bytes; none if it is not a whole number of records.
    fn records<T: FromBytes + KnownLayout + Immutable>(&self, span: Span) -> &'a [T] {
        let bytes = self.bytes.get(span.start..span.end).unwrap_or_default();
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// The part of the image that inodes and directory blocks may take, from byte 0 on.
    fn metadata(&self) -> &'a [u8] {
        self.bytes.get(..self.layout.xattrs_start).unwrap_or_default()
    }

    /// Shared xattrs.
    fn shared_xattrs(&self) -> &'a [u8] {
        self.erofs().get(self.layout.xattrs_start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
