//! Hard links.

use super::*;

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
