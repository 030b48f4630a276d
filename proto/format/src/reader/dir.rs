//! Directories: blocks of entries, each block its entries first and then their names.

use zerocopy::FromBytes;

use super::{InodeView, Nid};
use crate::erofs::{self, DIRENT_LEN, Dirent};
use crate::error::FormatError;
use crate::limits::{BLOCK, MAX_NAME};
use crate::tree::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};

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

impl FileType {
    /// Takes the type from a mode; nothing if its type bits are none of the known.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            S_IFREG => Self::File,
            S_IFDIR => Self::Dir,
            S_IFCHR => Self::CharDevice,
            S_IFBLK => Self::BlockDevice,
            S_IFIFO => Self::Fifo,
            S_IFSOCK => Self::Socket,
            S_IFLNK => Self::Symlink,
            _ => return None,
        })
    }

    /// Returns the type bits of a mode.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::File => S_IFREG,
            Self::Dir => S_IFDIR,
            Self::CharDevice => S_IFCHR,
            Self::BlockDevice => S_IFBLK,
            Self::Fifo => S_IFIFO,
            Self::Socket => S_IFSOCK,
            Self::Symlink => S_IFLNK,
        }
    }

    fn from_dirent(number: u8) -> Option<Self> {
        let all = [
            Self::File,
            Self::Dir,
            Self::CharDevice,
            Self::BlockDevice,
            Self::Fifo,
            Self::Socket,
            Self::Symlink,
        ];
        all.into_iter()
            .find(|kind| erofs::dirent_type(kind.mode_bits()) == number)
    }
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

/// One block of a directory whose first entry has been looked at.
#[derive(Clone, Copy, Debug)]
struct Block<'a> {
    bytes: &'a [u8],
    entries: &'a [Dirent],
}

impl<'a> Block<'a> {
    fn read(dir: &InodeView<'a>, number: usize) -> Result<Self, FormatError> {
        let bytes = dir.flat_block(number);
        let read = || {
            let bytes = bytes?;
            let (first, _) = Dirent::ref_from_prefix(bytes).ok()?;
            let names = usize::from(first.nameoff.get());
            if names == 0 || names >= bytes.len() {
                return None;
            }
            let entries = <[Dirent]>::ref_from_bytes(bytes.get(..names)?).ok()?;
            Some(Self { bytes, entries })
        };
        read().ok_or_else(|| dir.bad("a directory block has no valid first entry"))
    }

    /// Returns an entry's name; nothing if it is out of range. The last name of a block ends at the
    /// first NUL or with the block.
    fn name(&self, entry: usize) -> Option<&'a [u8]> {
        let start = usize::from(self.entries.get(entry)?.nameoff.get());
        let name = match self.entries.get(entry + 1) {
            Some(next) => self.bytes.get(start..usize::from(next.nameoff.get()))?,
            None => {
                let rest = self.bytes.get(start..)?;
                let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
                rest.get(..end)?
            }
        };
        Some(name)
    }

    fn entry(&self, dir: &InodeView<'a>, entry: usize) -> Result<DirEntry<'a>, FormatError> {
        let (Some(raw), Some(name)) = (self.entries.get(entry), self.name(entry)) else {
            return Err(dir.bad("a name is outside of its directory block"));
        };
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|&b| b == 0 || b == b'/') {
            return Err(dir.bad("it holds a name that is not valid"));
        }
        match FileType::from_dirent(raw.file_type) {
            Some(file_type) if raw.reserved == 0 => Ok(DirEntry {
                name,
                nid: Nid(raw.nid.get()),
                file_type,
            }),
            _ => Err(dir.bad("it holds an entry of unknown type")),
        }
    }
}

/// Entries a block can hold at most, rounded up to a power of two: makes positions of block and entry.
const POSITIONS: u64 = 512;
const _: () = assert!(BLOCK / DIRENT_LEN < POSITIONS as usize);

