//! Whiteouts, opaque marks, and folders that no entry describes.

use super::*;

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
