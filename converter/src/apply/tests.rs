//! What containerd makes of a tar, row by row. Each row's tree is what `archive.Apply` leaves on a disk.

#![allow(clippy::unwrap_used, clippy::type_complexity)]

use super::*;
use crate::tar::build::{Header, Tar, block, dir, header, link, records};

/// Keeps contents in place of extents.
#[derive(Default)]
struct Kept(Vec<Vec<u8>>);

impl Contents for Kept {
    fn file(&mut self, _path: &[u8], _mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        let mut bytes = vec![0; data.size() as usize];
        data.read(&mut bytes)?;
        self.0.push(bytes);
        // The content's number stands where a chunk size would.
        Ok(FileBody {
            size: data.size(),
            chunk_bits: self.0.len() as u8 - 1,
            extents: Vec::new(),
        })
    }
}

/// One line per name: path, type, mode, what else is not usual.
fn listing(tree: &Tree, kept: &Kept) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![(String::new(), ROOT)];
    let mut names: std::collections::HashMap<InodeId, usize> = std::collections::HashMap::new();
    for inode in &tree.inodes {
        if let Body::Dir(entries) = &inode.body {
            entries
                .values()
                .for_each(|id| *names.entry(*id).or_default() += 1);
        }
    }
    while let Some((path, id)) = todo.pop() {
        let inode = &tree.inodes[id.0 as usize];
        let what = match &inode.body {
            Body::Dir(entries) => {
                for (name, id) in entries.iter().rev() {
                    todo.push((format!("{path}/{}", name.escape_ascii()), *id));
                }
                "d".to_owned()
            }
            Body::File(file) => {
                let bytes = &kept.0[usize::from(file.chunk_bits)];
                if bytes.len() > 40 {
                    format!("f {}", bytes.len())
                } else {
                    format!("f {}", bytes.escape_ascii())
                }
            }
            Body::Symlink(target) => format!("-> {}", target.escape_ascii()),
            Body::Device { major, minor } if inode.mode & 0o170000 == S_IFCHR => format!("c {major}:{minor}"),
            Body::Device { major, minor } => format!("b {major}:{minor}"),
            Body::Fifo => "p".to_owned(),
            Body::Socket => "s".to_owned(),
        };
        let mut line = format!("{} {what}", if path.is_empty() { "/" } else { &path });
        let usual = match inode.body {
            Body::Dir(_) => 0o755,
            Body::Symlink(_) => 0o777,
            Body::Device { major: 0, minor: 0 } => 0,
            _ => 0o644,
        };
        if inode.mode & 0o7777 != usual {
            line += &format!(" {:o}", inode.mode & 0o7777);
        }
        if (inode.uid, inode.gid) != (0, 0) {
            line += &format!(" {}:{}", inode.uid, inode.gid);
        }
        if inode.mtime != (Time { secs: 1000, nanos: 0 }) && id != ROOT {
            line += &format!(" @{}.{}", inode.mtime.secs, inode.mtime.nanos);
        }
        for (name, value) in &inode.xattrs {
            line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
        }
        if names.get(&id).is_some_and(|n| *n > 1) {
            line += &format!(" #{}", names[&id]);
        }
        lines.push(line);
    }
    lines
}

fn apply(tar: &[u8], lowers: &[Arc<Tree>]) -> Result<(Tree, Kept), Error> {
    let mut kept = Kept::default();
    let tree = apply_layer(tar, lowers, &mut kept)?;
    Ok((tree, kept))
}

/// The tree as lines without the root's own, or the error.
fn show(tar: &[u8], lowers: &[Arc<Tree>]) -> Vec<String> {
    match apply(tar, lowers) {
        Ok((tree, kept)) => listing(&tree, &kept).split_off(1),
        Err(error) => vec![format!("error: {error}")],
    }
}

fn lower(tar: Tar) -> Vec<Arc<Tree>> {
    vec![skeleton(&apply(&tar.end(), &[]).unwrap().0)]
}

fn t() -> Tar {
    Tar::default()
}

/// An empty layer below: what is above is applied as an upper one.
fn empty() -> Vec<Arc<Tree>> {
    lower(t())
}

