//! Layers of an image through the whole converter.
//!
//! First byte of the input: 0, the rest is one layer blob as it is. Else it is a list of tar entries: names, links,
//! kinds, numbers and PAX records from tables that hold what is awkward, or spelt out; the byte says how the layers are
//! compressed, and whether the tars or what they are compressed to are damaged afterwards.
//!
//! What the converter accepts, it must convert to the same tree and bytes.

mod tarball;

use std::io::Write;

use lacewing_converter::apply::{NoContents, apply_layer, skeleton};
use lacewing_converter::decompress::decoder;
use lacewing_converter::fuzzing;

use super::input::{Input, change, scratch};

/// Converts layers.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mode = input.byte();
    let layers = if mode == 0 {
        vec![input.0.to_vec()]
    } else {
        let count = 1 + input.byte() % 3;
        let tars = (0..count).map(|_| tarball::tar(&mut input)).collect::<Vec<_>>();
        let damage = input.0;
        tars.into_iter().map(|tar| layer(tar, mode, damage)).collect()
    };
    // Most inputs are refused here, without threads and files.
    let mut lowers = Vec::new();
    let mut refused = false;
    for layer in &layers {
        let tree = decoder(layer.as_slice()).and_then(|tar| apply_layer(tar, &lowers, &mut NoContents));
        match tree {
            Ok(tree) => lowers.insert(0, skeleton(&tree)),
            Err(_) => refused = true,
        }
    }
    if !refused || mode & 0x80 != 0 {
        let converted = scratch(|dir| fuzzing::layers(&layers, dir));
        assert!(
            !refused || converted.is_err(),
            "what apply refuses, convert must refuse"
        );
    }
}

/// Damages and compresses a tar.
fn layer(mut tar: Vec<u8>, mode: u8, damage: &[u8]) -> Vec<u8> {
    if mode & 4 != 0 {
        change(&mut tar, damage);
    }
    let mut stored = match mode & 3 {
        0 | 1 => tar,
        2 => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&tar)
                .and_then(|()| gzip.finish())
                .expect("gzip compresses")
        }
        _ => zstd::bulk::compress(&tar, 1).expect("zstd compresses"),
    };
    if mode & 8 != 0 {
        change(&mut stored, damage);
    }
    if mode & 16 != 0 {
        stored.truncate(stored.len() - usize::from(damage.first().copied().unwrap_or(0)).min(stored.len()));
    }
    stored
}
