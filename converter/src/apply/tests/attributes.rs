//! Modes, owners, times, xattrs, ACLs.

use super::*;

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
