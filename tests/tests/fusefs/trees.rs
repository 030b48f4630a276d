//! Both ways to show a layer show the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt};
use std::path::Path;

use lacewing_format::{
    Body, Digest, Extent, FileBody, Index, Inode, InodeId, InodeView, Tables, Time, Tree, write_index,
};
use lacewing_fusefs::{Engine, Feature, Options, TreeKind, Way};

use crate::image::{Cut, Layer, layer, mixed, noise};
use crate::node::{Node, node, quiet_auto, quiet_fuse, verify};

/// Bits of an inode number that are the layer's own in a tree in user space; the layer's number is above.
const OWN: u64 = (1 << 26) - 1;

/// A layer with everything that a tar can hold, and what filesystems trip over. `xattrs`: with these, too.
fn edges(xattrs: bool) -> Layer {
    let files = vec![
        ("empty".to_owned(), vec![]),
        ("byte".to_owned(), vec![7]),
        ("block".to_owned(), noise(1, 4096)),
        ("more".to_owned(), noise(2, 4097)),
        ("large".to_owned(), noise(3, 3_333_333)),
    ];
    let base = layer(files, Cut::default());
    let plain = zstd::stream::decode_all(&base.index[..]).unwrap();
    let index = Index::parse(&plain).unwrap();
    let root = index.inode(index.root()).unwrap();
    let found = |name: &str| {
        index
            .inode(root.lookup(name.as_bytes()).unwrap().unwrap().nid)
            .unwrap()
    };
    let file = |inode: InodeView<'_>| {
        Body::File(FileBody {
            size: inode.size(),
            chunk_bits: inode.chunk_bits(),
            extents: inode.extents().unwrap().map(Result::unwrap).collect(),
        })
    };
    let mut tree = Builder::new();
    for name in ["empty", "byte", "block", "more", "large"] {
        tree.add("", name, 0o100_644, file(found(name)));
    }
    let large = found("large");
    let extents: Vec<Extent> = large.extents().unwrap().map(Result::unwrap).collect();
    let holes = extents.iter().enumerate();
    let holes = holes.map(|(at, extent)| if at % 3 == 1 { Extent::Hole } else { *extent });
    let holes = FileBody {
        size: large.size(),
        chunk_bits: large.chunk_bits(),
        extents: holes.collect(),
    };
    tree.add("", "holes", 0o100_600, Body::File(holes));
    let reversed = FileBody {
        size: extents.len() as u64 / 2 * (1 << large.chunk_bits()),
        chunk_bits: large.chunk_bits(),
        extents: extents[..extents.len() / 2].iter().rev().copied().collect(),
    };
    tree.add("", "reversed", 0o104_755, Body::File(reversed));
    let all_hole = FileBody {
        size: 1 << 40,
        chunk_bits: 30,
        extents: vec![Extent::Hole; 1 << 10],
    };
    tree.add("", "all-hole", 0o100_000, Body::File(all_hole));
    tree.link("", "hard-link", "large");
    tree.dir("", "dir", 0o1777);
    tree.link("dir", "another", "large");
    tree.add("dir", "whiteout", 0o020_000, Body::Device { major: 0, minor: 0 });
    tree.add("dir", "null", 0o020_666, Body::Device { major: 1, minor: 3 });
    let device = Body::Device {
        major: 4095,
        minor: (1 << 20) - 1,
    };
    tree.add("dir", "disk", 0o060_660, device);
    tree.add("dir", "fifo", 0o010_644, Body::Fifo);
    tree.add("dir", "socket", 0o140_777, Body::Socket);
    tree.add("dir", "symlink", 0o120_777, Body::Symlink(b"../large".to_vec()));
    tree.add("dir", "long", 0o120_777, Body::Symlink(vec![b'x'; 4000]));
    tree.add(
        "dir",
        OsStr::from_bytes(&[0xff, b'\n', b' ']),
        0o100_644,
        file(found("byte")),
    );
    tree.add(
        "dir",
        OsStr::from_bytes(&[b'n'; 255]),
        0o100_644,
        file(found("byte")),
    );
    tree.dir("dir", "many", 0o755);
    for n in 0..3000 {
        tree.add(
            "dir/many",
            format!("file-{n:04}-{}", "y".repeat(n % 40)),
            0o100_644,
            file(found("byte")),
        );
    }
    tree.dir("dir", "empty", 0o700);
    tree.dir("dir", "deep", 0o755);
    let mut deep = "dir/deep".to_owned();
    for _ in 0..40 {
        tree.dir(&deep, "d", 0o755);
        deep.push_str("/d");
    }
    tree.times();
    if xattrs {
        tree.xattrs();
    }
    let tables = Tables {
        devices: index.devices().to_vec(),
        frames: index.frames().to_vec(),
        chunks: index.chunks().to_vec(),
        prefetch: vec![],
        recorded: false,
        layer: Digest::of(b"edges"),
        diff_id: Digest::of(b"edges"),
    };
    let index = zstd::bulk::compress(&write_index(&tree.tree, &tables).unwrap(), 1).unwrap();
    Layer {
        digest: Digest::of(&index),
        index,
        blob: base.blob.clone(),
        blob_digest: base.blob_digest,
        files: base.files.clone(),
    }
}

