//! Directory blocks: as many entries as fit, first the entries, then their names.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use crate::erofs::{DIRENT_LEN, Dirent};
use crate::limits::BLOCK;
use crate::tree::InodeId;

/// What a name of a directory refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The directory itself, `.`.
    Own,
    /// The directory that holds it, `..`.
    Parent,
    /// An inode.
    Child(InodeId),
}

/// A directory's names in the order of the image, with `.` and `..` in their places.
fn names(entries: &BTreeMap<Vec<u8>, InodeId>) -> impl Iterator<Item = (&[u8], Target)> {
    // Names that sort before the dots begin with a byte below 0x2e; there are rarely any.
    let dots = [(&b"."[..], Target::Own), (&b".."[..], Target::Parent)];
    let is_before = |entry: &(&[u8], Target)| entry.0 < &b"."[..];
    let is_between = |entry: &(&[u8], Target)| entry.0 > &b"."[..] && entry.0 < &b".."[..];
    let all = || entries.iter().map(|(name, &id)| (&name[..], Target::Child(id)));
    let before = all().take_while(is_before);
    let between = all().skip_while(is_before).take_while(is_between);
    let behind = all().skip_while(move |entry| is_before(entry) || is_between(entry));
    let [dot, dotdot] = dots;
    before
        .chain(std::iter::once(dot))
        .chain(between)
        .chain(std::iter::once(dotdot))
        .chain(behind)
}

/// Computes the size of a directory: whole blocks, and what the last one uses.
pub(super) fn size(entries: &BTreeMap<Vec<u8>, InodeId>) -> usize {
    let mut full = 0;
    let mut used = 0;
    for (name, _) in names(entries) {
        let len = DIRENT_LEN + name.len();
        if used + len > BLOCK {
            full += BLOCK;
            used = 0;
        }
        used += len;
    }
    full + used
}

/// Returns a directory's content, [`size`] bytes. `resolve` gives each target's number and type.
pub(super) fn content(
    entries: &BTreeMap<Vec<u8>, InodeId>,
    mut resolve: impl FnMut(Target) -> (u64, u8),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(size(entries));
    let mut block: Vec<(&[u8], Target)> = Vec::new();
    let mut used = 0;
    for entry in names(entries) {
        let len = DIRENT_LEN + entry.0.len();
        if used + len > BLOCK {
            append_block(&mut out, &block, &mut resolve);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
            block.clear();
            used = 0;
        }
        block.push(entry);
        used += len;
    }
    append_block(&mut out, &block, &mut resolve);
    out
}

fn append_block(out: &mut Vec<u8>, block: &[(&[u8], Target)], resolve: &mut impl FnMut(Target) -> (u64, u8)) {
    let mut nameoff = block.len() * DIRENT_LEN;
    for &(name, target) in block {
        let (nid, file_type) = resolve(target);
        let entry = Dirent {
            nid: nid.into(),
            // Below the block size.
            nameoff: (nameoff as u16).into(),
            file_type,
            reserved: 0,
        };
        out.extend_from_slice(entry.as_bytes());
        nameoff += name.len();
    }
    for (name, _) in block {
        out.extend_from_slice(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(names: &[&str]) -> BTreeMap<Vec<u8>, InodeId> {
        names
            .iter()
            .map(|name| (name.as_bytes().to_vec(), InodeId(9)))
            .collect()
    }

    #[test]
    fn dots_stand_where_bytes_put_them() {
        let rows: [(&[&str], &[&str]); 4] = [
            (&[], &[".", ".."]),
            (&["a", "!", "-x"], &["!", "-x", ".", "..", "a"]),
            (&[".-", ".!x", "...", "/"], &[".", ".!x", ".-", "..", "...", "/"]),
            (&[".a", ".\u{1}"], &[".", ".\u{1}", "..", ".a"]),
        ];
        for (given, expected) in rows {
            let given = dir(given);
            let found: Vec<_> = names(&given).map(|entry| entry.0.to_vec()).collect();
            let expected: Vec<_> = expected.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn blocks_are_filled_to_the_last_byte() {
        // 13 + 14 bytes for the dots; 15 names of 255 bytes leave 64 bytes of the first block.
        let long: Vec<_> = (10..25).map(|i| format!("{i}{}", "x".repeat(253))).collect();
        let mut names: Vec<&str> = long.iter().map(String::as_str).collect();
        let fitting = "y".repeat(64 - DIRENT_LEN);
        assert_eq!(size(&dir(&names)), 4032);
        names.push(&fitting);
        assert_eq!(size(&dir(&names)), 4096);
        names.push("z");
        assert_eq!(size(&dir(&names)), 4096 + 13);
        assert_eq!(content(&dir(&names), |_| (0, 0)).len(), 4096 + 13);
    }
}
