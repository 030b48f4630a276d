//! Tars.

use std::io::Write;

use lacewing_format::{FileType, Index};
use serde_json::json;

use crate::world::{Random, World, describe, entry, small_tar};

#[test]
fn tars_that_are_cut_or_flipped_convert_to_what_they_are_or_not_at_all() {
    let mut random = Random(7);
    let good = small_tar();
    let world = World::new();
    let (mut refused, mut converted) = (0, 0);
    for round in 0..120 {
        let mut bad = good.clone();
        if round % 3 == 0 {
            bad.truncate(random.below(good.len()));
        } else {
            let at = random.below(bad.len() - 1024);
            bad[at] ^= 1 << random.below(8);
        }
        world.image(&[bad]);
        match world.convert() {
            Err(_) => refused += 1,
            Ok(()) => {
                converted += 1;
                assert_eq!(world.check(), [""; 0], "round {round}");
            }
        }
    }
    assert!(
        refused > 20 && converted > 5,
        "{refused} refused, {converted} converted"
    );
}

#[test]
fn compressed_layers_that_are_cut_or_flipped_are_refused() {
    let world = World::new();
    let manifest = world.image(&[small_tar()]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&small_tar()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::bulk::compress(&small_tar(), 3).unwrap();
    let mut random = Random(9);
    for good in [gzip, zstd] {
        for round in 0..60 {
            let mut bad = good.clone();
            if round % 2 == 0 {
                bad.truncate(random.below(good.len()));
            } else {
                let at = random.below(bad.len());
                bad[at] ^= 1 << random.below(8);
            }
            let mut image = manifest.clone();
            image["layers"] = json!([describe(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                &world.put("source", &bad)
            )]);
            world.manifest("source", &image);
            // The header of a gzip member has bits that mean nothing: then nothing may have changed.
            if world.convert().is_ok() {
                assert_eq!(world.check(), [""; 0], "round {round}");
            }
        }
    }
}

/// All names in an index, from its root.
fn names(plain: &[u8]) -> Vec<String> {
    let index = Index::parse(plain).unwrap();
    let (mut names, mut todo) = (Vec::new(), vec![(String::new(), index.root())]);
    while let Some((path, nid)) = todo.pop() {
        for entry in index.inode(nid).unwrap().entries().unwrap() {
            let entry = entry.unwrap();
            let name = std::str::from_utf8(entry.name).unwrap();
            if matches!(name, "." | "..") {
                continue;
            }
            let path = format!("{path}/{name}");
            if entry.file_type == FileType::Dir {
                todo.push((path.clone(), entry.nid));
            }
            names.push(path);
        }
    }
    names.sort();
    names
}

#[test]
fn names_never_leave_the_root() {
    let world = World::new();
    let mut tar = Vec::new();
    entry(&mut tar, "../../up", b'0', "", 1, b"1");
    entry(&mut tar, "/root", b'0', "", 1, b"2");
    entry(&mut tar, "a/../../b", b'0', "", 1, b"3");
    entry(&mut tar, "out", b'2', "/../../..", 0, b"");
    entry(&mut tar, "out/file", b'0', "", 1, b"4");
    entry(&mut tar, "hard", b'1', "../../up", 0, b"");
    tar.resize(tar.len() + 1024, 0);
    world.image(&[tar]);
    world.convert().unwrap();
    assert_eq!(world.check(), [""; 0]);
    assert_eq!(
        names(&world.mount().unwrap()[0]),
        ["/b", "/file", "/hard", "/out", "/root", "/up"]
    );
}

#[test]
fn a_link_to_what_is_outside_is_refused() {
    let world = World::new();
    for target in ["/etc/passwd", "../../etc/passwd", "nothing"] {
        let mut tar = Vec::new();
        entry(&mut tar, "hard", b'1', target, 0, b"");
        world.image(&[tar]);
        world.convert().expect_err(target);
    }
}

#[test]
fn lengths_in_headers_that_lie_are_refused() {
    let world = World::new();
    for size in [513, 1 << 20, 0o77_777_777_777] {
        let mut tar = Vec::new();
        entry(&mut tar, "f", b'0', "", size, b"1");
        world.image(&[tar]);
        world.convert().expect_err("a file that ends too early");
    }
}

/// A GNU sparse file (PAX 1.0) of `size` bytes with `data` at its start.
fn sparse(size: u64, data: &[u8]) -> Vec<u8> {
    let record = |key: &str, value: &str| {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len = body + len.to_string().len();
        }
        format!("{len} {key}={value}\n")
    };
    let records = [
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.name", "giant"),
        record("GNU.sparse.realsize", &size.to_string()),
    ]
    .concat();
    let mut map = format!("1\n0\n{}\n", data.len()).into_bytes();
    map.resize(512, 0);
    map.extend_from_slice(data);
    let mut tar = Vec::new();
    entry(
        &mut tar,
        "pax",
        b'x',
        "",
        records.len() as u64,
        records.as_bytes(),
    );
    entry(&mut tar, "giant", b'0', "", map.len() as u64, &map);
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// `check` once read every zero of a sparse file, and kept a place for the id of every chunk that might be there: two
/// kilobytes of tar kept it busy for minutes, and took more memory than there was.
#[test]
fn a_sparse_giant_costs_what_its_data_costs() {
    let world = World::new();
    world.image(&[sparse(2 << 40, b"data at the start")]);
    world.convert().unwrap();
    assert_eq!(world.check(), [""; 0]);
    world.mount().unwrap();
    world.image(&[sparse(i64::MAX as u64, b"x")]);
    let error = world.convert().unwrap_err();
    assert!(error.contains("limit"), "{error}");
}