#[track_caller]
fn check(rows: Vec<(&str, Vec<Arc<Tree>>, Tar, &[&str])>) {
    for (name, lowers, tar, want) in rows {
        let got = show(&tar.end(), &lowers);
        if want.len() == 1 && want[0].starts_with("error: ") {
            assert_eq!(got.len(), 1, "{name}: {got:?}");
            assert!(got[0].contains(&want[0][7..]), "{name}: {got:?}");
        } else {
            assert_eq!(got, want, "{name}");
        }
    }
}

const B: Vec<Arc<Tree>> = Vec::new();

#[test]
fn names() {
    let deep = "d/".repeat(1500);
    check(vec![
        ("dot slash", B, t().dir("./").file("./a", b"1"), &["/a f 1"]),
        ("absolute", B, t().file("/a", b"1"), &["/a f 1"]),
        ("escape by dots", B, t().file("../../a", b"1"), &["/a f 1"]),
        ("dots within", B, t().file("x/../a", b"1"), &["/a f 1"]),
        (
            "the root's own entry is passed by",
            B,
            t().add(dir("./").mode(0o700).owner(5, 5), b""),
            &[],
        ),
        (
            "missing parents",
            B,
            t().file("x/y/a", b"1"),
            &["/x d", "/x/y d", "/x/y/a f 1"],
        ),
        (
            "entry for the parent afterwards",
            B,
            t().file("x/a", b"1").add(dir("x").mode(0o700).mtime(5), b""),
            &["/x d 700 @5.0", "/x/a f 1"],
        ),
        (
            "old type, name ends with a slash",
            B,
            t().add(header("x/", 0), b""),
            &["/x d 644"],
        ),
        ("old type, file", B, t().add(header("x", 0), b"1"), &["/x f 1"]),
        (
            "file whose name ends with a slash",
            B,
            t().file("x/", b"1"),
            &["/x f 1"],
        ),
        (
            "not UTF-8, newline, unicode",
            B,
            {
                let odd = Header {
                    name: b"\xff\n".to_vec(),
                    ..header("", b'0')
                };
                t().add(odd, b"1").file("gr\u{fc}n", b"2")
            },
            &["/gr\\xc3\\xbcn f 2", "/\\xff\\n f 1"],
        ),
        (
            "255 bytes",
            B,
            t().file(&"n".repeat(255), b"1"),
            &[&format!("/{} f 1", "n".repeat(255))],
        ),
        (
            "256 bytes",
            B,
            t().file(&"n".repeat(256), b"1"),
            &["error: too long"],
        ),
        (
            "4096 bytes of path",
            B,
            t().file(&"a/".repeat(2100), b"1"),
            &["error: longer than any kernel"],
        ),
        (
            "a file in the way",
            B,
            t().file("x", b"1").file("x/y", b"2"),
            &["error: not a directory"],
        ),
    ]);
    assert_eq!(show(&t().file(&format!("{deep}f"), b"1").end(), &B).len(), 1501);
}

#[test]
fn replacing() {
    check(vec![
        ("last wins", B, t().file("a", b"1").file("a", b"2"), &["/a f 2"]),
        (
            "file by folder",
            B,
            t().file("a", b"1").dir("a").file("a/b", b"2"),
            &["/a d", "/a/b f 2"],
        ),
    ]);
    check(vec![
        (
            "folder again: what is in it stays, attributes are the last ones, xattrs add up",
            B,
            t().add(dir("x").xattr("user.a", b"1"), b"")
                .file("x/b", b"2")
                .add(dir("x").mode(0o700).xattr("user.b", b"2"), b""),
            &["/x d 700 user.a=1 user.b=2", "/x/b f 2"],
        ),
        (
            "folder by file: the folder's time is set at the end, whatever stands there",
            B,
            t().add(dir("x").mtime(77), b"").file("x/b", b"2").file("x", b"1"),
            &["/x f 1 @77.0"],
        ),
        (
            "folder by link to another folder: that one gets the time",
            B,
            t().dir("y").add(dir("x").mtime(77), b"").symlink("x", "y"),
            &["/x -> y", "/y d @77.0"],
        ),
        (
            "folder by dangling link",
            B,
            t().dir("x").symlink("x", "nowhere"),
            &["error: removed again"],
        ),
        (
            "link by folder",
            B,
            t().dir("y").symlink("x", "y").dir("x").file("x/a", b"1"),
            &["/x d", "/x/a f 1", "/y d"],
        ),
    ]);
}

