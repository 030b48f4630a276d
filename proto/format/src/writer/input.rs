//! The tree as it comes in: checked, its inodes put in the order in which they are placed.

use std::collections::BTreeMap;

use crate::erofs;
use crate::error::FormatError;
use crate::limits::{
    BLOCK_BITS, MAX_CHUNK_BITS, MAX_FILE_SIZE, MAX_HOLE_CHUNK_BITS, MAX_MAJOR, MAX_MINOR, MAX_NAME,
    MAX_SYMLINK, MAX_XATTR_NAME, MAX_XATTR_VALUE, MAX_XATTRS,
};
use crate::table_rules::TableView;
use crate::tables::Chunk;
use crate::tree::{
    Body, Extent, FileBody, Inode, InodeId, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG,
    S_IFSOCK, Time, Tree,
};

/// What the names of a tree say about its inodes.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Inodes that a name reaches, each once: the root, then each directory's children together in
    /// order of their names, directory by directory, depth first.
    pub(super) inodes: Vec<InodeId>,
    /// For each inode of the tree: count of links, 0 if no name reaches it.
    pub(super) links: Vec<u32>,
    /// For each inode of the tree: the directory that holds it, if it is a directory.
    pub(super) parents: Vec<InodeId>,
    /// The most frequent mtime, the smallest one of several.
    pub(super) epoch: Time,
}

const ROOT: InodeId = InodeId(0);

impl Order {
    /// Walks the tree from its root and checks each inode it reaches.
    pub(super) fn of(tree: &Tree, tables: &TableView<'_>) -> Result<Self, FormatError> {
        let mut order = Self {
            inodes: Vec::with_capacity(tree.inodes.len()),
            links: vec![0; tree.inodes.len()],
            parents: vec![ROOT; tree.inodes.len()],
            epoch: Time::default(),
        };
        if !matches!(tree.inodes.first().map(|root| &root.body), Some(Body::Dir(_))) {
            return Err(bad(ROOT, "the root is no directory"));
        }
        order.reach(ROOT, ROOT, true)?;
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let first_child = order.inodes.len();
            order.directory(tree, dir)?;
            // The last pushed is walked first, so that directories come in order of names.
            let children = order.inodes.get(first_child..).unwrap_or_default();
            todo.extend(children.iter().rev().filter(|child| is_dir(tree, **child)));
        }
        let mut next_chunk = 0;
        for &id in &order.inodes {
            let inode = get(tree, id, "it is named, and is not there")?;
            next_chunk = check_inode(id, inode, tables, next_chunk)?;
        }
        order.epoch = most_frequent_mtime(tree, &order.inodes);
        Ok(order)
    }

    /// Counts a name of `id` in the directory `parent`.
    fn reach(&mut self, id: InodeId, parent: InodeId, dir: bool) -> Result<(), FormatError> {
        let at = id.0 as usize;
        let (Some(links), Some(own_parent)) = (self.links.get_mut(at), self.parents.get_mut(at)) else {
            return Err(bad(parent, "it names an inode that is not there"));
        };
        if *links == 0 {
            self.inodes.push(id);
            *own_parent = parent;
            *links = if dir { 2 } else { 1 };
        } else if dir {
            return Err(bad(id, "a directory has two names"));
        } else {
            let more = links.checked_add(1);
            *links = more.ok_or(bad(id, "it has too many names"))?;
        }
        Ok(())
    }

    /// Counts all names of a directory.
    fn directory(&mut self, tree: &Tree, dir: InodeId) -> Result<(), FormatError> {
        let Body::Dir(entries) = &get(tree, dir, "it is named, and is not there")?.body else {
            return Ok(());
        };
        for (name, &child) in entries {
            let special = name == b"." || name == b"..";
            if name.is_empty() || special || name.iter().any(|&b| b == 0 || b == b'/') {
                return Err(bad(dir, "it holds a name that is not valid"));
            }
            if name.len() > MAX_NAME {
                return Err(bad(dir, "it holds a name of more than 255 bytes"));
            }
            let child_is_dir = is_dir(tree, child);
            self.reach(child, dir, child_is_dir)?;
            if child_is_dir && let Some(links) = self.links.get_mut(dir.0 as usize) {
                *links = links.saturating_add(1);
            }
        }
        Ok(())
    }
}

fn is_dir(tree: &Tree, id: InodeId) -> bool {
    matches!(
        tree.inodes.get(id.0 as usize),
        Some(Inode {
            body: Body::Dir(_),
            ..
        })
    )
}

fn get<'a>(tree: &'a Tree, id: InodeId, missing: &'static str) -> Result<&'a Inode, FormatError> {
    tree.inodes.get(id.0 as usize).ok_or(bad(id, missing))
}

