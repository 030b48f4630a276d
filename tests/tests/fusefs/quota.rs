//! A store with a bound: what was read longest ago goes, under readers, and every byte stays right.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::image::{Cut, Layer, layer, noise};
use crate::node::{Node, node, quiet, quiet_auto, read_at, small_disk, verify, wait_for};

const MB: u64 = 1 << 20;

/// A layer of several files that together have `mib` MiB.
fn big(seed: u64, mib: u64) -> Layer {
    let file = |number: u64| (format!("f{number}"), noise(seed * 1000 + number, MB as usize));
    layer((0..mib).map(file).collect(), Cut::default())
}

/// What `du` says of the packs.
fn taken(root: &Path) -> u64 {
    let files = std::fs::read_dir(root.join("packs")).unwrap();
    files
        .flatten()
        .filter_map(|file| file.metadata().ok())
        .map(|found| found.blocks() * 512)
        .sum()
}

fn bounded(quota: u64) -> Option<Node> {
    node(|options| {
        quiet(options);
        options.quota = Some(quota);
        options.read_timeout = Duration::from_secs(20);
    })
}

/// Reads random parts of all files with no page cache in between, and compares.
fn read_along(paths: &[PathBuf], layers: &[Layer], seed: u64, stop: &AtomicBool, reads: &AtomicU64) {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while !stop.load(Ordering::Relaxed) {
        let one = next(paths.len() as u64) as usize;
        let (name, expected) = &layers[one].files[next(layers[one].files.len() as u64) as usize];
        let file = std::fs::File::open(paths[one].join(name)).unwrap();
        let at = next(expected.len() as u64 / 2);
        let mut found = vec![0; 70_000];
        file.read_exact_at(&mut found, at)
            .unwrap_or_else(|error| panic!("{name} at {at}: {error}"));
        let wanted = &expected[at as usize..at as usize + found.len()];
        assert!(found == wanted, "{name} has other bytes at {at}");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn readers_of_more_than_the_quota_get_right_bytes_and_the_quota_holds() {
    const QUOTA: u64 = 24 * MB;
    let Some(node) = bounded(QUOTA) else { return };
    let layers = [big(1, 24), big(2, 24), big(3, 24)];
    let paths: Vec<PathBuf> = layers.iter().map(|layer| node.show(layer)).collect();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut most = 0;
    std::thread::scope(|scope| {
        for seed in 1..4 {
            let (paths, layers, stop, reads) = (&paths, &layers, &stop, &reads);
            scope.spawn(move || read_along(paths, layers, seed, stop, reads));
        }
        let start = Instant::now();
        let enough = || {
            let counters = node.engine().counters();
            counters.evicted_bytes > 4 * QUOTA && reads.load(Ordering::Relaxed) > 500
        };
        while !enough() && start.elapsed() < Duration::from_secs(60) {
            most = most.max(taken(node.root.path()));
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counters = node.engine().counters();
    assert!(counters.evicted_bytes > 4 * QUOTA, "{counters:?}");
    assert_eq!(counters.read_errors, 0, "{counters:?}");
    assert!(most <= QUOTA + QUOTA / 20, "{most} bytes of {QUOTA}");
    for (path, layer) in paths.iter().zip(&layers) {
        verify(path, layer);
    }
}

#[test]
fn what_was_evicted_stays_so_over_a_restart() {
    const QUOTA: u64 = 16 * MB;
    let Some(mut node) = bounded(QUOTA) else { return };
    let layer = big(5, 40);
    let path = node.show(&layer);
    verify(&path, &layer);
    node.stop();
    node.start(quiet);
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    verify(&path, &layer);
}

#[test]
fn a_pinned_layer_stays_and_others_go() {
    let Some(node) = bounded(24 * MB) else { return };
    let (pinned, other) = (big(6, 8), big(7, 40));
    let path = node.show(&pinned);
    let id = node.engine().layer(&pinned.digest).unwrap();
    node.engine().pin([id]);
    verify(&path, &pinned);
    verify(&node.show(&other), &other);
    let counters = node.engine().counters();
    assert!(counters.evicted_bytes > 0, "{counters:?}");
    assert!(node.engine().layer_status(id).unwrap().complete);
}

#[test]
fn layers_near_the_quota_are_not_read_as_plain_files() {
    let Some(node) = node(|options| {
        quiet_auto(options);
        options.quota = Some(24 * MB);
        options.read_timeout = Duration::from_secs(20);
    }) else {
        return;
    };
    let (small, large) = (big(8, 4), big(9, 11));
    let id = node.add(&small);
    node.complete(id);
    let shown = node.engine().show(id).unwrap();
    assert!(shown.direct);
    let large_id = node.add(&large);
    node.complete(large_id);
    assert!(!node.engine().show(large_id).unwrap().direct);
    // The direct one keeps all of its bytes whatever else is read.
    let third = big(10, 40);
    verify(&node.show(&third), &third);
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let fetched = node.engine().counters().source_bytes;
    verify(&shown.path, &small);
    assert_eq!(node.engine().counters().source_bytes, fetched);
    assert!(node.engine().store_status().whole >= 4 * MB);
}

#[test]
fn a_full_disk_is_left_when_there_is_room_again() {
    let Some(node) = node(|options| {
        quiet(options);
        small_disk(options, c"size=24m");
    }) else {
        return;
    };
    let packs = node.root.path().join("packs");
    let layer = big(11, 12);
    let path = node.show(&layer);
    let ballast = std::fs::File::create(packs.join("ballast")).unwrap();
    while ballast_write(&ballast).is_ok() {}
    verify(&path, &layer);
    assert!(node.engine().counters().unstored > 0);
    assert_eq!(node.engine().counters().read_errors, 0);
    std::fs::remove_file(packs.join("ballast")).unwrap();
    drop(ballast);
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    verify(&path, &layer);
    let id = node.engine().layer(&layer.digest).unwrap();
    wait_for("the bytes to be kept", || {
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        read_at(&path.join("f0"), 0, 4096).unwrap();
        node.engine().layer_status(id).unwrap().present > 0
    });
}

fn ballast_write(mut file: &std::fs::File) -> std::io::Result<()> {
    use std::io::Write;
    file.write_all(&[1; 4096])
}
