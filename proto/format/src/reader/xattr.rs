//! Extended attributes: inline behind the inode, or shared by several inodes.

use std::borrow::Cow;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::InodeView;
use super::claims::Bits;
use crate::erofs::{self, XATTR_ENTRY_LEN, XattrEntry, XattrHeader};
use crate::error::FormatError;
use crate::limits::{MAX_XATTR_NAME, MAX_XATTRS};

/// One xattr: number of the namespace, rest of the name, value. Ordered by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Xattr<'a> {
    index: u8,
    rest: &'a [u8],
    value: &'a [u8],
}

impl<'a> Xattr<'a> {
    /// Reads the entry at the start of `bytes`, and tells how long it is with its padding.
    fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let (entry, behind) = XattrEntry::ref_from_prefix(bytes).ok()?;
        let (rest, behind) = behind.split_at_checked(entry.name_len.into())?;
        let (value, _) = behind.split_at_checked(entry.value_size.get().into())?;
        let (prefix, whole) = erofs::xattr_prefix(entry.name_index)?;
        let len = XATTR_ENTRY_LEN + rest.len() + value.len();
        let padded = len.next_multiple_of(4);
        let padding = bytes.get(len..padded)?;
        let valid = rest.is_empty() == whole
            && prefix.len() + rest.len() <= MAX_XATTR_NAME
            && !rest.contains(&0)
            && padding.iter().all(|&byte| byte == 0);
        let xattr = Self {
            index: entry.name_index,
            rest,
            value,
        };
        valid.then_some((xattr, padded))
    }

    fn key(&self) -> (u8, &'a [u8]) {
        (self.index, self.rest)
    }

    fn full_name(&self) -> Vec<u8> {
        let prefix = erofs::xattr_prefix(self.index).map_or(&b""[..], |(prefix, _)| prefix);
        [prefix, self.rest].concat()
    }
}

/// The parts of an inode's xattrs: ids of shared ones, bytes of inline ones.
fn parts<'a>(inode: &InodeView<'a>) -> Result<(&'a [U32], &'a [u8]), FormatError> {
    let read = || {
        let end = inode.body.checked_add(inode.xattr_len)?;
        let bytes = inode.index.metadata().get(inode.body..end)?;
        if bytes.is_empty() {
            return Some((&[][..], &[][..]));
        }
        let (header, rest) = XattrHeader::ref_from_prefix(bytes).ok()?;
        if header.name_filter.get() != 0 || header.reserved != [0; 7] {
            return None;
        }
        let ids = usize::from(header.shared_count) * 4;
        let (ids, inline) = rest.split_at_checked(ids)?;
        Some((<[U32]>::ref_from_bytes(ids).ok()?, inline))
    };
    read().ok_or_else(|| inode.bad("its xattrs have no valid header"))
}

/// Reads all inline xattrs into `found`.
fn read_inline<'a>(
    inode: &InodeView<'a>,
    mut bytes: &'a [u8],
    found: &mut Vec<Xattr<'a>>,
) -> Result<(), FormatError> {
    while !bytes.is_empty() {
        let Some((xattr, len)) = Xattr::read(bytes) else {
            return Err(inode.bad("an xattr is damaged"));
        };
        found.push(xattr);
        if found.len() > MAX_XATTRS {
            return Err(inode.bad("it has too many xattrs"));
        }
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(())
}

fn read_shared<'a>(inode: &InodeView<'a>, id: U32) -> Result<Xattr<'a>, FormatError> {
    let at = (id.get() as usize).saturating_mul(4);
    let bytes = inode.index.shared_xattrs().get(at..).unwrap_or_default();
    let xattr = Xattr::read(bytes).map(|(xattr, _)| xattr);
    xattr.ok_or_else(|| inode.bad("a shared xattr is damaged"))
}

/// All xattrs of an inode, sorted by full name.
#[allow(clippy::type_complexity)]
pub(super) fn all<'a>(inode: &InodeView<'a>) -> Result<Vec<(Vec<u8>, Cow<'a, [u8]>)>, FormatError> {
    let (ids, inline) = parts(inode)?;
    let mut found = Vec::new();
    read_inline(inode, inline, &mut found)?;
    for &id in ids {
        found.push(read_shared(inode, id)?);
    }
    let mut named: Vec<_> = found
        .iter()
        .map(|xattr| (xattr.full_name(), Cow::Borrowed(xattr.value)))
        .collect();
    named.sort_unstable();
    Ok(named)
}

/// Checks the shared xattrs as one sorted list and returns which positions (in steps of 4 bytes)
/// are starts of one. The list ends at the image's end or with zeros.
pub(super) fn check_shared(bytes: &[u8]) -> Result<Bits, FormatError> {
    let bad = |at: usize, what| FormatError::Table {
        table: "shared xattr at byte",
        index: at as u64,
        what,
    };
    let mut starts = Bits::new(bytes.len() / 4);
    let mut before: Option<Xattr<'_>> = None;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(&[0; XATTR_ENTRY_LEN]) {
            if rest.iter().any(|&byte| byte != 0) {
                return Err(bad(at, "bytes behind the last one"));
            }
            break;
        }
        let Some((xattr, len)) = Xattr::read(rest) else {
            return Err(bad(at, "damaged"));
        };
        if before.is_some_and(|before| before >= xattr) {
            return Err(bad(at, "out of order"));
        }
        starts.set(at / 4);
        before = Some(xattr);
        at += len;
    }
    Ok(starts)
}

/// Checks the xattrs of an inode: in order, each name once, shared ones where one starts.
pub(super) fn check<'a>(
    inode: &InodeView<'a>,
    starts: &Bits,
    found: &mut Vec<Xattr<'a>>,
) -> Result<(), FormatError> {
    if inode.xattr_len == 0 {
        return Ok(());
    }
    let (ids, inline) = parts(inode)?;
    found.clear();
    read_inline(inode, inline, found)?;
    let ascending = |found: &[Xattr<'_>]| found.windows(2).all(|pair| pair[0].key() < pair[1].key());
    if !ascending(found) {
        return Err(inode.bad("its xattrs are out of order"));
    }
    if !ids.windows(2).all(|pair| pair[0].get() < pair[1].get()) {
        return Err(inode.bad("its shared xattrs are out of order"));
    }
    for &id in ids {
        if !starts.get(id.get() as usize) {
            return Err(inode.bad("a shared xattr starts where none does"));
        }
        found.push(read_shared(inode, id)?);
    }
    if found.is_empty() {
        return Err(inode.bad("it has room for xattrs, and none"));
    }
    found.sort_unstable();
    if !ascending(found) {
        return Err(inode.bad("an xattr has two values"));
    }
    Ok(())
}
