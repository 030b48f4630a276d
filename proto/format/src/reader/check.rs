//! The whole tree, checked before a kernel is given it.
//!
//! Each inode is reached through names only, from the root. What it takes of the image is claimed
//! once, so that nothing lies over something else and nothing is walked twice.

use std::collections::HashMap;

use super::claims::{Bits, Claims};
use super::dir::{self, DirEntry, FileType};
use super::xattr::{self, Xattr};
use super::{Index, InodeView, Nid, TreeSummary};
use crate::error::FormatError;
use crate::limits::MAX_CHUNK_BITS;
use crate::table_rules::TableView;
use crate::tables::Chunk;
use crate::tree::Extent;

struct Walk<'a> {
    index: Index<'a>,
    tables: TableView<'a>,
    claims: Claims,
    /// Directories found and not yet walked, each with its parent.
    todo: Vec<(Nid, Nid)>,
    /// Inodes with several names: how many names are still to be found.
    links: HashMap<u64, u32>,
    /// Sum of `links`.
    links_missing: u64,
    /// Starts of shared xattrs.
    shared: Bits,
    /// Kept from one inode to the next, to save the allocation.
    xattrs: Vec<Xattr<'a>>,
    /// Chunk that most likely comes next.
    next_chunk: usize,
    summary: TreeSummary,
}

pub(super) fn check_tree(index: Index<'_>) -> Result<TreeSummary, FormatError> {
    let mut walk = Walk {
        index,
        tables: index.tables(),
        claims: Claims::new(index.layout.xattrs_start, index.layout.inodes_start),
        todo: Vec::new(),
        links: HashMap::new(),
        links_missing: 0,
        shared: xattr::check_shared(index.shared_xattrs())?,
        xattrs: Vec::new(),
        next_chunk: 0,
        summary: TreeSummary::default(),
    };
    let root = walk.first_name(index.root(), index.root())?;
    if root.file_type() != FileType::Dir {
        return Err(root.bad("the root is no directory"));
    }
    while let Some((nid, parent)) = walk.todo.pop() {
        walk.directory(nid, parent)?;
    }
    walk.finish()
}

impl<'a> Walk<'a> {
    fn finish(self) -> Result<TreeSummary, FormatError> {
        if self.links_missing != 0 {
            // Which of several does not matter; the smallest makes the message reproducible.
            let nid = self
                .links
                .iter()
                .filter(|link| *link.1 != 0)
                .map(|link| *link.0)
                .min();
            return Err(FormatError::Inode {
                nid: nid.unwrap_or_default(),
                what: "it has fewer names than links",
            });
        }
        if self.summary.inodes != self.index.inode_count() {
            return Err(FormatError::Table {
                table: "EROFS superblock",
                index: 0,
                what: "its count of inodes is not that of the tree",
            });
        }
        Ok(self.summary)
    }

    /// Checks a directory's entries, and what they name.
    fn directory(&mut self, nid: Nid, parent: Nid) -> Result<(), FormatError> {
        let dir = self.index.inode(nid)?;
        dir::check_blocks(&dir)?;
        let mut before: &[u8] = b"";
        let mut dots = 0;
        let mut subdirectories: u32 = 0;
        for entry in dir.entries()? {
            let entry = entry?;
            if entry.name <= before {
                return Err(dir.bad("its names are out of order"));
            }
            before = entry.name;
            let own = match entry.name {
                b"." => nid,
                b".." => parent,
                _ => {
                    subdirectories += u32::from(entry.file_type == FileType::Dir);
                    self.entry(&dir, entry)?;
                    continue;
                }
            };
            if entry.nid != own || entry.file_type != FileType::Dir {
                return Err(dir.bad("its names . and .. are wrong"));
            }
            dots += 1;
        }
        if dots != 2 {
            return Err(dir.bad("it has no names . and .."));
        }
        if dir.nlink().checked_sub(2) != Some(subdirectories) {
            return Err(dir.bad("its count of links is not that of its subdirectories"));
        }
        Ok(())
    }

    fn entry(&mut self, dir: &InodeView<'a>, entry: DirEntry<'a>) -> Result<(), FormatError> {
        let inode = if self.claims.is_found(entry.nid.0) {
            self.further_name(entry.nid)?
        } else {
            self.first_name(entry.nid, dir.nid)?
        };
        if inode.file_type() != entry.file_type {
            return Err(dir.bad("an entry's type is not that of the inode"));
        }
        self.summary.names += 1;
        Ok(())
    }

    /// Takes one more name of an inode that has been checked.
    fn further_name(&mut self, nid: Nid) -> Result<InodeView<'a>, FormatError> {
        let inode = self.index.inode(nid)?;
        match self.links.get_mut(&nid.0) {
            Some(missing) if *missing > 0 => {
                *missing -= 1;
                self.links_missing -= 1;
                Ok(inode)
            }
            _ => Err(inode.bad("it has more names than links")),
        }
    }

    /// Checks an inode at its first name.
    fn first_name(&mut self, nid: Nid, parent: Nid) -> Result<InodeView<'a>, FormatError> {
        let inode = self.index.inode(nid)?;
        if !self.claims.find_inode(nid.0)
            || !self.claims.take(inode.own_bytes())
            || !self.claims.take(inode.data_blocks())
        {
            return Err(inode.bad("it lies over something else"));
        }
        xattr::check(&inode, &self.shared, &mut self.xattrs)?;
        self.summary.inodes += 1;
        match inode.file_type() {
            FileType::Dir => {
                self.summary.directories += 1;
                self.todo.push((nid, parent));
                return Ok(inode);
            }
            FileType::File => {
                self.summary.files += 1;
                self.file(&inode)?;
            }
            FileType::Symlink => {
                self.summary.symlinks += 1;
                inode.symlink()?;
            }
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                self.summary.specials += 1;
            }
        }
        if inode.nlink() > 1 {
            let missing = inode.nlink() - 1;
            self.links.insert(nid.0, missing);
            self.links_missing += u64::from(missing);
        }
        Ok(inode)
    }

    /// Checks that each chunk of a file is one of the chunk table, of the same length.
    fn file(&mut self, inode: &InodeView<'a>) -> Result<(), FormatError> {
        self.summary.file_bytes = self.summary.file_bytes.saturating_add(inode.size());
        let chunk_size = 1_u64 << inode.chunk_bits();
        let mut left = inode.size();
        for extent in inode.extents()? {
            let len = left.min(chunk_size);
            left -= len;
            let Extent::Data { device, block } = extent? else {
                continue;
            };
            let found = self.tables.chunk_at(device.into(), block, self.next_chunk);
            let chunk_len = found.and_then(|at| self.tables.chunks.get(at)).map(Chunk::len);
            if chunk_len.map(u64::from) != Some(len) || inode.chunk_bits() > MAX_CHUNK_BITS {
                return Err(inode.bad("a chunk of it is none of the chunk table"));
            }
            self.next_chunk = found.map_or(0, |at| at + 1);
            self.summary.data_bytes = self.summary.data_bytes.saturating_add(len);
        }
        Ok(())
    }
}
