//! Sources that fail, lie or hang: errors in time, never wrong bytes, and all is well afterwards.

use std::path::Path;
use std::time::Duration;

use crate::image::{Cut, Layer, layer, lie, mixed, noise};
use crate::node::{Node, node, quiet, read_at, small_disk, verify, wait_for};
use crate::source::Mood;
use lacewing_fusefs::{Clock, Options};

fn one_file(seed: u64) -> Layer {
    layer(vec![("file".into(), noise(seed, 600_000))], Cut::default())
}

/// Options under which no patience ends before the clock is moved.
fn quiet_by(clock: &Clock) -> impl Fn(&mut Options) {
    move |options| {
        quiet(options);
        options.clock = clock.clone();
    }
}

/// Reads the file's beginning while the source is in this mood; `meanwhile` runs during the read, which must fail.
fn fails(node: &Node, layer: &Layer, mood: Mood, meanwhile: impl FnOnce(&dyn Fn() -> bool)) {
    let path = node.show(layer).join("file");
    node.source.set(mood);
    node.source.asked();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_at(&path, 0, 4096));
        wait_for("the source to be asked", || !node.source.asked().is_empty());
        meanwhile(&|| reader.is_finished());
        wait_for("the reader's error", || reader.is_finished());
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{mood:?}: {error}");
    });
    node.source.set(Mood::Good);
    assert_eq!(
        read_at(&path, 0, 4096).unwrap(),
        layer.files[0].1[..4096],
        "after {mood:?}"
    );
    verify(path.parent().unwrap(), layer);
}

/// The clock stands when the time is over: a reader whose time passed twice, because the kernel reads once more by itself,
/// would not end.
#[test]
fn a_dead_source_is_an_error_in_time_and_forgotten_afterwards() {
    let clock = Clock::standing();
    let Some(node) = node(quiet_by(&clock)) else {
        return;
    };
    for (seed, mood) in [(1, Mood::Unavailable), (2, Mood::Stalled)] {
        fails(&node, &one_file(seed), mood, |ended| {
            clock.advance(Duration::from_millis(1999));
            // For an error that comes too early to be seen; one that comes in time needs the clock.
            std::thread::sleep(Duration::from_millis(300));
            assert!(!ended(), "{mood:?}");
            clock.advance(Duration::from_millis(1));
        });
    }
}

/// Time stands still.
#[test]
fn a_source_that_asks_around_is_not_interrupted() {
    // A quarter of a reader's time is the most that a try may take elsewhere.
    let short = |options: &mut Options| {
        quiet(options);
        options.read_timeout = Duration::from_secs(8);
    };
    for asks_around in [false, true] {
        let Some(node) = node(short) else { return };
        let layer = one_file(3);
        let path = node.show(&layer).join("file");
        node.source.delay(Duration::from_secs(3));
        node.source.asks_around(asks_around);
        node.source.asked();
        assert_eq!(read_at(&path, 0, 4096).unwrap().len(), 4096);
        assert_eq!(node.source.asked().len() == 1, asks_around);
    }
}

#[test]
fn a_reader_hurries_what_nobody_waited_for() {
    let in_background = |options: &mut Options| {
        quiet(options);
        options.read_timeout = Duration::from_secs(20);
        options.background = true;
    };
    let Some(node) = node(in_background) else { return };
    node.source.delay(Duration::from_secs(3));
    let layer = one_file(4);
    let path = node.show(&layer).join("file");
    wait_for("the background", || {
        node.source.asked().iter().any(|(range, _)| range.start == 0)
    });
    assert_eq!(node.source.hurried(), 0);
    assert_eq!(read_at(&path, 0, 4096).unwrap().len(), 4096);
    assert_eq!(node.source.hurried(), 1);
}

#[test]
fn a_source_that_refuses_is_an_error_at_once() {
    let Some(node) = node(quiet_by(&Clock::standing())) else {
        return;
    };
    for (seed, mood) in [(1, Mood::Missing), (2, Mood::Forbidden)] {
        fails(&node, &one_file(seed), mood, |_| {});
    }
}

#[test]
fn a_source_that_lies_is_an_error_and_nothing_is_kept() {
    let Some(node) = node(quiet) else { return };
    for (seed, mood) in [(1, Mood::Corrupt), (2, Mood::Short)] {
        fails(&node, &one_file(seed), mood, |_| {});
    }
}

