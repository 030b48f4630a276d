//! Inodes: the fixed part, symlink targets, chunk addresses.

use std::borrow::Cow;

use zerocopy::FromBytes;

use super::dir::{DirEntries, DirEntry, FileType};
use super::{Index, Nid};
use crate::erofs::{
    self, CHUNK_INDEX_LEN, COMPACT_LEN, ChunkIndex, EXTENDED_LEN, InodeCompact, InodeExtended,
    LAYOUT_CHUNK_BASED, LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN, NULL_ADDR, XATTR_HEADER_LEN,
};
use crate::error::FormatError;
use crate::limits::{BLOCK, BLOCK_BITS, MAX_FILE_SIZE, MAX_SYMLINK};
use crate::tree::{Extent, Time};

/// One inode of the EROFS image. Cheap to copy; each access checks what it reads.
#[derive(Clone, Copy, Debug)]
pub struct InodeView<'a> {
    pub(super) index: Index<'a>,
    pub(super) nid: Nid,
    mode: u16,
    file_type: FileType,
    layout: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: Time,
    /// Meaning depends on the layout: first block, chunk format, or device number.
    u: u32,
    /// First byte of the inode.
    start: usize,
    /// First byte behind the fixed part.
    pub(super) body: usize,
    /// Bytes of xattrs, which come first in the body.
    pub(super) xattr_len: usize,
}

/// Fields of both forms of an inode.
struct Fixed {
    layout: u16,
    xattr_icount: u16,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: Time,
    u: u32,
    len: usize,
    /// What later kernels give a meaning to is zero.
    clean: bool,
}

impl<'a> InodeView<'a> {
    pub(super) fn read(index: Index<'a>, nid: Nid) -> Result<Self, FormatError> {
        let bad = |what| Err(FormatError::Inode { nid: nid.0, what });
        let start = nid
            .0
            .checked_mul(erofs::ISLOT)
            .and_then(|at| usize::try_from(at).ok());
        let Some(start) = start.filter(|&at| at >= index.layout.inodes_start) else {
            return bad("it is outside of the inodes");
        };
        let Some(fixed) = read_fixed(&index, start) else {
            return bad("it is outside of the inodes");
        };
        let Some(file_type) = FileType::from_mode(fixed.mode.into()) else {
            return bad("its mode has no known type");
        };
        if !fixed.clean {
            return bad("a field of a feature that is not used is set");
        }
        if start % BLOCK + fixed.len > BLOCK {
            return bad("its fixed part crosses a block");
        }
        if fixed.mtime.nanos >= 1_000_000_000 {
            return bad("its nanoseconds are out of range");
        }
        if fixed.nlink == 0 {
            return bad("it has no links");
        }
        let xattr_len = match fixed.xattr_icount as usize {
            0 => 0,
            count => XATTR_HEADER_LEN + (count - 1) * 4,
        };
        let view = Self {
            index,
            nid,
            mode: fixed.mode,
            file_type,
            layout: fixed.layout,
            uid: fixed.uid,
            gid: fixed.gid,
            nlink: fixed.nlink,
            size: fixed.size,
            mtime: fixed.mtime,
            u: fixed.u,
            start,
            body: start + fixed.len,
            xattr_len,
        };
        view.check_content()?;
        Ok(view)
    }

    /// Checks layout, size and address against each other and against the image.
    fn check_content(&self) -> Result<(), FormatError> {
        let shape = match self.file_type {
            FileType::File if self.size == 0 => self.layout == LAYOUT_FLAT_PLAIN && self.u == 0,
            FileType::File => {
                self.layout == LAYOUT_CHUNK_BASED
                    && self.u & !erofs::CHUNK_FORMAT_BLKBITS == erofs::CHUNK_FORMAT_INDEXES
                    && self.size <= MAX_FILE_SIZE
            }
            FileType::Dir => self.is_flat() && self.size >= 2 * erofs::DIRENT_LEN as u64,
            FileType::Symlink => self.is_flat() && (1..=MAX_SYMLINK as u64).contains(&self.size),
            FileType::CharDevice | FileType::BlockDevice => {
                self.layout == LAYOUT_FLAT_PLAIN && self.size == 0
            }
            FileType::Fifo | FileType::Socket => {
                self.layout == LAYOUT_FLAT_PLAIN && self.size == 0 && self.u == 0
            }
        };
        if !shape {
            return Err(self.bad("its layout, size and type contradict each other"));
        }
        let Some(end) = self.end() else {
            return Err(self.bad("its data is outside of the image"));
        };
        let one_block = !self.size.is_multiple_of(BLOCK as u64) && self.start / BLOCK == (end - 1) / BLOCK;
        if self.layout == LAYOUT_FLAT_INLINE && !one_block {
            return Err(self.bad("its inline data crosses a block"));
        }
        self.check_blocks()
    }

    fn is_flat(&self) -> bool {
        self.layout == LAYOUT_FLAT_PLAIN || self.layout == LAYOUT_FLAT_INLINE
    }

