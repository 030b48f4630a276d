//! Entries become a tree, one after the other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lacewing_format::tree::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use lacewing_format::{Body, Inode, InodeId, Time, Tree};

use super::path::{self, PathError, ROOT, child, clean, join, lstat, root_path, split};
use super::{Applied, Contents, Data, attributes};
use crate::Error;
use crate::limits::{MAX_INODES, MAX_PATH};
use crate::tar::{Entry, kind};

/// A tree while it is made of entries.
pub(super) struct Applier<'a> {
    pub(super) tree: Tree,
    pub(super) lowers: &'a [Arc<Tree>],
    /// Nothing has depended on the layers below yet, nor on whether there are any.
    pub(super) stands_alone: bool,
    /// Folders that no entry has described: their time follows what is made in them.
    pub(super) implied: HashSet<InodeId>,
    /// Folder entries in order, whose times are set at the end.
    dirs: Vec<(Vec<u8>, Time)>,
    /// Paths made by entries; kept for the bottom layer alone, whose opaque marks spare them.
    pub(super) unpacked: HashSet<Vec<u8>>,
    /// The folder of the last entry, which is mostly that of the next one.
    pub(super) last_dir: Option<(Vec<u8>, Vec<u8>, InodeId)>,
}

pub(super) fn refused(entry: &Entry, reason: impl Into<String>) -> Error {
    Error::Refused {
        entry: String::from_utf8_lossy(&entry.name).into_owned(),
        reason: reason.into(),
    }
}

pub(super) fn path_refused(entry: &Entry) -> impl Fn(PathError) -> Error {
    |error| refused(entry, error.reason())
}

pub(super) fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
        body,
    }
}

pub(super) fn new_dir() -> Inode {
    inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()))
}

impl<'a> Applier<'a> {
    pub(super) fn new(lowers: &'a [Arc<Tree>]) -> Self {
        Self {
            tree: Tree {
                inodes: vec![new_dir()],
            },
            lowers,
            stands_alone: true,
            implied: HashSet::from([ROOT]),
            dirs: Vec::new(),
            unpacked: HashSet::new(),
            last_dir: None,
        }
    }

    pub(super) fn entry(
        &mut self,
        entry: &Entry,
        data: &mut dyn Data,
        contents: &mut dyn Contents,
    ) -> Result<(), Error> {
        let name = clean(&entry.name);
        if name.len() > MAX_PATH {
            return Err(refused(entry, "its path is longer than any kernel opens"));
        }
        let (folder, base) = split(&name);
        let base = match base {
            b"" | b"." | b".." => return Ok(()),
            base => base,
        };
        let (folder, dir) = self.folder(entry, folder)?;
        let path = join(&folder, base);
        if self.whiteout(entry, &path, dir, base)? {
            return Ok(());
        }
        if base.len() > lacewing_format::limits::MAX_NAME {
            return Err(refused(entry, PathError::NameTooLong.reason()));
        }
        let old = child(&self.tree, dir, base);
        let merged = old.filter(|&id| entry.kind == kind::DIR && attributes::is_dir(self.inode(id)));
        if merged.is_none() && old.is_some() {
            self.remove(dir, base);
        }
        if entry.kind != kind::PAX_GLOBAL {
            let id = match merged {
                Some(id) => id,
                None => self.create(entry, dir, base, &path, data, contents)?,
            };
            self.describe(entry, id)?;
        }
        if entry.kind == kind::DIR {
            self.dirs.push((name, attributes::bound(entry.mtime)));
        }
        if self.lowers.is_empty() {
            self.unpacked.insert(path);
        }
        Ok(())
    }

    /// Makes the file that an entry describes, or the link.
    fn create(
        &mut self,
        entry: &Entry,
        dir: InodeId,
        base: &[u8],
        path: &[u8],
        data: &mut dyn Data,
        contents: &mut dyn Contents,
    ) -> Result<InodeId, Error> {
        let device = Body::Device {
            major: entry.major,
            minor: entry.minor,
        };
        let new = match entry.kind {
            kind::DIR => inode(S_IFDIR, Body::Dir(BTreeMap::new())),
            kind::REGULAR => inode(S_IFREG, Body::File(contents.file(path, entry.mode, data)?)),
            kind::CHAR => inode(S_IFCHR, device),
            kind::BLOCK => inode(S_IFBLK, device),
            kind::FIFO => inode(S_IFIFO, Body::Fifo),
            kind::SYMLINK if entry.link.is_empty() => {
                return Err(refused(entry, "symbolic link without a target"));
            }
            kind::SYMLINK if entry.link.len() > lacewing_format::limits::MAX_SYMLINK => {
                return Err(refused(entry, "target of symbolic link is too long"));
            }
            kind::SYMLINK => inode(S_IFLNK | 0o777, Body::Symlink(entry.link.clone())),
            kind::LINK => return self.link(entry, dir, base),
            kind::CONTIGUOUS => return Err(refused(entry, "contiguous file (type '7')")),
            kind::GNU_SPARSE => return Err(refused(entry, "GNU sparse file (type 'S')")),
            other => return Err(refused(entry, format!("unknown type {:?}", char::from(other)))),
        };
        self.add(entry, dir, base, new)
    }

