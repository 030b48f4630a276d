//! Answers the kernel's requests for trees.

use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, Dirent, Direntplus, EntryOut, GetxattrIn, GetxattrOut, Kstatfs, Opcode, ReadIn, StatfsOut,
};
use lacewing_format::limits::BLOCK;
use lacewing_format::{FileType, InodeView};

use super::forest::{self, Forest, Tree};
use super::xattrs::{self, Marks};
use super::{TreeKind, read};
use crate::call::{Call, Outcome};
use crate::connection::MAX_READ;
use crate::packfs::Refusal;
use crate::wire;

/// Seconds the kernel may keep names and attributes: as long as it likes. An index never changes, and the number of a
/// layer that is gone is never given to another.
const KEEP: u64 = u32::MAX as u64;

/// What a connection for trees shows.
pub(crate) struct TreeServer {
    forest: Arc<Forest>,
    kind: TreeKind,
    marks: Marks,
}

impl TreeServer {
    /// Makes the server of one connection.
    pub(crate) fn new(forest: Arc<Forest>, kind: TreeKind) -> TreeServer {
        TreeServer {
            forest,
            kind,
            marks: Marks::here(),
        }
    }

    /// Answers what is a matter of trees; nothing for requests that every connection treats alike.
    pub(crate) fn outcome(&self, call: &mut Call<'_>) -> Option<Outcome> {
        let opcode = Opcode::from(call.header.opcode);
        let answered = match opcode {
            Opcode::Read => {
                return Some(self.read(call).unwrap_or_else(Outcome::from));
            }
            Opcode::Lookup => self.lookup(call),
            Opcode::Getattr => self.getattr(call),
            Opcode::Readlink => self.readlink(call),
            // Not asked again: from then on opening is the kernel's own business.
            Opcode::Open | Opcode::Opendir => Err(Refusal::Unsupported),
            Opcode::Readdir => self.list(call, false),
            Opcode::Readdirplus => self.list(call, true),
            Opcode::Statfs => self.statfs(call),
            // Not asked again: no layer of this connection has any.
            Opcode::Getxattr if self.kind == TreeKind::Plain => Err(Refusal::Unsupported),
            Opcode::Getxattr => self.getxattr(call),
            Opcode::Listxattr => self.listxattr(call),
            _ => return None,
        };
        Some(answered.into())
    }

    /// The tree of a request's node, where the mount's root is none.
    fn tree(&self, call: &Call<'_>) -> Result<Tree, Refusal> {
        self.forest.tree(call.header.nodeid)?.ok_or(Refusal::Invalid)
    }

    fn read(&self, call: &mut Call<'_>) -> Result<Outcome, Refusal> {
        let (wanted, _) = wire::take::<ReadIn>(call.body).ok_or(Refusal::Invalid)?;
        let tree = self.tree(call)?;
        let inode = tree.inode()?;
        if inode.file_type() != FileType::File {
            return Err(Refusal::Invalid);
        }
        self.forest.note(1);
        read::read(call, &tree.layer, &inode, &wanted)
    }

    fn lookup(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        let name = call.body.strip_suffix(&[0]).unwrap_or(call.body);
        self.forest.note(1);
        match self.forest.tree(call.header.nodeid)? {
            None => {
                let tree = self.forest.by_name(name)?;
                wire::put(call.answer, entry_out(&tree, &tree.inode()?)?);
            }
            Some(tree) => match tree.lookup(name) {
                Ok(inode) => wire::put(call.answer, entry_out(&tree, &inode)?),
                // No node: the kernel may keep that too. Overlayfs asks each layer for what others hold.
                Err(Refusal::NotFound) => wire::put(call.answer, absent()),
                Err(refusal) => return Err(refusal),
            },
        }
        Ok(())
    }

    fn getattr(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        let attr = match self.forest.tree(call.header.nodeid)? {
            None => root_attr(),
            Some(tree) => attr(&tree, &tree.inode()?)?,
        };
        self.forest.note(1);
        let out = AttrOut {
            attr_valid: KEEP,
            attr,
            ..Default::default()
        };
        wire::put(call.answer, out);
        Ok(())
    }

    fn readlink(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        let tree = self.tree(call)?;
        let inode = tree.inode()?;
        if inode.file_type() != FileType::Symlink {
            return Err(Refusal::Invalid);
        }
        let target = inode.symlink().map_err(|_| Refusal::Damaged)?;
        call.answer.extend_from_slice(&target);
        Ok(())
    }