    /// Checks that the data's whole blocks are in the image.
    fn check_blocks(&self) -> Result<(), FormatError> {
        if !matches!(self.file_type, FileType::Dir | FileType::Symlink) {
            return Ok(());
        }
        let count = self.block_count();
        let inside = match self.first_block().checked_add(count.saturating_mul(BLOCK)) {
            _ if count == 0 => self.u == 0,
            Some(end) => self.u != 0 && end <= self.index.layout.xattrs_start,
            None => false,
        };
        if !inside {
            return Err(self.bad("its blocks are outside of the image"));
        }
        Ok(())
    }

    /// First byte behind the inode with everything that lies behind it; nothing if that is outside
    /// of the part of the image where inodes may be.
    fn end(&self) -> Option<usize> {
        let xattr_end = self.body.checked_add(self.xattr_len)?;
        let end = match self.layout {
            LAYOUT_FLAT_INLINE => xattr_end.checked_add((self.size % BLOCK as u64) as usize)?,
            LAYOUT_CHUNK_BASED => {
                let len = usize::try_from(self.chunk_count())
                    .ok()?
                    .checked_mul(CHUNK_INDEX_LEN)?;
                self.chunk_table()?.checked_add(len)?
            }
            _ => xattr_end,
        };
        (end <= self.index.layout.xattrs_start).then_some(end)
    }

    /// First byte of the chunk addresses.
    fn chunk_table(&self) -> Option<usize> {
        let xattr_end = self.body.checked_add(self.xattr_len)?;
        xattr_end.checked_next_multiple_of(CHUNK_INDEX_LEN)
    }

    /// Bytes of the inode itself: fixed part, xattrs, and inline data or chunk addresses.
    pub(super) fn own_bytes(&self) -> std::ops::Range<usize> {
        self.start..self.end().unwrap_or(self.body)
    }

    /// Bytes of the data's whole blocks.
    pub(super) fn data_blocks(&self) -> std::ops::Range<usize> {
        let first = self.first_block();
        first..first.saturating_add(self.block_count().saturating_mul(BLOCK))
    }

    fn first_block(&self) -> usize {
        (self.u as usize).saturating_mul(BLOCK)
    }

    /// Count of the data's whole blocks of a directory or symlink.
    fn block_count(&self) -> usize {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        match (self.file_type, self.layout) {
            (FileType::Dir | FileType::Symlink, LAYOUT_FLAT_INLINE) => size / BLOCK,
            (FileType::Dir | FileType::Symlink, _) => size.div_ceil(BLOCK),
            _ => 0,
        }
    }

    /// Returns block `number` of a directory or symlink, cut at its size.
    pub(super) fn flat_block(&self, number: usize) -> Option<&'a [u8]> {
        let done = number.checked_mul(BLOCK)?;
        let left = usize::try_from(self.size)
            .ok()?
            .checked_sub(done)
            .filter(|&left| left > 0)?;
        let start = if number < self.block_count() {
            self.first_block().checked_add(done)?
        } else {
            self.body.checked_add(self.xattr_len)?
        };
        self.index
            .metadata()
            .get(start..start.checked_add(left.min(BLOCK))?)
    }

    pub(super) fn bad(&self, what: &'static str) -> FormatError {
        FormatError::Inode {
            nid: self.nid.0,
            what,
        }
    }

    /// Number of the inode.
    pub fn nid(&self) -> Nid {
        self.nid
    }

    /// Type and permission bits.
    pub fn mode(&self) -> u32 {
        self.mode.into()
    }

    /// Type, from the mode.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Bytes of a file, of a symlink's target, or of a directory's blocks.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Time of last modification.
    pub fn mtime(&self) -> Time {
        self.mtime
    }

    /// Count of names; for a directory 2 and one for each subdirectory.
    pub fn nlink(&self) -> u32 {
        self.nlink
    }

    /// Major and minor number of a device; 0, 0 for others.
    pub fn rdev(&self) -> (u32, u32) {
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice => erofs::decode_dev(self.u),
            _ => (0, 0),
        }
    }

    /// Log2 of a file's chunk size in bytes; 12 if the file is empty or no file.
    pub fn chunk_bits(&self) -> u8 {
        match self.layout {
            LAYOUT_CHUNK_BASED => BLOCK_BITS + (self.u & erofs::CHUNK_FORMAT_BLKBITS) as u8,
            _ => BLOCK_BITS,
        }
    }

    /// Count of a file's chunks; 0 if the inode is no file.
    pub fn chunk_count(&self) -> u64 {
        match self.layout {
            LAYOUT_CHUNK_BASED => self.size.div_ceil(1 << self.chunk_bits()),
            _ => 0,
        }
    }

    /// Entries of a directory in byte order of their names, `.` and `..` included.
    ///
    /// # Errors
    /// [`FormatError::Inode`] if the inode is no directory; an item is an error if its block is
    /// damaged, and the last one then.
    pub fn entries(&self) -> Result<DirEntries<'a>, FormatError> {
        DirEntries::new(*self)
    }

    /// Entries of a directory from a position on that [`DirEntries::position`] gave; 0 is the start. Cost of the
    /// start: O(1).
    ///
    /// # Errors
    /// As [`InodeView::entries`]; also if the block of the position is damaged.
    pub fn entries_at(&self, position: u64) -> Result<DirEntries<'a>, FormatError> {
        DirEntries::at(*self, position)
    }

    /// Whether it has xattrs.
    pub fn has_xattrs(&self) -> bool {
        self.xattr_len > 0
    }

    /// Finds a name in a directory. Cost: O(log entries).
    ///
    /// # Errors
    /// [`FormatError::Inode`] if the inode is no directory, or if a block on the way is damaged.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<DirEntry<'a>>, FormatError> {
        super::dir::lookup(*self, name)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// [`FormatError::Inode`] if the inode is no symbolic link, or the target holds a NUL.
    pub fn symlink(&self) -> Result<Cow<'a, [u8]>, FormatError> {
        if self.file_type != FileType::Symlink {
            return Err(self.bad("it is no symbolic link"));
        }
        match self.flat_block(0) {
            Some(target) if !target.contains(&0) => Ok(Cow::Borrowed(target)),
            Some(_) => Err(self.bad("its target holds a NUL byte")),
            None => Err(self.bad("its target is outside of the image")),
        }
    }

    /// All xattrs with their full names, sorted by name.
    ///
    /// # Errors
    /// [`FormatError::Inode`] if they are damaged.
    #[allow(clippy::type_complexity)] // Names with values; a type of its own would say no more.
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Cow<'a, [u8]>)>, FormatError> {
        super::xattr::all(self)
    }

    /// Chunks of a regular file, in order.
    ///
    /// # Errors
    /// [`FormatError::Inode`] if the inode is no file; an item is an error if its address names no
    /// device.
    pub fn extents(&self) -> Result<Extents<'a>, FormatError> {
        if self.file_type != FileType::File {
            return Err(self.bad("it is no regular file"));
        }
        let mut table: &'a [ChunkIndex] = &[];
        if self.layout == LAYOUT_CHUNK_BASED {
            let range = self.chunk_table().unwrap_or(usize::MAX)..self.own_bytes().end;
            let bytes = self.index.metadata().get(range).unwrap_or_default();
            table = <[ChunkIndex]>::ref_from_bytes(bytes).unwrap_or_default();
        }
        Ok(Extents {
            nid: self.nid,
            devices: self.index.devices().len(),
            table: table.iter(),
        })
    }
}

