//! The index reader over arbitrary bytes.
//!
//! First byte of the input: 0, the rest is an index as it is; else, the rest is a list of changes to
//! the golden index of that number, after which both checksums are made right, so that the code
//! behind them is reached. A change is an offset (3 bytes), a count, and as many bytes.
//!
//! What the reader accepts must be whole: every further look at it must succeed.

use lacewing_format::{Extent, FileType, FormatError, Index, InodeView};

use super::input::change;

const GOLDEN: [&[u8]; 3] = [
    include_bytes!("../../../proto/format/golden/v1-small.idx"),
    include_bytes!("../../../proto/format/golden/v1-full.idx"),
    include_bytes!("../../../proto/format/golden/v1-empty.idx"),
];

/// Reads an index.
pub fn run(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else {
        return;
    };
    if mode == 0 {
        return look(rest);
    }
    let mut bytes = GOLDEN[usize::from(mode) % GOLDEN.len()].to_vec();
    change(&mut bytes, rest);
    // High modes leave the checksums wrong; that path must hold too.
    if mode & 0x80 == 0 {
        reseal(&mut bytes);
    }
    look(&bytes);
}

/// Makes the superblock's CRC-32C and the trailer's BLAKE3 right.
pub(crate) fn reseal(bytes: &mut [u8]) {
    bytes[1028..1032].fill(0);
    let crc = !crc32c::crc32c(&bytes[1024..4096]);
    bytes[1028..1032].copy_from_slice(&crc.to_le_bytes());
    let at = bytes.len() - 48;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at]).update(&bytes[at + 32..]);
    bytes[at..at + 32].copy_from_slice(hasher.finalize().as_bytes());
}

fn look(bytes: &[u8]) {
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    match index.check_tree() {
        Ok(summary) => {
            assert_eq!(summary.inodes, index.inode_count());
            assert_eq!(walk(&index).expect("an accepted tree is whole"), summary.names);
        }
        // Access to a tree that was refused must be safe all the same; hard links and loops make
        // a walk endless, so inodes are looked at one by one.
        Err(_) => {
            for nid in 0..index.erofs_len() / 32 {
                let _ = index
                    .inode(lacewing_format::Nid(nid))
                    .map(|inode| inspect(&index, &inode));
            }
        }
    }
    for frame in 0..index.frames().len() {
        let device = index.frame_device(frame);
        assert!(index.device_frames(device).contains(&frame));
        assert_eq!(index.frame_at(device, index.frame_block(frame)), Some(frame));
        assert!(index.frame_plain_len(frame) > 0);
    }
    assert!(index.prefetch().all(|frame| frame < index.frames().len()));
}

/// Walks a tree that has been accepted; returns the count of names.
fn walk(index: &Index<'_>) -> Result<u64, FormatError> {
    let mut names = 0;
    let mut todo = vec![index.root()];
    while let Some(nid) = todo.pop() {
        let dir = index.inode(nid)?;
        inspect(index, &dir)?;
        for entry in dir.entries()? {
            let entry = entry?;
            assert_eq!(dir.lookup(entry.name)?, Some(entry));
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            names += 1;
            if entry.file_type == FileType::Dir {
                todo.push(entry.nid);
            } else {
                inspect(index, &index.inode(entry.nid)?)?;
            }
        }
    }
    Ok(names)
}

/// Looks at everything an inode holds.
fn inspect(index: &Index<'_>, inode: &InodeView<'_>) -> Result<(), FormatError> {
    let _ = (inode.mtime(), inode.rdev(), inode.nlink(), inode.size());
    let xattrs = inode.xattrs();
    let content = match inode.file_type() {
        FileType::Dir => {
            let _ = inode.lookup(b"a name that is not there")?;
            inode.entries()?.try_for_each(|entry| entry.map(|_| ()))
        }
        FileType::Symlink => inode.symlink().map(|_| ()),
        FileType::File => inode.extents()?.try_for_each(|extent| {
            if let Extent::Data { device, block } = extent? {
                let _ = index.chunk_at(device.into(), block);
                let _ = index.frame_at(device.into(), block);
            }
            Ok(())
        }),
        _ => Ok(()),
    };
    xattrs.map(|_| ()).and(content)
}