#[test]
fn symlinked_parents() {
    let usr = || lower(t().dir("usr").dir("usr/lib").symlink("lib", "usr/lib"));
    check(vec![
        (
            "in the same layer",
            B,
            t().dir("usr")
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .file("lib/a", b"1"),
            &["/lib -> usr/lib", "/usr d", "/usr/lib d", "/usr/lib/a f 1"],
        ),
        (
            "only below: a folder like the one the link means",
            usr(),
            t().file("lib/a", b"1"),
            &["/lib d", "/lib/a f 1"],
        ),
        (
            "absolute, confined",
            B,
            t().symlink("x", "/etc").file("x/a", b"1"),
            &["/etc d", "/etc/a f 1", "/x -> /etc"],
        ),
        (
            "dots, confined",
            B,
            t().symlink("x", "../../..").file("x/a", b"1"),
            &["/a f 1", "/x -> ../../.."],
        ),
        (
            "dangling: its target is made",
            B,
            t().symlink("x", "y/z").file("x/a", b"1"),
            &["/x -> y/z", "/y d", "/y/z d", "/y/z/a f 1"],
        ),
        (
            "of a link of a link",
            B,
            t().symlink("a", "b").symlink("b", "c").file("a/f", b"1"),
            &["/a -> b", "/b -> c", "/c d", "/c/f f 1"],
        ),
        (
            "relative to its folder",
            B,
            t().dir("d").symlink("d/x", "../e").file("d/x/f", b"1"),
            &["/d d", "/d/x -> ../e", "/e d", "/e/f f 1"],
        ),
        (
            "loop",
            B,
            t().symlink("a", "b").symlink("b", "a").file("a/f", b"1"),
            &["error: too many symbolic links"],
        ),
        (
            "to a file",
            B,
            t().file("f", b"1").symlink("a", "f").file("a/g", b"1"),
            &["error: not a directory"],
        ),
        (
            "the last part is not followed",
            B,
            t().dir("d").symlink("x", "d").file("x", b"1"),
            &["/d d", "/x f 1"],
        ),
    ]);
}

#[test]
fn hard_links() {
    let many = (0..300).fold(t().file("a", b"1"), |tar, i| tar.link(&format!("l{i:03}"), "a"));
    assert_eq!(show(&many.end(), &B)[300], "/l299 f 1 #301");
    check(vec![
        (
            "absolute and dotted targets",
            B,
            t().file("a", b"1").link("b", "/a").link("c", "./a"),
            &["/a f 1 #3", "/b f 1 #3", "/c f 1 #3"],
        ),
        (
            "to a symbolic link: to the link itself",
            B,
            t().file("f", b"1").symlink("a", "f").link("b", "a"),
            &["/a -> f #2", "/b -> f #2", "/f f 1"],
        ),
        (
            "to a FIFO",
            B,
            t().add(header("a", b'6'), b"").link("b", "a"),
            &["/a p #2", "/b p #2"],
        ),
        (
            "the header's attributes are the file's",
            B,
            t().file("a", b"1").add(
                link("b", b'1', "a")
                    .mode(0o4711)
                    .owner(5, 6)
                    .mtime(9)
                    .xattr("user.x", b"y"),
                b"",
            ),
            &[
                "/a f 1 4711 5:6 @9.0 user.x=y #2",
                "/b f 1 4711 5:6 @9.0 user.x=y #2",
            ],
        ),
        (
            "the target is replaced afterwards",
            B,
            t().file("a", b"1").link("b", "a").file("a", b"2"),
            &["/a f 2", "/b f 1"],
        ),
        (
            "through a symlinked folder",
            B,
            t().dir("d").file("d/a", b"1").symlink("e", "d").link("b", "e/a"),
            &["/b f 1 #2", "/d d", "/d/a f 1 #2", "/e -> d"],
        ),
        (
            "with a size: there are no data",
            B,
            {
                t().file("a", b"1")
                    .add(
                        Header {
                            size: Some(700),
                            ..link("b", b'1', "a")
                        },
                        b"",
                    )
                    .file("c", b"2")
            },
            &["/a f 1 #2", "/b f 1 #2", "/c f 2"],
        ),
        (
            "capabilities go with a change of owner",
            B,
            {
                let cap = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                t().add(header("a", b'0').xattr("security.capability", cap), b"1")
                    .link("b", "a")
            },
            &["/a f 1 #2", "/b f 1 #2"],
        ),
        (
            "target only below",
            lower(t().file("a", b"1")),
            t().link("b", "a"),
            &["error: which this layer does not have"],
        ),
        (
            "target later",
            B,
            t().link("b", "a").file("a", b"1"),
            &["error: which this layer does not have"],
        ),
        (
            "to itself",
            B,
            t().file("a", b"1").link("a", "a"),
            &["error: which this layer does not have"],
        ),
        (
            "to a folder",
            B,
            t().dir("a").link("b", "a"),
            &["error: hard link to a directory"],
        ),
        (
            "out of the tree",
            B,
            t().link("b", "../../etc/passwd"),
            &["error: which this layer does not have"],
        ),
    ]);
}

