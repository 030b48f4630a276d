#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use super::*;
use crate::reader::{FileType, InodeView};
use crate::sample::{self, ROOT, add, empty_tables, empty_tree, inode, link};
use crate::tree::{Body, Extent, FileBody, Inode, InodeId, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Time};

/// Reads an index back as a tree, inodes in the order in which the names reach them.
fn read_tree(index: &Index<'_>) -> Tree {
    let mut found: BTreeMap<u64, InodeId> = BTreeMap::new();
    let mut tree = Tree::default();
    let mut todo = vec![index.root()];
    found.insert(index.root().0, ROOT);
    tree.inodes.push(read_inode(&index.inode(index.root()).unwrap()));
    while let Some(nid) = todo.pop() {
        let dir = index.inode(nid).unwrap();
        let mut entries = BTreeMap::new();
        for entry in dir.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(dir.lookup(entry.name).unwrap(), Some(entry));
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let id = *found.entry(entry.nid.0).or_insert_with(|| {
                let inode = index.inode(entry.nid).unwrap();
                if inode.file_type() == FileType::Dir {
                    todo.push(entry.nid);
                }
                tree.inodes.push(read_inode(&inode));
                InodeId(tree.inodes.len() as u32 - 1)
            });
            entries.insert(entry.name.to_vec(), id);
        }
        tree.inodes[found[&nid.0].0 as usize].body = Body::Dir(entries);
    }
    tree
}

fn read_inode(view: &InodeView<'_>) -> Inode {
    let body = match view.file_type() {
        FileType::Dir => Body::Dir(BTreeMap::new()),
        FileType::File => Body::File(FileBody {
            size: view.size(),
            chunk_bits: view.chunk_bits(),
            extents: view.extents().unwrap().map(Result::unwrap).collect(),
        }),
        FileType::Symlink => Body::Symlink(view.symlink().unwrap().into_owned()),
        FileType::CharDevice | FileType::BlockDevice => {
            let (major, minor) = view.rdev();
            Body::Device { major, minor }
        }
        FileType::Fifo => Body::Fifo,
        FileType::Socket => Body::Socket,
    };
    let xattrs = view.xattrs().unwrap();
    Inode {
        mode: view.mode(),
        uid: view.uid(),
        gid: view.gid(),
        mtime: view.mtime(),
        xattrs: xattrs
            .into_iter()
            .map(|(name, value)| (name, value.into_owned()))
            .collect(),
        body,
    }
}

/// Lists a tree by paths, so that trees with other inode numbers compare equal.
fn listing(tree: &Tree) -> BTreeMap<Vec<u8>, (Inode, Vec<u8>)> {
    let mut first_names: BTreeMap<InodeId, Vec<u8>> = BTreeMap::new();
    let mut paths = BTreeMap::new();
    let mut todo = vec![(Vec::new(), ROOT)];
    while let Some((path, id)) = todo.pop() {
        let mut inode = tree.inodes[id.0 as usize].clone();
        if let Body::Dir(entries) = &mut inode.body {
            for (name, child) in std::mem::take(entries) {
                todo.push(([&path[..], b"/", &name].concat(), child));
            }
        }
        let first = first_names.entry(id).or_insert_with(|| path.clone()).clone();
        paths.insert(path, (inode, first));
    }
    // The first name of an inode depends on the order of the walk, its smallest name does not.
    let mut smallest: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, (_, first)) in &paths {
        smallest.entry(first.clone()).or_insert_with(|| path.clone());
    }
    for (_, first) in paths.values_mut() {
        *first = smallest[first].clone();
    }
    paths
}

fn assert_comes_back(tree: &Tree, tables: &Tables) -> Vec<u8> {
    let bytes = write_index(tree, tables).unwrap();
    let index = Index::parse(&bytes).unwrap();
    index.check_tree().unwrap();
    let expected = listing(tree);
    let found = listing(&read_tree(&index));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (path, inode) in &expected {
        assert_eq!(&found[path], inode, "{:?}", String::from_utf8_lossy(path));
    }
    bytes
}

#[test]
fn everything_the_format_can_say_comes_back() {
    let bytes = assert_comes_back(&sample::tree(), &sample::tables());
    assert_eq!(bytes, write_index(&sample::tree(), &sample::tables()).unwrap());
    let index = Index::parse(&bytes).unwrap();
    let tables = sample::tables();
    assert_eq!(index.devices(), tables.devices);
    assert_eq!(index.frames(), tables.frames);
    assert_eq!(index.chunks(), tables.chunks);
    assert_eq!(index.prefetch().collect::<Vec<_>>(), [1, 0]);
    assert_eq!((index.layer(), index.diff_id()), (tables.layer, tables.diff_id));
}

