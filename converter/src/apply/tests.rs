//! What containerd makes of a tar, row by row. Each row's tree is what `archive.Apply` leaves on a disk.

#![allow(clippy::unwrap_used, clippy::type_complexity)]

mod attributes;
mod links;
mod names;
mod streams;
mod whiteouts;

use lacewing_format::tree::S_IFCHR;
use lacewing_format::{InodeId, Time};

use super::path::ROOT;
use super::*;
use crate::tar::build::{Header, Tar, block, dir, header, link, records};

/// Keeps contents in place of extents.
#[derive(Default)]
struct Kept(Vec<Vec<u8>>);

impl Contents for Kept {
    fn file(&mut self, _path: &[u8], _mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        let mut bytes = vec![0; data.size() as usize];
        data.read(&mut bytes)?;
        self.0.push(bytes);
        // The content's number stands where a chunk size would.
        Ok(FileBody {
            size: data.size(),
            chunk_bits: self.0.len() as u8 - 1,
            extents: Vec::new(),
        })
    }
}

/// One line per name: path, type, mode, what else is not usual.
fn listing(tree: &Tree, kept: &Kept) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![(String::new(), ROOT)];
    let mut names: std::collections::HashMap<InodeId, usize> = std::collections::HashMap::new();
    for inode in &tree.inodes {
        if let Body::Dir(entries) = &inode.body {
            entries
                .values()
                .for_each(|id| *names.entry(*id).or_default() += 1);
        }
    }
    while let Some((path, id)) = todo.pop() {
        let inode = &tree.inodes[id.0 as usize];
        let what = match &inode.body {
            Body::Dir(entries) => {
                for (name, id) in entries.iter().rev() {
                    todo.push((format!("{path}/{}", name.escape_ascii()), *id));
                }
                "d".to_owned()
            }
            Body::File(file) => {
                let bytes = &kept.0[usize::from(file.chunk_bits)];
                if bytes.len() > 40 {
                    format!("f {}", bytes.len())
                } else {
                    format!("f {}", bytes.escape_ascii())
                }
            }
            Body::Symlink(target) => format!("-> {}", target.escape_ascii()),
            Body::Device { major, minor } if inode.mode & 0o170000 == S_IFCHR => format!("c {major}:{minor}"),
            Body::Device { major, minor } => format!("b {major}:{minor}"),
            Body::Fifo => "p".to_owned(),
            Body::Socket => "s".to_owned(),
        };
        let mut line = format!("{} {what}", if path.is_empty() { "/" } else { &path });
        let usual = match inode.body {
            Body::Dir(_) => 0o755,
            Body::Symlink(_) => 0o777,
            Body::Device { major: 0, minor: 0 } => 0,
            _ => 0o644,
        };
        if inode.mode & 0o7777 != usual {
            line += &format!(" {:o}", inode.mode & 0o7777);
        }
        if (inode.uid, inode.gid) != (0, 0) {
            line += &format!(" {}:{}", inode.uid, inode.gid);
        }
        if inode.mtime != (Time { secs: 1000, nanos: 0 }) && id != ROOT {
            line += &format!(" @{}.{}", inode.mtime.secs, inode.mtime.nanos);
        }
        for (name, value) in &inode.xattrs {
            line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
        }
        if names.get(&id).is_some_and(|n| *n > 1) {
            line += &format!(" #{}", names[&id]);
        }
        lines.push(line);
    }
    lines
}

fn apply(tar: &[u8], lowers: &[Arc<Tree>]) -> Result<(Tree, Kept), Error> {
    let mut kept = Kept::default();
    let tree = apply_layer(tar, lowers, &mut kept)?;
    Ok((tree, kept))
}

/// The tree as lines without the root's own, or the error.
fn show(tar: &[u8], lowers: &[Arc<Tree>]) -> Vec<String> {
    match apply(tar, lowers) {
        Ok((tree, kept)) => listing(&tree, &kept).split_off(1),
        Err(error) => vec![format!("error: {error}")],
    }
}

fn lower(tar: Tar) -> Vec<Arc<Tree>> {
    vec![skeleton(&apply(&tar.end(), &[]).unwrap().0)]
}

fn t() -> Tar {
    Tar::default()
}

/// An empty layer below: what is above is applied as an upper one.
fn empty() -> Vec<Arc<Tree>> {
    lower(t())
}

#[track_caller]
fn check(rows: Vec<(&str, Vec<Arc<Tree>>, Tar, &[&str])>) {
    for (name, lowers, tar, want) in rows {
        let got = show(&tar.end(), &lowers);
        if want.len() == 1 && want[0].starts_with("error: ") {
            assert_eq!(got.len(), 1, "{name}: {got:?}");
            assert!(got[0].contains(&want[0][7..]), "{name}: {got:?}");
        } else {
            assert_eq!(got, want, "{name}");
        }
    }
}

const B: Vec<Arc<Tree>> = Vec::new();
