//! Addresses: where in the image each inode lies, and the blocks of its data.
//!
//! What is listed together lies together. A walk reads a directory's content, then the inodes of
//! its children: small directories lie behind their inode, the children's inodes in one run.

use super::dirblock;
use super::input::Order;
use super::xattrs::Xattrs;
use crate::erofs::{self, CHUNK_INDEX_LEN, COMPACT_LEN, EXTENDED_LEN, ISLOT};
use crate::limits::BLOCK;
use crate::reader::inodes_start;
use crate::tree::{Body, Inode, InodeId, Tree};

/// Where one inode lies and what form it has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// First byte.
    pub(super) start: usize,
    /// 64 bytes rather than 32.
    pub(super) extended: bool,
    /// The last part of its data lies behind it.
    pub(super) inline: bool,
    /// First block of its other data; 0 if there is none.
    pub(super) block: usize,
    /// Bytes of xattrs.
    pub(super) xattr_len: usize,
    /// Bytes of content: directory, symlink target, or file.
    pub(super) size: u64,
}

impl Place {
    /// Number of the inode.
    pub(super) fn nid(&self) -> u64 {
        self.start as u64 / ISLOT
    }

    /// Length of the fixed part.
    pub(super) fn fixed_len(&self) -> usize {
        if self.extended { EXTENDED_LEN } else { COMPACT_LEN }
    }
}

/// Addresses of everything in the image.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// For each inode of the tree; without meaning if no name reaches it.
    pub(super) places: Vec<Place>,
    /// First byte of the shared xattrs, the end of everything else: whole blocks.
    pub(super) xattrs_start: usize,
    image_len: usize,
}

impl Plan {
    /// Places all inodes in their order, then the whole blocks of their data in the same order.
    pub(super) fn of(tree: &Tree, order: &Order, xattrs: &Xattrs<'_>, devices: usize) -> Self {
        let mut places = vec![Place::default(); tree.inodes.len()];
        let mut space = Space::new(inodes_start(devices));
        for &id in &order.inodes {
            let at = id.0 as usize;
            let links = order.links.get(at).copied().unwrap_or_default();
            if let (Some(inode), Some(place)) = (tree.inodes.get(at), places.get_mut(at)) {
                *place = shape(inode, links, xattrs.len(tree, id), order);
                let len = own_len(inode, place);
                let whole = if place.inline { len } else { place.fixed_len() };
                place.start = space.take(len, whole);
            }
        }
        let mut end = space.end.next_multiple_of(BLOCK);
        for &id in &order.inodes {
            if let Some(place) = places.get_mut(id.0 as usize) {
                let blocks = block_count(tree, id, place);
                if blocks > 0 {
                    place.block = end / BLOCK;
                    end += blocks * BLOCK;
                }
            }
        }
        Self {
            places,
            xattrs_start: end,
            image_len: end + xattrs.shared_len().next_multiple_of(BLOCK),
        }
    }

    /// Length of the EROFS image.
    pub(super) fn image_len(&self) -> usize {
        self.image_len
    }

    /// Where an inode lies.
    pub(super) fn place(&self, id: InodeId) -> Place {
        self.places.get(id.0 as usize).copied().unwrap_or_default()
    }
}

/// Decides the form of an inode; its address is still open.
fn shape(inode: &Inode, links: u32, xattr_len: usize, order: &Order) -> Place {
    let size = match &inode.body {
        Body::Dir(entries) => dirblock::size(entries) as u64,
        Body::Symlink(target) => target.len() as u64,
        Body::File(file) => file.size,
        Body::Device { .. } | Body::Fifo | Body::Socket => 0,
    };
    let compact = inode.mtime == order.epoch
        && u16::try_from(inode.uid).is_ok()
        && u16::try_from(inode.gid).is_ok()
        && u16::try_from(links).is_ok()
        && u32::try_from(size).is_ok();
    let mut place = Place {
        extended: !compact,
        xattr_len,
        size,
        ..Place::default()
    };
    let tail = (size % BLOCK as u64) as usize;
    place.inline = matches!(inode.body, Body::Dir(_) | Body::Symlink(_))
        && tail > 0
        && place.fixed_len() + xattr_len + tail <= BLOCK;
    place
}

/// Length of an inode with what lies behind it.
fn own_len(inode: &Inode, place: &Place) -> usize {
    let len = place.fixed_len() + place.xattr_len;
    match &inode.body {
        Body::File(file) if file.size > 0 => {
            len.next_multiple_of(CHUNK_INDEX_LEN) + file.extents.len() * CHUNK_INDEX_LEN
        }
        _ if place.inline => len + (place.size % BLOCK as u64) as usize,
        _ => len,
    }
}

/// Count of whole blocks that the data of a directory or symlink takes.
fn block_count(tree: &Tree, id: InodeId, place: &Place) -> usize {
    let size = usize::try_from(place.size).unwrap_or(usize::MAX);
    match tree.inodes.get(id.0 as usize).map(|inode| &inode.body) {
        Some(Body::Dir(_) | Body::Symlink(_)) if place.inline => size / BLOCK,
        Some(Body::Dir(_) | Body::Symlink(_)) => size.div_ceil(BLOCK),
        _ => 0,
    }
}

/// How many unfinished blocks are kept for what still fits: enough to fill most gaps, few enough
/// that neighbours stay neighbours.
const MAX_GAPS: usize = 4;

/// Free space, from one end on, and in gaps before it.
struct Space {
    end: usize,
    /// Ranges inside of one block each, the oldest first.
    gaps: Vec<(usize, usize)>,
}

impl Space {
    fn new(start: usize) -> Self {
        Self {
            end: slot(start),
            gaps: Vec::new(),
        }
    }

    /// Takes `len` bytes of which the first `whole` must be in one block.
    fn take(&mut self, len: usize, whole: usize) -> usize {
        if let Some(at) = self.gaps.iter().position(|&(start, end)| start + len <= end)
            && let Some(gap) = self.gaps.get_mut(at)
        {
            let start = gap.0;
            gap.0 = slot(start + len);
            if gap.0 >= gap.1 {
                self.gaps.remove(at);
            }
            return start;
        }
        let block_end = (self.end + 1).next_multiple_of(BLOCK);
        if self.end + whole > block_end {
            self.gaps.push((self.end, block_end));
            if self.gaps.len() > MAX_GAPS {
                self.gaps.remove(0);
            }
            self.end = block_end;
        }
        let start = self.end;
        self.end = slot(start + len);
        start
    }
}

fn slot(at: usize) -> usize {
    at.next_multiple_of(erofs::ISLOT as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_by_what_fits() {
        let mut space = Space::new(1152);
        assert_eq!(space.take(64, 64), 1152);
        assert_eq!(space.take(4000, 4000), 4096, "does not fit behind the first");
        assert_eq!(space.take(33, 32), 1216, "goes back into the gap");
        assert_eq!(
            space.take(5000, 64),
            4096 + 4000,
            "may cross a block but for its fixed part"
        );
    }

    #[test]
    fn fixed_parts_do_not_cross_blocks() {
        let mut space = Space::new(4096 - 32);
        assert_eq!(space.take(64, 64), 4096);
        assert_eq!(space.take(32, 32), 4096 - 32);
        assert_eq!(space.take(32, 32), 4096 + 64);
        assert!(space.gaps.is_empty());
    }
}
