#![allow(clippy::unwrap_used)]
use super::*;
use crate::sample::{self, reseal};
use crate::writer::write_index;

fn small() -> Vec<u8> {
    write_index(&sample::small_tree(), &sample::tables()).unwrap()
}

/// Looks at everything an accepted index holds; an error or panic here is a hole in the checks.
fn visit(index: &Index<'_>) {
    let summary = index.check_tree().unwrap();
    let mut names = 0;
    let mut todo = vec![index.root()];
    while let Some(nid) = todo.pop() {
        let dir = index.inode(nid).unwrap();
        let mut entries = dir.entries().unwrap();
        assert_eq!(entries.position(), 0);
        let count = entries.clone().count();
        let mut at = 0;
        while let Some(entry) = entries.next() {
            let entry = entry.unwrap();
            at += 1;
            let rest = dir.entries_at(entries.position()).unwrap();
            assert_ne!(entries.position(), 0);
            assert_eq!(rest.clone().count(), count - at);
            assert!(rest.map(Result::unwrap).eq(entries.clone().map(Result::unwrap)));
            assert_eq!(dir.lookup(entry.name).unwrap(), Some(entry));
            let inode = index.inode(entry.nid).unwrap();
            inode.xattrs().unwrap();
            match inode.file_type() {
                _ if entry.name == b"." || entry.name == b".." => continue,
                FileType::Dir => todo.push(entry.nid),
                FileType::Symlink => drop(inode.symlink().unwrap()),
                FileType::File => {
                    let all: Vec<_> = inode.extents().unwrap().map(Result::unwrap).collect();
                    for (at, extent) in all.iter().enumerate() {
                        assert_eq!(inode.extents().unwrap().nth(at).unwrap().unwrap(), *extent);
                    }
                    for extent in inode.extents().unwrap() {
                        visit_extent(index, extent.unwrap());
                    }
                }
                _ => {}
            }
            names += 1;
        }
    }
    assert_eq!(names, summary.names);
}

fn visit_extent(index: &Index<'_>, extent: crate::tree::Extent) {
    let crate::tree::Extent::Data { device, block } = extent else {
        return;
    };
    let chunk = index.chunk_at(device.into(), block).unwrap();
    let frame = index.frame_at(device.into(), block).unwrap();
    assert_eq!(index.frame_device(frame), usize::from(device));
    assert!(index.device_frames(device.into()).contains(&frame));
    assert!(index.frame_chunks(frame).contains(&index.chunks()[chunk]));
    let offset = (block - index.frame_block(frame)) * BLOCK as u32;
    assert!(offset + index.chunks()[chunk].len() <= index.frame_plain_len(frame));
}

#[test]
fn a_cut_index_is_refused_at_every_length() {
    let bytes = small();
    visit(&Index::parse(&bytes).unwrap());
    for len in 0..bytes.len() {
        assert!(Index::parse(&bytes[..len]).is_err(), "{len}");
        // The end with the trailer stays, the beginning is cut.
        assert!(Index::parse(&bytes[bytes.len() - len..]).is_err(), "{len}");
    }
}

