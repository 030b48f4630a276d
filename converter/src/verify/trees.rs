//! The tree that containerd would make, and the tree in an index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lacewing_format::limits::MAX_CHUNK_BITS;
use lacewing_format::{
    Body, ChunkId, Extent, FileBody, FileType, Index, Inode, InodeId, InodeView, Nid, Tree,
};

use super::Findings;
use super::contents::Ids;
use crate::Error;

/// log2 of the chunk sizes of an index's files that have data.
pub(super) fn chunk_sizes(index: Index<'_>) -> Result<Vec<u8>, Error> {
    let mut sizes = BTreeSet::new();
    let mut todo = vec![index.root()];
    while let Some(nid) = todo.pop() {
        let inode = index.inode(nid)?;
        match inode.file_type() {
            FileType::Dir => todo.extend(names(inode)?.into_values()),
            FileType::File if inode.chunk_bits() <= MAX_CHUNK_BITS => drop(sizes.insert(inode.chunk_bits())),
            _ => {}
        }
    }
    Ok(sizes.into_iter().collect())
}

fn names<'a>(dir: InodeView<'a>) -> Result<BTreeMap<&'a [u8], Nid>, Error> {
    let mut names = BTreeMap::new();
    for entry in dir.entries()? {
        let entry = entry?;
        if entry.name != b"." && entry.name != b".." {
            names.insert(entry.name, entry.nid);
        }
    }
    Ok(names)
}

/// Compares two trees, names first.
pub(super) fn compare(
    tree: &Tree,
    ids: &Ids,
    index: Index<'_>,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut links: HashMap<InodeId, u32> = HashMap::new();
    for inode in &tree.inodes {
        if let Body::Dir(entries) = &inode.body {
            entries
                .values()
                .for_each(|id| *links.entry(*id).or_default() += 1);
        }
    }
    let mut pairs: HashMap<InodeId, Nid> = HashMap::new();
    let mut zeros = Zeros::default();
    let mut todo = vec![(Vec::new(), InodeId(0), index.root())];
    while let Some((path, id, nid)) = todo.pop() {
        let inode = &tree.inodes[id.0 as usize];
        let view = index.inode(nid)?;
        if let Some(known) = pairs.insert(id, nid) {
            if known != nid {
                findings.add(&path, "is another file than its other names");
            }
            continue;
        }
        let shown = if path.is_empty() { b"/".as_slice() } else { &path };
        if !attributes(shown, inode, view, findings)? {
            continue;
        }
        match &inode.body {
            Body::Dir(entries) => {
                let found = names(view)?;
                for (name, &id) in entries {
                    let path = [path.as_slice(), b"/", name].concat();
                    match found.get(name.as_slice()) {
                        Some(&nid) => todo.push((path, id, nid)),
                        None => findings.add(&path, "is missing in the index"),
                    }
                }
                for name in found.keys().filter(|name| !entries.contains_key(**name)) {
                    findings.add(&[path.as_slice(), b"/", name].concat(), "is in the index only");
                }
            }
            Body::File(file) => content(shown, file, ids, view, index, &mut zeros, findings)?,
            _ => {}
        }
        let count = links.get(&id).copied().unwrap_or(1);
        if !matches!(inode.body, Body::Dir(_)) && view.nlink() != count {
            findings.add(
                shown,
                format!("has {} names in the index instead of {count}", view.nlink()),
            );
        }
    }
    Ok(())
}

/// Compares all but names and contents. `false`: the types differ, nothing else can be compared.
fn attributes(
    path: &[u8],
    inode: &Inode,
    view: InodeView<'_>,
    findings: &mut Findings,
) -> Result<bool, Error> {
    if inode.mode != view.mode() {
        findings.add(
            path,
            format!("mode is {:o} instead of {:o}", view.mode(), inode.mode),
        );
    }
    if (inode.uid, inode.gid) != (view.uid(), view.gid()) {
        let (uid, gid) = (view.uid(), view.gid());
        findings.add(
            path,
            format!("owner is {uid}:{gid} instead of {}:{}", inode.uid, inode.gid),
        );
    }
    if inode.mtime != view.mtime() {
        let (found, want) = (view.mtime(), inode.mtime);
        let text = format!(
            "time is {}.{:09} instead of {}.{:09}",
            found.secs, found.nanos, want.secs, want.nanos
        );
        findings.add(path, text);
    }
    let xattrs: Vec<(Vec<u8>, Vec<u8>)> = view
        .xattrs()?
        .into_iter()
        .map(|(n, v)| (n, v.into_owned()))
        .collect();
    if inode.xattrs != xattrs {
        findings.add(path, "extended attributes differ");
    }
    let same = match &inode.body {
        Body::Dir(_) => view.file_type() == FileType::Dir,
        Body::File(file) => {
            if file.size != view.size() {
                findings.add(path, format!("size is {} instead of {}", view.size(), file.size));
            }
            view.file_type() == FileType::File && file.size == view.size()
        }
        Body::Symlink(target) => {
            let same = view.file_type() == FileType::Symlink;
            if same && view.symlink()?.as_ref() != target.as_slice() {
                findings.add(path, "target of the symbolic link differs");
            }
            same
        }
        Body::Device { major, minor } => {
            if view.rdev() != (*major, *minor) {
                findings.add(path, "device number differs");
            }
            matches!(view.file_type(), FileType::CharDevice | FileType::BlockDevice)
        }
        Body::Fifo => view.file_type() == FileType::Fifo,
        Body::Socket => view.file_type() == FileType::Socket,
    };
    Ok(same)
}

/// Ids of chunks of zeros by their length: an index may point to one from each of its hundred million extents.
#[derive(Default)]
struct Zeros(HashMap<u32, ChunkId>);

impl Zeros {
    fn id(&mut self, len: u32) -> ChunkId {
        *self
            .0
            .entry(len)
            .or_insert_with(|| ChunkId::of(&vec![0; len as usize]))
    }
}

fn content(
    path: &[u8],
    file: &FileBody,
    ids: &Ids,
    view: InodeView<'_>,
    index: Index<'_>,
    zeros: &mut Zeros,
    findings: &mut Findings,
) -> Result<(), Error> {
    let bits = view.chunk_bits();
    if bits > MAX_CHUNK_BITS {
        if !ids.is_zero(file) {
            findings.add(path, "content is a hole in the index");
        }
        return Ok(());
    }
    let zero_file = ids.is_zero(file);
    for (number, extent) in view.extents()?.enumerate() {
        let want = if zero_file {
            None
        } else {
            ids.chunk(file, bits, number)
        };
        let found = match extent? {
            Extent::Hole => None,
            Extent::Data { device, block } => {
                let chunk = index
                    .chunk_at(usize::from(device), block)
                    .and_then(|at| index.chunks().get(at));
                let Some(chunk) = chunk else {
                    findings.add(path, format!("chunk {number} is not in the chunk table"));
                    continue;
                };
                // Zeros may be stored, too.
                let zeros = want.is_none() && chunk.id() == zeros.id(chunk.len());
                (!zeros).then(|| chunk.id())
            }
        };
        if found != want {
            findings.add(path, format!("content differs in chunk {number}"));
        }
    }
    Ok(())
}
