//! What requests for trees mean, without any kernel type: node ids, and what indexes say of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lacewing_format::{DirEntry, FileType, FormatError, Index, InodeView, Nid};

use super::TreeKind;
use crate::layer::{Layer, Layers};
use crate::mount_point::MountPoint;
use crate::packfs::Refusal;
use crate::report::LayerId;

/// Node of a mount's root, whose directories are the layers.
pub(crate) const ROOT: u64 = 1;

/// Inodes that were looked at before the pages of indexes are given back. An inode with its name takes some 100 bytes
/// of an index, so a process that serves walks of any number of images holds a few megabytes of them; and the pages
/// stay in the page cache, so coming back to them costs a minor fault for each.
const RELAX_AFTER: u64 = 50_000;

/// Bits of an inode's number within its index: a place in steps of 32 bytes.
const NID_BITS: u32 = 26;
const _: () = assert!(lacewing_format::limits::MAX_INDEX / 32 < 1 << NID_BITS);

/// Bits of a layer's number: a node would have to pull a layer each second for thirty years to use them up.
const LAYER_BITS: u32 = 30;

/// Most copies of a layer: 8 bits are left for their number.
const COPIES: u32 = 256;

/// A node that is not the root: a place in an index, seen through one of its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    copy: u32,
    layer: LayerId,
    nid: Nid,
}

impl Node {
    /// Takes a number apart; nothing for the root and numbers that are none.
    fn from_number(number: u64) -> Option<Node> {
        let layer = number >> NID_BITS & ((1 << LAYER_BITS) - 1);
        (layer > 0).then_some(Node {
            copy: (number >> (NID_BITS + LAYER_BITS)) as u32,
            layer: LayerId(layer),
            nid: Nid(number & ((1 << NID_BITS) - 1)),
        })
    }

    /// The inode's number as programs see it: the same in all copies, another in each layer.
    fn ino(self) -> Option<u64> {
        let fits = self.layer.0 < 1 << LAYER_BITS && self.nid.0 < 1 << NID_BITS && self.copy < COPIES;
        fits.then_some(self.layer.0 << NID_BITS | self.nid.0)
    }

    /// The node's number.
    fn number(self) -> Option<u64> {
        Some(self.ino()? | u64::from(self.copy) << (NID_BITS + LAYER_BITS))
    }
}

/// All layers of the node, as trees.
pub(crate) struct Forest {
    layers: Arc<Layers>,
    /// Inodes that were looked at since pages were last given back.
    looked_at: AtomicU64,
}

/// A layer in which a node lies.
pub(crate) struct Tree {
    pub(crate) layer: Arc<Layer>,
    copy: u32,
    nid: Nid,
}

impl Tree {
    /// The node's inode.
    pub(crate) fn inode(&self) -> Result<InodeView<'_>, Refusal> {
        self.at(self.nid)
    }

    /// Another inode of the layer.
    pub(crate) fn at(&self, nid: Nid) -> Result<InodeView<'_>, Refusal> {
        // The index was checked as a whole before it was taken in: the disk is to blame, or a node that never was.
        self.layer.index.view().inode(nid).map_err(|_| Refusal::Damaged)
    }

    fn node(&self, nid: Nid) -> Node {
        Node {
            copy: self.copy,
            layer: self.layer.id,
            nid,
        }
    }

    /// Number of an inode of the layer as programs see it.
    pub(crate) fn ino(&self, nid: Nid) -> Result<u64, Refusal> {
        self.node(nid).ino().ok_or(Refusal::Damaged)
    }

    /// Number of an inode of the layer as the kernel knows it.
    pub(crate) fn node_number(&self, nid: Nid) -> Result<u64, Refusal> {
        self.node(nid).number().ok_or(Refusal::Damaged)
    }

    /// Finds a name.
    pub(crate) fn lookup(&self, name: &[u8]) -> Result<InodeView<'_>, Refusal> {
        let dir = self.inode()?;
        if dir.file_type() != FileType::Dir {
            return Err(Refusal::NotADirectory);
        }
        match dir.lookup(name) {
            Ok(Some(found)) => self.at(found.nid),
            Ok(None) => Err(Refusal::NotFound),
            Err(_) => Err(Refusal::Damaged),
        }
    }
}