#[test]
fn every_changed_bit_is_found() {
    let mut bytes = small();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(Index::parse(&bytes).is_err(), "byte {at} bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }
}

/// With right checksums, a changed byte is either refused or gives a tree that is whole.
#[test]
fn every_changed_byte_gives_an_error_or_a_whole_tree() {
    let original = small();
    let mut accepted = 0;
    for at in 0..original.len() {
        for change in [0x01, 0x80, 0xff, 0x20] {
            let mut bytes = original.clone();
            bytes[at] ^= change;
            reseal(&mut bytes);
            if let Ok(index) = Index::parse(&bytes)
                && index.check_tree().is_ok()
            {
                visit(&index);
                accepted += 1;
            }
        }
    }
    assert!(accepted > 0, "free fields such as owners may change");
}

#[test]
fn frames_are_found_by_block() {
    let bytes = small();
    let index = Index::parse(&bytes).unwrap();
    let rows = [
        (0, 0, Some(0)),
        (0, 1, Some(0)),
        (0, 2, None),
        (0, 5, None),
        (0, 6, Some(1)),
        (0, 7, Some(1)),
        (0, 8, Some(1)),
        (0, 9, None),
        (1, 0, None),
        (1, 700, Some(2)),
        (1, 955, Some(2)),
        (1, 956, None),
        (1, u32::MAX, None),
        (2, 0, None),
    ];
    for (device, block, frame) in rows {
        assert_eq!(
            index.frame_at(device, block),
            frame,
            "device {device} block {block}"
        );
    }
    assert_eq!(index.frame_plain_len(0), 8192);
    assert_eq!(index.frame_plain_len(2), 1 << 20);
    assert_eq!(index.frame_plain_len(3), 0);
    assert_eq!(
        (0..3).map(|frame| index.frame_device(frame)).collect::<Vec<_>>(),
        [0, 0, 1]
    );
}

#[test]
fn a_layout_gives_the_same_view() {
    let bytes = small();
    let index = Index::parse(&bytes).unwrap();
    let again = Index::with_layout(&bytes, index.layout()).unwrap();
    visit(&again);
    assert!(Index::with_layout(&bytes[1..], index.layout()).is_err());
}

/// Where things are in the small index.
struct Offsets {
    root: usize,
    dir: usize,
    file: usize,
    big: usize,
    link: usize,
    null: usize,
    /// Content of `dir`: `.`, `..`, `big`, `file`, `sub`, 12 bytes each.
    entries: usize,
    /// Chunk addresses of `big`.
    chunks: usize,
    /// Shared xattrs.
    shared: usize,
    trailer: usize,
}

fn offsets(index: &Index<'_>) -> Offsets {
    let find =
        |dir: &InodeView<'_>, name: &[u8]| index.inode(dir.lookup(name).unwrap().unwrap().nid).unwrap();
    let root = index.inode(index.root()).unwrap();
    let dir = find(&root, b"dir");
    let big = find(&dir, b"big");
    Offsets {
        root: root.own_bytes().start,
        dir: dir.own_bytes().start,
        file: find(&dir, b"file").own_bytes().start,
        big: big.own_bytes().start,
        link: find(&root, b"link").own_bytes().start,
        null: find(&root, b"null").own_bytes().start,
        entries: dir.body,
        chunks: big.own_bytes().end - 16,
        shared: index.layout.xattrs_start,
        trailer: index.bytes.len() - 256,
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn nid(at: usize) -> [u8; 8] {
    (at as u64 / 32).to_le_bytes()
}

type Change = fn(&mut Vec<u8>, &Offsets);

/// Changes each field, makes the checksums right, and expects an error that says `text`.
fn expect_refused(rows: &[(&str, Change)]) {
    let original = small();
    let index = Index::parse(&original).unwrap();
    let offsets = offsets(&index);
    for (text, change) in rows {
        let mut bytes = original.clone();
        change(&mut bytes, &offsets);
        assert_ne!(bytes, original, "{text}: nothing changed");
        reseal(&mut bytes);
        let result = Index::parse(&bytes).and_then(|index| index.check_tree());
        let error = result.expect_err(text).to_string();
        assert!(error.contains(text), "expected {text:?}, got {error:?}");
    }
}

#[test]
#[rustfmt::skip]
fn hostile_trees_are_refused() {
    expect_refused(&[
        ("more names than links", |b, o| put(b, o.entries + 24, &nid(o.file))),
        ("more names than links", |b, o| { put(b, o.entries + 48, &nid(o.dir)); put(b, o.dir + 6, &[4]); }),
        ("more names than links", |b, o| put(b, o.entries + 48, &nid(o.root))),
        ("fewer names than links", |b, o| put(b, o.file + 6, &[3])),
        ("more names than links", |b, o| put(b, o.file + 6, &[1])),
        ("no links", |b, o| put(b, o.file + 6, &[0])),
        ("names . and ..", |b, o| put(b, o.entries, &nid(o.root))),
        ("names . and ..", |b, o| put(b, o.entries + 12, &nid(o.dir))),
        ("names . and ..", |b, o| put(b, o.entries + 10, &[1])),
        ("no names . and ..", |b, o| {
            put(b, o.entries, &nid(o.null));
            put(b, o.entries + 10, &[3]);
            put(b, o.entries + 60, b"-");
            put(b, o.null + 6, &[2]);
        }),
        ("count of links", |b, o| put(b, o.dir + 6, &[4])),
        ("out of order", |b, o| put(b, o.entries + 63, b"z")),
        ("not valid", |b, o| put(b, o.entries + 64, b"/")),
        ("not valid", |b, o| put(b, o.entries + 64, b"\0")),
        ("not valid", |b, o| put(b, o.entries + 24 + 12 + 8, &[63])),
        ("do not follow each other", |b, o| put(b, o.entries + 24 + 12 + 9, &[15])),
        ("no valid first entry", |b, o| put(b, o.entries + 8, &[61])),
        ("no valid first entry", |b, o| put(b, o.entries + 8, &[0])),
        ("entry's type", |b, o| put(b, o.entries + 34, &[3])),
        ("unknown type", |b, o| put(b, o.entries + 34, &[8])),
        ("unknown type", |b, o| put(b, o.entries + 35, &[1])),
        ("outside of the inodes", |b, o| put(b, o.entries + 24, &[0xff; 8])),
        ("outside of the inodes", |b, o| put(b, o.entries + 24, &[0; 8])),
        ("no known type", |b, o| put(b, o.file + 4, &[0, 0])),
        ("contradict", |b, o| put(b, o.file + 4, &[0xed, 0x41])),
        ("contradict", |b, o| put(b, o.null + 8, &[1])),
        ("contradict", |b, o| put(b, o.link + 8, &[0])),
        ("not used is set", |b, o| put(b, o.file + 12, &[1])),
        ("not used is set", |b, o| put(b, o.file, &[8 | 16])),
        ("not used is set", |b, o| put(b, o.file, &[2])),
        ("nanoseconds", |b, o| put(b, o.big + 40, &[0xff; 4])),
        ("outside of the image", |b, o| put(b, o.link + 8, &[0xff, 0x0f])),
        ("inline data crosses", |b, o| put(b, o.dir + 8, &[0, 0x10])),
        ("outside of the image", |b, o| put(b, o.dir + 10, &[1])),
        ("NUL", |b, o| put(b, o.link + 32, &[0])),
        ("chunk of it is none", |b, o| put(b, o.chunks + 4, &[1])),
        ("chunk of it is none", |b, o| put(b, o.big + 8, &[101])),
        ("names no device", |b, o| put(b, o.chunks + 2, &[0])),
        ("names no device", |b, o| put(b, o.chunks + 2, &[3])),
        ("names no device", |b, o| put(b, o.chunks, &[1])),
        ("names no device", |b, o| put(b, o.chunks + 4, &[0xff; 4])),
        ("valid header", |b, o| put(b, o.big + 64, &[1])),
        ("valid header", |b, o| put(b, o.big + 68, &[200])),
        ("xattr is damaged", |b, o| put(b, o.big + 64 + 17, &[5])),
        ("starts where none does", |b, o| put(b, o.big + 64 + 12, &[1])),
        ("two values", |b, o| put(b, o.big + 64 + 16, &[4, 1, 1, 0, b'n', b'o', b't', b'e', 0, 0, 0, 0])),
        ("shared xattr", |b, o| put(b, o.shared + 1, &[7])),
        ("shared xattr", |b, o| put(b, o.shared + 100, &[1])),
    ]);
}

#[test]
#[rustfmt::skip]
fn hostile_superblocks_and_trailers_are_refused() {
    expect_refused(&[
        ("no EROFS superblock", |b, _| put(b, 1024, &[0])),
        ("unknown features in the EROFS superblock", |b, _| put(b, 1024 + 8, &[7])),
        ("unknown features in the EROFS superblock", |b, _| put(b, 1024 + 80, &[0x0d])),
        ("block size", |b, _| put(b, 1024 + 12, &[13])),
        ("not used is set", |b, _| put(b, 1024 + 13, &[1])),
        ("not used is set", |b, _| put(b, 1024 + 40, &[1])),
        ("not used is set", |b, _| put(b, 1024 + 90, &[1])),
        ("not used is set", |b, _| put(b, 1024 + 96, &[1])),
        ("not used is set", |b, _| put(b, 1024 + 127, &[1])),
        ("no directory", |b, o| put(b, 1024 + 14, &nid(o.file)[..2])),
        ("outside of the inodes", |b, _| put(b, 1024 + 14, &[1, 0])),
        ("count of inodes", |b, _| put(b, 1024 + 16, &[7])),
        ("count of inodes", |b, _| put(b, 1024 + 16, &[0xff; 8])),
        ("nanoseconds", |b, _| put(b, 1024 + 32, &[0xff; 4])),
        ("count of blocks", |b, _| put(b, 1024 + 36, &[3])),
        ("parts of the image overlap", |b, _| put(b, 1024 + 44, &[0xff])),
        ("starts where none does", |b, _| put(b, 1024 + 44, &[0])),
        ("device table", |b, _| put(b, 1024 + 86, &[1])),
        ("device table", |b, _| put(b, 1024 + 88, &[10])),
        ("device table", |b, _| put(b, 1024 + 80, &[4])),
        ("EROFS device slot 0", |b, _| put(b, 1152, b"g")),
        ("EROFS device slot 1", |b, _| put(b, 1280 + 64, &[1])),
        ("EROFS device slot 1", |b, _| put(b, 1280 + 68, &[1])),
        ("magic", |b, o| put(b, o.trailer + 248, b"l")),
        ("version 2.0", |b, o| put(b, o.trailer + 244, &[2])),
        ("features in the trailer", |b, o| put(b, o.trailer + 56, &[1])),
        ("length is not that of version 1", |b, o| put(b, o.trailer + 240, &[1])),
        ("length of the EROFS image", |b, o| put(b, o.trailer, &[1])),
        ("length of the EROFS image", |b, o| put(b, o.trailer + 7, &[1])),
        ("table is out of", |b, o| put(b, o.trailer + 8, &[1])),
        ("table is out of", |b, o| put(b, o.trailer + 23, &[1])),
        ("table is out of", |b, o| put(b, o.trailer + 48, &[0xff; 4])),
        ("device", |b, o| put(b, o.trailer + 40, &[1])),
    ]);
}

#[test]
fn a_newer_minor_version_is_read() {
    let mut bytes = small();
    let at = bytes.len() - 10;
    bytes[at] = 7;
    reseal(&mut bytes);
    visit(&Index::parse(&bytes).unwrap());
}

#[test]
fn two_inodes_do_not_share_a_block() {
    let mut tree = sample::empty_tree();
    for name in [b"a", b"b"] {
        let target = crate::tree::Body::Symlink(vec![b'x'; 4095]);
        let link = sample::inode(crate::tree::S_IFLNK | 0o777, target);
        sample::add(&mut tree, sample::ROOT, name, link);
    }
    let mut bytes = write_index(&tree, &sample::empty_tables()).unwrap();
    let index = Index::parse(&bytes).unwrap();
    let root = index.inode(index.root()).unwrap();
    let link = root.lookup(b"b").unwrap().unwrap().nid.0 as usize * 32;
    assert_eq!(bytes[link + 16], 2);
    bytes[link + 16] = 1;
    reseal(&mut bytes);
    let error = Index::parse(&bytes).unwrap().check_tree().unwrap_err();
    assert!(error.to_string().contains("lies over something else"), "{error}");
}
