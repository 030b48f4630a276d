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
mod attributes;
pub(crate) mod path;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use lacewing_format::tree::{OPAQUE_XATTR, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use lacewing_format::{Body, FileBody, Inode, InodeId, Time, Tree};

use crate::Error;
use crate::limits::{MAX_INODES, MAX_PATH};
use crate::tar::{Entry, Reader, Run, kind};
use path::{PathError, ROOT, child, clean, join, lstat, parent, root_path, split};

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

struct Applier<'a> {
    tree: Tree,
    lowers: &'a [Arc<Tree>],
    /// Folders that no entry has described: their time follows what is made in them.
    implied: HashSet<InodeId>,
    /// Folder entries in order, whose times are set at the end.
    dirs: Vec<(Vec<u8>, Time)>,
    /// Paths made by entries; kept for the bottom layer alone, whose opaque marks spare them.
    unpacked: HashSet<Vec<u8>>,
    /// The folder of the last entry, which is mostly that of the next one.
    last_dir: Option<(Vec<u8>, Vec<u8>, InodeId)>,
}

fn refused(entry: &Entry, reason: impl Into<String>) -> Error {
    Error::Refused {
        entry: String::from_utf8_lossy(&entry.name).into_owned(),
        reason: reason.into(),
    }
}

fn path_refused(entry: &Entry) -> impl Fn(PathError) -> Error {
    |error| refused(entry, error.reason())
}

fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
        body,
    }
}

fn new_dir() -> Inode {
    inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()))
}

impl<'a> Applier<'a> {
    fn new(lowers: &'a [Arc<Tree>]) -> Self {
        Self {
            tree: Tree {
                inodes: vec![new_dir()],
            },
            lowers,
            implied: HashSet::from([ROOT]),
            dirs: Vec::new(),
            unpacked: HashSet::new(),
            last_dir: None,
        }
    }

    fn entry(
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

    /// Resolves an entry's folder and makes it if it is not there.
    fn folder(&mut self, entry: &Entry, name: &[u8]) -> Result<(Vec<u8>, InodeId), Error> {
        if let Some((raw, path, id)) = &self.last_dir
            && raw == name
        {
            return Ok((path.clone(), *id));
        }
        let path = root_path(&self.tree, name).map_err(path_refused(entry))?;
        let id = self.make_folders(entry, &path)?;
        self.last_dir = Some((name.to_vec(), path.clone(), id));
        Ok((path, id))
    }

    /// Makes the folders of a resolved path that are missing.
    fn make_folders(&mut self, entry: &Entry, path: &[u8]) -> Result<InodeId, Error> {
        let mut here = ROOT;
        let mut at = 0;
        for part in path.split(|&b| b == b'/') {
            at += part.len() + 1;
            if part.is_empty() {
                continue;
            }
            if part.len() > lacewing_format::limits::MAX_NAME {
                return Err(refused(entry, PathError::NameTooLong.reason()));
            }
            here = match child(&self.tree, here, part) {
                Some(id) if attributes::is_dir(self.inode(id)) => id,
                Some(_) => return Err(refused(entry, "a part of its path is not a directory")),
                None => self.make_folder(entry, here, part, &path[..at - 1])?,
            };
        }
        Ok(here)
    }

    /// Makes one folder that no entry describes, like the one below it if there is one.
    fn make_folder(
        &mut self,
        entry: &Entry,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
    ) -> Result<InodeId, Error> {
        let id = self.add(entry, dir, name, new_dir())?;
        self.implied.insert(id);
        for lower in self.lowers {
            let lower_path = root_path(lower, path).map_err(path_refused(entry))?;
            let Some(found) = lstat(lower, &lower_path).map_err(path_refused(entry))? else {
                continue;
            };
            let found = &lower.inodes[found.0 as usize];
            if attributes::is_dir(found) {
                let inode = self.inode_mut(id);
                attributes::chown(inode, found.uid, found.gid);
                attributes::chmod(inode, found.mode);
                inode.mtime = inode.mtime.max(found.mtime);
                for (name, value) in found
                    .xattrs
                    .iter()
                    .filter(|(name, _)| !name.starts_with(b"trusted."))
                {
                    if attributes::xattr(inode, name).is_none() {
                        attributes::put(inode, name, value.clone());
                    }
                }
            }
            break;
        }
        Ok(id)
    }

    /// Carries out or notes down a whiteout or opaque mark. `false`: the entry is none.
    fn whiteout(&mut self, entry: &Entry, path: &[u8], dir: InodeId, base: &[u8]) -> Result<bool, Error> {
        let Some(name) = base.strip_prefix(b".wh.") else {
            return Ok(false);
        };
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

    fn add(&mut self, entry: &Entry, dir: InodeId, name: &[u8], mut new: Inode) -> Result<InodeId, Error> {
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

    fn attach(&mut self, dir: InodeId, name: &[u8], id: InodeId, time: Time) {
        let implied = self.implied.contains(&dir);
        let folder = self.inode_mut(dir);
        if implied {
            folder.mtime = folder.mtime.max(time);
        }
        if let Body::Dir(entries) = &mut folder.body {
            entries.insert(name.to_vec(), id);
        }
    }

    fn remove(&mut self, dir: InodeId, name: &[u8]) {
        self.last_dir = None;
        if let Body::Dir(entries) = &mut self.inode_mut(dir).body {
            entries.remove(name);
        }
    }

    fn inode(&self, id: InodeId) -> &Inode {
        &self.tree.inodes[id.0 as usize]
    }

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.tree.inodes[id.0 as usize]
    }

    /// Sets the times of folders, in the order of their entries and by their names as they resolve now.
    fn finish(mut self) -> Result<Tree, Error> {
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
        Ok(compact(self.tree))
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

#[cfg(test)]
mod tests;