impl Forest {
    /// Makes the forest of these layers.
    pub(crate) fn new(layers: Arc<Layers>) -> Forest {
        Forest {
            layers,
            looked_at: AtomicU64::new(0),
        }
    }

    fn layer(&self, id: LayerId) -> Option<Arc<Layer>> {
        let layers = self
            .layers
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        layers.get(&id).cloned()
    }

    /// The tree that a node lies in; nothing for the root.
    ///
    /// # Errors
    /// [`Refusal::Gone`] if the layer was removed.
    pub(crate) fn tree(&self, node: u64) -> Result<Option<Tree>, Refusal> {
        if node == ROOT {
            return Ok(None);
        }
        let Node { copy, layer, nid } = Node::from_number(node).ok_or(Refusal::Gone)?;
        let layer = self.layer(layer).ok_or(Refusal::Gone)?;
        Ok(Some(Tree { layer, copy, nid }))
    }

    /// The tree of a layer, by its name in the mount's root: that of its mount point.
    pub(crate) fn by_name(&self, name: &[u8]) -> Result<Tree, Refusal> {
        let point = std::str::from_utf8(name).ok().and_then(MountPoint::parse);
        let point = point.filter(|point| !point.direct && point.copy < COPIES);
        let point = point.ok_or(Refusal::NotFound)?;
        let layer = self.layer(point.layer).ok_or(Refusal::NotFound)?;
        Ok(Tree {
            nid: layer.index.view().root(),
            copy: point.copy,
            layer,
        })
    }

    /// Notes how many inodes a request looked at.
    pub(crate) fn note(&self, count: u64) {
        if self.looked_at.fetch_add(count, Ordering::Relaxed) + count < RELAX_AFTER {
            return;
        }
        self.looked_at.store(0, Ordering::Relaxed);
        let layers = self
            .layers
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        layers.values().for_each(|layer| layer.index.relax());
    }
}

/// Which connection an index belongs to. Cost: a walk over the tree up to the first xattr. The same for the same index.
///
/// # Errors
/// The index's pages are damaged.
pub(crate) fn kind_of(index: &Index<'_>) -> Result<TreeKind, FormatError> {
    let mut todo = vec![index.root()];
    while let Some(nid) = todo.pop() {
        let dir = index.inode(nid)?;
        if dir.has_xattrs() {
            return Ok(TreeKind::Xattrs);
        }
        for entry in dir.entries()? {
            let entry: DirEntry<'_> = entry?;
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            if entry.file_type == FileType::Dir {
                todo.push(entry.nid);
            } else if index.inode(entry.nid)?.has_xattrs() {
                return Ok(TreeKind::Xattrs);
            }
        }
    }
    Ok(TreeKind::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_places_in_indexes() {
        let node = |copy, layer, nid| Node {
            copy,
            layer: LayerId(layer),
            nid: Nid(nid),
        };
        for (node, number) in [
            (node(0, 1, 40), Some(0x400_0028)),
            (node(1, 1, 40), Some(0x0100_0000_0400_0028)),
            (node(255, (1 << 30) - 1, (1 << 26) - 1), Some(u64::MAX)),
            (node(256, 1, 1), None),
            (node(0, 1 << 30, 1), None),
            (node(0, 1, 1 << 26), None),
        ] {
            assert_eq!(node.number(), number);
            if let Some(number) = number {
                assert_eq!(Node::from_number(number), Some(node));
            }
        }
        assert_eq!(node(3, 7, 5).ino(), node(0, 7, 5).ino());
        for number in [0, ROOT, 1 << 25] {
            assert_eq!(Node::from_number(number), None);
        }
    }
}
