//! Kills a process at random instants and looks at what it left.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::tests::{Fake, call};
use super::*;

/// Tells the child where to work; without it, the child's test does nothing.
const ROOT: &str = "LACEWING_CRASH_ROOT";
/// Odd, so that the delays below walk through many values (microseconds).
const STEP: u64 = 7_919;

/// Does one thing after the other, and says each when it was answered.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let snapshotter = open(&root);
        snapshotter.restore().await.unwrap();
        for i in std::process::id() * 1000.. {
            let lazy = [(CHAIN_ID_LABEL, format!("sha256:{i}")), ("layer", "5".to_owned())];
            let lazy: Vec<_> = lazy.iter().map(|(k, v)| (*k, v.as_str())).collect();
            snapshotter.prepare(call("lazy", "", &lazy)).await.unwrap_err();
            println!("committed lacewing/sha256:{i}");
            snapshotter
                .prepare(call(&format!("a{i}"), &format!("lacewing/sha256:{i}"), &[]))
                .await
                .unwrap();
            println!("prepared a{i}");
            let names = (format!("c{i}"), format!("a{i}"), String::new());
            snapshotter.commit(names, HashMap::new()).await.unwrap();
            println!("removed a{i}\ncommitted c{i}");
            if i % 3 == 0 {
                snapshotter.remove(format!("c{i}")).await.unwrap();
                println!("removed c{i}");
            }
        }
    });
}

fn open(root: &Path) -> Snapshotter {
    let layers = Arc::new(Fake::new(root));
    layers.hold(5);
    Snapshotter::open(root, layers, Options::default()).unwrap()
}

/// Runs the child for a while; returns the kind last said for each name, and the name of the last line.
fn run_and_kill(root: &Path, after: Duration) -> (BTreeMap<String, String>, Vec<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "snapshotter::crash::child", "--nocapture"])
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("committed") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended by itself");
    }
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    line.push_str(&rest);
    let said: Vec<(String, String)> = line
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(what, name)| (name.to_owned(), what.to_owned()))
        .collect();
    let last = said.iter().rev().take(2).map(|(name, _)| name.clone()).collect();
    (said.into_iter().collect(), last)
}

#[test]
fn what_was_answered_survives_a_kill_at_any_instant() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..15 {
        let (said, last) = run_and_kill(root.path(), Duration::from_micros(i * STEP));
        // What the child was doing when it died was not answered: it may be done or not.
        let number = last[0]
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .trim_start_matches("256:");
        let snapshotter = open(root.path());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let restored = runtime.block_on(snapshotter.restore()).unwrap();
        assert!(restored.broken.is_empty(), "{restored:?}");
        for (name, what) in said.iter().filter(|(name, _)| !name.ends_with(number)) {
            let found = snapshotter
                .inner
                .store
                .find(name)
                .unwrap()
                .map(|record| record.kind);
            let expected = match what.as_str() {
                "committed" => Some(Kind::Committed),
                "prepared" => Some(Kind::Active),
                _ => None,
            };
            assert_eq!(found, expected, "{name}");
        }
        check_directories(&snapshotter);
    }
}

/// Each ordinary snapshot has its directory, and there are no others.
fn check_directories(snapshotter: &Snapshotter) {
    let inner = &snapshotter.inner;
    inner
        .store
        .walk(|name, record| {
            assert_eq!(
                inner.dirs.upper(record.id).is_dir(),
                record.layer.is_none(),
                "{name}"
            );
            true
        })
        .unwrap();
    assert!(
        inner
            .store
            .with_ids(|ids| inner.dirs.left_over(ids))
            .unwrap()
            .is_empty()
    );
}
