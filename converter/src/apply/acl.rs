//! POSIX access control lists, as far as the kernel changes them while a layer is unpacked.
//!
//! chmod rewrites the list of the file, a list that says no more than the mode is dropped, and files made in a folder
//! with a default list inherit it. Byte form: version 2, then entries of tag (16 bits), permissions (16), id (32).

/// Xattr of a file's list.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Xattr of the list that files in a folder inherit.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NO_ID: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Parses an xattr's value. Nothing if the kernel would refuse it; an empty list means "no list".
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
            return None;
        }
        let entries = entries.chunks_exact(8).map(|e| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            perm: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        });
        let acl = Self(entries.collect());
        (acl.0.is_empty() || acl.is_valid()).then_some(acl)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kernel's posix_acl_valid: owner, users, group, groups, mask, others, in this order.
    fn is_valid(&self) -> bool {
        let mut rank = 0;
        let mut needs_mask = false;
        for entry in &self.0 {
            let (next, again) = match entry.tag {
                USER_OBJ => (1, false),
                USER => (2, true),
                GROUP_OBJ => (3, false),
                GROUP => (4, true),
                MASK => (5, false),
                OTHER => (6, false),
                _ => return false,
            };
            let named = matches!(entry.tag, USER | GROUP);
            needs_mask |= named;
            if entry.perm > 7 || next < rank || (next == rank && !again) || (named && entry.id == NO_ID) {
                return false;
            }
            rank = next;
        }
        let has = |tag| self.0.iter().any(|e| e.tag == tag);
        has(USER_OBJ) && has(GROUP_OBJ) && has(OTHER) && (has(MASK) || !needs_mask)
    }

    /// The xattr's value; ids that mean nothing are all ones.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let id = if matches!(entry.tag, USER | GROUP) {
                entry.id
            } else {
                NO_ID
            };
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// The 0777 bits the list stands for, and whether it says no more than these.
    pub(crate) fn mode(&self) -> (u32, bool) {
        let perm = |tag| self.0.iter().find(|e| e.tag == tag).map(|e| u32::from(e.perm));
        let group = perm(MASK).or(perm(GROUP_OBJ)).unwrap_or(0);
        let mode = perm(USER_OBJ).unwrap_or(0) << 6 | group << 3 | perm(OTHER).unwrap_or(0);
        (
            mode,
            self.0
                .iter()
                .all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER)),
        )
    }

    /// What chmod does to the list.
    pub(crate) fn chmod(&mut self, mode: u32) {
        let group = if self.0.iter().any(|e| e.tag == MASK) {
            MASK
        } else {
            GROUP_OBJ
        };
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => entry.perm = (mode >> 6 & 7) as u16,
                OTHER => entry.perm = (mode & 7) as u16,
                tag if tag == group => entry.perm = (mode >> 3 & 7) as u16,
                _ => {}
            }
        }
    }

    /// The list of a new file with `mode` in a folder whose default list this is; nothing if the mode says it all.
    pub(crate) fn inherited(&self, mode: u32) -> Option<Self> {
        let mut acl = self.clone();
        let (now, _) = acl.mode();
        acl.chmod(now & mode);
        (!acl.mode().1).then_some(acl)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::type_complexity)]
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|&(tag, perm, id)| Entry { tag, perm, id })
            .collect())
    }

    #[test]
    fn validity() {
        let base = [(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 0, NO_ID)];
        let rows: [(&str, Vec<(u16, u16, u32)>, bool); 6] = [
            ("the mode alone", base.to_vec(), true),
            (
                "named user without mask",
                [&base[..1], &[(USER, 4, 5)], &base[1..]].concat(),
                false,
            ),
            (
                "named user with mask",
                vec![base[0], (USER, 4, 5), base[1], (MASK, 6, NO_ID), base[2]],
                true,
            ),
            ("wrong order", vec![base[1], base[0], base[2]], false),
            ("no others", base[..2].to_vec(), false),
            (
                "unknown permission",
                vec![(USER_OBJ, 8, NO_ID), base[1], base[2]],
                false,
            ),
        ];
        for (name, entries, valid) in rows {
            assert_eq!(Acl::parse(&acl(&entries).to_value()).is_some(), valid, "{name}");
        }
        assert!(Acl::parse(b"").is_none());
        assert!(Acl::parse(&[2, 0, 0, 0]).unwrap().is_empty());
    }

    #[test]
    fn chmod_changes_the_mask() {
        let mut list = acl(&[
            (1, 6, NO_ID),
            (2, 7, 5),
            (4, 4, NO_ID),
            (16, 7, NO_ID),
            (32, 4, NO_ID),
        ]);
        assert_eq!(list.mode(), (0o674, false));
        list.chmod(0o640);
        assert_eq!(list.mode(), (0o640, false));
        assert_eq!(list.0[2].perm, 4, "the owning group keeps its own");
    }
}
