//! Entries that remove: whiteouts and opaque marks.
//!
//! The bottom layer's are carried out: there is nothing below, and what the layer itself has made is all there is. In the
//! other layers they are noted down for overlayfs, whatever the layers below hold. A whiteout of a name that the same layer
//! has made before has no meaning there (containerd's unpack fails to make the device over it) and is refused; an entry that
//! follows its whiteout replaces the device.

use lacewing_format::tree::{OPAQUE_XATTR, S_IFCHR};
use lacewing_format::{Body, InodeId};

use super::applier::{Applier, inode, refused};
use super::attributes;
use super::path::{PathError, child, join, parent};
use crate::Error;
use crate::tar::Entry;

impl Applier<'_> {
    /// Carries out or notes down a whiteout or opaque mark. `false`: the entry is none.
    pub(super) fn whiteout(
        &mut self,
        entry: &Entry,
        path: &[u8],
        dir: InodeId,
        base: &[u8],
    ) -> Result<bool, Error> {
        let Some(name) = base.strip_prefix(b".wh.") else {
            return Ok(false);
        };
        self.stands_alone = false;
        if name == b".wh..opq" {
            if self.lowers.is_empty() {
                self.clear(parent(path).0, dir);
            } else {
                attributes::put(self.inode_mut(dir), OPAQUE_XATTR, b"y".to_vec());
            }
            return Ok(true);
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(refused(entry, "a whiteout needs a name"));
        }
        if self.lowers.is_empty() {
            if child(&self.tree, dir, name).is_some() {
                self.remove(dir, name);
            }
            return Ok(true);
        }
        if child(&self.tree, dir, name).is_some() {
            return Err(refused(
                entry,
                "a whiteout of a name that this layer has made before",
            ));
        }
        if name.len() > lacewing_format::limits::MAX_NAME {
            return Err(refused(entry, PathError::NameTooLong.reason()));
        }
        let mut device = inode(S_IFCHR, Body::Device { major: 0, minor: 0 });
        device.mtime = attributes::bound(entry.mtime);
        attributes::chown(&mut device, entry.uid, entry.gid);
        self.add(entry, dir, name, device)?;
        Ok(true)
    }

    /// An opaque mark in the bottom layer: removes what no entry of this layer has made, folders first.
    fn clear(&mut self, path: &[u8], dir: InodeId) {
        let mut todo = vec![(path.to_vec(), dir)];
        while let Some((path, dir)) = todo.pop() {
            let Body::Dir(entries) = &self.inode(dir).body else {
                continue;
            };
            let entries: Vec<(Vec<u8>, InodeId)> = entries.iter().map(|(n, id)| (n.clone(), *id)).collect();
            for (name, id) in entries {
                let path = join(&path, &name);
                if !self.unpacked.contains(&path) {
                    self.remove(dir, &name);
                } else if attributes::is_dir(self.inode(id)) {
                    todo.push((path, id));
                }
            }
        }
    }
}
