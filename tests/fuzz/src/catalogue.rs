//! A node's own files, as they may be found after a crash. First byte of the input: which file.

use lacewing_format::ChunkId;
use lacewing_fusefs::fuzzing;

use super::input::{Input, scratch};

/// Feeds one reader.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 5 {
        0 => drop(fuzzing::catalogue(&String::from_utf8_lossy(input.0))),
        1 => catalogue(input.0),
        2 => pack(input),
        3 => places(input.0),
        _ => index(input.0),
    }
}

/// Lines of a catalogue, with the right checksum.
fn catalogue(lines: &[u8]) {
    let lines = String::from_utf8_lossy(lines);
    let body = format!("lacewing-catalogue 1\n{lines}\n");
    let sum = blake3::hash(body.as_bytes()).to_hex();
    let Some(written) = fuzzing::catalogue(&format!("{body}sum {sum}\n")) else {
        return;
    };
    assert_eq!(fuzzing::catalogue(&written).as_deref(), Some(written.as_str()));
}

/// A pack's bits and checkpoint: anything, or with what guards them right.
fn pack(mut input: Input<'_>) {
    let mode = input.byte();
    // Blocks that both one and several pages of bits speak of.
    let blocks = if mode & 1 == 0 {
        input.short().into()
    } else {
        70_000
    };
    let bits_len = usize::from(input.short());
    let (mut bits, mut durable) = (input.bytes(bits_len).to_vec(), input.0.to_vec());
    let named = |magic: &[u8; 8], boot: [u8; 16]| {
        let (number, blob, _) = fuzzing::PACK;
        [
            &magic[..],
            &number.to_le_bytes(),
            &u32::to_le_bytes(blocks),
            &blob,
            &boot,
        ]
        .concat()
    };
    if mode & 2 != 0 {
        let mut header = named(b"LWBITS01", fuzzing::PACK.2);
        header.resize(4096, 0);
        bits.splice(0..0, header);
    }
    if mode & 4 != 0 {
        durable.splice(0..0, named(b"LWDURA01", [0; 16]));
        durable.extend_from_slice(blake3::hash(&durable).as_bytes());
    }
    scratch(|dir| {
        std::fs::write(dir.join("7.bits"), bits).expect("a small file");
        std::fs::write(dir.join("7.durable"), durable).expect("a small file");
        fuzzing::pack(dir, blocks).expect("a pack opens whatever its files hold");
    });
}

fn places(bytes: &[u8]) {
    scratch(|dir| {
        let file = dir.join("places");
        std::fs::write(&file, bytes).expect("a small file");
        let found = fuzzing::places(&file, &ChunkId::of(b"x")).expect("a table opens whatever it holds");
        assert!(found <= 8);
    });
}

/// A stored index as a registry sends it.
fn index(stored: &[u8]) {
    let taken = scratch(|dir| fuzzing::index(&dir.join("indexes"), stored));
    if let Ok(len) = taken {
        let plain = lacewing_converter::fuzzing::stored_index(stored).expect("check reads what a node takes");
        assert_eq!(plain.len() as u64, len);
    }
}
