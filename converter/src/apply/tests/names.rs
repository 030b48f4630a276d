//! What names entries get, and what they replace.

use super::*;

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
