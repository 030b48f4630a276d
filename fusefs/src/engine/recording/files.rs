//! Whose bytes they are that were read of packs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use lacewing_format::limits::BLOCK;
use lacewing_format::{Extent, FileType, InodeView, Nid};

use crate::layer::Layer;
use crate::record::{FileRead, PackRead};
use crate::store::pack::PackNumber;

/// Longest path that is told: no kernel opens a longer one.
const MAX_PATH: usize = 4095;

/// Files that are told for the same bytes: hard links, and copies, of which any leads to them.
const MAX_FILES: usize = 4;

/// Blocks of a pack, by number.
#[derive(Default)]
struct Blocks(Vec<u64>);

impl Blocks {
    /// Adds a block; `false` if it was there.
    fn add(&mut self, block: u64) -> bool {
        let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn has_any(&self, mut blocks: Range<u64>) -> bool {
        blocks.any(|block| {
            self.0
                .get((block / 64) as usize)
                .is_some_and(|word| word & 1 << (block % 64) != 0)
        })
    }
}

/// A row of blocks that was read.
struct Row {
    pack: PackNumber,
    blocks: Range<u64>,
}

/// Where a chunk of a file lies.
struct Place {
    blocks: Range<u64>,
    /// Number of the path.
    path: usize,
    /// Bytes of the file.
    bytes: Range<u64>,
}

/// Tells which files reads of packs were of.
pub(super) fn of(reads: &[PackRead], layers: &[Arc<Layer>]) -> Vec<FileRead> {
    let (rows, read) = first_reads(reads);
    let mut walk = Walk {
        read: &read,
        places: HashMap::new(),
        paths: Vec::new(),
    };
    for layer in layers {
        walk.layer(layer);
    }
    let Walk {
        mut places, paths, ..
    } = walk;
    for places in places.values_mut() {
        places.sort_by_key(|place| place.blocks.start);
    }
    let mut told: Vec<FileRead> = Vec::new();
    for row in rows {
        let places = places.get(&row.pack).map(Vec::as_slice).unwrap_or_default();
        // Chunks overlap only if they are the same, so that they are in order of their ends, too.
        let first = places.partition_point(|place| place.blocks.end <= row.blocks.start);
        for place in places
            .iter()
            .skip(first)
            .take_while(|place| place.blocks.start < row.blocks.end)
        {
            if let Some(range) = common(place, &row.blocks) {
                tell(&mut told, &paths[place.path], range);
            }
        }
    }
    told
}

/// Blocks in the order in which they were read first, and all of them for each pack.
fn first_reads(reads: &[PackRead]) -> (Vec<Row>, HashMap<PackNumber, Blocks>) {
    let mut rows: Vec<Row> = Vec::new();
    let mut all: HashMap<PackNumber, Blocks> = HashMap::new();
    for PackRead { pack, range } in reads {
        let known = all.entry(*pack).or_default();
        let block = BLOCK as u64;
        for at in range.start / block..range.end.div_ceil(block) {
            if !known.add(at) {
                continue;
            }
            match rows.last_mut() {
                Some(last) if last.pack == *pack && last.blocks.end == at => last.blocks.end += 1,
                _ => rows.push(Row {
                    pack: *pack,
                    blocks: at..at + 1,
                }),
            }
        }
    }
    (rows, all)
}

/// Bytes of the file that lie in a place and in a row.
fn common(place: &Place, row: &Range<u64>) -> Option<Range<u64>> {
    let start = place.blocks.start.max(row.start);
    let end = place.blocks.end.min(row.end);
    if start >= end {
        return None;
    }
    let at = |block: u64| place.bytes.start + (block - place.blocks.start) * BLOCK as u64;
    let range = at(start)..at(end).min(place.bytes.end);
    (!range.is_empty()).then_some(range)
}

/// Appends a range; neighbours in one file are one.
fn tell(told: &mut Vec<FileRead>, path: &[u8], range: Range<u64>) {
    match told.last_mut() {
        Some(last) if last.path == path && last.range.end == range.start => last.range.end = range.end,
        _ => told.push(FileRead {
            path: path.to_vec(),
            range,
        }),
    }
}

/// A walk over layers for the files that were read.
struct Walk<'a> {
    read: &'a HashMap<PackNumber, Blocks>,
    places: HashMap<PackNumber, Vec<Place>>,
    paths: Vec<Vec<u8>>,
}

