//! Golden files: the bytes of each format version, as they were when it was released.

#![allow(clippy::unwrap_used)]
use crate::reader::Index;
use crate::sample;
use crate::tables::Tables;
use crate::tree::Tree;
use crate::writer::write_index;

struct Golden {
    name: &'static str,
    bytes: &'static [u8],
    make: fn() -> (Tree, Tables),
}

const GOLDEN: [Golden; 4] = [
    Golden {
        name: "v1-empty.idx",
        bytes: include_bytes!("../golden/v1-empty.idx"),
        make: || (sample::empty_tree(), sample::empty_tables()),
    },
    Golden {
        name: "v1-small.idx",
        bytes: include_bytes!("../golden/v1-small.idx"),
        make: || (sample::small_tree(), sample::tables()),
    },
    Golden {
        name: "v1-full.idx",
        bytes: include_bytes!("../golden/v1-full.idx"),
        make: || (sample::tree(), sample::tables()),
    },
    Golden {
        name: "v1.1-recorded.idx",
        bytes: include_bytes!("../golden/v1.1-recorded.idx"),
        make: || (sample::small_tree(), sample::recorded_tables()),
    },
];

#[test]
fn the_writer_makes_them_byte_for_byte() {
    for golden in GOLDEN {
        let (tree, tables) = (golden.make)();
        let bytes = write_index(&tree, &tables).unwrap();
        let first = bytes.iter().zip(golden.bytes).position(|(a, b)| a != b);
        assert!(
            bytes == golden.bytes,
            "{}: differs, first at {first:?}",
            golden.name
        );
    }
}

#[test]
fn the_reader_reads_them() {
    for golden in GOLDEN {
        let index = Index::parse(golden.bytes).expect(golden.name);
        let summary = index.check_tree().expect(golden.name);
        assert_eq!(summary.inodes, index.inode_count(), "{}", golden.name);
        let (_, tables) = (golden.make)();
        assert_eq!(index.recorded(), tables.recorded, "{}", golden.name);
    }
}

/// Writes the files of a version that is not released yet; released ones are never made again.
#[test]
#[ignore = "overwrites golden files"]
fn make_golden_files() {
    for golden in GOLDEN {
        let (tree, tables) = (golden.make)();
        let path = format!("{}/golden/{}", env!("CARGO_MANIFEST_DIR"), golden.name);
        std::fs::write(path, write_index(&tree, &tables).unwrap()).unwrap();
    }
}
