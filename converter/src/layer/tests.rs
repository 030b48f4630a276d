//! The pipeline as a whole, without a store.

#![allow(clippy::unwrap_used)]

mod recorded;

use std::io::Cursor;

use lacewing_format::{Digest, Index};

use super::*;
use crate::blob::from_index;
use crate::index;
use crate::output::Output;
use crate::tar::build::Tar;

struct Done {
    blob: Option<(Digest, u64)>,
    digest: Digest,
    index: Vec<u8>,
    counts: Counts,
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Two layers: large and small files, a tail, zeros, and in the second one much of the first again.
fn image() -> Vec<Vec<u8>> {
    let large = noise(1, 3_000_000);
    let bottom = (0..400).fold(Tar::default().dir("d").file("d/large", &large), |tar, n| {
        tar.file(
            &format!("d/f{n:03}.txt"),
            format!("file {n}\n").repeat(n).as_bytes(),
        )
    });
    let mut changed = large.clone();
    changed[1_500_000] ^= 1;
    let top = Tar::default()
        .file("d/copy", &large)
        .file("d/changed", &changed)
        .file("zeros", &vec![0; 1_000_000])
        .file("etc/hot", b"hot");
    vec![bottom.end(), top.end()]
}

fn settings(level: i32, jobs: usize) -> Settings {
    Settings {
        chunk_size: 256 << 10,
        level,
        jobs,
        spool_dir: std::env::temp_dir(),
        record: None,
    }
}

fn facts(layers: &[Vec<u8>]) -> Vec<Facts> {
    let facts = |layer: &Vec<u8>| Facts {
        digest: Digest::of(layer),
        diff_id: Digest::of(layer),
        stored_len: layer.len() as u64,
    };
    layers.iter().map(facts).collect()
}

/// Converts an image; gives the numbers of the layers that were read, too.
fn run(converter: &mut LayerConverter, layers: &[Vec<u8>]) -> Result<(Vec<Done>, Vec<usize>), Error> {
    let (mut done, mut read) = (Vec::new(), Vec::new());
    let mut open = |number: usize| {
        read.push(number);
        Ok(Box::new(Cursor::new(layers[number].clone())) as Stored)
    };
    converter.convert(
        &Hints::default(),
        &facts(layers),
        &mut open,
        &mut |number, output: Output| {
            assert_eq!(number, done.len());
            let blob = output.blob.as_ref().map(|(digest, len, _)| (*digest, *len));
            done.push(Done {
                blob,
                digest: output.index.reference.digest,
                index: output.index.stored,
                counts: output.counts,
            });
            Ok(())
        },
    )?;
    Ok((done, read))
}

fn convert(layers: &[Vec<u8>], jobs: usize, earlier: Vec<Blob>) -> Result<Vec<Done>, Error> {
    run(&mut LayerConverter::new(settings(5, jobs), earlier), layers).map(|(done, _)| done)
}

fn plain(done: &Done) -> Vec<u8> {
    index::decode(&done.index).unwrap()
}

#[test]
fn the_same_bytes_whatever_the_count_of_threads() {
    let one = convert(&image(), 1, Vec::new()).unwrap();
    let four = convert(&image(), 4, Vec::new()).unwrap();
    for (one, four) in one.iter().zip(&four) {
        assert_eq!((one.blob, &one.index), (four.blob, &four.index));
    }
}

#[test]
fn what_a_lower_layer_has_is_not_stored_again() {
    let done = convert(&image(), 2, Vec::new()).unwrap();
    let counts = done[1].counts;
    // One chunk of `changed` is new, and `hot`; all of `copy` is known.
    assert_eq!(
        (counts.new, counts.dedup),
        ((256 << 10) + 3, 6_000_000 - (256 << 10))
    );
    assert_eq!(counts.hole, 1_000_000);
    let plain = plain(&done[1]);
    let index = Index::parse(&plain).unwrap();
    assert_eq!(index.devices().len(), 2);
    assert_eq!(index.prefetch().count(), 1, "only /etc/hot is hot");
}

#[test]
fn an_earlier_image_makes_blobs_unneeded_and_changes_nothing_else() {
    let first = convert(&image(), 2, Vec::new()).unwrap();
    let mut earlier = Vec::new();
    for done in &first {
        from_index(Index::parse(&plain(done)).unwrap(), &mut earlier);
    }
    let second = convert(&image(), 2, earlier).unwrap();
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(second.blob, None);
        assert_eq!(first.index, second.index);
        assert_eq!(second.counts.new, 0);
    }
}

