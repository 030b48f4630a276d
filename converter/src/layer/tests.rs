//! The pipeline as a whole, without a store.

#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use lacewing_format::Index;

use super::*;
use crate::blob::from_index;
use crate::tar::build::Tar;

struct Done {
    blob: Option<(Digest, u64)>,
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

fn convert(layers: &[Vec<u8>], jobs: usize, earlier: Vec<Blob>) -> Result<Vec<Done>, Error> {
    let settings = Settings {
        chunk_size: 256 << 10,
        level: 5,
        jobs,
        spool_dir: std::env::temp_dir(),
    };
    let mut done = Vec::new();
    let mut open = |number: usize| {
        let layer: &Vec<u8> = &layers[number];
        let (digest, stored_len) = (Digest::of(layer), layer.len() as u64);
        Ok(Input {
            digest,
            diff_id: digest,
            stored_len,
            stream: Box::new(Cursor::new(layer.clone())),
        })
    };
    LayerConverter::new(settings, earlier).convert(
        &Hints::default(),
        layers.len(),
        &mut open,
        &mut |_, output: Output| {
            let blob = output.blob.as_ref().map(|(digest, len, _)| (*digest, *len));
            done.push(Done {
                blob,
                index: output.index.stored,
                counts: output.counts,
            });
            Ok(())
        },
    )?;
    Ok(done)
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
fn a_wrong_diff_id_is_corrupt() {
    let layers = image();
    let settings = Settings {
        chunk_size: 64 << 10,
        level: 1,
        jobs: 1,
        spool_dir: std::env::temp_dir(),
    };
    let mut open = |_| {
        let stream = Box::new(Cursor::new(layers[0].clone()));
        Ok(Input {
            digest: Digest::of(b""),
            diff_id: Digest::of(b"other"),
            stored_len: 1,
            stream,
        })
    };
    let result = LayerConverter::new(settings, Vec::new()).convert(
        &Hints::default(),
        1,
        &mut open,
        &mut |_, _| Ok(()),
    );
    assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
}

#[test]
fn a_failure_behind_the_pipeline_stops_it() {
    let layers = image();
    let settings = Settings {
        chunk_size: 64 << 10,
        level: 1,
        jobs: 1,
        spool_dir: std::env::temp_dir(),
    };
    let mut open = |number: usize| {
        let layer = layers[number % 2].clone();
        let (digest, stored_len) = (Digest::of(&layer), layer.len() as u64);
        Ok(Input {
            digest,
            diff_id: digest,
            stored_len,
            stream: Box::new(Cursor::new(layer)),
        })
    };
    let mut fail = |_, _| Err(crate::manifest::invalid("test", "no room"));
    let result =
        LayerConverter::new(settings, Vec::new()).convert(&Hints::default(), 6, &mut open, &mut fail);
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
}
