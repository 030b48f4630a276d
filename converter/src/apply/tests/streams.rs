//! Where archives end, what is sparse, and damage anywhere.

use super::*;

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
