//! Owners, modes and extended attributes, with the side effects that the kernel gives to setting them.

use lacewing_format::limits::{MAX_XATTR_NAME, MAX_XATTR_VALUE, MAX_XATTRS};
use lacewing_format::tree::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use lacewing_format::{Inode, Time};

use super::acl::{self, Acl};

/// Xattr of file capabilities; chown removes it.
const CAPABILITY: &[u8] = b"security.capability";

/// Latest time containerd sets: nanoseconds since 1970 in 63 bits.
const MAX_TIME: Time = Time {
    secs: i64::MAX / 1_000_000_000,
    nanos: (i64::MAX % 1_000_000_000) as u32,
};

pub(super) fn is_dir(inode: &Inode) -> bool {
    inode.mode & S_IFMT == S_IFDIR
}

fn is_symlink(inode: &Inode) -> bool {
    inode.mode & S_IFMT == S_IFLNK
}

pub(super) fn xattr<'a>(inode: &'a Inode, name: &[u8]) -> Option<&'a [u8]> {
    let at = inode
        .xattrs
        .binary_search_by(|(n, _)| n.as_slice().cmp(name))
        .ok()?;
    Some(&inode.xattrs[at].1)
}

/// Sets an xattr as it is.
pub(super) fn put(inode: &mut Inode, name: &[u8], value: Vec<u8>) {
    match inode.xattrs.binary_search_by(|(n, _)| n.as_slice().cmp(name)) {
        Ok(at) => inode.xattrs[at].1 = value,
        Err(at) => inode.xattrs.insert(at, (name.to_vec(), value)),
    }
}

fn remove(inode: &mut Inode, name: &[u8]) {
    inode.xattrs.retain(|(n, _)| n != name);
}

/// Times before 1970 and beyond 2262 become 1970.
pub(super) fn bound(time: Time) -> Time {
    if time < Time::default() || time > MAX_TIME {
        Time::default()
    } else {
        time
    }
}

/// lchown: all ones leave an owner as it is; file capabilities go.
pub(super) fn chown(inode: &mut Inode, uid: u32, gid: u32) {
    if uid != u32::MAX {
        inode.uid = uid;
    }
    if gid != u32::MAX {
        inode.gid = gid;
    }
    if !is_dir(inode) {
        remove(inode, CAPABILITY);
    }
}

/// chmod, which symbolic links are spared.
pub(super) fn chmod(inode: &mut Inode, mode: u32) {
    if is_symlink(inode) {
        return;
    }
    inode.mode = inode.mode & S_IFMT | mode & 0o7777;
    if let Some(mut list) = xattr(inode, acl::ACCESS).and_then(Acl::parse) {
        list.chmod(mode);
        put(inode, acl::ACCESS, list.to_value());
    }
}

/// Gives a new inode what its folder hands down: the group of a setgid folder, and the default list.
pub(super) fn inherit(inode: &mut Inode, folder: &Inode) {
    if folder.mode & 0o2000 != 0 {
        inode.gid = folder.gid;
    }
    let Some(value) = xattr(folder, acl::DEFAULT) else {
        return;
    };
    if is_symlink(inode) {
        return;
    }
    if let Some(list) = Acl::parse(value).and_then(|list| list.inherited(inode.mode & 0o777)) {
        put(inode, acl::ACCESS, list.to_value());
    }
    if is_dir(inode) {
        put(inode, acl::DEFAULT, value.to_vec());
    }
}

/// lsetxattr of an entry's attribute. What containerd passes by is passed by.
///
/// # Errors
/// What containerd fails at.
pub(super) fn set_xattr(inode: &mut Inode, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let regular_or_dir = is_dir(inode) || inode.mode & S_IFMT == S_IFREG;
    if name.len() > MAX_XATTR_NAME || name.is_empty() {
        return Err("name of an extended attribute is too long or empty");
    }
    if value.len() > MAX_XATTR_VALUE {
        return Err("extended attribute is longer than 64 KiB");
    }
    match name {
        acl::ACCESS | acl::DEFAULT if is_symlink(inode) => return Ok(()),
        acl::ACCESS => return set_access(inode, value),
        acl::DEFAULT => return set_default(inode, value),
        b"user." | b"security." => return Err("extended attribute has no name"),
        // The kernel allows these on files and folders only; containerd passes its refusal by.
        _ if name.starts_with(b"user.") && !regular_or_dir => return Ok(()),
        CAPABILITY if !capability(value) => return Err("file capabilities are malformed"),
        _ if name.starts_with(b"user.") || name.starts_with(b"security.") => {}
        // trusted.* is left out on purpose, other namespaces do not exist.
        _ => return Ok(()),
    }
    if inode.xattrs.len() >= MAX_XATTRS {
        return Err("too many extended attributes");
    }
    put(inode, name, value.to_vec());
    Ok(())
}

/// The three forms of capabilities the kernel knows: revision in the upper byte, and a length for each.
fn capability(value: &[u8]) -> bool {
    let Some(magic) = value.first_chunk::<4>().map(|m| u32::from_le_bytes(*m)) else {
        return false;
    };
    matches!((magic >> 24, value.len()), (1, 12) | (2, 20) | (3, 24))
}

fn set_access(inode: &mut Inode, value: &[u8]) -> Result<(), &'static str> {
    let list = parse(value)?;
    remove(inode, acl::ACCESS);
    let Some(list) = list else { return Ok(()) };
    let (mode, says_no_more) = list.mode();
    inode.mode = inode.mode & !0o777 | mode;
    if !says_no_more {
        put(inode, acl::ACCESS, list.to_value());
    }
    Ok(())
}

fn set_default(inode: &mut Inode, value: &[u8]) -> Result<(), &'static str> {
    let list = parse(value)?;
    if !is_dir(inode) {
        return if list.is_none() {
            Ok(())
        } else {
            Err("default access control list of what is no directory")
        };
    }
    remove(inode, acl::DEFAULT);
    if let Some(list) = list {
        put(inode, acl::DEFAULT, list.to_value());
    }
    Ok(())
}

fn parse(value: &[u8]) -> Result<Option<Acl>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let list = Acl::parse(value).ok_or("access control list is malformed")?;
    Ok(Some(list).filter(|list| !list.is_empty()))
}
