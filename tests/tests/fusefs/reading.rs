//! Reading layers: right bytes, few requests, and no process at all once they are complete.

use std::sync::Arc;
use std::time::Duration;

use lacewing_fusefs::{Class, Engine, Error, Feature, Options, Way};

use crate::image::{Cut, layer, mixed, noise, partial};
use crate::node::{node, quiet, quiet_auto, read_at, verify, wait_for};
use crate::source::Memory;

#[test]
fn an_incomplete_layer_reads_right_and_fetches_once() {
    let Some(node) = node(quiet) else { return };
    let layer = mixed(1, 300, 3);
    let path = node.show(&layer);
    verify(&path, &layer);
    let counters = node.engine().counters();
    assert_eq!(counters.source_bytes, layer.blob.len() as u64, "{counters:?}");
    assert_eq!(counters.read_errors, 0);
    verify(&path, &layer);
}

#[test]
fn a_complete_layer_needs_no_process() {
    let Some(mut node) = node(quiet_auto) else { return };
    let layer = mixed(2, 50, 2);
    let id = node.add(&layer);
    let first = node.engine().show(id).unwrap();
    assert!(!first.direct);
    node.complete(id);
    let shown = node.engine().show(id).unwrap();
    assert!(shown.direct);
    assert_ne!(shown.path, first.path);
    node.stop();
    verify(&shown.path, &layer);
    node.start(quiet_auto);
    verify(&first.path, &layer);
    assert_eq!(node.engine().show_as(id, 0, true).unwrap(), shown.path);
}

#[test]
fn readers_of_the_same_bytes_share_one_fetch() {
    let Some(node) = node(quiet) else { return };
    let layer = layer(vec![("file".into(), noise(3, 200_000))], Cut::default());
    let path = node.show(&layer).join("file");
    node.source.delay(Duration::from_millis(200));
    let path = Arc::new(path);
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || read_at(&path, n * 20_000, 10_000).unwrap())
        })
        .collect();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.join().unwrap(), layer.files[0].1[n * 20_000..][..10_000]);
    }
    assert_eq!(node.source.asked().len(), 1);
}

#[test]
fn random_reads_fetch_one_frame_each_and_sequential_ones_run_ahead() {
    let Some(node) = node(quiet) else { return };
    let len = 48 << 20;
    let layer = layer(vec![("file".into(), noise(4, len))], Cut::default());
    let path = node.show(&layer).join("file");
    let mut at = 12_345_u64;
    for _ in 0..40 {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let offset = ((at >> 33) % (len as u64 - 4096)) & !4095;
        assert_eq!(
            read_at(&path, offset, 4096).unwrap(),
            layer.files[0].1[offset as usize..][..4096]
        );
    }
    let decoded = node.engine().counters().decoded_bytes;
    assert!(
        decoded <= 40 * (256 << 10),
        "{decoded} bytes decoded for 40 random reads"
    );
    node.source.asked();
    assert_eq!(std::fs::read(&path).unwrap(), layer.files[0].1);
    let asked = node.source.asked();
    assert!(asked.len() < 60, "{} requests for a sequential read", asked.len());
    assert!(asked.iter().any(|(_, class)| *class == Class::Ahead));
}

#[test]
fn chunks_that_another_pack_holds_are_not_fetched() {
    let Some(node) = node(quiet) else { return };
    let files = |seed: u64| {
        let mut files = vec![("own".to_owned(), noise(seed, 10_000))];
        files.extend((0..20).map(|n| (format!("shared-{n}"), noise(500 + n, 256 << 10))));
        files
    };
    let (a, b) = (layer(files(1), Cut::default()), layer(files(2), Cut::default()));
    verify(&node.show(&a), &a);
    let before = node.engine().counters();
    verify(&node.show(&b), &b);
    let after = node.engine().counters();
    assert!(after.source_bytes - before.source_bytes < 20_000, "{after:?}");
    assert_eq!(after.dedup_bytes - before.dedup_bytes, 20 * (256 << 10));
}

#[test]
fn the_background_completes_a_layer() {
    let Some(node) = node(|options| {
        quiet(options);
        options.background = true;
    }) else {
        return;
    };
    let layer = mixed(5, 200, 4);
    let id = node.add(&layer);
    node.engine().show(id).unwrap();
    wait_for("completion", || node.engine().status()[0].complete);
    let shown = node.engine().show(id).unwrap();
    assert_eq!(shown.direct, node.engine().way() == Way::Kernel);
    verify(&shown.path, &layer);
    assert_eq!(node.engine().counters().source_bytes, layer.blob.len() as u64);
}