    /// Writes directory entries as far as they fit.
    fn list(&self, call: &mut Call<'_>, plus: bool) -> Result<(), Refusal> {
        let (wanted, _) = wire::take::<ReadIn>(call.body).ok_or(Refusal::Invalid)?;
        // The mount's root lists nothing: a list of layers would be kept by the kernel and grow old.
        let Some(tree) = self.forest.tree(call.header.nodeid)? else {
            return Ok(());
        };
        let dir = tree.inode()?;
        let mut entries = dir.entries_at(wanted.offset).map_err(|_| match dir.file_type() {
            FileType::Dir => Refusal::Damaged,
            _ => Refusal::NotADirectory,
        })?;
        let room = wanted.size.min(MAX_READ) as usize;
        let mut count = 0;
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|_| Refusal::Damaged)?;
            let dirent = Dirent {
                ino: tree.ino(entry.nid)?,
                off: entries.position(),
                namelen: entry.name.len() as u32,
                type_: entry.file_type.mode_bits() >> 12,
            };
            let head = if plus {
                size_of::<Direntplus>()
            } else {
                size_of::<Dirent>()
            };
            if call.answer.len() + (head + entry.name.len()).next_multiple_of(8) > room {
                break;
            }
            if plus {
                // "." and ".." are not looked up: a node of 0 says so.
                let entry_out = match entry.name {
                    b"." | b".." => EntryOut::default(),
                    _ => entry_out(&tree, &tree.at(entry.nid)?)?,
                };
                wire::put(call.answer, Direntplus { entry_out, dirent });
            } else {
                wire::put(call.answer, dirent);
            }
            call.answer.extend_from_slice(entry.name);
            call.answer.resize(call.answer.len().next_multiple_of(8), 0);
            count += 1;
        }
        self.forest.note(count);
        Ok(())
    }

    /// As EROFS answers statfs: the image with its devices is full, and its inodes are all there are.
    fn statfs(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        // Name length 255: with 0 an overlay above would refuse every name.
        let mut st = Kstatfs {
            bsize: BLOCK as u32,
            frsize: BLOCK as u32,
            namelen: 255,
            ..Default::default()
        };
        if let Some(tree) = self.forest.tree(call.header.nodeid)? {
            let view = tree.layer.index.view();
            let devices = view.devices().iter().map(|device| u64::from(device.blocks()));
            st.blocks = view.erofs_len() / BLOCK as u64 + devices.sum::<u64>();
            st.files = u64::MAX;
            st.ffree = u64::MAX - view.inode_count();
        }
        wire::put(call.answer, StatfsOut { st });
        Ok(())
    }

    fn getxattr(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        let (wanted, name) = wire::take::<GetxattrIn>(call.body).ok_or(Refusal::Invalid)?;
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        let Some(tree) = self.forest.tree(call.header.nodeid)? else {
            return Err(Refusal::NoXattr);
        };
        xattrs::value(&tree.inode()?, self.marks, name, call.answer)?;
        fit(call.answer, wanted.size)
    }

    fn listxattr(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        let (wanted, _) = wire::take::<GetxattrIn>(call.body).ok_or(Refusal::Invalid)?;
        if let Some(tree) = self.forest.tree(call.header.nodeid)? {
            // `trusted.*` is for administrators. A connection that allows idmapped mounts does not say who asks; then
            // overlayfs, or the modes of the directories above, decide.
            let trusted = call.header.uid == 0 || call.header.uid == u32::MAX;
            xattrs::names(&tree.inode()?, self.marks, trusted, call.answer)?;
        }
        fit(call.answer, wanted.size)
    }
}

/// Makes the answer to a request for xattrs: the length alone, if the asker has no buffer yet.
fn fit(answer: &mut Vec<u8>, room: u32) -> Result<(), Refusal> {
    let size = answer.len() as u32;
    if room == 0 {
        answer.clear();
        wire::put(answer, GetxattrOut { size, padding: 0 });
    } else if size > room {
        answer.clear();
        return Err(Refusal::TooSmall);
    }
    Ok(())
}

fn root_attr() -> Attr {
    Attr {
        ino: forest::ROOT,
        mode: libc::S_IFDIR | 0o755,
        nlink: 2,
        blksize: BLOCK as u32,
        ..Default::default()
    }
}

/// Attributes as EROFS shows them: one time for all three, and as many blocks as the size takes, holes or not.
fn attr(tree: &Tree, inode: &InodeView<'_>) -> Result<Attr, Refusal> {
    let (time, (major, minor)) = (inode.mtime(), inode.rdev());
    let secs = time.secs.cast_unsigned();
    Ok(Attr {
        ino: tree.ino(inode.nid())?,
        size: inode.size(),
        blocks: inode.size().div_ceil(BLOCK as u64) * (BLOCK as u64 / 512),
        atime: secs,
        mtime: secs,
        ctime: secs,
        atimensec: time.nanos,
        mtimensec: time.nanos,
        ctimensec: time.nanos,
        mode: inode.mode(),
        nlink: inode.nlink(),
        uid: inode.uid(),
        gid: inode.gid(),
        // As the kernel's new_decode_dev reads it.
        rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        blksize: BLOCK as u32,
        flags: 0,
    })
}

fn entry_out(tree: &Tree, inode: &InodeView<'_>) -> Result<EntryOut, Refusal> {
    Ok(EntryOut {
        nodeid: tree.node_number(inode.nid())?,
        entry_valid: KEEP,
        attr_valid: KEEP,
        attr: attr(tree, inode)?,
        ..Default::default()
    })
}

/// The answer that there is no such name, and never will be.
fn absent() -> EntryOut {
    EntryOut {
        entry_valid: KEEP,
        ..Default::default()
    }
}