#[test]
fn whiteouts_in_upper_layers() {
    let u = empty;
    check(vec![
        ("of a file", u(), t().file(".wh.a", b""), &["/a c 0:0"]),
        (
            "with its owner",
            u(),
            t().add(header(".wh.a", b'0').owner(7, 8), b""),
            &["/a c 0:0 7:8"],
        ),
        (
            "in a folder without entry",
            u(),
            t().file("x/.wh.a", b""),
            &["/x d", "/x/a c 0:0"],
        ),
        (
            "then a file: the file stays",
            u(),
            t().file(".wh.a", b"").file("a", b"1"),
            &["/a f 1"],
        ),
        (
            "of what this layer made before",
            u(),
            t().file("a", b"1").file(".wh.a", b""),
            &["error: made before"],
        ),
        (
            "twice",
            u(),
            t().file(".wh.a", b"").file(".wh.a", b""),
            &["error: made before"],
        ),
        (
            "opaque",
            u(),
            t().dir("x").file("x/.wh..wh..opq", b""),
            &["/x d trusted.overlay.opaque=y"],
        ),
        (
            "opaque after siblings",
            u(),
            t().dir("x").file("x/a", b"1").file("x/.wh..wh..opq", b""),
            &["/x d trusted.overlay.opaque=y", "/x/a f 1"],
        ),
        (
            "opaque before its folder's entry",
            u(),
            t().file("x/.wh..wh..opq", b"").dir("x"),
            &["/x d trusted.overlay.opaque=y"],
        ),
        (
            "other marks of AUFS are whiteouts of odd names",
            u(),
            t().file(".wh..wh.plnk", b""),
            &["/.wh.plnk c 0:0"],
        ),
        (
            "without a name",
            u(),
            t().file(".wh.", b""),
            &["error: needs a name"],
        ),
        ("of dot", u(), t().file(".wh..", b""), &["error: needs a name"]),
        ("of dots", u(), t().file(".wh...", b""), &["error: needs a name"]),
        (
            "as a device",
            u(),
            t().add(header("a", b'3').mode(0), b""),
            &["/a c 0:0"],
        ),
    ]);
    let (root, _) = apply(&t().file(".wh..wh..opq", b"").end(), &empty()).unwrap();
    assert_eq!(
        root.inodes[0].xattrs,
        [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())]
    );
}

#[test]
fn whiteouts_in_the_bottom_layer() {
    check(vec![
        ("of nothing", B, t().file(".wh.a", b""), &[]),
        (
            "of what this layer made before",
            B,
            t().dir("x").file("x/a", b"1").file("x/.wh.a", b""),
            &["/x d"],
        ),
        (
            "then a file",
            B,
            t().file(".wh.a", b"").file("a", b"1"),
            &["/a f 1"],
        ),
        (
            "of a folder whose time is to be set",
            B,
            t().dir("x").file(".wh.x", b""),
            &["error: removed again"],
        ),
        (
            "opaque: what has entries stays",
            B,
            t().dir("x").file("x/a", b"1").file("x/.wh..wh..opq", b""),
            &["/x d", "/x/a f 1"],
        ),
        (
            "opaque: what has none goes, with all in it",
            B,
            t().dir("x").file("x/y/a", b"1").file("x/.wh..wh..opq", b""),
            &["/x d"],
        ),
    ]);
}