    fn link(&mut self, entry: &Entry, dir: InodeId, base: &[u8]) -> Result<InodeId, Error> {
        let (folder, name) = split(&entry.link);
        let folder = root_path(&self.tree, folder).map_err(path_refused(entry))?;
        let target = lstat(&self.tree, &join(&folder, name)).map_err(path_refused(entry))?;
        let Some(target) = target else {
            let target = String::from_utf8_lossy(&entry.link);
            return Err(refused(
                entry,
                format!("hard link to {target:?}, which this layer does not have"),
            ));
        };
        if attributes::is_dir(self.inode(target)) {
            return Err(refused(entry, "hard link to a directory"));
        }
        self.attach(dir, base, target, attributes::bound(entry.mtime));
        Ok(target)
    }

    /// Gives an inode its entry's attributes, in containerd's order.
    fn describe(&mut self, entry: &Entry, id: InodeId) -> Result<(), Error> {
        self.implied.remove(&id);
        let inode = self.inode_mut(id);
        attributes::chown(inode, entry.uid, entry.gid);
        for (name, value) in &entry.xattrs {
            attributes::set_xattr(inode, name, value)
                .map_err(|reason| refused(entry, format!("{reason} ({})", String::from_utf8_lossy(name))))?;
        }
        attributes::chmod(inode, entry.mode);
        inode.mtime = attributes::bound(entry.mtime);
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        entry: &Entry,
        dir: InodeId,
        name: &[u8],
        mut new: Inode,
    ) -> Result<InodeId, Error> {
        if self.tree.inodes.len() >= MAX_INODES {
            let value = MAX_INODES as u64 + 1;
            return Err(Error::Limit {
                what: "count of files in the layer",
                value,
                limit: MAX_INODES as u64,
            });
        }
        attributes::inherit(&mut new, self.inode(dir));
        let id = InodeId(self.tree.inodes.len() as u32);
        self.tree.inodes.push(new);
        self.attach(dir, name, id, attributes::bound(entry.mtime));
        Ok(id)
    }

    pub(super) fn attach(&mut self, dir: InodeId, name: &[u8], id: InodeId, time: Time) {
        let implied = self.implied.contains(&dir);
        let folder = self.inode_mut(dir);
        if implied {
            folder.mtime = folder.mtime.max(time);
        }
        if let Body::Dir(entries) = &mut folder.body {
            entries.insert(name.to_vec(), id);
        }
    }

    pub(super) fn remove(&mut self, dir: InodeId, name: &[u8]) {
        self.last_dir = None;
        if let Body::Dir(entries) = &mut self.inode_mut(dir).body {
            entries.remove(name);
        }
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        &self.tree.inodes[id.0 as usize]
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.tree.inodes[id.0 as usize]
    }

    /// Sets the times of folders, in the order of their entries and by their names as they resolve now.
    pub(super) fn finish(mut self) -> Result<Applied, Error> {
        for (name, time) in std::mem::take(&mut self.dirs) {
            let found = root_path(&self.tree, &name).and_then(|path| lstat(&self.tree, &path));
            let reason = match found {
                Ok(Some(id)) => {
                    self.inode_mut(id).mtime = time;
                    continue;
                }
                Ok(None) => "directory is removed again by the same layer",
                Err(error) => error.reason(),
            };
            let entry = String::from_utf8_lossy(&name).into_owned();
            return Err(Error::Refused {
                entry,
                reason: reason.to_owned(),
            });
        }
        Ok(Applied {
            tree: compact(self.tree),
            stands_alone: self.stands_alone,
        })
    }
}

/// Drops what has no name any more, and numbers the rest folder by folder.
fn compact(tree: Tree) -> Tree {
    let mut number: Vec<Option<u32>> = vec![None; tree.inodes.len()];
    let mut order = vec![ROOT];
    number[0] = Some(0);
    let mut at = 0;
    while let Some(&id) = order.get(at) {
        at += 1;
        if let Body::Dir(entries) = path::body(&tree, id) {
            for &child in entries.values() {
                let slot = &mut number[child.0 as usize];
                if slot.is_none() {
                    *slot = Some(order.len() as u32);
                    order.push(child);
                }
            }
        }
    }
    let mut old: Vec<Option<Inode>> = tree.inodes.into_iter().map(Some).collect();
    let mut inodes: Vec<Inode> = order.iter().filter_map(|id| old[id.0 as usize].take()).collect();
    for inode in &mut inodes {
        if let Body::Dir(entries) = &mut inode.body {
            for id in entries.values_mut() {
                *id = InodeId(number[id.0 as usize].unwrap_or(0));
            }
        }
    }
    Tree { inodes }
}