/// The rest of an image may cost more than it is worth, and what a start was seen to read does not: it is read in a moment anyway.
#[test]
fn what_a_recorded_start_has_read_is_fetched_without_a_background() {
    for wanted in [true, false] {
        let Some(node) = node(|options| {
            quiet(options);
            options.recorded = wanted;
        }) else {
            return;
        };
        let cut = Cut {
            raw: false,
            recorded: true,
            ..Cut::default()
        };
        let layer = layer(vec![("file".into(), noise(6, 8 << 20))], cut);
        let path = node.show(&layer).join("file");
        if wanted {
            let listed = 2 * (256 << 10);
            wait_for("what was recorded", || {
                node.engine().status()[0].present >= listed
            });
            let asked = node.source.asked();
            assert!(asked.iter().all(|(_, class)| *class == Class::Ahead), "{asked:?}");
        }
        // Of the rest only what is read.
        let bytes = &layer.files[0].1;
        assert_eq!(read_at(&path, 4 << 20, 10).unwrap(), bytes[4 << 20..][..10]);
        assert_eq!(node.source.asked().len(), 1);
        assert_eq!(node.engine().counters().misses, 1);
        assert_eq!(read_at(&path, 0, 10).unwrap(), bytes[..10]);
        assert_eq!(node.engine().counters().misses, if wanted { 1 } else { 2 });
    }
}

#[test]
fn layers_and_numbers_survive_a_restart_and_removal() {
    let Some(mut node) = node(quiet) else { return };
    let (a, b) = (mixed(6, 20, 1), mixed(7, 20, 1));
    let first = node.add(&a);
    let path = node.engine().show(first).unwrap().path;
    verify(&path, &a);
    node.stop();
    node.start(quiet);
    assert_eq!(node.engine().layer(&a.digest), Some(first));
    assert_eq!(node.engine().show(first).unwrap().path.parent(), path.parent());
    let before = node.engine().counters().source_bytes;
    verify(&path, &a);
    assert_eq!(node.engine().counters().source_bytes, before);
    node.engine().remove(first).unwrap();
    assert!(!path.exists());
    let packs: Vec<_> = std::fs::read_dir(node.root.path().join("packs"))
        .unwrap()
        .collect();
    assert!(packs.is_empty(), "{packs:?}");
    let second = node.add(&b);
    assert!(second > first);
    verify(&node.engine().show(second).unwrap().path, &b);
}

#[test]
fn the_data_directory_is_flat_and_read_only() {
    let Some(node) = node(quiet) else { return };
    let ids: Vec<_> = (0..3).map(|n| node.add(&mixed(10 + n, 2, 1))).collect();
    let data = node.root.path().join("data");
    let mut names: Vec<String> = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["1", "2", "3"]);
    assert!(std::fs::write(data.join("1"), b"x").is_err());
    assert!(std::fs::create_dir(data.join("new")).is_err());
    assert!(std::fs::remove_file(data.join("1")).is_err());
    assert_eq!(
        std::fs::metadata(data.join("9")).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    node.engine().remove(ids[1]).unwrap();
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 2);
}

#[test]
fn a_kernel_without_directio_reads_right() {
    let Some(node) = node(|options| {
        quiet(options);
        options.deny = vec![Feature::DirectIo];
    }) else {
        return;
    };
    assert!(!node.engine().features().directio);
    let layer = mixed(20, 200, 3);
    let path = node.show(&layer);
    verify(&path, &layer);
    // Read-ahead through the kernel's cache asks beyond what an index describes: that is an error
    // for the read-ahead only.
    let (part, whole) = (partial(&layer), layer);
    node.engine()
        .remove(node.engine().layer(&whole.digest).unwrap())
        .unwrap();
    verify(&node.show(&part), &part);
    assert_eq!(node.engine().counters().unstored, 0);
    verify(&node.show(&whole), &whole);
}

#[test]
fn a_node_that_cannot_show_layers_says_why() {
    let Some(root) = is_root() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = Arc::new(Memory::new());
    let mut options = Options::new(root.path(), source, runtime.handle().clone());
    options.trees = Way::Kernel;
    options.deny = vec![Feature::ErofsFile];
    let engine = Engine::open(options).unwrap();
    let layer = mixed(21, 1, 0);
    let error = engine.add_layer(&layer.index, layer.digest).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn a_layer_without_data_is_shown() {
    let Some(node) = node(quiet) else { return };
    let layer = layer(vec![("empty".into(), vec![])], Cut::default());
    verify(&node.show(&layer), &layer);
}

fn is_root() -> Option<tempfile::TempDir> {
    let root = rustix::process::geteuid().is_root();
    root.then(|| tempfile::tempdir().unwrap())
}
