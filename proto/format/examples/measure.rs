//! Times the writer and the reader over a layer of 20,000 small files in 1,000 directories:
//! `cargo run --release -p lacewing-format --example measure`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use lacewing_format::tree::{S_IFDIR, S_IFREG};
use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Index, Inode, InodeId, Tables,
    Time, Tree, write_index,
};

const DIRS: u32 = 1_000;
const FILES_PER_DIR: u32 = 20;
const CHUNKS_PER_FRAME: u32 = 16;
const RUNS: u32 = 20;

fn inode(mode: u32, body: Body, secs: i64) -> Inode {
    let mtime = Time { secs, nanos: 0 };
    Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
        body,
    }
}

fn layer() -> (Tree, Tables) {
    let mut tree = Tree::default();
    let mut root = BTreeMap::new();
    tree.inodes
        .push(inode(S_IFDIR | 0o755, Body::Dir(BTreeMap::new()), 0));
    let mut chunks = Vec::new();
    for dir in 0..DIRS {
        let mut entries = BTreeMap::new();
        for file in 0..FILES_PER_DIR {
            let number = dir * FILES_PER_DIR + file;
            let block = number * 4;
            chunks.push(Chunk::new(block, 13_000, ChunkId::of(&number.to_le_bytes())));
            let body = Body::File(FileBody {
                size: 13_000,
                chunk_bits: 18,
                extents: vec![Extent::Data { device: 0, block }],
            });
            entries.insert(
                format!("file-{number}.txt").into_bytes(),
                InodeId(tree.inodes.len() as u32),
            );
            // Every fourth file has a time of its own, as in a layer of many packages.
            tree.inodes
                .push(inode(S_IFREG | 0o644, body, i64::from(number % 4 / 3 * number)));
        }
        root.insert(
            format!("directory-{dir}").into_bytes(),
            InodeId(tree.inodes.len() as u32),
        );
        tree.inodes.push(inode(S_IFDIR | 0o755, Body::Dir(entries), 0));
    }
    tree.inodes[0].body = Body::Dir(root);
    let count = chunks.len() as u32;
    let frame = |number: u32| {
        let offset = u64::from(number) * 100_000;
        Frame::new(
            offset,
            100_000,
            number * CHUNKS_PER_FRAME,
            CHUNKS_PER_FRAME,
            Codec::Zstd,
        )
    };
    let frames: Vec<_> = (0..count / CHUNKS_PER_FRAME).map(frame).collect();
    let stored = frames.len() as u64 * 100_000;
    let blob = Device::new(Digest::of(b"blob"), stored, count * 4, 0, frames.len() as u32);
    let tables = Tables {
        devices: vec![blob],
        prefetch: Vec::new(),
        recorded: false,
        frames,
        chunks,
        layer: Digest::of(b"layer"),
        diff_id: Digest::of(b"diff id"),
    };
    (tree, tables)
}

fn best(name: &str, mut run: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    println!("{name:<12} {best:?}");
}

fn main() -> Result<(), lacewing_format::FormatError> {
    let (tree, tables) = layer();
    let bytes = write_index(&tree, &tables)?;
    let index = Index::parse(&bytes)?;
    println!("{:?}", index.check_tree()?);
    println!("EROFS {} bytes, index {} bytes", index.erofs_len(), bytes.len());
    best("write_index", || drop(black_box(write_index(&tree, &tables))));
    best("parse", || drop(black_box(Index::parse(&bytes))));
    best("check_tree", || drop(black_box(index.check_tree())));
    Ok(())
}
