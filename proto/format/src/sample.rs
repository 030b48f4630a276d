//! A small layer that has everything the format can say; the golden files are made from it, so it
//! is never changed but for a new format version.

use std::collections::BTreeMap;

use crate::digest::{ChunkId, Digest};
use crate::erofs;
use crate::limits::BLOCK;
use crate::tables::{Chunk, Codec, Device, Frame, Tables};
use crate::trailer;
use crate::tree::{
    Body, Extent, FileBody, Inode, InodeId, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
    Time, Tree,
};

/// Mtime of most of the sample's inodes.
pub(crate) const USUAL: Time = Time {
    secs: 1_700_000_000,
    nanos: 0,
};

/// Makes an inode that fits the compact form.
pub(crate) fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: USUAL,
        xattrs: Vec::new(),
        body,
    }
}

/// Adds an inode under a name in a directory.
pub(crate) fn add(tree: &mut Tree, dir: InodeId, name: &[u8], inode: Inode) -> InodeId {
    let id = InodeId(tree.inodes.len() as u32);
    tree.inodes.push(inode);
    link(tree, dir, name, id);
    id
}

/// Adds a name of an inode that is there.
pub(crate) fn link(tree: &mut Tree, dir: InodeId, name: &[u8], id: InodeId) {
    let Body::Dir(entries) = &mut tree.inodes[dir.0 as usize].body else {
        panic!("not a directory");
    };
    entries.insert(name.to_vec(), id);
}

/// The root of every tree.
pub(crate) const ROOT: InodeId = InodeId(0);

/// A tree of nothing but its root.
pub(crate) fn empty_tree() -> Tree {
    Tree {
        inodes: vec![inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()))],
    }
}

/// Tables without a blob.
pub(crate) fn empty_tables() -> Tables {
    Tables {
        devices: Vec::new(),
        frames: Vec::new(),
        chunks: Vec::new(),
        prefetch: Vec::new(),
        recorded: false,
        layer: Digest::of(b"layer"),
        diff_id: Digest::of(b"diff id"),
    }
}

fn xattr(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (name.as_bytes().to_vec(), value.to_vec())
}

fn file(size: u64, chunk_bits: u8, extents: Vec<Extent>) -> Body {
    Body::File(FileBody {
        size,
        chunk_bits,
        extents,
    })
}

fn data(device: u16, block: u32) -> Extent {
    Extent::Data { device, block }
}

/// Tables of two blobs: chunks of 5, 4096, 8192 and 100 bytes in the first, one of 1 MiB in the
/// second.
pub(crate) fn tables() -> Tables {
    let id = |text: &[u8]| ChunkId::of(text);
    Tables {
        devices: vec![
            Device::new(Digest::of(b"blob one"), 20_000, 9, 0, 2),
            Device::new(Digest::of(b"blob two"), 1 << 20, 1000, 2, 1),
        ],
        frames: vec![
            Frame::new(0, 700, 0, 2, Codec::Zstd),
            Frame::new(700, 12_288, 2, 2, Codec::Raw),
            Frame::new(4096, 900_000, 4, 1, Codec::Zstd),
        ],
        chunks: vec![
            Chunk::new(0, 5, id(b"a")),
            Chunk::new(1, 4096, id(b"b")),
            Chunk::new(6, 8192, id(b"c")),
            Chunk::new(8, 100, id(b"d")),
            Chunk::new(700, 1 << 20, id(b"e")),
        ],
        prefetch: vec![1, 0],
        ..empty_tables()
    }
}

/// [`tables`] with the prefetch list of a recorded start.
pub(crate) fn recorded_tables() -> Tables {
    Tables {
        prefetch: vec![2, 0],
        recorded: true,
        ..tables()
    }
}

/// The tree over [`tables`].
pub(crate) fn tree() -> Tree {
    let mut tree = empty_tree();
    let etc = add(
        &mut tree,
        ROOT,
        b"etc",
        inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new())),
    );
    let small = inode(S_IFREG | 0o644, file(5, 12, vec![data(0, 0)]));
    let small = add(&mut tree, etc, b"hostname", small);
    link(&mut tree, ROOT, b"-hard link", small);
    add(
        &mut tree,
        etc,
        b"empty",
        inode(S_IFREG | 0o600, file(0, 12, vec![])),
    );
    let mut big = inode(
        S_IFREG | 0o4755,
        file((1 << 20) + 100, 20, vec![data(1, 700), data(0, 8)]),
    );
    big.uid = 70_000;
    big.gid = u32::MAX;
    big.mtime = Time {
        secs: -5,
        nanos: 999_999_999,
    };
    big.xattrs = vec![
        xattr(
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        xattr("user.note", b"shared by two"),
    ];
    add(&mut tree, ROOT, b"big", big);
    let mut sparse = inode(
        S_IFREG | 0o644,
        file(20_000, 13, vec![Extent::Hole, data(0, 6), Extent::Hole]),
    );
    sparse.xattrs = vec![xattr("user.empty", b""), xattr("user.note", b"shared by two")];
    add(&mut tree, ROOT, b"sparse", sparse);
    let hole = file(3 * (1 << 43) + 1, 43, vec![Extent::Hole; 4]);
    add(&mut tree, ROOT, b"hole", inode(S_IFREG | 0o644, hole));
    add_links(&mut tree);
    add_specials(&mut tree);
    add_directories(&mut tree);
    tree
}

