//! Names and paths in a tree, as containerd resolves them on a disk.
//!
//! The functions follow Go's `path/filepath` and continuity's `fs.RootPath` step by step, because their corners (a
//! link's target is joined before it is resolved itself) decide where an entry lands.

use lacewing_format::{Body, InodeId, Tree};

use crate::limits::{MAX_LINKS, MAX_PATH};

/// Why a path cannot be followed: what the kernel would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    NotADirectory,
    TooManyLinks,
    NameTooLong,
}

impl PathError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotADirectory => "a part of its path is not a directory",
            Self::TooManyLinks => "too many symbolic links in its path",
            Self::NameTooLong => "a name in its path is too long",
        }
    }
}

/// The root of every tree.
pub(crate) const ROOT: InodeId = InodeId(0);

/// Longest name of a directory entry.
const MAX_NAME: usize = lacewing_format::limits::MAX_NAME;

/// The inode behind an id that the tree itself has given out.
pub(crate) fn body(tree: &Tree, id: InodeId) -> &Body {
    &tree.inodes[id.0 as usize].body
}

/// Finds a name in a directory; nothing if there is none or `dir` is no directory.
pub(crate) fn child(tree: &Tree, dir: InodeId, name: &[u8]) -> Option<InodeId> {
    match body(tree, dir) {
        Body::Dir(entries) => entries.get(name).copied(),
        _ => None,
    }
}

/// The shortest spelling of a path (Go's `filepath.Clean`).
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if rooted => {}
            _ => parts.push(part),
        }
    }
    let mut clean = if rooted { b"/".to_vec() } else { Vec::new() };
    clean.extend_from_slice(&parts.join(&b'/'));
    if clean.is_empty() { b".".to_vec() } else { clean }
}

/// Joins and cleans (Go's `filepath.Join`): empty parts do not count, no parts at all give nothing.
pub(crate) fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Vec::new(),
        (true, false) => clean(second),
        (false, true) => clean(first),
        (false, false) => clean(&[first, b"/", second].concat()),
    }
}

/// Splits behind the last slash (Go's `filepath.Split`): folder with its slash, and name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1))
}

/// The folder of an absolute clean path, and its name; the root's name is empty.
pub(crate) fn parent(path: &[u8]) -> (&[u8], &[u8]) {
    let (dir, name) = split(path);
    (if dir.len() > 1 { &dir[..dir.len() - 1] } else { dir }, name)
}

/// What is at an absolute path, without following a link at its end (the kernel's lstat, below the tree's root).
///
/// Links on the way are followed; one that leaves the tree leads nowhere.
pub(crate) fn lstat(tree: &Tree, path: &[u8]) -> Result<Option<InodeId>, PathError> {
    if path.len() > MAX_PATH {
        return Err(PathError::NameTooLong);
    }
    let mut todo: Vec<Vec<u8>> = parts_reversed(path);
    let mut stack = vec![ROOT];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        let here = *stack.last().unwrap_or(&ROOT);
        if name == b".." {
            if stack.len() == 1 {
                return Ok(None);
            }
            stack.pop();
            continue;
        }
        if !matches!(body(tree, here), Body::Dir(_)) {
            return Err(PathError::NotADirectory);
        }
        if name.len() > MAX_NAME {
            return Err(PathError::NameTooLong);
        }
        let Some(next) = child(tree, here, &name) else {
            return Ok(None);
        };
        match body(tree, next) {
            Body::Symlink(target) if !todo.is_empty() => {
                links += 1;
                // As many as the kernel follows.
                if links > 40 {
                    return Err(PathError::TooManyLinks);
                }
                if target.starts_with(b"/") {
                    return Ok(None);
                }
                todo.extend(parts_reversed(target));
            }
            _ => stack.push(next),
        }
    }
    Ok(stack.last().copied())
}

fn parts_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path
        .rsplit(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).collect()
}

/// Resolves all links of a path below the tree's root: an absolute clean path without links (`fs.RootPath`).
pub(crate) fn root_path(tree: &Tree, path: &[u8]) -> Result<Vec<u8>, PathError> {
    if let Some(direct) = direct(tree, path)? {
        return Ok(direct);
    }
    let mut links = 0;
    let mut path = path.to_vec();
    loop {
        let before = links;
        path = walk_links(tree, &path, &mut links)?;
        if before == links {
            let absolute = join(b"/", &path);
            if path == absolute {
                return Ok(absolute);
            }
            path = absolute;
        }
    }
}

/// The common case: no links and no `..` in the path.
fn direct(tree: &Tree, path: &[u8]) -> Result<Option<Vec<u8>>, PathError> {
    let mut here = Some(ROOT);
    for part in path
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
    {
        if part == b".." {
            return Ok(None);
        }
        if part.len() > MAX_NAME {
            return Err(PathError::NameTooLong);
        }
        let Some(dir) = here else { continue };
        match body(tree, dir) {
            Body::Dir(entries) => here = entries.get(part).copied(),
            Body::Symlink(_) => return Ok(None),
            _ => return Err(PathError::NotADirectory),
        }
    }
    if here.is_some_and(|id| matches!(body(tree, id), Body::Symlink(_))) {
        return Ok(None);
    }
    Ok(Some(join(b"/", path)))
}

/// One round over all parts of a path, from the left. Works on a list of cuts instead of Go's recursion, so that a
/// path's depth costs no stack.
fn walk_links(tree: &Tree, path: &[u8], links: &mut u32) -> Result<Vec<u8>, PathError> {
    // The recursion splits the last name off until nothing is left to split: collect these names.
    let mut names: Vec<&[u8]> = Vec::new();
    let mut rest = path;
    let mut walked = loop {
        let (dir, name) = split(rest);
        if dir.is_empty() {
            break walk_link(tree, name, links)?.0;
        }
        if name.is_empty() {
            if dir == b"/" {
                break b"/".to_vec();
            }
            rest = &dir[..dir.len() - 1];
            continue;
        }
        names.push(name);
        rest = dir;
    };
    for name in names.into_iter().rev() {
        let (next, is_link) = walk_link(tree, &join(&walked, name), links)?;
        walked = if is_link && !next.starts_with(b"/") {
            join(&walked, &next)
        } else {
            next
        };
    }
    Ok(walked)
}

fn walk_link(tree: &Tree, path: &[u8], links: &mut u32) -> Result<(Vec<u8>, bool), PathError> {
    if *links > MAX_LINKS {
        return Err(PathError::TooManyLinks);
    }
    let path = join(b"/", path);
    if path == b"/" {
        return Ok((path, false));
    }
    match lstat(tree, &path)?.map(|id| body(tree, id)) {
        Some(Body::Symlink(target)) => {
            *links += 1;
            Ok((target.clone(), true))
        }
        _ => Ok((path, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        let rows: [(&[u8], &[u8]); 12] = [
            (b"", b"."),
            (b"a/", b"a"),
            (b"./a", b"a"),
            (b"/a//b", b"/a/b"),
            (b"a/../..", b".."),
            (b"/..", b"/"),
            (b"/../a", b"/a"),
            (b"../../a", b"../../a"),
            (b"a/..", b"."),
            (b"..a/...", b"..a/..."),
            (b"/", b"/"),
            (b"a/./b/.", b"a/b"),
        ];
        for (path, want) in rows {
            assert_eq!(clean(path), want, "{}", String::from_utf8_lossy(path));
        }
    }
}