/// Lines that are alike, as in sources.
fn lines(count: usize) -> Vec<u8> {
    let order = noise(7, count * 3);
    let name = |n: u8| blake3::hash(&[n & n >> 1]).to_hex()[..7].to_owned();
    let line = |n: &[u8; 3]| {
        let (a, b, c) = (name(n[0]), name(n[1]), name(n[2]));
        format!("    let {a} = self.{b}(&{c})?;\n    {b}.{a}({});\n", n[2])
    };
    let (order, _) = order.as_chunks::<3>();
    order.iter().flat_map(|n| line(n).into_bytes()).collect()
}

#[test]
fn few_new_bytes_of_a_later_version_are_compressed_harder() {
    let (large, text) = (noise(1, 3_000_000), lines(10_000));
    let old = Tar::default().file("large", &large).end();
    let new = Tar::default().file("large", &large).file("text", &text).end();
    let only = Tar::default().file("text", &text).end();
    let first = convert(&[old], 2, Vec::new()).unwrap();
    let mut earlier = Vec::new();
    from_index(Index::parse(&plain(&first[0])).unwrap(), &mut earlier);
    let later = convert(&[new], 2, earlier).unwrap();
    let alone = convert(&[only], 2, Vec::new()).unwrap();
    assert_eq!(later[0].counts.new, alone[0].counts.new);
    let len = |done: &[Done]| done[0].blob.unwrap().1;
    assert!(len(&later) < len(&alone), "{} {}", len(&later), len(&alone));
}

#[test]
fn a_layer_that_two_platforms_share_is_read_once() {
    let tar = Tar::default;
    let bases = [
        tar().dir("usr").file("usr/amd64", &noise(2, 9000)).end(),
        tar().dir("usr").file("usr/arm64", &noise(3, 9000)).end(),
    ];
    let alone = tar().dir("srv").file("srv/app", &noise(4, 9000)).end();
    // Its folder takes owner and mode from what is below.
    let leaning = tar().file("usr/more", &noise(5, 9000)).end();
    // What is a device above is nothing at the bottom.
    let whiteout = tar().file(".wh.gone", b"").end();
    let mut converter = LayerConverter::new(settings(5, 2), Vec::new());
    let image = |base: &Vec<u8>| vec![base.clone(), alone.clone(), leaning.clone(), whiteout.clone()];
    let (first, read) = run(&mut converter, &image(&bases[0])).unwrap();
    assert_eq!(read, [0, 1, 2, 3]);
    let (second, read) = run(&mut converter, &image(&bases[1])).unwrap();
    assert_eq!(read, [0, 2, 3]);
    assert_eq!(second[1].digest, first[1].digest);
    assert_eq!((second[1].blob, second[1].index.len()), (None, 0));
    assert_eq!((second[1].counts.new, second[1].counts.dedup), (0, 9000));
    // On the same layers all of them come again, and another image's lower ones.
    let (third, read) = run(&mut converter, &image(&bases[0])).unwrap();
    assert!(read.is_empty(), "{read:?}");
    for (first, third) in first.iter().zip(&third) {
        assert_eq!(first.digest, third.digest);
    }
    // What is converted behind layers that come again is as if they had been read.
    let top = tar().file("usr/top", &noise(2, 9000)).end();
    let with_top = [image(&bases[1]), vec![top]].concat();
    let (fourth, read) = run(&mut converter, &with_top).unwrap();
    let anew = convert(&with_top, 2, Vec::new()).unwrap();
    assert_eq!(read, [4]);
    let inodes = |done: &Done| Index::parse(&plain(done)).unwrap().check_tree().unwrap().inodes;
    assert_eq!(inodes(&fourth[4]), inodes(&anew[4]));
}

#[test]
fn a_wrong_diff_id_is_corrupt() {
    let layers = image();
    let mut wrong = facts(&layers[..1]);
    wrong[0].diff_id = Digest::of(b"other");
    let mut open = |_| Ok(Box::new(Cursor::new(layers[0].clone())) as Stored);
    let result = LayerConverter::new(settings(1, 1), Vec::new()).convert(
        &Hints::default(),
        &wrong,
        &mut open,
        &mut |_, _| Ok(()),
    );
    assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
}

#[test]
fn a_failure_behind_the_pipeline_stops_it() {
    let layers = image();
    let six: Vec<Vec<u8>> = (0..6).map(|number| layers[number % 2].clone()).collect();
    let mut open = |number: usize| Ok(Box::new(Cursor::new(six[number].clone())) as Stored);
    let mut fail = |_, _| Err(crate::manifest::invalid("test", "no room"));
    let mut converter = LayerConverter::new(settings(1, 1), Vec::new());
    let result = converter.convert(&Hints::default(), &facts(&six), &mut open, &mut fail);
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
}