#[test]
fn parents_like_those_below() {
    let below = || {
        lower(
            t().add(
                dir("x").mode(0o1777).owner(5, 6).mtime(900).xattr("user.a", b"1"),
                b"",
            )
            .add(dir("x/y").mode(0o700), b"")
            .file("f", b"1"),
        )
    };
    let above = |tar: Tar| {
        let mut lowers = below();
        lowers.insert(0, skeleton(&apply(&tar.end(), &lowers).unwrap().0));
        lowers
    };
    check(vec![
        (
            "owner, mode, xattrs",
            below(),
            t().file("x/y/a", b"1"),
            &["/x d 1777 5:6 user.a=1", "/x/y d 700", "/x/y/a f 1"],
        ),
        (
            "a file below",
            below(),
            t().file("f/a", b"1"),
            &["/f d", "/f/a f 1"],
        ),
        (
            "the nearest layer counts",
            above(t().add(dir("x").mode(0o711), b"")),
            t().file("x/a", b"1"),
            &["/x d 711", "/x/a f 1"],
        ),
        (
            "a whiteout between",
            above(t().file(".wh.x", b"")),
            t().file("x/a", b"1"),
            &["/x d", "/x/a f 1"],
        ),
        (
            "deeper below a whiteout",
            above(t().file(".wh.x", b"")),
            t().file("x/y/a", b"1"),
            &["error: not a directory"],
        ),
        (
            "times: the latest in it",
            below(),
            t().add(header("x/a", b'0').mtime(950), b"1"),
            &["/x d 1777 5:6 @950.0 user.a=1", "/x/a f 1 @950.0"],
        ),
    ]);
}

#[test]
fn attributes_of_entries() {
    check(vec![
        (
            "setuid, setgid, sticky",
            B,
            t().add(header("a", b'0').mode(0o7755), b"1"),
            &["/a f 1 7755"],
        ),
        (
            "owners beyond 16 and 31 bits",
            B,
            t().add(header("a", b'0').owner(70_000, 3_000_000_000), b"1"),
            &["/a f 1 70000:3000000000"],
        ),
        (
            "owner of all ones: unchanged",
            B,
            t().add(header("a", b'0').owner(4_294_967_295, 5), b"1"),
            &["/a f 1 0:5"],
        ),
        (
            "owner in PAX",
            B,
            t().add(header("a", b'0').pax("uid", b"4000000000"), b"1"),
            &["/a f 1 4000000000:0"],
        ),
        (
            "device with a large minor",
            B,
            t().add(header("a", b'3').device(254, 1_000_000), b""),
            &["/a c 254:1000000"],
        ),
        (
            "device beyond the kernel's bits",
            B,
            t().add(header("a", b'4').device(4096 + 7, (1 << 20) + 3), b""),
            &["/a b 7:3"],
        ),
        (
            "nanoseconds",
            B,
            t().add(header("a", b'0').pax("mtime", b"12.345678901"), b"1"),
            &["/a f 1 @12.345678901"],
        ),
        (
            "before 1970",
            B,
            t().add(header("a", b'0').pax("mtime", b"-5.5"), b"1"),
            &["/a f 1 @0.0"],
        ),
        (
            "negative in base 256",
            B,
            t().add(header("a", b'0').mtime(u64::MAX), b"1"),
            &["/a f 1 @0.0"],
        ),
        (
            "beyond 2262",
            B,
            t().add(header("a", b'0').pax("mtime", b"9999999999999"), b"1"),
            &["/a f 1 @0.0"],
        ),
        (
            "zero",
            B,
            t().add(header("a", b'0').mtime(0), b"1"),
            &["/a f 1 @0.0"],
        ),
        (
            "xattrs",
            B,
            t().add(
                header("a", b'0').xattr("user.b", b"\0\xff").xattr("user.a", b""),
                b"1",
            ),
            &["/a f 1 user.a= user.b=\\x00\\xff"],
        ),
        (
            "trusted and unknown ones are left out",
            B,
            {
                t().add(
                    header("a", b'0')
                        .xattr("trusted.x", b"1")
                        .xattr("com.apple.x", b"1"),
                    b"1",
                )
            },
            &["/a f 1"],
        ),
        (
            "user xattr of a symlink is left out",
            B,
            t().add(link("a", b'2', "b").xattr("user.x", b"1"), b""),
            &["/a -> b"],
        ),
        (
            "malformed capabilities",
            B,
            t().add(header("a", b'0').xattr("security.capability", b"x"), b"1"),
            &["error: file capabilities are malformed"],
        ),
        (
            "link without a target",
            B,
            t().symlink("a", ""),
            &["error: without a target"],
        ),
        (
            "contiguous",
            B,
            t().add(header("a", b'7'), b"1"),
            &["error: contiguous file (type '7')"],
        ),
        (
            "GNU sparse",
            B,
            t().add(header("a", b'S'), b""),
            &["error: GNU sparse file (type 'S')"],
        ),
        (
            "unknown type",
            B,
            t().add(header("a", b'V'), b""),
            &["error: unknown type 'V'"],
        ),
    ]);
}

