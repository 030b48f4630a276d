#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use lacewing_format::Digest;

use super::*;
use crate::store::pack::{BootId, Identity};
use crate::store::space::Space;

const BOOT: BootId = BootId([1; 16]);
const NEXT_BOOT: BootId = BootId([2; 16]);

fn open(dir: &Path, boot: BootId) -> Pack {
    let identity = Identity {
        number: 7,
        blob: Digest([9; 32]),
        blocks: 4096,
    };
    Pack::open(dir, identity, boot, &Arc::new(Space::unbounded())).unwrap()
}

/// Bytes of a block that are never zero and tell the block.
fn block(number: u32) -> Vec<u8> {
    let word = (number + 1).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK).collect()
}

fn blocks(range: Range<u32>) -> Vec<u8> {
    range.flat_map(block).collect()
}

#[test]
fn what_is_given_up_is_gone_after_every_failure() {
    let dir = tempfile::tempdir().unwrap();
    let pack = open(dir.path(), BOOT);
    pack.store(10, &blocks(10..20)).unwrap();
    pack.checkpoint().unwrap();
    let before = pack.allocated();
    assert_eq!(pack.evict(&[11..13, 15..16]).unwrap(), 3 * BLOCK as u64);
    assert_eq!(pack.allocated(), before - 3 * BLOCK as u64);
    drop(pack);
    for boot in [BOOT, NEXT_BOOT] {
        let pack = open(dir.path(), boot);
        assert_eq!(pack.bits().count(10..20), 7, "{boot:?}");
        let mut buf = vec![0; 2 * BLOCK];
        assert!(!pack.read(10 * BLOCK as u64, &mut buf).unwrap());
        assert!(pack.read(13 * BLOCK as u64, &mut buf).unwrap());
        assert_eq!(buf, blocks(13..15));
    }
}

#[test]
fn a_pack_that_others_read_is_left_alone_until_the_next_boot() {
    let dir = tempfile::tempdir().unwrap();
    let pack = open(dir.path(), BOOT);
    pack.store(0, &blocks(0..4)).unwrap();
    pack.checkpoint().unwrap();
    assert!(pack.make_whole().unwrap());
    assert!(!pack.make_whole().unwrap());
    assert_eq!(pack.evict(&[0..4]).unwrap(), 0);
    drop(pack);
    let pack = open(dir.path(), BOOT);
    assert_eq!(pack.evict(&[0..4]).unwrap(), 0);
    drop(pack);
    let pack = open(dir.path(), NEXT_BOOT);
    assert_eq!(pack.evict(&[0..2]).unwrap(), 2 * BLOCK as u64);
    pack.make_whole().unwrap();
    pack.make_evictable();
    assert_eq!(pack.evict(&[2..4]).unwrap(), 2 * BLOCK as u64);
}

#[test]
fn a_checkpoint_that_cannot_be_replaced_goes() {
    let dir = tempfile::tempdir().unwrap();
    let pack = open(dir.path(), BOOT);
    pack.store(0, &blocks(0..4)).unwrap();
    pack.checkpoint().unwrap();
    // As on a full disk: no new file can be made beside it.
    std::fs::create_dir(dir.path().join("7.durable-new")).unwrap();
    pack.evict(&[0..2]).unwrap();
    assert!(!dir.path().join("7.durable").exists());
    std::fs::remove_dir(dir.path().join("7.durable-new")).unwrap();
    pack.checkpoint().unwrap();
    drop(pack);
    assert_eq!(open(dir.path(), NEXT_BOOT).bits().count(0..4096), 2);
}

#[test]
fn a_sweep_gives_back_what_no_bit_names() {
    let dir = tempfile::tempdir().unwrap();
    let pack = open(dir.path(), BOOT);
    pack.store(100, &blocks(100..110)).unwrap();
    let right = pack.allocated();
    pack.data.write_all_at(&blocks(0..50), 0).unwrap();
    pack.data
        .write_all_at(&blocks(0..50), 110 * BLOCK as u64)
        .unwrap();
    pack.sweep().unwrap();
    assert_eq!(pack.allocated(), right);
    let mut buf = vec![0; 10 * BLOCK];
    assert!(pack.read(100 * BLOCK as u64, &mut buf).unwrap());
    assert_eq!(buf, blocks(100..110));
}

/// The story: bytes were read and verified while their blocks were being given up, and the hole was
/// there by the time they were copied.
#[test]
fn a_copy_does_not_take_a_hole_for_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (pack, copy) = (open(dir.path(), BOOT), open(other.path(), BOOT));
    pack.store(0, &blocks(0..4)).unwrap();
    pack.evict(&[1..2]).unwrap();
    copy.store_from(0, (&pack, 0), &blocks(0..4)).unwrap();
    let mut buf = vec![0; 4 * BLOCK];
    assert!(copy.read(0, &mut buf).unwrap());
    assert_eq!(buf, blocks(0..4));
}

/// The story: eviction runs under containers. Readers compare every byte while blocks come and go as
/// fast as they can, and a copy into another pack goes on all the time.
#[test]
fn no_reader_ever_sees_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (pack, copy) = (open(dir.path(), BOOT), open(other.path(), BOOT));
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    const BLOCKS: u32 = 64;
    std::thread::scope(|scope| {
        let readers = [0, 3].map(|first| {
            let (pack, copy, stop, reads) = (&pack, &copy, &stop, &reads);
            scope.spawn(move || {
                let mut buf = vec![0; 4 * BLOCK];
                let mut at = first;
                while !stop.load(Ordering::Relaxed) {
                    for from in [pack, copy] {
                        if from.read(u64::from(at) * BLOCK as u64, &mut buf).unwrap() {
                            assert!(buf == blocks(at..at + 4), "wrong bytes at block {at}");
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    at = (at + 5) % (BLOCKS - 4);
                }
            })
        });
        for first in [0, 2] {
            let (pack, copy, stop) = (&pack, &copy, &stop);
            scope.spawn(move || {
                let mut at = first;
                while !stop.load(Ordering::Relaxed) {
                    pack.store(at, &blocks(at..at + 4)).unwrap();
                    let mut plain = vec![0; 4 * BLOCK];
                    pack.read_unverified(u64::from(at) * BLOCK as u64, &mut plain)
                        .unwrap();
                    if plain == blocks(at..at + 4) {
                        copy.store_from(at, (pack, at), &plain).unwrap();
                    }
                    at = (at + 4) % (BLOCKS - 4);
                }
            });
        }
        for turn in 0..400_u32 {
            let at = turn * 7 % (BLOCKS - 16);
            pack.evict(&[at..at + 6, at + 8..at + 16]).unwrap();
            copy.evict(&[at..at + 16]).unwrap();
            if turn % 16 == 0 {
                pack.checkpoint().unwrap();
                pack.sweep().unwrap();
            }
        }
        // A reader that ends before it is told to has failed.
        let failed = || readers.iter().any(|reader| reader.is_finished());
        while reads.load(Ordering::Relaxed) < 1000 && !failed() {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