#[test]
fn an_empty_layer_is_one_block() {
    let bytes = assert_comes_back(&empty_tree(), &empty_tables());
    assert_eq!(bytes.len(), 4096 + 256);
}

#[test]
fn inodes_without_a_name_are_left_out() {
    let mut tree = empty_tree();
    tree.inodes.push(inode(S_IFIFO | 0o644, Body::Fifo));
    let bytes = write_index(&tree, &empty_tables()).unwrap();
    assert_eq!(bytes, write_index(&empty_tree(), &empty_tables()).unwrap());
}

#[test]
fn directories_of_every_size_come_back() {
    for count in [0, 1, 10, 100, 128, 129, 130, 150, 300, 1000, 5000] {
        let mut tree = empty_tree();
        let fifo = add(&mut tree, ROOT, b"fifo", inode(S_IFIFO | 0o644, Body::Fifo));
        let dir = inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()));
        let dir = add(&mut tree, ROOT, b"dir", dir);
        for number in 0..count {
            let name = format!("{number}{}", "n".repeat(number * 7 % 240));
            link(&mut tree, dir, name.as_bytes(), fifo);
        }
        assert_comes_back(&tree, &empty_tables());
    }
}

#[test]
fn inline_data_of_every_length_comes_back() {
    for fill in [1, 900, 4000] {
        let mut tree = empty_tree();
        for len in (1..=4095).step_by(97).chain(4000..=4095) {
            let target = Body::Symlink(vec![b't'; len]);
            let mut symlink = inode(S_IFLNK | 0o777, target);
            symlink.uid = if len % 2 == 0 { 0 } else { 100_000 };
            symlink.xattrs = vec![(b"user.x".to_vec(), vec![1; len % fill])];
            add(&mut tree, ROOT, format!("{len}").as_bytes(), symlink);
        }
        assert_comes_back(&tree, &empty_tables());
    }
}

#[test]
fn xattrs_at_their_limits_come_back() {
    let mut tree = empty_tree();
    let name = |number: usize| [b"user.".to_vec(), format!("{number:0250}").into_bytes()].concat();
    for file in 0..3 {
        let mut many = inode(S_IFIFO | 0o644, Body::Fifo);
        many.xattrs = (0..400).map(|n| (name(n), vec![7; n])).collect();
        many.xattrs.push((name(400), vec![file; 65_535]));
        add(&mut tree, ROOT, &[b'a' + file], many);
    }
    assert_comes_back(&tree, &empty_tables());
}

#[test]
fn times_and_sizes_at_their_limits_come_back() {
    let mut tree = empty_tree();
    for (number, secs) in [i64::MIN, -1, 0, 1, 1 << 32, i64::MAX].into_iter().enumerate() {
        let mut fifo = inode(S_IFIFO | 0o644, Body::Fifo);
        fifo.mtime = Time {
            secs,
            nanos: 999_999_999,
        };
        add(&mut tree, ROOT, format!("time {number}").as_bytes(), fifo);
    }
    for size in [1, u64::from(u32::MAX), 1 << 32, i64::MAX as u64] {
        let extents = vec![Extent::Hole; size.div_ceil(1 << 43) as usize];
        let body = Body::File(FileBody {
            size,
            chunk_bits: 43,
            extents,
        });
        add(
            &mut tree,
            ROOT,
            format!("size {size}").as_bytes(),
            inode(S_IFREG | 0o644, body),
        );
    }
    assert_comes_back(&tree, &empty_tables());
    let mut old = empty_tree();
    old.inodes[0].mtime = Time { secs: -1, nanos: 7 };
    assert_comes_back(&old, &empty_tables());
}

#[test]
fn more_than_65535_links_come_back() {
    let mut tree = empty_tree();
    let fifo = add(&mut tree, ROOT, b"fifo", inode(S_IFIFO | 0o644, Body::Fifo));
    for number in 0..70_000 {
        link(&mut tree, ROOT, format!("{number}").as_bytes(), fifo);
    }
    let bytes = assert_comes_back(&tree, &empty_tables());
    let index = Index::parse(&bytes).unwrap();
    let root = index.inode(index.root()).unwrap();
    let fifo = root.lookup(b"fifo").unwrap().unwrap();
    assert_eq!(index.inode(fifo.nid).unwrap().nlink(), 70_001);
}