/// Makes a tree by paths.
struct Builder {
    tree: Tree,
    paths: BTreeMap<std::path::PathBuf, InodeId>,
}

impl Builder {
    fn new() -> Builder {
        let mut builder = Builder {
            tree: Tree { inodes: vec![] },
            paths: BTreeMap::new(),
        };
        let root = builder.inode(0o040_755, Body::Dir(BTreeMap::new()));
        builder.paths.insert("".into(), root);
        builder
    }

    fn inode(&mut self, mode: u32, body: Body) -> InodeId {
        let n = self.tree.inodes.len() as u32;
        self.tree.inodes.push(Inode {
            mode,
            uid: n % 7 * 1000,
            gid: if n.is_multiple_of(5) { 100_000 + n } else { 0 },
            mtime: Time { secs: 1, nanos: 2 },
            xattrs: vec![],
            body,
        });
        InodeId(n)
    }

    fn add(&mut self, dir: &str, name: impl AsRef<OsStr>, mode: u32, body: Body) {
        let id = self.inode(mode, body);
        self.name(dir, name.as_ref(), id);
    }

    fn dir(&mut self, dir: &str, name: &str, mode: u32) {
        self.add(dir, name, 0o040_000 | mode, Body::Dir(BTreeMap::new()));
    }

    fn link(&mut self, dir: &str, name: &str, target: &str) {
        let id = self.paths[Path::new(target)];
        self.name(dir, OsStr::new(name), id);
    }

    fn name(&mut self, dir: &str, name: &OsStr, id: InodeId) {
        let parent = self.paths[Path::new(dir)];
        let Body::Dir(names) = &mut self.tree.inodes[parent.0 as usize].body else {
            panic!("{dir} is no directory");
        };
        names.insert(name.as_bytes().to_vec(), id);
        self.paths.insert(Path::new(dir).join(name), id);
    }

    /// Times before 1970, far away, and with nanoseconds.
    fn times(&mut self) {
        let times = [
            (-1, 999_999_999),
            (0, 0),
            (1_700_000_000, 1),
            (1 << 33, 0),
            (-(1 << 40), 5),
        ];
        for (n, inode) in self.tree.inodes.iter_mut().enumerate() {
            let (secs, nanos) = times[n % times.len()];
            inode.mtime = Time { secs, nanos };
        }
    }