/// Entries of a directory; made by [`InodeView::entries`].
#[derive(Clone, Debug)]
pub struct DirEntries<'a> {
    dir: InodeView<'a>,
    block: Option<Block<'a>>,
    next_block: usize,
    next_entry: usize,
    block_count: usize,
}

impl<'a> DirEntries<'a> {
    pub(super) fn new(dir: InodeView<'a>) -> Result<Self, FormatError> {
        Ok(Self {
            dir,
            block: None,
            next_block: 0,
            next_entry: 0,
            block_count: block_count(&dir)?,
        })
    }

    /// Starts at a position that [`DirEntries::position`] gave; behind the end there is nothing.
    pub(super) fn at(dir: InodeView<'a>, position: u64) -> Result<Self, FormatError> {
        let mut entries = Self::new(dir)?;
        let block = usize::try_from(position / POSITIONS).unwrap_or(usize::MAX);
        entries.next_block = block.min(entries.block_count);
        if block < entries.block_count && !position.is_multiple_of(POSITIONS) {
            entries.block = Some(Block::read(&dir, block)?);
            entries.next_block += 1;
            entries.next_entry = (position % POSITIONS) as usize;
        }
        Ok(entries)
    }

    /// Where to go on after the last entry that was given: 0 only before the first one. The same for
    /// the same index, whenever it is asked.
    pub fn position(&self) -> u64 {
        match self.block {
            Some(_) => (self.next_block as u64).saturating_sub(1) * POSITIONS + self.next_entry as u64,
            None => self.next_block as u64 * POSITIONS,
        }
    }

    fn advance(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        loop {
            if let Some(block) = &self.block {
                if self.next_entry < block.entries.len() {
                    self.next_entry += 1;
                    return block.entry(&self.dir, self.next_entry - 1).map(Some);
                }
                self.block = None;
            }
            if self.next_block == self.block_count {
                return Ok(None);
            }
            self.block = Some(Block::read(&self.dir, self.next_block)?);
            self.next_block += 1;
            self.next_entry = 0;
        }
    }
}

impl<'a> Iterator for DirEntries<'a> {
    type Item = Result<DirEntry<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.block = None;
            self.next_block = self.block_count;
        }
        item.transpose()
    }
}

fn block_count(dir: &InodeView<'_>) -> Result<usize, FormatError> {
    if dir.file_type() != FileType::Dir {
        return Err(dir.bad("it is no directory"));
    }
    Ok(usize::try_from(dir.size()).unwrap_or(usize::MAX).div_ceil(BLOCK))
}

/// Finds a name as the kernel does: first the block by its first name, then the entry.
pub(super) fn lookup<'a>(dir: InodeView<'a>, name: &[u8]) -> Result<Option<DirEntry<'a>>, FormatError> {
    let (mut low, mut high) = (0, block_count(&dir)?);
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let block = Block::read(&dir, middle)?;
        if block.entry(&dir, 0)?.name <= name {
            found = Some(block);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(block) = found else {
        return Ok(None);
    };
    let (mut low, mut high) = (0, block.entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = block.entry(&dir, middle)?;
        match entry.name.cmp(name) {
            std::cmp::Ordering::Equal => return Ok(Some(entry)),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

/// Checks what single entries cannot show: names lie back to back behind the entries, and behind
/// the last name of each block are zeros only.
pub(super) fn check_blocks(dir: &InodeView<'_>) -> Result<(), FormatError> {
    for number in 0..block_count(dir)? {
        let block = Block::read(dir, number)?;
        let mut end = block.entries.len() * DIRENT_LEN;
        for (at, raw) in block.entries.iter().enumerate() {
            if usize::from(raw.nameoff.get()) != end {
                return Err(dir.bad("its names do not follow each other"));
            }
            end += block.name(at).map_or(0, <[u8]>::len);
        }
        let rest = block.bytes.get(end..).unwrap_or_default();
        if rest.iter().any(|&byte| byte != 0) {
            return Err(dir.bad("a directory block holds bytes behind its last name"));
        }
    }
    Ok(())
}