#[test]
fn acls() {
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, perm, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    };
    let none = u32::MAX;
    let list = |mask, other| {
        acl(&[
            (1, 6, none),
            (2, 7, 5),
            (4, 4, none),
            (16, mask, none),
            (32, other, none),
        ])
    };
    let show = |tar: Tar| show(&tar.end(), &B);
    let line = |what: &str, key: &str, value: &[u8]| format!("{what} {key}={}", value.escape_ascii());
    let access = "system.posix_acl_access";
    assert_eq!(
        show(t().add(header("a", b'0').mode(0o664).xattr(access, &list(7, 0)), b"1")),
        [line("/a f 1 664", access, &list(6, 4))],
        "chmod comes last and changes the mask"
    );
    assert_eq!(
        show(t().add(
            header("a", b'0').xattr(access, &acl(&[(1, 6, none), (4, 4, none), (32, 4, none)])),
            b"1"
        )),
        ["/a f 1"],
        "a list that says no more than the mode is none"
    );
    let default = "system.posix_acl_default";
    let inherited = show(
        t().add(dir("d").xattr(default, &list(7, 0)), b"")
            .file("d/a", b"1"),
    );
    assert_eq!(
        inherited,
        [
            line("/d d", default, &list(7, 0)),
            line("/d/a f 1", access, &list(4, 4))
        ],
        "a default list is handed down"
    );
    assert!(show(t().add(header("a", b'0').xattr(access, b"x"), b"1"))[0].contains("malformed"));
}

#[test]
fn streams() {
    let global = |data: &[(Vec<u8>, Vec<u8>)], name: &str| {
        let data = records(data);
        let mut tar = t();
        tar.0
            .extend_from_slice(&block(&header(name, b'g'), data.len() as u64));
        tar.data(&data)
    };
    let comment = [(b"comment".to_vec(), b"x".to_vec())];
    check(vec![
        (
            "global header",
            B,
            global(&comment, "pax_global_header").file("a", b"1"),
            &["/a f 1"],
        ),
        (
            "global header has no effect",
            B,
            global(&[(b"uid".to_vec(), b"7".to_vec())], "g").file("a", b"1"),
            &["/a f 1"],
        ),
        (
            "a global header's folder is made, a file of its name goes",
            B,
            {
                let mut tar = t().file("g", b"1");
                tar.0.extend_from_slice(&global(&comment, "tmp/x").0);
                tar.0.extend_from_slice(&global(&comment, "g").0);
                tar
            },
            &["/tmp d @0.0"],
        ),
        (
            "V7",
            B,
            t().add(
                Header {
                    magic: [0; 8],
                    ..header("a", b'0')
                },
                b"1",
            ),
            &["/a f 1"],
        ),
        (
            "GNU long name",
            B,
            {
                let name = format!("{}/x", "n".repeat(120));
                let long = Header {
                    magic: *b"ustar  \0",
                    ..header("././@LongLink", b'L')
                };
                t().dir(&"n".repeat(120))
                    .add(long, name.as_bytes())
                    .file("short", b"1")
            },
            &[
                &format!("/{} d", "n".repeat(120)),
                &format!("/{}/x f 1", "n".repeat(120)),
            ],
        ),
        (
            "damaged checksum",
            B,
            {
                let mut tar = t().file("a", b"1");
                tar.0[0] ^= 1;
                tar
            },
            &["error: checksum does not match"],
        ),
        (
            "something behind a zero block",
            B,
            Tar([vec![0; 512], t().file("a", b"1").0].concat()),
            &["error: zeros is followed"],
        ),
        (
            "too many extended headers",
            B,
            { (0..70).fold(t(), |tar, _| tar.add(header("x", b'L'), b"name")) },
            &["error: too many extended headers"],
        ),
    ]);
    let whole = t().file("a", &[1; 700]).0;
    assert_eq!(show(&whole, &B), ["/a f 700"], "no end blocks");
    assert_eq!(show(&whole[..512 + 700], &B), ["/a f 700"], "cut within padding");
    assert!(show(&whole[..512 + 699], &B)[0].contains("ends within an entry"));
    assert!(show(&whole[..100], &B)[0].contains("ends within a header"));
    assert_eq!(show(&[], &B), Vec::<String>::new(), "empty layer");
}

