//! What the format's writer writes, judged by software we did not write: erofs-utils and the
//! kernel's EROFS. Needs root, erofs-utils, and a kernel that mounts EROFS from files (6.12).

mod layer;
mod mounted;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use lacewing_format::tree::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
use lacewing_format::{Body, Extent, FileBody, Inode, InodeId, Time};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use layer::{Layer, ROOT, dir, inode};
use mounted::verify;

/// Tells whether the test can run here; says so if not.
fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed | 1)
        .collect()
}

fn symlink(len: usize) -> Inode {
    inode(S_IFLNK | 0o777, Body::Symlink(vec![b'a' + (len % 26) as u8; len]))
}

fn fifo() -> Inode {
    inode(S_IFIFO | 0o644, Body::Fifo)
}

#[test]
fn a_layer_of_nothing_but_its_root() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    verify(&Layer::new(0))
}

#[test]
fn files_of_all_sizes_on_several_devices() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(3);
    for (number, len) in [0, 1, 4095, 4096, 4097, 8192, 100_000, 300_000, 3_000_000]
        .into_iter()
        .enumerate()
    {
        for bits in [12, 16, 18, 20] {
            let name = format!("{len} by {bits}");
            layer.add_file(ROOT, name.as_bytes(), number % 3, bits, bytes(len, bits));
        }
    }
    // Sparse: holes at the start, inside, and at an end that is no whole block.
    let mut sparse = vec![0; 70_001];
    sparse[8192..20_000].fill(7);
    layer.add_file(ROOT, b"sparse", 1, 12, sparse.clone());
    layer.add_file(ROOT, b"sparse, large chunks", 1, 13, sparse);
    for size in [1, 1 << 32, (1 << 43) + 1, i64::MAX as u64] {
        let extents = vec![Extent::Hole; size.div_ceil(1 << 43) as usize];
        let body = Body::File(FileBody {
            size,
            chunk_bits: 43,
            extents,
        });
        let id = layer.add(
            ROOT,
            format!("hole of {size}").as_bytes(),
            inode(S_IFREG | 0o600, body),
        );
        layer.contents.insert(id, vec![0; size.min(1) as usize]);
    }
    verify(&layer)
}

#[test]
fn files_spread_over_devices() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(2);
    let one = layer.add_file(ROOT, b"one", 0, 12, bytes(4096, 1));
    let two = layer.add_file(ROOT, b"two", 1, 12, bytes(5000, 2));
    let extents = |layer: &Layer, id: InodeId| match &layer.tree.inodes[id.0 as usize].body {
        Body::File(file) => file.extents.clone(),
        _ => Vec::new(),
    };
    let body = Body::File(FileBody {
        size: 4096 + 4096 + 5000,
        chunk_bits: 12,
        extents: [extents(&layer, one), vec![Extent::Hole], extents(&layer, two)].concat(),
    });
    let both = layer.add(ROOT, b"both", inode(S_IFREG | 0o644, body));
    let content = [bytes(4096, 1), vec![0; 4096], bytes(5000, 2)].concat();
    layer.contents.insert(both, content);
    verify(&layer)
}

#[test]
fn the_most_devices() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(256);
    for number in 0..256 {
        layer.add_file(
            ROOT,
            format!("{number}").as_bytes(),
            number,
            12,
            bytes(10 + number, number as u8),
        );
    }
    verify(&layer)
}

#[test]
fn twenty_thousand_names_in_one_directory() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(1);
    let big = layer.add(ROOT, b"big", dir());
    for number in 0..20_000 {
        let name = format!("file number {number}");
        layer.add_file(big, name.as_bytes(), 0, 12, bytes(number % 50, number as u8));
    }
    layer.add(ROOT, b"behind it", fifo());
    verify(&layer)
}

#[test]
fn directories_around_each_block_border() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(0);
    let target = layer.add(ROOT, b"target", fifo());
    // 13 + 14 bytes for the dots, 15 entries of 255 + 12 bytes, then one that fills the block to
    // within a few bytes or over it.
    for last in 40..64 {
        let full = layer.add(ROOT, format!("full {last}").as_bytes(), dir());
        for number in 10..25 {
            layer.link(full, format!("{number}{}", "n".repeat(253)).as_bytes(), target);
        }
        layer.link(full, &vec![b'z'; last], target);
    }
    let odd = layer.add(ROOT, b"odd names", dir());
    for name in [
        &b"!"[..],
        b"-",
        b"...",
        b".\x01",
        b"..a",
        b".a",
        b"\xff\xfe",
        b"new\nline",
        b" ",
        b"*",
    ] {
        layer.link(odd, name, target);
    }
    let mut deep = ROOT;
    for _ in 0..200 {
        deep = layer.add(deep, b"d", dir());
    }
    verify(&layer)
}

