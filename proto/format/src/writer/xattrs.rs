//! Xattrs: those that several inodes have alike are written once.

use std::collections::BTreeMap;

use super::input::Order;
use crate::erofs::{self, XATTR_ENTRY_LEN, XATTR_HEADER_LEN, XattrEntry, XattrHeader};
use crate::error::FormatError;
use crate::limits::MAX_XATTR_SIZE;
use crate::tree::{InodeId, Tree};
use zerocopy::IntoBytes;

/// One xattr in the order of the image: number of the namespace, rest of the name, value.
type Xattr<'a> = (u8, &'a [u8], &'a [u8]);

/// Most shared xattrs of one inode: their count has 8 bits.
const MAX_SHARED: usize = u8::MAX as usize;

/// Where the xattrs of a tree go.
#[derive(Clone, Debug)]
pub(super) struct Xattrs<'a> {
    /// Ids of shared xattrs: their offset in the shared part, in steps of 4 bytes.
    shared: BTreeMap<Xattr<'a>, u32>,
    /// Bytes of the shared part.
    shared_len: usize,
}

/// The xattrs of one inode, split.
struct Split<'a> {
    shared: Vec<u32>,
    inline: Vec<Xattr<'a>>,
}

impl<'a> Xattrs<'a> {
    /// Finds the xattrs that at least two inodes have, and checks that each inode's fit.
    pub(super) fn of(tree: &'a Tree, order: &Order) -> Result<Self, FormatError> {
        let mut counts: BTreeMap<Xattr<'a>, u32> = BTreeMap::new();
        for &id in &order.inodes {
            for xattr in of_inode(tree, id) {
                *counts.entry(xattr).or_default() += 1;
            }
        }
        let mut xattrs = Self {
            shared: BTreeMap::new(),
            shared_len: 0,
        };
        for (xattr, count) in counts {
            if count > 1 {
                // Ids stay far below 2^32: the image is bounded by `MAX_INDEX`.
                let id = (xattrs.shared_len / 4).try_into().unwrap_or(u32::MAX);
                xattrs.shared.insert(xattr, id);
                xattrs.shared_len = xattrs.shared_len.saturating_add(entry_len(&xattr));
            }
        }
        for &id in &order.inodes {
            if xattrs.len(tree, id) > MAX_XATTR_SIZE {
                return Err(FormatError::Input {
                    inode: id.0,
                    what: "its xattrs together are too long",
                });
            }
        }
        Ok(xattrs)
    }

    /// Bytes that the xattrs of an inode take behind it.
    pub(super) fn len(&self, tree: &Tree, id: InodeId) -> usize {
        if of_inode(tree, id).next().is_none() {
            return 0;
        }
        let split = self.split(tree, id);
        let inline: usize = split.inline.iter().map(entry_len).sum();
        XATTR_HEADER_LEN + split.shared.len() * 4 + inline
    }

    /// Bytes that the shared part takes.
    pub(super) fn shared_len(&self) -> usize {
        self.shared_len
    }

    /// Returns the bytes behind an inode, [`Xattrs::len`] of them.
    pub(super) fn inode_bytes(&self, tree: &Tree, id: InodeId) -> Vec<u8> {
        if of_inode(tree, id).next().is_none() {
            return Vec::new();
        }
        let split = self.split(tree, id);
        let header = XattrHeader {
            name_filter: 0.into(),
            shared_count: split.shared.len() as u8,
            reserved: [0; 7],
        };
        let mut bytes = header.as_bytes().to_vec();
        for id in split.shared {
            bytes.extend(id.to_le_bytes());
        }
        for xattr in split.inline {
            append(&mut bytes, &xattr);
        }
        bytes
    }

    /// Returns the bytes of the shared part, [`Xattrs::shared_len`] of them.
    pub(super) fn shared_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.shared_len);
        for xattr in self.shared.keys() {
            append(&mut bytes, xattr);
        }
        bytes
    }

    fn split<'t>(&self, tree: &'t Tree, id: InodeId) -> Split<'t> {
        let mut split = Split {
            shared: Vec::new(),
            inline: Vec::new(),
        };
        let mut all: Vec<_> = of_inode(tree, id).collect();
        all.sort_unstable();
        for xattr in all {
            match self.shared.get(&xattr) {
                Some(&id) if split.shared.len() < MAX_SHARED => split.shared.push(id),
                _ => split.inline.push(xattr),
            }
        }
        split
    }
}

fn of_inode(tree: &Tree, id: InodeId) -> impl Iterator<Item = Xattr<'_>> {
    let xattrs = tree.inodes.get(id.0 as usize).map(|inode| &inode.xattrs[..]);
    xattrs.unwrap_or_default().iter().filter_map(|(name, value)| {
        let (index, rest) = erofs::split_xattr_name(name)?;
        Some((index, rest, &value[..]))
    })
}

fn entry_len(xattr: &Xattr<'_>) -> usize {
    (XATTR_ENTRY_LEN + xattr.1.len() + xattr.2.len()).next_multiple_of(4)
}

/// Appends one entry with its padding. Lengths have been checked to fit their fields.
fn append(bytes: &mut Vec<u8>, xattr: &Xattr<'_>) {
    let &(index, rest, value) = xattr;
    let entry = XattrEntry {
        name_len: rest.len() as u8,
        name_index: index,
        value_size: (value.len() as u16).into(),
    };
    bytes.extend_from_slice(entry.as_bytes());
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
