//! Names and values of xattrs, as the kernel that asks knows them.
//!
//! An index says `trusted.overlay.*` for the marks of overlayfs. In a user namespace nobody may read `trusted.*`;
//! an overlay that is mounted there with `userxattr` looks for `user.overlay.*` instead.

use std::borrow::Cow;

use lacewing_format::InodeView;

use crate::packfs::Refusal;

const TRUSTED: &[u8] = b"trusted.overlay.";
const USER: &[u8] = b"user.overlay.";

/// Which names overlayfs's marks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// As in the index.
    Trusted,
    /// For overlays mounted with `userxattr`.
    User,
}

impl Marks {
    /// Those for overlays that this process's namespace can mount.
    pub(crate) fn here() -> Marks {
        if crate::probe::in_user_namespace() {
            Marks::User
        } else {
            Marks::Trusted
        }
    }

    /// A name as it is shown.
    fn shown<'a>(self, name: &'a [u8]) -> Cow<'a, [u8]> {
        match (self, name.strip_prefix(TRUSTED)) {
            (Marks::User, Some(rest)) => Cow::Owned([USER, rest].concat()),
            _ => Cow::Borrowed(name),
        }
    }
}

/// Appends the names of all xattrs, each with a NUL. `trusted`: whether those are shown that only an administrator sees.
pub(crate) fn names(
    inode: &InodeView<'_>,
    marks: Marks,
    trusted: bool,
    to: &mut Vec<u8>,
) -> Result<(), Refusal> {
    for (name, _) in inode.xattrs().map_err(|_| Refusal::Damaged)? {
        let name = marks.shown(&name);
        if trusted || !name.starts_with(b"trusted.") {
            to.extend_from_slice(&name);
            to.push(0);
        }
    }
    Ok(())
}

/// Appends the value of an xattr.
pub(crate) fn value(
    inode: &InodeView<'_>,
    marks: Marks,
    wanted: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), Refusal> {
    if !inode.has_xattrs() {
        return Err(Refusal::NoXattr);
    }
    let all = inode.xattrs().map_err(|_| Refusal::Damaged)?;
    let found = all.iter().find(|(name, _)| *marks.shown(name) == *wanted);
    let (_, value) = found.ok_or(Refusal::NoXattr)?;
    to.extend_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_named_for_who_asks() {
        for (name, user) in [
            (&b"trusted.overlay.opaque"[..], &b"user.overlay.opaque"[..]),
            (b"trusted.other", b"trusted.other"),
            (b"security.capability", b"security.capability"),
            (b"user.overlay.opaque", b"user.overlay.opaque"),
        ] {
            assert_eq!(*Marks::User.shown(name), *user);
            assert_eq!(*Marks::Trusted.shown(name), *name);
        }
    }
}
