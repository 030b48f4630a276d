//! Random layers are converted, and what is read back equals what was there.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::tar::build::{Tar, dir, header, link};
use crate::tar::kind;

/// One entry of a random layer. Names come from a small set, so that entries meet.
#[derive(Clone, Debug)]
enum Piece {
    Dir(String, u32),
    File(String, Content, u32, u64),
    Symlink(String, String),
    Link(String, String),
    Device(String, u64),
    Fifo(String),
    Mark(String),
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    /// So many zeros, then a few bytes, then so many zeros.
    Sparse(usize, Vec<u8>, usize),
    /// A byte pattern that recurs in other files.
    Pattern(u8, usize),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Sparse(before, bytes, after) => {
                let mut all = vec![0; *before];
                all.extend_from_slice(bytes);
                all.resize(all.len() + after, 0);
                all
            }
            Self::Pattern(seed, len) => (0..*len)
                .map(|i| seed.wrapping_mul(i as u8) ^ (i >> 9) as u8)
                .collect(),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-d](/[a-d]){0,3}",
        1 => "[a-d]/\\.wh\\.[a-d]",
        1 => "\\.\\./[a-d]",
        1 => "/[a-d]/\\./[a-d]",
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..600).prop_map(Content::Bytes),
        1 => (0usize..300_000, vec(any::<u8>(), 0..9), 0usize..300_000).prop_map(|(a, b, c)| Content::Sparse(a, b, c)),
        2 => (any::<u8>(), 0usize..400_000).prop_map(|(seed, len)| Content::Pattern(seed, len)),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        3 => (name(), 0u32..0o10000).prop_map(|(n, m)| Piece::Dir(n, m)),
        6 => (name(), content(), 0u32..0o10000, 0u64..1 << 33).prop_map(|(n, c, m, t)| Piece::File(n, c, m, t)),
        1 => (name(), "(\\.\\./|/)?[a-d](/[a-d])?").prop_map(|(n, t)| Piece::Symlink(n, t)),
        2 => (name(), name()).prop_map(|(n, t)| Piece::Link(n, t)),
        1 => (name(), 0u64..1 << 22).prop_map(|(n, d)| Piece::Device(n, d)),
        1 => name().prop_map(Piece::Fifo),
        1 => "[a-d]/\\.wh\\.\\.wh\\.\\.opq".prop_map(Piece::Mark),
    ]
}

fn tar(pieces: &[Piece]) -> Vec<u8> {
    let add = |tar: Tar, piece: &Piece| match piece {
        Piece::Dir(name, mode) => tar.add(dir(name).mode(*mode).xattr("user.dir", name.as_bytes()), b""),
        Piece::File(name, content, mode, time) => {
            let header = header(name, kind::REGULAR)
                .mode(*mode)
                .mtime(*time)
                .owner(*time, u64::from(*mode));
            tar.add(header, &content.bytes())
        }
        Piece::Symlink(name, target) => tar.symlink(name, target),
        Piece::Link(name, target) => tar.add(link(name, kind::LINK, target), b""),
        Piece::Device(name, number) => tar.add(header(name, kind::CHAR).device(number & 0xfff, *number), b""),
        Piece::Fifo(name) => tar.add(header(name, kind::FIFO), b""),
        Piece::Mark(name) => tar.file(name, b""),
    };
    pieces.iter().fold(Tar::default(), add).end()
}

/// Drops pieces that make containerd refuse the layer, one after the other.
fn acceptable(mut pieces: Vec<Piece>, lowers: &[std::sync::Arc<lacewing_format::Tree>]) -> Vec<Piece> {
    let fits = |pieces: &[Piece]| {
        crate::apply::apply_layer(tar(pieces).as_slice(), lowers, &mut crate::apply::NoContents).is_ok()
    };
    let mut kept = Vec::new();
    for piece in pieces.drain(..) {
        kept.push(piece);
        if !fits(&kept) {
            kept.pop();
        }
    }
    kept
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let (first, second) = tar.split_at(tar.len() / 3);
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    [member(first), member(second)].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_images_come_back(bottom in vec(piece(), 0..14), top in vec(piece(), 0..14), kind in 0..3) {
        let bottom = tar(&acceptable(bottom, &[]));
        let tree = crate::apply::apply_layer(bottom.as_slice(), &[], &mut crate::apply::NoContents).unwrap();
        let top = tar(&acceptable(top, &[crate::apply::skeleton(&tree)]));
        let pack = |tar: Vec<u8>| match kind {
            0 => tar,
            1 => gzip(&tar),
            _ => zstd::bulk::compress(&tar, 1).unwrap(),
        };
        let layers = [pack(bottom), pack(top)];
        crate::fuzzing::layers(&layers, &std::env::temp_dir()).unwrap();
    }

    #[test]
    fn damaged_layers_are_an_answer(pieces in vec(piece(), 1..6), at in any::<prop::sample::Index>(), bit in 0u32..8, cut in any::<bool>()) {
        let mut layer = gzip(&tar(&acceptable(pieces, &[])));
        let at = at.index(layer.len());
        if cut {
            layer.truncate(at);
        } else {
            layer[at] ^= 1u8 << bit;
        }
        // Damage that gzip does not see (its time and name) may pass; what is read then is whole.
        drop(crate::fuzzing::layers(&[layer], &std::env::temp_dir()));
    }
}