#[test]
fn a_source_that_lies_now_and_then_is_asked_again() {
    let Some(node) = node(quiet) else { return };
    node.source.set(Mood::SometimesCorrupt);
    let layer = mixed(3, 100, 1);
    verify(&node.show(&layer), &layer);
    assert!(node.engine().counters().corrupt > 0);
}

/// Whether a process is dead, if not buried.
fn ended(stat: &Path) -> bool {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_killed_reader_dies_at_once_and_others_read_on() {
    let Some(node) = node(quiet_by(&Clock::standing())) else {
        return;
    };
    let layer = one_file(4);
    let path = node.show(&layer).join("file");
    node.source.set(Mood::Stalled);
    let mut reader = std::process::Command::new("cat")
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the source to be asked", || !node.source.asked().is_empty());
    reader.kill().unwrap();
    // Its patience has no end: the clock stands still.
    let stat = format!("/proc/{}/stat", reader.id());
    wait_for("the reader's end", || ended(Path::new(&stat)));
    reader.wait().unwrap();
    node.source.set(Mood::Good);
    verify(path.parent().unwrap(), &layer);
}

#[test]
fn a_signal_is_no_error() {
    let Some(node) = node(|options| {
        quiet(options);
        options.read_timeout = Duration::from_secs(20);
    }) else {
        return;
    };
    let layer = one_file(5);
    let path = node.show(&layer).join("file");
    node.source.delay(Duration::from_millis(1500));
    let reader = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "trap : USR1; (sleep 0.3; kill -USR1 $$)& exec 3<{}; head -c 4096 <&3 | md5sum",
            path.display()
        ))
        .output()
        .unwrap();
    assert!(reader.status.success(), "{reader:?}");
}

#[test]
fn an_index_that_is_damaged_anywhere_is_refused_or_harmless() {
    let Some(node) = node(quiet) else { return };
    let good = one_file(6);
    node.source.put(good.blob_digest, good.blob.clone());
    for at in (0..good.index.len()).step_by(7) {
        let mut bad = good.index.clone();
        bad[at] ^= 0x10;
        let digest = lacewing_format::Digest::of(&bad);
        // Some bits of a zstd frame mean nothing; the index is the same then, checksum and all.
        if let Ok(id) = node.engine().add_layer(&bad, digest) {
            verify(&node.engine().show(id).unwrap().path, &good);
            node.engine().remove(id).unwrap();
        }
    }
    for len in [0, 1, good.index.len() / 2, good.index.len() - 1] {
        let bad = &good.index[..len];
        assert!(
            node.engine()
                .add_layer(bad, lacewing_format::Digest::of(bad))
                .is_err(),
            "length {len}"
        );
    }
    assert!(node.engine().status().is_empty());
}

#[test]
fn an_index_that_lies_about_another_blob_harms_itself_only() {
    for victim_first in [false, true] {
        let Some(node) = node(quiet) else { return };
        let one = |seed, name: &str| layer(vec![(name.to_owned(), noise(seed, 200_000))], Cut::default());
        let (evil, victim) = (one(1, "own"), one(2, "file"));
        let (index, digest) = lie(&evil, &victim);
        node.source.put(evil.blob_digest, evil.blob.clone());
        if victim_first {
            verify(&node.show(&victim), &victim);
        }
        let id = node.engine().add_layer(&index, digest).unwrap();
        let path = node.engine().show(id).unwrap().path;
        verify(&path, &evil);
        let lied = read_at(&path.join("victim"), 0, 200_000);
        assert!(lied.is_err() || lied.unwrap() == evil.files[0].1);
        verify(&node.show(&victim), &victim);
        node.engine().remove(id).unwrap();
        verify(&node.show(&victim), &victim);
    }
}

#[test]
fn a_full_disk_is_no_outage() {
    let Some(node) = node(|options| {
        quiet(options);
        small_disk(options, c"size=3m");
    }) else {
        return;
    };
    let layer = mixed(8, 50, 3);
    let path = node.show(&layer);
    verify(&path, &layer);
    std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    verify(&path, &layer);
    let counters = node.engine().counters();
    assert!(counters.unstored > 0, "{counters:?}");
    assert_eq!(counters.read_errors, 0);
}
