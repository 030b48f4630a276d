//! A layer's tar becomes the tree that containerd's unpack makes of it on overlayfs.
//!
//! Ground truth: containerd's `archive.Apply` (1.6 to 2.x are the same here), which the overlayfs snapshotter runs in
//! two ways. The bottom layer has no parents: whiteouts are carried out at once. Every other layer goes to the upper
//! directory of an overlay: whiteouts become character devices 0/0 and the xattr `trusted.overlay.opaque`, and folders
//! that no entry describes take owner, mode and xattrs from the layers below.
//!
//! Times: a folder without an entry of its own gets the moment of unpacking from containerd. Here it gets, in order to be
//! the same for everybody, the time of the latest file made in it.
//!
//! Invariant: whatever the archive says, the tree is well-formed: names are names, nothing points outside.

mod acl;
mod applier;
mod attributes;
mod folders;
pub(crate) mod path;
mod whiteouts;

use std::io::Read;
use std::sync::Arc;

use lacewing_format::{Body, FileBody, Inode, Tree};

use crate::Error;
use crate::tar::{Reader, Run};
use applier::Applier;

/// The present file's bytes, in order.
pub trait Data {
    /// Length of the file, its holes included.
    fn size(&self) -> u64;
    /// What lies at the present position, up to the end of that run; nothing at the end of the file.
    fn run(&self) -> Option<Run>;
    /// Reads exactly as much as the buffer holds; zeros for holes.
    ///
    /// # Errors
    /// Those of the stream, and an end that comes too early.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error>;
    /// Passes over zeros of a hole, at most to its end.
    fn skip_hole(&mut self, len: u64);
}

impl<R: Read> Data for Reader<R> {
    fn size(&self) -> u64 {
        Reader::size(self)
    }
    fn run(&self) -> Option<Run> {
        Reader::run(self)
    }
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        Reader::read(self, buffer)
    }
    fn skip_hole(&mut self, len: u64) {
        Reader::skip_hole(self, len);
    }
}

/// Where the contents of files go.
pub trait Contents {
    /// Takes a file's bytes and says how the tree refers to them. `path` is absolute, `mode` has the 07777 bits.
    ///
    /// # Errors
    /// Those of `data`, and its own.
    fn file(&mut self, path: &[u8], mode: u32, data: &mut dyn Data) -> Result<FileBody, Error>;
}

/// Keeps sizes only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContents;

impl Contents for NoContents {
    fn file(&mut self, _path: &[u8], _mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        Ok(FileBody {
            size: data.size(),
            ..FileBody::default()
        })
    }
}

/// A layer's tree.
pub(crate) struct Applied {
    pub(crate) tree: Tree,
    /// The tree is the same whatever layers are below.
    pub(crate) stands_alone: bool,
}

/// Applies a plain tar. `lowers` are the layers below, the topmost first; none for the bottom layer. Reads to the end of
/// the archive, not to that of the stream.
///
/// # Errors
/// [`Error::Tar`], [`Error::Refused`], [`Error::Limit`], and those of the stream and of `contents`.
pub fn apply_layer(
    input: impl Read,
    lowers: &[Arc<Tree>],
    contents: &mut dyn Contents,
) -> Result<Tree, Error> {
    apply(input, lowers, contents).map(|applied| applied.tree)
}

/// As [`apply_layer`], and says what the tree depends on.
pub(crate) fn apply(
    input: impl Read,
    lowers: &[Arc<Tree>],
    contents: &mut dyn Contents,
) -> Result<Applied, Error> {
    let mut reader = Reader::new(input);
    let mut applier = Applier::new(lowers);
    while let Some(entry) = reader.next_entry()? {
        applier.entry(&entry, &mut reader, contents)?;
    }
    applier.finish()
}

/// What a layer above needs of this one: all names, and what folders and links are.
#[must_use]
pub fn skeleton(tree: &Tree) -> Arc<Tree> {
    let bare = |inode: &Inode| {
        let (xattrs, body) = match &inode.body {
            Body::File(_) => (Vec::new(), Body::Fifo),
            body => (inode.xattrs.clone(), body.clone()),
        };
        Inode {
            xattrs,
            body,
            ..*inode
        }
    };
    Arc::new(Tree {
        inodes: tree.inodes.iter().map(bare).collect(),
    })
}

#[cfg(test)]
mod tests;