fn most_frequent_mtime(tree: &Tree, ids: &[InodeId]) -> Time {
    let mut counts: BTreeMap<Time, u32> = BTreeMap::new();
    for inode in ids.iter().filter_map(|id| tree.inodes.get(id.0 as usize)) {
        *counts.entry(inode.mtime).or_default() += 1;
    }
    let mut best = (Time::default(), 0);
    for (time, count) in counts {
        if count > best.1 {
            best = (time, count);
        }
    }
    best.0
}

/// Checks one inode; returns the number of the chunk that most likely comes next.
fn check_inode(
    id: InodeId,
    inode: &Inode,
    tables: &TableView<'_>,
    next_chunk: usize,
) -> Result<usize, FormatError> {
    let kind = inode.mode & S_IFMT;
    let agrees = match &inode.body {
        Body::Dir(_) => kind == S_IFDIR,
        Body::File(_) => kind == S_IFREG,
        Body::Symlink(_) => kind == S_IFLNK,
        Body::Device { .. } => kind == S_IFCHR || kind == S_IFBLK,
        Body::Fifo => kind == S_IFIFO,
        Body::Socket => kind == S_IFSOCK,
    };
    if !agrees || inode.mode & !(S_IFMT | 0o7777) != 0 {
        return Err(bad(id, "its mode is not that of its type"));
    }
    if inode.mtime.nanos >= 1_000_000_000 {
        return Err(bad(id, "its nanoseconds are out of range"));
    }
    check_xattrs(id, &inode.xattrs)?;
    match &inode.body {
        Body::File(file) => return check_file(id, file, tables, next_chunk),
        Body::Symlink(target) if target.is_empty() || target.len() > MAX_SYMLINK => {
            return Err(bad(id, "the length of its target is out of range"));
        }
        Body::Symlink(target) if target.contains(&0) => {
            return Err(bad(id, "its target holds a NUL byte"));
        }
        Body::Device { major, minor } if *major > MAX_MAJOR || *minor > MAX_MINOR => {
            return Err(bad(id, "its device number is out of range"));
        }
        _ => {}
    }
    Ok(next_chunk)
}

fn check_xattrs(id: InodeId, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), FormatError> {
    if xattrs.len() > MAX_XATTRS {
        return Err(bad(id, "it has too many xattrs"));
    }
    if !xattrs.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return Err(bad(id, "its xattrs are not sorted, or not unique"));
    }
    for (name, value) in xattrs {
        if erofs::split_xattr_name(name).is_none() {
            return Err(bad(id, "it has an xattr of a namespace that EROFS does not know"));
        }
        if name.len() > MAX_XATTR_NAME || name.contains(&0) || value.len() > MAX_XATTR_VALUE {
            return Err(bad(id, "it has an xattr whose name or value is out of range"));
        }
    }
    Ok(())
}

fn check_file(
    id: InodeId,
    file: &FileBody,
    tables: &TableView<'_>,
    next_chunk: usize,
) -> Result<usize, FormatError> {
    if file.size == 0 {
        return match file.extents.is_empty() {
            true => Ok(next_chunk),
            false => Err(bad(id, "it is empty, and has chunks")),
        };
    }
    let has_data = file.extents.iter().any(|extent| *extent != Extent::Hole);
    let most = if has_data {
        MAX_CHUNK_BITS
    } else {
        MAX_HOLE_CHUNK_BITS
    };
    if file.size > MAX_FILE_SIZE || !(BLOCK_BITS..=most).contains(&file.chunk_bits) {
        return Err(bad(id, "its size or chunk size is out of range"));
    }
    let chunk_size = 1_u64 << file.chunk_bits;
    if file.size.div_ceil(chunk_size) != file.extents.len() as u64 {
        return Err(bad(id, "its count of chunks is not that of its size"));
    }
    let mut left = file.size;
    let mut next_chunk = next_chunk;
    for extent in &file.extents {
        let len = left.min(chunk_size);
        left -= len;
        let &Extent::Data { device, block } = extent else {
            continue;
        };
        let found = tables.chunk_at(device.into(), block, next_chunk);
        let chunk_len = found.and_then(|at| tables.chunks.get(at)).map(Chunk::len);
        if chunk_len.map(u64::from) != Some(len) {
            return Err(bad(
                id,
                "a chunk of it is none of the chunk table, or of other length",
            ));
        }
        next_chunk = found.map_or(0, |at| at + 1);
    }
    Ok(next_chunk)
}

fn bad(id: InodeId, what: &'static str) -> FormatError {
    FormatError::Input { inode: id.0, what }
}
