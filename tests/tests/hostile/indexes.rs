//! Indexes whose digests are right and whose bytes are not, and the frames below them.

use lacewing_format::Index;
use serde_json::Value;

use crate::world::{Random, World, entry, small_tar};

fn converted() -> (World, Value, Vec<u8>) {
    let world = World::new();
    world.image(&[small_tar()]);
    world.convert().unwrap();
    let plain = world.mount().unwrap().remove(0);
    let manifest = world.converted();
    (world, manifest, plain)
}

fn stored(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 1).unwrap()
}

/// Makes an index's own checksums right again.
fn reseal(bytes: &mut [u8]) {
    bytes[1028..1032].fill(0);
    let crc = !crc32c::crc32c(&bytes[1024..4096]);
    bytes[1028..1032].copy_from_slice(&crc.to_le_bytes());
    let at = bytes.len() - 48;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at]).update(&bytes[at + 32..]);
    bytes[at..at + 32].copy_from_slice(hasher.finalize().as_bytes());
}

#[test]
fn every_flipped_byte_of_an_index_is_refused_by_a_node() {
    let (world, _, plain) = converted();
    let folder = world.dir.path().join("node");
    for at in 0..plain.len() {
        let mut bad = plain.clone();
        bad[at] ^= 1 << (at % 8);
        let taken = lacewing_fusefs::fuzzing::index(&folder, &stored(&bad));
        assert!(taken.is_err(), "byte {at}");
    }
}

#[test]
fn a_lying_index_with_right_checksums_is_refused_or_seen_by_check() {
    let (world, manifest, plain) = converted();
    let mut random = Random(5);
    let (mut refused, mut seen) = (0, 0);
    for round in 0..300 {
        let mut bad = plain.clone();
        for _ in 0..=round % 3 {
            let at = random.below(bad.len());
            bad[at] ^= 1 << random.below(8);
        }
        reseal(&mut bad);
        if bad == plain {
            continue;
        }
        world.bind(&manifest, &stored(&bad));
        let found = world.check();
        match world.mount() {
            Err(_) => {
                refused += 1;
                assert_ne!(found, [""; 0], "what a node refuses, check reports");
            }
            Ok(_) => seen += usize::from(!found.is_empty()),
        }
    }
    assert!(
        refused > 50 && seen > 10,
        "{refused} refused, {seen} seen by check"
    );
}

#[test]
fn a_cut_index_is_refused() {
    let (world, manifest, plain) = converted();
    let whole = stored(&plain);
    for len in (0..whole.len()).step_by(7) {
        world.bind(&manifest, &whole[..len]);
        world.mount().unwrap_err();
    }
    for len in [0, 1, 1024, 4095, 4096, plain.len() / 2, plain.len() - 1] {
        world.bind(&manifest, &stored(&plain[..len]));
        world.mount().unwrap_err();
        assert_ne!(world.check(), [""; 0], "{len}");
    }
    world.bind(&manifest, &whole);
    assert_eq!(world.check(), [""; 0]);
}

#[test]
fn an_index_that_unpacks_to_too_much_is_refused() {
    let (world, manifest, _) = converted();
    // 2 GiB of zeros in some 200 KiB.
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..2048 {
        std::io::Write::write_all(&mut bomb, &zeros).unwrap();
    }
    world.bind(&manifest, &bomb.finish().unwrap());
    let error = world.mount().unwrap_err();
    assert!(error.contains("limit"), "{error}");
    assert_ne!(world.check(), [""; 0]);
}

#[test]
fn every_flipped_byte_of_a_blob_is_found() {
    let (world, manifest, plain) = converted();
    let index = Index::parse(&plain).unwrap();
    let digest = index.devices()[0].blob().to_string();
    let good = world.read("target", &digest);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        for (number, frame) in index.frames().iter().enumerate() {
            let range = frame.stored_offset() as usize
                ..(frame.stored_offset() + u64::from(frame.stored_len())) as usize;
            let right = lacewing_fusefs::fuzzing::decoded(&index, number, &good[range.clone()]).unwrap();
            // Some bits of a zstd frame mean nothing.
            let found = lacewing_fusefs::fuzzing::decoded(&index, number, &bad[range]);
            assert!(found.is_none_or(|found| found == right), "byte {at}");
        }
        if at % 31 == 0 {
            std::fs::write(world.path("target", &digest), &bad).unwrap();
            assert!(
                world.check().iter().any(|text| text.contains(&digest)),
                "byte {at}"
            );
        }
    }
    for len in [0, 1, good.len() - 1] {
        std::fs::write(world.path("target", &digest), &good[..len]).unwrap();
        assert_ne!(world.check(), [""; 0], "{len} bytes");
    }
    std::fs::write(world.path("target", &digest), &good).unwrap();
    assert_eq!(world.check(), [""; 0], "{manifest}");
}

#[test]
fn random_flips_of_a_large_index_and_blob_are_refused_or_harmless() {
    let world = World::new();
    let mut random = Random(3);
    let mut tar = Vec::new();
    for number in 0..3000 {
        entry(
            &mut tar,
            &format!("file {number}"),
            b'0',
            "",
            8,
            &u64::to_le_bytes(number),
        );
    }
    let large: Vec<u8> = (0..3 << 20).map(|at| (at >> (at & 7)) as u8).collect();
    entry(&mut tar, "large", b'0', "", large.len() as u64, &large);
    tar.resize(tar.len() + 1024, 0);
    world.image(&[tar]);
    world.convert().unwrap();
    let plain = world.mount().unwrap().remove(0);
    let index = Index::parse(&plain).unwrap();
    assert!(plain.len() > 200_000 && index.frames().len() > 3);

    let folder = world.dir.path().join("node");
    for round in 0..40 {
        let mut bad = plain.clone();
        let at = random.below(bad.len() - 48);
        bad[at] ^= 1 << random.below(8);
        assert!(
            lacewing_fusefs::fuzzing::index(&folder, &stored(&bad)).is_err(),
            "byte {at}"
        );
        // With right checksums, names, modes and times may be others; the rest is refused.
        reseal(&mut bad);
        if let Ok(len) = lacewing_fusefs::fuzzing::index(&folder, &stored(&bad)) {
            assert_eq!(len, plain.len() as u64, "round {round}");
        }
    }
    let blob = world.read("target", &index.devices()[0].blob().to_string());
    for (number, frame) in index.frames().iter().enumerate() {
        let start = frame.stored_offset() as usize;
        let good = &blob[start..start + frame.stored_len() as usize];
        let right = lacewing_fusefs::fuzzing::decoded(&index, number, good).unwrap();
        for _ in 0..20 {
            let mut bad = good.to_vec();
            let at = random.below(bad.len());
            bad[at] ^= 1 << random.below(8);
            let found = lacewing_fusefs::fuzzing::decoded(&index, number, &bad);
            assert!(
                found.is_none_or(|found| found == right),
                "frame {number}, byte {at}"
            );
        }
        assert_eq!(
            lacewing_fusefs::fuzzing::decoded(&index, number, &good[1..]),
            None
        );
    }
}