    fn xattrs(&mut self) {
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // Version 2; user rw-, user 1000 r--, group r--, mask rw-, other ---.
        let acl = [
            &2_u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 6, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        let rows: [(&str, &str, &[u8]); 8] = [
            ("", "user.root", b"x"),
            ("byte", "security.capability", &capability),
            ("large", "user.long", &[b'v'; 3000]),
            ("large", "user.empty", b""),
            ("more", "system.posix_acl_access", &acl),
            ("dir", "trusted.overlay.opaque", b"y"),
            ("dir/symlink", "trusted.mine", b"1"),
            ("dir/many/file-0000-", "user.a", b"b"),
        ];
        for (path, name, value) in rows {
            let id = self.paths[Path::new(path)];
            let xattrs = &mut self.tree.inodes[id.0 as usize].xattrs;
            xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
            xattrs.sort();
        }
    }
}

/// All that can be seen of a tree, path by path.
fn walk(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let mut facts = vec![
            format!("ino {}", meta.ino() & OWN),
            format!("mode {:o} nlink {}", meta.mode(), meta.nlink()),
            format!("owner {}:{}", meta.uid(), meta.gid()),
            format!(
                "size {} blocks {} blksize {}",
                meta.size(),
                meta.blocks(),
                meta.blksize()
            ),
            format!("rdev {:x}", meta.rdev()),
            format!("mtime {}.{}", meta.mtime(), meta.mtime_nsec()),
            format!("atime {}.{}", meta.atime(), meta.atime_nsec()),
            format!("ctime {}.{}", meta.ctime(), meta.ctime_nsec()),
        ];
        facts.extend(xattrs(&path));
        let kind = meta.file_type();
        if kind.is_symlink() {
            facts.push(format!("target {:?}", std::fs::read_link(&path).unwrap()));
        } else if kind.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                facts.push(format!(
                    "entry {:?} {} {kind:?}",
                    entry.file_name(),
                    entry.ino() & OWN
                ));
                todo.push(entry.path());
            }
        } else if kind.is_file() && meta.size() < 1 << 30 {
            facts.push(format!("bytes {}", Digest::of(&std::fs::read(&path).unwrap())));
        } else {
            facts.push(format!(
                "special {}",
                kind.is_char_device() || kind.is_block_device()
            ));
        }
        seen.insert(format!("{:?}", path.strip_prefix(root).unwrap()), facts);
    }
    seen
}

/// Names and values of xattrs; also what is said of one that is not there.
fn xattrs(path: &Path) -> Vec<String> {
    let mut room = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut room[..]).unwrap();
    let names = room[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.sort();
    let value = |name: Vec<u8>| {
        let mut value = vec![0; 65_536];
        let name = std::ffi::OsString::from_vec(name);
        let len = rustix::fs::lgetxattr(path, &name, &mut value[..]).unwrap();
        format!("xattr {name:?} {:?}", &value[..len])
    };
    names.into_iter().map(value).collect()
}

/// What statfs(2) says, but for the file system's type and id.
fn stat_fs(path: &Path) -> String {
    let found = rustix::fs::statfs(path).unwrap();
    format!(
        "{} {} {} {} {} {} {} {}",
        found.f_bsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_namelen,
        found.f_frsize
    )
}

fn assert_same(kernel: &Path, fuse: &Path) {
    let (expected, found) = (walk(kernel), walk(fuse));
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>()
    );
    for (path, expected) in &expected {
        assert_eq!(&found[path], expected, "{path}");
    }
    assert_eq!(stat_fs(kernel), stat_fs(fuse));
}

/// A node that shows layers in the kernel's way, and one in the other.
fn both() -> Option<(Node, Node)> {
    Some((node(quiet_auto)?, node(quiet_fuse)?))
}

#[test]
fn walks_are_equal() {
    let Some((kernel, fuse)) = both() else { return };
    assert_eq!(
        (kernel.engine().way(), fuse.engine().way()),
        (Way::Kernel, Way::Fuse)
    );
    for xattrs in [false, true] {
        let layer = edges(xattrs);
        let (by_kernel, by_fuse) = (kernel.show(&layer), fuse.show(&layer));
        // Cold, then from what the kernel keeps.
        assert_same(&by_kernel, &by_fuse);
        assert_same(&by_kernel, &by_fuse);
        verify(&by_fuse, &layer);
        let id = fuse.engine().layer(&layer.digest).unwrap();
        fuse.complete(id);
        let shown = fuse.engine().show(id).unwrap();
        assert!(!shown.direct);
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        assert_same(&by_kernel, &shown.path);
    }
}

#[test]
fn walks_are_equal_where_the_kernel_lacks_features() {
    let Some(kernel) = node(quiet_auto) else { return };
    let features = [
        Feature::Readdirplus,
        Feature::NoOpendir,
        Feature::Idmap,
        Feature::Resend,
    ];
    let layer = edges(true);
    let by_kernel = kernel.show(&layer);
    for denied in features
        .map(|feature| vec![feature])
        .into_iter()
        .chain([features.to_vec()])
    {
        let deny = |options: &mut Options| {
            quiet_fuse(options);
            options.deny = denied.clone();
        };
        let Some(fuse) = node(deny) else { return };
        let found = fuse.engine().features();
        let lacks = |feature| denied.contains(&feature);
        assert_eq!(found.readdirplus, !lacks(Feature::Readdirplus));
        assert_eq!(found.no_opendir, !lacks(Feature::NoOpendir));
        assert_eq!(found.resend, !lacks(Feature::Resend));
        assert_same(&by_kernel, &fuse.show(&layer));
    }
}