impl Walk<'_> {
    /// The index was checked when the layer was added: what cannot be read now is passed over.
    fn layer(&mut self, layer: &Layer) {
        let view = layer.index.view();
        let mut todo: Vec<(Nid, Vec<u8>)> = vec![(view.root(), Vec::new())];
        let mut known: HashMap<(PackNumber, u64), usize> = HashMap::new();
        while let Some((nid, path)) = todo.pop() {
            let Ok(inode) = view.inode(nid) else { continue };
            match inode.file_type() {
                FileType::File => self.file(layer, &inode, path, &mut known),
                FileType::Dir => {
                    let Ok(entries) = inode.entries() else { continue };
                    let first = todo.len();
                    for entry in entries.filter_map(Result::ok) {
                        let wanted = matches!(entry.file_type, FileType::Dir | FileType::File);
                        let fits = path.len() + 1 + entry.name.len() <= MAX_PATH;
                        if wanted && fits && entry.name != b"." && entry.name != b".." {
                            todo.push((entry.nid, [&path, &b"/"[..], entry.name].concat()));
                        }
                    }
                    // In order of names, though it is a stack.
                    todo[first..].reverse();
                }
                _ => {}
            }
        }
    }

    fn file(
        &mut self,
        layer: &Layer,
        inode: &InodeView<'_>,
        path: Vec<u8>,
        known: &mut HashMap<(PackNumber, u64), usize>,
    ) {
        let Ok(extents) = inode.extents() else { return };
        let (size, bits) = (inode.size(), inode.chunk_bits());
        let number = self.paths.len();
        let mut named = false;
        for (at, extent) in extents.enumerate() {
            let Ok(Extent::Data { device, block }) = extent else {
                continue;
            };
            let Some(part) = layer.parts.get(usize::from(device)) else {
                continue;
            };
            let pack = part.volume.pack.number();
            let start = (at as u64) << bits;
            let bytes = start..size.min(start + (1 << bits));
            if bytes.is_empty() {
                break;
            }
            let blocks = u64::from(block);
            let blocks = blocks..blocks + (bytes.end - bytes.start).div_ceil(BLOCK as u64);
            if !self
                .read
                .get(&pack)
                .is_some_and(|read| read.has_any(blocks.clone()))
            {
                continue;
            }
            let told = known.entry((pack, blocks.start)).or_default();
            if *told == MAX_FILES {
                continue;
            }
            *told += 1;
            named = true;
            self.places.entry(pack).or_default().push(Place {
                blocks,
                path: number,
                bytes,
            });
        }
        if named {
            self.paths.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_counts_where_it_was_read_first() {
        let read = |pack, range| PackRead { pack, range };
        let (rows, all) = first_reads(&[
            read(1, 4096..12288),
            read(2, 100..200),
            read(1, 0..8192),
            read(1, 12288..12289),
        ]);
        let rows: Vec<_> = rows.into_iter().map(|row| (row.pack, row.blocks)).collect();
        assert_eq!(rows, [(1, 1..3), (2, 0..1), (1, 0..1), (1, 3..4)]);
        assert!(all[&1].has_any(3..9) && !all[&1].has_any(4..9000));
    }

    #[test]
    fn what_a_place_and_a_row_share_is_told_in_bytes_of_the_file() {
        let place = Place {
            blocks: 10..12,
            path: 0,
            bytes: 1 << 20..(1 << 20) + 5000,
        };
        let base = 1 << 20;
        assert_eq!(common(&place, &(0..11)), Some(base..base + 4096));
        assert_eq!(common(&place, &(11..50)), Some(base + 4096..base + 5000));
        assert_eq!(common(&place, &(12..50)), None);
        let mut told = Vec::new();
        tell(&mut told, b"/a", 0..5);
        tell(&mut told, b"/a", 5..9);
        tell(&mut told, b"/a", 10..11);
        tell(&mut told, b"/b", 11..12);
        assert_eq!(told.len(), 3);
    }
}