fn add_links(tree: &mut Tree) {
    let link = |target: Vec<u8>| inode(S_IFLNK | 0o777, Body::Symlink(target));
    add(tree, ROOT, b"lib", link(b"usr/lib".to_vec()));
    add(tree, ROOT, b"long link", link(vec![b'l'; 4095]));
    add(tree, ROOT, b"link \xff\xfe", link(b"\xf0\x01".to_vec()));
}

fn add_specials(tree: &mut Tree) {
    let device = |mode, major, minor| inode(mode, Body::Device { major, minor });
    let dev = add(
        tree,
        ROOT,
        b"dev",
        inode(S_IFDIR | 0o1777, Body::Dir(BTreeMap::new())),
    );
    add(tree, dev, b"whiteout", device(S_IFCHR, 0, 0));
    add(tree, dev, b"null", device(S_IFCHR | 0o666, 1, 3));
    add(tree, dev, b"disk", device(S_IFBLK | 0o660, 4095, (1 << 20) - 1));
    add(tree, dev, b"fifo", inode(S_IFIFO | 0o644, Body::Fifo));
    add(tree, dev, b"socket", inode(S_IFSOCK | 0o755, Body::Socket));
}

/// An opaque directory with ACLs, a directory of three blocks, one with names around the dots.
fn add_directories(tree: &mut Tree) {
    let dir = || inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()));
    let mut opaque = dir();
    let acl =
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    opaque.xattrs = vec![
        xattr("system.posix_acl_access", acl),
        xattr("system.posix_acl_default", acl),
        xattr("trusted.overlay.opaque", b"y"),
    ];
    let opaque = add(tree, ROOT, b"opaque", opaque);
    let fifo = add(tree, opaque, b"many names", inode(S_IFIFO | 0o600, Body::Fifo));
    let many = add(tree, opaque, b"many", dir());
    for number in 0..300 {
        link(tree, many, format!("name {number:020}").as_bytes(), fifo);
    }
    let dots = add(tree, ROOT, b"dots", dir());
    for name in ["!", "-", ".\u{1}", "...", ".a", "/".replace('/', "0").as_str()] {
        add(tree, dots, name.as_bytes(), dir());
    }
}

/// Makes both checksums right again after a change, so that a reader looks further.
pub(crate) fn reseal(index: &mut [u8]) {
    if index.len() < BLOCK + trailer::TRAILER_LEN {
        return;
    }
    let crc = erofs::super_checksum(&index[..BLOCK]);
    index[erofs::SUPER_OFFSET + 4..][..4].copy_from_slice(&crc.to_le_bytes());
    let sum = trailer::checksum(index);
    let at = index.len() - trailer::TAIL_LEN - sum.len();
    index[at..][..sum.len()].copy_from_slice(&sum);
}

/// A tree with one inode of most kinds, small enough for tests that change each byte of its index.
pub(crate) fn small_tree() -> Tree {
    let mut tree = empty_tree();
    let dir = add(
        &mut tree,
        ROOT,
        b"dir",
        inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new())),
    );
    add(
        &mut tree,
        dir,
        b"sub",
        inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new())),
    );
    let mut shared = inode(S_IFREG | 0o644, file(5, 12, vec![data(0, 0)]));
    shared.xattrs = vec![xattr("trusted.x", b"1"), xattr("user.note", b"shared by two")];
    let shared = add(&mut tree, dir, b"file", shared);
    link(&mut tree, ROOT, b"again", shared);
    let mut big = inode(
        S_IFREG | 0o644,
        file((1 << 20) + 100, 20, vec![data(1, 700), data(0, 8)]),
    );
    big.mtime = Time { secs: 5, nanos: 7 };
    big.xattrs = vec![xattr("user.note", b"shared by two"), xattr("user.other", b"")];
    add(&mut tree, dir, b"big", big);
    add(
        &mut tree,
        ROOT,
        b"link",
        inode(S_IFLNK | 0o777, Body::Symlink(b"target".to_vec())),
    );
    add(
        &mut tree,
        ROOT,
        b"null",
        inode(S_IFCHR | 0o666, Body::Device { major: 1, minor: 3 }),
    );
    add(&mut tree, ROOT, b"fifo", inode(S_IFIFO | 0o644, Body::Fifo));
    tree
}
