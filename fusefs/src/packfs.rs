//! The flat directory of packs: what each request means, without any kernel type. Pure.
//!
//! Node 1 is the directory; pack `n` is node `n + 1` and has its number as its name. All answers
//! depend on the catalogue alone, so they are the same after a restart.

use crate::store::pack::PackNumber;

/// Node of the directory.
pub(crate) const ROOT: u64 = 1;

/// The packs there are.
pub(crate) trait Packs {
    /// Bytes of a pack, if there is such a pack.
    fn len_of(&self, pack: PackNumber) -> Option<u64>;
    /// Numbers of all packs, ascending.
    fn numbers(&self) -> Vec<PackNumber>;
}

/// What is told about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The node.
    pub(crate) node: u64,
    /// Bytes; 0 for the directory.
    pub(crate) len: u64,
    /// Whether it is the directory.
    pub(crate) directory: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such name or node.
    NotFound,
    /// A name was looked up in a pack, or a pack opened as a directory.
    NotADirectory,
    /// The directory was opened as a file.
    IsADirectory,
    /// It would change something.
    ReadOnly,
    /// The request is not understood; the kernel need not send it again.
    Unsupported,
    /// The node's layer is no more.
    Gone,
    /// No xattr of this name.
    NoXattr,
    /// The asker's buffer is too small.
    TooSmall,
    /// What the node is does not fit the request.
    Invalid,
    /// The index cannot be read, although it was checked: the disk failed.
    Damaged,
}

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name.
    pub(crate) name: String,
    /// What it names.
    pub(crate) attributes: Attributes,
    /// Where to go on after it.
    pub(crate) next: u64,
}

/// Pack of a node.
pub(crate) fn pack_of(node: u64) -> Option<PackNumber> {
    let number = node.checked_sub(1).filter(|number| *number > 0)?;
    PackNumber::try_from(number).ok()
}

/// Node of a pack.
fn node_of(pack: PackNumber) -> u64 {
    u64::from(pack) + 1
}

/// Attributes of a node.
pub(crate) fn attributes(packs: &impl Packs, node: u64) -> Result<Attributes, Refusal> {
    if node == ROOT {
        return Ok(Attributes {
            node,
            len: 0,
            directory: true,
        });
    }
    let len = pack_of(node)
        .and_then(|pack| packs.len_of(pack))
        .ok_or(Refusal::NotFound)?;
    Ok(Attributes {
        node,
        len,
        directory: false,
    })
}

/// Finds a name.
pub(crate) fn lookup(packs: &impl Packs, parent: u64, name: &[u8]) -> Result<Attributes, Refusal> {
    if parent != ROOT {
        return Err(Refusal::NotADirectory);
    }
    let pack: PackNumber = number(name).ok_or(Refusal::NotFound)?;
    attributes(packs, node_of(pack))
}

/// Reads a name that is a number. One spelling for each: no sign, no leading zero.
pub(crate) fn number<T: std::str::FromStr>(name: &[u8]) -> Option<T> {
    let canonical = |text: &&str| text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let text = std::str::from_utf8(name).ok().filter(canonical)?;
    text.parse().ok()
}

/// Opens a pack.
pub(crate) fn open(packs: &impl Packs, node: u64, writing: bool) -> Result<(), Refusal> {
    match attributes(packs, node)? {
        found if found.directory => Err(Refusal::IsADirectory),
        _ if writing => Err(Refusal::ReadOnly),
        _ => Ok(()),
    }
}

/// Opens the directory.
pub(crate) fn open_directory(packs: &impl Packs, node: u64) -> Result<(), Refusal> {
    if attributes(packs, node)?.directory {
        Ok(())
    } else {
        Err(Refusal::NotADirectory)
    }
}

/// Entries of the directory from `offset` on. Offsets are made of pack numbers, so a listing that
/// goes on after packs came or went neither repeats nor skips one that stayed.
pub(crate) fn entries(packs: &impl Packs, offset: u64) -> impl Iterator<Item = Entry> {
    let root = Attributes {
        node: ROOT,
        len: 0,
        directory: true,
    };
    let dots = [".", ".."].into_iter().zip(1..);
    let dots = dots.map(move |(name, next)| Entry {
        name: name.into(),
        attributes: root,
        next,
    });
    let listed = packs.numbers().into_iter().filter_map(|pack| {
        let attributes = Attributes {
            node: node_of(pack),
            len: packs.len_of(pack)?,
            directory: false,
        };
        Some(Entry {
            name: pack.to_string(),
            attributes,
            next: u64::from(pack) + 2,
        })
    });
    dots.chain(listed).filter(move |entry| entry.next > offset)
}

/// Cuts a read to the pack's end.
pub(crate) fn clamp(len: u64, offset: u64, size: u32) -> std::ops::Range<u64> {
    let start = offset.min(len);
    start..start.saturating_add(u64::from(size)).min(len)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Three;
    impl Packs for Three {
        fn len_of(&self, pack: PackNumber) -> Option<u64> {
            [3, 7, 12].contains(&pack).then(|| u64::from(pack) * 4096)
        }
        fn numbers(&self) -> Vec<PackNumber> {
            vec![3, 7, 12]
        }
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(lookup(&Three, ROOT, b"7").unwrap().node, 8);
        for name in [
            &b"07"[..],
            b"+7",
            b"8",
            b"",
            b"7 ",
            b"-7",
            b"\xff",
            b"99999999999999999999",
            b"0",
        ] {
            assert_eq!(lookup(&Three, ROOT, name), Err(Refusal::NotFound), "{name:?}");
        }
        assert_eq!(lookup(&Three, 8, b"7"), Err(Refusal::NotADirectory));
    }

    #[test]
    fn nodes_of_packs_that_are_not_there_are_not_found() {
        for node in [0, 2, 3, 5, u64::MAX] {
            assert_eq!(attributes(&Three, node), Err(Refusal::NotFound), "{node}");
        }
    }

    #[test]
    fn nothing_is_opened_for_writing() {
        assert_eq!(open(&Three, 8, true), Err(Refusal::ReadOnly));
        assert_eq!(open(&Three, 8, false), Ok(()));
        assert_eq!(open(&Three, ROOT, false), Err(Refusal::IsADirectory));
        assert_eq!(open_directory(&Three, 8), Err(Refusal::NotADirectory));
    }

    #[test]
    fn a_listing_goes_on_where_it_stopped() {
        let all: Vec<Entry> = entries(&Three, 0).collect();
        let names: Vec<&str> = all.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, [".", "..", "3", "7", "12"]);
        for (at, entry) in all.iter().enumerate() {
            let rest: Vec<Entry> = entries(&Three, entry.next).collect();
            assert_eq!(rest, all[at + 1..]);
        }
    }

    #[test]
    fn reads_end_with_the_pack() {
        assert_eq!(clamp(8192, 4096, 1 << 20), 4096..8192);
        assert_eq!(clamp(8192, 9000, 4096), 8192..8192);
        assert_eq!(clamp(8192, u64::MAX, u32::MAX), 8192..8192);
    }
}