#[test]
fn the_better_way_is_taken_if_it_works() {
    let auto = |deny: Vec<Feature>| {
        move |options: &mut Options| {
            quiet_auto(options);
            options.deny = deny.clone();
        }
    };
    let Some(free) = node(auto(vec![])) else { return };
    assert_eq!(free.engine().way(), Way::Kernel);
    let denied = node(auto(vec![Feature::ErofsFile])).unwrap();
    assert_eq!(denied.engine().way(), Way::Fuse);
    assert!(denied.engine().obstacle().is_none());
    let cached = node(auto(vec![Feature::DirectIo])).unwrap();
    assert_eq!(cached.engine().way(), Way::Kernel);
    let layer = mixed(11, 20, 1);
    for node in [&free, &denied, &cached] {
        verify(&node.show(&layer), &layer);
    }
    let forced = |options: &mut Options| {
        quiet_auto(options);
        options.trees = Way::Kernel;
        options.deny = vec![Feature::ErofsFile];
    };
    assert!(node(forced).is_none(), "what was asked for does not work");
}

#[test]
fn each_layer_is_on_its_connection() {
    let Some(node) = node(quiet_fuse) else { return };
    let device = |path: &Path| path.metadata().unwrap().dev();
    for (xattrs, kind) in [(false, TreeKind::Plain), (true, TreeKind::Xattrs)] {
        let path = node.show(&edges(xattrs));
        assert_eq!(
            device(&path),
            device(&lacewing_fusefs::tree_dir(node.root.path(), kind))
        );
    }
}

#[test]
fn a_layer_stays_what_it_was_over_restarts_and_changes_of_way() {
    let Some(mut node) = node(quiet_fuse) else { return };
    let layer = edges(true);
    let path = node.show(&layer);
    let before = walk(&path);
    node.stop();
    node.start(quiet_fuse);
    let id = node.engine().layer(&layer.digest).unwrap();
    assert_eq!(node.engine().show(id).unwrap().path, path);
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(walk(&path), before);
    // A container that stands on the old way goes on; all has been read, so a new one gets the complete form.
    let held = std::fs::File::open(path.join("large")).unwrap();
    node.stop();
    node.start(quiet_auto);
    assert_eq!(node.engine().way(), Way::Kernel);
    assert_eq!(walk(&node.engine().show(id).unwrap().path), before);
    let mut bytes = vec![0; 5000];
    std::os::unix::fs::FileExt::read_exact_at(&held, &mut bytes, 1_000_000).unwrap();
    assert_eq!(bytes, layer.files[4].1[1_000_000..1_005_000]);
    assert_eq!(walk(&path), before);
    node.engine().remove(id).unwrap();
    assert!(!path.exists());
}

#[test]
fn nothing_is_shown_that_nobody_serves() {
    let Some(mut node) = node(quiet_fuse) else { return };
    let id = node.add(&mixed(12, 3, 0));
    node.tree_serving
        .drain(..)
        .for_each(lacewing_fusefs::Serving::stop);
    assert!(matches!(
        node.engine().show(id),
        Err(lacewing_fusefs::Error::NotServing(_))
    ));
    assert!(Engine::data_dir(node.root.path()).exists());
}

#[test]
fn the_kernel_keeps_that_a_name_is_not_there() {
    let Some(mut node) = node(quiet_fuse) else { return };
    let absent = |path: &Path| path.metadata().unwrap_err().kind() == std::io::ErrorKind::NotFound;
    for xattrs in [false, true] {
        let names = ["dir/absent", "absent"].map(|name| node.show(&edges(xattrs)).join(name));
        assert!(names.iter().all(|name| absent(name)));
        // Nobody answers any more: a question would wait.
        node.stop();
        let (say, said) = std::sync::mpsc::channel();
        let asked = names.clone();
        std::thread::spawn(move || say.send(asked.iter().all(|name| absent(name))));
        let still = said.recv_timeout(std::time::Duration::from_secs(30));
        node.start(quiet_fuse);
        assert_eq!(still, Ok(true), "xattrs: {xattrs}");
    }
}