fn read_fixed(index: &Index<'_>, start: usize) -> Option<Fixed> {
    let bytes = index.metadata().get(start..)?;
    let format = u16::from_le_bytes(*bytes.first_chunk::<2>()?);
    let layout = format >> erofs::I_DATALAYOUT_SHIFT;
    let known = matches!(
        layout,
        LAYOUT_FLAT_PLAIN | LAYOUT_FLAT_INLINE | LAYOUT_CHUNK_BASED
    );
    if format & erofs::I_EXTENDED == 0 {
        let (inode, _) = InodeCompact::ref_from_prefix(bytes).ok()?;
        return Some(Fixed {
            layout,
            xattr_icount: inode.xattr_icount.get(),
            mode: inode.mode.get(),
            uid: inode.uid.get().into(),
            gid: inode.gid.get().into(),
            nlink: inode.nlink.get().into(),
            size: inode.size.get().into(),
            mtime: index.layout.epoch,
            u: inode.u.get(),
            len: COMPACT_LEN,
            clean: known && inode.reserved.get() == 0 && inode.reserved2.get() == 0,
        });
    }
    let (inode, _) = InodeExtended::ref_from_prefix(bytes).ok()?;
    Some(Fixed {
        layout,
        xattr_icount: inode.xattr_icount.get(),
        mode: inode.mode.get(),
        uid: inode.uid.get(),
        gid: inode.gid.get(),
        nlink: inode.nlink.get(),
        size: inode.size.get(),
        mtime: Time {
            secs: inode.mtime.get().cast_signed(),
            nanos: inode.mtime_nsec.get(),
        },
        u: inode.u.get(),
        len: EXTENDED_LEN,
        clean: known && inode.reserved.get() == 0 && inode.reserved2 == [0; 16],
    })
}

/// Chunks of a regular file; made by [`InodeView::extents`].
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    nid: Nid,
    devices: usize,
    table: std::slice::Iter<'a, ChunkIndex>,
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.table.next()?;
        let (device, block) = (chunk.device_id.get(), chunk.startblk_lo.get());
        let known = match (block == NULL_ADDR, device.checked_sub(1)) {
            (true, None) => Some(Extent::Hole),
            (false, Some(device)) if usize::from(device) < self.devices => {
                Some(Extent::Data { device, block })
            }
            _ => None,
        };
        let known = known.filter(|_| chunk.startblk_hi.get() == 0);
        Some(known.ok_or(FormatError::Inode {
            nid: self.nid.0,
            what: "a chunk's address names no device",
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.table.size_hint()
    }

    /// O(1), for reads in the middle of large files.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        if let Some(skipped) = n.checked_sub(1) {
            self.table.nth(skipped)?;
        }
        self.next()
    }
}

impl ExactSizeIterator for Extents<'_> {}