#[test]
#[rustfmt::skip]
fn what_cannot_be_written_is_refused() {
    type Break = fn(&mut Tree);
    let rows: [(&str, Break); 21] = [
        ("no root", |t| t.inodes.clear()),
        ("root is no directory", |t| t.inodes[0] = inode(S_IFIFO, Body::Fifo)),
        ("name of nothing", |t| link(t, ROOT, b"x", InodeId(999_999))),
        ("directory with two names", |t| { let d = add(t, ROOT, b"x", t.inodes[0].clone()); link(t, ROOT, b"y", d); }),
        ("root has a name", |t| link(t, ROOT, b"x", ROOT)),
        ("empty name", |t| { add(t, ROOT, b"", inode(S_IFIFO, Body::Fifo)); }),
        ("name .", |t| { add(t, ROOT, b".", inode(S_IFIFO, Body::Fifo)); }),
        ("name ..", |t| { add(t, ROOT, b"..", inode(S_IFIFO, Body::Fifo)); }),
        ("name with a slash", |t| { add(t, ROOT, b"a/b", inode(S_IFIFO, Body::Fifo)); }),
        ("name with NUL", |t| { add(t, ROOT, b"a\0b", inode(S_IFIFO, Body::Fifo)); }),
        ("name too long", |t| { add(t, ROOT, &[b'x'; 256], inode(S_IFIFO, Body::Fifo)); }),
        ("mode of another type", |t| { add(t, ROOT, b"x", inode(S_IFREG, Body::Fifo)); }),
        ("unknown mode bits", |t| { add(t, ROOT, b"x", inode(S_IFIFO | 1 << 20, Body::Fifo)); }),
        ("nanoseconds", |t| t.inodes[0].mtime.nanos = 1_000_000_000),
        ("empty symlink", |t| { add(t, ROOT, b"x", inode(S_IFLNK, Body::Symlink(vec![]))); }),
        ("long symlink", |t| { add(t, ROOT, b"x", inode(S_IFLNK, Body::Symlink(vec![b'x'; 4096]))); }),
        ("symlink with NUL", |t| { add(t, ROOT, b"x", inode(S_IFLNK, Body::Symlink(vec![0]))); }),
        ("xattr of an unknown namespace", |t| t.inodes[0].xattrs = vec![(b"system.nfs4_acl".to_vec(), vec![])]),
        ("xattrs out of order", |t| t.inodes[0].xattrs = vec![(b"user.b".to_vec(), vec![]), (b"user.a".to_vec(), vec![])]),
        ("long xattr", |t| t.inodes[0].xattrs = vec![(b"user.b".to_vec(), vec![0; 65_536])]),
        ("xattrs too long together", |t| t.inodes[0].xattrs = (0..5_u8).map(|n| ([b"user.", &[b'a' + n][..]].concat(), vec![n; 65_535])).collect()),
    ];
    for (name, change) in rows {
        let mut tree = sample::tree();
        change(&mut tree);
        let result = write_index(&tree, &sample::tables());
        assert!(matches!(result, Err(FormatError::Input { .. })), "{name}: {result:?}");
    }
}

#[test]
#[rustfmt::skip]
fn files_that_contradict_the_chunk_table_are_refused() {
    let data = |device, block| Extent::Data { device, block };
    let rows = [
        ("empty with chunks", 0, 12, vec![Extent::Hole]),
        ("too few chunks", 5, 12, vec![]),
        ("too many chunks", 5, 12, vec![data(0, 0), Extent::Hole]),
        ("chunk size too small", 5, 11, vec![data(0, 0)]),
        ("chunk size too large for data", 5, 21, vec![data(0, 0)]),
        ("chunk size too large", 5, 44, vec![Extent::Hole]),
        ("no such device", 5, 12, vec![data(2, 0)]),
        ("no such chunk", 5, 12, vec![data(0, 2)]),
        ("inside of a chunk", 4096, 12, vec![data(0, 7)]),
        ("chunk is longer", 4096, 12, vec![data(0, 6)]),
        ("chunk is shorter", 6, 12, vec![data(0, 0)]),
        ("a short chunk not at the end", 4097, 12, vec![data(0, 0), Extent::Hole]),
        ("too large", 1 << 63, 43, vec![Extent::Hole; 1 << 20]),
    ];
    for (name, size, chunk_bits, extents) in rows {
        let mut tree = empty_tree();
        let body = Body::File(FileBody { size, chunk_bits, extents });
        add(&mut tree, ROOT, b"x", inode(S_IFREG | 0o644, body));
        let result = write_index(&tree, &sample::tables());
        assert!(matches!(result, Err(FormatError::Input { inode: 1, .. })), "{name}: {result:?}");
    }
}