#[test]
fn symlinks_of_every_length() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(0);
    for len in (1..4095).step_by(61).chain(3960..=4095) {
        let mut link = symlink(len);
        if len % 2 == 1 {
            link.mtime.nanos = 1;
        }
        layer.add(ROOT, format!("{len}").as_bytes(), link);
    }
    verify(&layer)
}

fn capability() -> (Vec<u8>, Vec<u8>) {
    let value = [&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
    (b"security.capability".to_vec(), value)
}

/// An ACL as the kernel keeps it: version 2, then tag, permissions and id of each entry.
fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in [
        (1, 7, none),
        (2, 6, 1000),
        (4, 5, none),
        (0x10, 7, none),
        (0x20, 5, none),
    ] {
        acl.extend(u16::to_le_bytes(tag));
        acl.extend(u16::to_le_bytes(permissions));
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn xattrs_alone_and_shared() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(1);
    let file = layer.add_file(ROOT, b"with capability", 0, 12, bytes(5000, 3));
    layer.tree.inodes[file.0 as usize].xattrs = vec![capability()];
    let mut opaque = dir();
    opaque.mode = opaque.mode & !0o777 | 0o775;
    opaque.xattrs = vec![
        (b"system.posix_acl_access".to_vec(), acl()),
        (b"system.posix_acl_default".to_vec(), acl()),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
    ];
    layer.add(ROOT, b"opaque", opaque.clone());
    layer.add(ROOT, b"opaque too", opaque);
    for file in 0..20_u8 {
        let id = layer.add_file(ROOT, format!("many {file}").as_bytes(), 0, 12, bytes(100, file));
        // The kernel lists 64 KiB of names at most; values differ from file to file at the end.
        let xattrs = (0..300_u16).map(|number| {
            let name = format!("user.attribute number {number:03}").into_bytes();
            let own = if number % 7 == 0 { file } else { 0 };
            (name, vec![own; usize::from(number)])
        });
        layer.tree.inodes[id.0 as usize].xattrs = xattrs.collect();
    }
    let long = layer.add_file(ROOT, b"long values", 0, 12, bytes(9000, 1));
    layer.tree.inodes[long.0 as usize].xattrs = (0..3_u8)
        .map(|number| {
            (
                [b"user.", &[b'a' + number; 250][..]].concat(),
                vec![number; 65_535],
            )
        })
        .collect();
    verify(&layer)
}

#[test]
fn owners_times_links_and_devices() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut layer = Layer::new(1);
    let linked = layer.add_file(ROOT, b"linked", 0, 12, bytes(10, 0));
    let sub = layer.add(ROOT, b"sub", dir());
    for number in 0..70_000 {
        layer.link(sub, format!("{number}").as_bytes(), linked);
    }
    for (number, owner) in [0, 1, 65_535, 65_536, u32::MAX - 1].into_iter().enumerate() {
        let mut owned = fifo();
        (owned.uid, owned.gid) = (owner, u32::MAX - 1 - owner);
        layer.add(ROOT, format!("owner {number}").as_bytes(), owned);
    }
    for (number, secs) in [-1, 0, 1, i64::from(i32::MAX) + 1, 1 << 33]
        .into_iter()
        .enumerate()
    {
        for nanos in [0, 1, 999_999_999] {
            let mut dated = fifo();
            dated.mtime = Time { secs, nanos };
            layer.add(ROOT, format!("time {number} {nanos}").as_bytes(), dated);
        }
    }
    for (number, (major, minor)) in [(0, 0), (1, 3), (8, 256), (4095, (1 << 20) - 1)]
        .into_iter()
        .enumerate()
    {
        for (kind, mode) in [("c", S_IFCHR), ("b", S_IFBLK | 0o660)] {
            let device = inode(mode, Body::Device { major, minor });
            layer.add(ROOT, format!("device {kind}{number}").as_bytes(), device);
        }
    }
    layer.add(ROOT, b"socket", inode(S_IFSOCK | 0o7777, Body::Socket));
    verify(&layer)
}

/// What a random inode is; the numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Kind {
    Dir,
    File {
        pack: u8,
        bits: u8,
        runs: Vec<(u16, bool)>,
    },
    Symlink(u16),
    Fifo,
    Device(u32, u32),
    Link(u8),
}