#[test]
fn sparse_files() {
    let sparse = |pax: &[(&str, &str)], data: &[u8]| {
        let header = pax.iter().fold(header("GNUSparseFile.0/s", b'0'), |h, (k, v)| {
            h.pax(k, v.as_bytes())
        });
        apply(&t().add(header, data).end(), &B)
            .map(|(tree, kept)| (listing(&tree, &kept).split_off(1), kept.0))
    };
    let mut want = vec![0; 2000];
    want[100..103].copy_from_slice(b"abc");
    want[1998..].copy_from_slice(b"yz");
    let mut map = b"2\n100\n3\n1998\n2\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abcyz");
    let v10 = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "2000"),
    ];
    let (lines, contents) = sparse(&v10, &map).unwrap();
    assert_eq!(
        (lines, &contents[0]),
        (vec!["/s f 2000".to_owned()], &want),
        "1.0"
    );
    let v01 = [
        ("GNU.sparse.map", "100,3,1998,2"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.size", "2000"),
        ("GNU.sparse.name", "s"),
    ];
    assert_eq!(sparse(&v01, b"abcyz").unwrap().1[0], want, "0.1");
    let v00 = [
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.size", "2000"),
        ("GNU.sparse.offset", "100"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "1998"),
        ("GNU.sparse.numbytes", "2"),
    ];
    assert_eq!(sparse(&v00, b"abcyz").unwrap().1[0], want, "0.0");
    let wrong: [(&str, &[(&str, &str)], &[u8]); 5] = [
        ("too few data", &v01, b"abc"),
        ("too many data", &v01, b"abcxyz"),
        (
            "overlap",
            &[
                ("GNU.sparse.map", "0,3,2,2"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.size", "9"),
            ],
            b"abcyz",
        ),
        (
            "beyond the end",
            &[
                ("GNU.sparse.map", "0,3,8,2"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.size", "9"),
            ],
            b"abcyz",
        ),
        (
            "count",
            &[
                ("GNU.sparse.map", "0,5"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.size", "9"),
            ],
            b"abcyz",
        ),
    ];
    for (name, pax, data) in wrong {
        assert!(matches!(sparse(pax, data), Err(Error::Tar { .. })), "{name}");
    }
}

#[test]
fn every_cut_and_flip_of_a_layer_is_an_answer() {
    let tar = t()
        .dir("d")
        .add(header("d/a", b'0').xattr("user.x", b"y"), b"hello")
        .link("b", "d/a")
        .symlink("c", "d")
        .file(&"n".repeat(200), b"1")
        .end();
    for cut in 0..tar.len() {
        drop(apply(&tar[..cut], &B));
    }
    let mut tar = tar;
    for at in 0..tar.len() {
        for bit in 0..8 {
            tar[at] ^= 1 << bit;
            drop(apply(&tar, &B));
            tar[at] ^= 1 << bit;
        }
    }
}