#[derive(Clone, Debug)]
struct Step {
    parent: u8,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    uid: u32,
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn kind() -> impl Strategy<Value = Kind> {
    let runs = prop::collection::vec((any::<u16>(), any::<bool>()), 0..4);
    prop_oneof![
        3 => Just(Kind::Dir),
        6 => (any::<u8>(), 12..=20_u8, runs).prop_map(|(pack, bits, runs)| Kind::File { pack, bits, runs }),
        2 => (1..=4095_u16).prop_map(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Device(major, minor)),
        2 => any::<u8>().prop_map(Kind::Link),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'f', 1 => any::<u8>()];
    let name = prop_oneof![
        prop::collection::vec(byte, 1..6),
        (1..=255_usize, b'g'..=b'z').prop_map(|(len, byte)| vec![byte; len]),
    ];
    name.prop_filter("a valid name", |name| {
        name != b"." && name != b".." && !name.iter().any(|&b| b == 0 || b == b'/')
    })
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let prefix = prop_oneof![
        Just(&b"user."[..]),
        Just(&b"trusted."[..]),
        Just(&b"security."[..])
    ];
    let name = (prefix, b'a'..=b'd', 1..200_usize)
        .prop_map(|(prefix, byte, len)| [prefix, &vec![byte; len][..]].concat());
    let value = (any::<u8>(), 0..300_usize).prop_map(|(byte, len)| vec![byte & 3; len]);
    prop_oneof![3 => Just(BTreeMap::new()), 1 => prop::collection::btree_map(name, value, 0..6)]
}

fn step() -> impl Strategy<Value = Step> {
    let uid = prop_oneof![Just(0), 0..70_000_u32];
    let mtime = prop_oneof![3 => Just((1_700_000_000, 0)), 1 => (0..1_i64 << 34, 0..1_000_000_000_u32)];
    (any::<u8>(), name(), kind(), 0..=0o7777_u32, uid, mtime, xattrs()).prop_map(
        |(parent, name, kind, mode, uid, mtime, xattrs)| Step {
            parent,
            name,
            kind,
            mode,
            uid,
            mtime,
            xattrs,
        },
    )
}

fn build(steps: &[Step]) -> Layer {
    let mut layer = Layer::new(3);
    for pack in 0..3 {
        // A blob that no file points to is not listed.
        layer.add_file(ROOT, format!("pack {pack}").as_bytes(), pack, 12, bytes(1, 0));
    }
    let mut dirs = vec![ROOT];
    let mut others = Vec::new();
    for step in steps {
        let parent = dirs[usize::from(step.parent) % dirs.len()];
        let taken = match &layer.tree.inodes[parent.0 as usize].body {
            Body::Dir(entries) => entries.contains_key(&step.name),
            _ => true,
        };
        if taken {
            continue;
        }
        let id = match &step.kind {
            Kind::Dir => layer.add(parent, &step.name, dir()),
            Kind::File { pack, bits, runs } => {
                let mut content = Vec::new();
                for &(len, hole) in runs {
                    let len = usize::from(len);
                    content.extend(if hole { vec![0; len] } else { bytes(len, *bits) });
                }
                layer.add_file(parent, &step.name, usize::from(*pack) % 3, *bits, content)
            }
            Kind::Symlink(len) => layer.add(parent, &step.name, symlink((*len).into())),
            Kind::Fifo => layer.add(parent, &step.name, fifo()),
            &Kind::Device(major, minor) => {
                layer.add(parent, &step.name, inode(S_IFCHR, Body::Device { major, minor }))
            }
            Kind::Link(to) => {
                if let Some(&to) = others.get(usize::from(*to) % others.len().max(1)) {
                    layer.link(parent, &step.name, to);
                }
                continue;
            }
        };
        let inode = &mut layer.tree.inodes[id.0 as usize];
        inode.mode |= step.mode;
        inode.uid = step.uid;
        (inode.mtime.secs, inode.mtime.nanos) = step.mtime;
        // Linux knows user xattrs on files and directories only.
        let user = matches!(inode.body, Body::File(_) | Body::Dir(_));
        let xattrs = step.xattrs.clone().into_iter();
        inode.xattrs = xattrs
            .filter(|xattr| user || !xattr.0.starts_with(b"user."))
            .collect();
        match step.kind {
            Kind::Dir => dirs.push(id),
            _ => others.push(id),
        }
    }
    layer
}

#[test]
fn random_trees() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let config = ProptestConfig {
        cases: 40,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec(step(), 0..150);
    let result = TestRunner::new(config).run(&steps, |steps| {
        let layer = build(&steps);
        verify(&layer).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    result.map_err(|error| anyhow!("{error}"))
}
