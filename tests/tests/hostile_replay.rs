//! The fuzz targets' seeds and former findings, fed to the same functions as the fuzzer does, and each with a few
//! changes: what was once found stays fixed, and targets that nobody ran lately still run.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// Every file below `tests/fuzz/{seeds,findings}/<target>`, by its name, with its bytes.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut inputs = Vec::new();
    for kind in ["seeds", "findings"] {
        let Ok(entries) = std::fs::read_dir(root.join(kind).join(target)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            inputs.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    inputs.sort();
    inputs
}

/// Runs a target on each of its inputs, whole, cut and changed.
fn replay(target: &str) {
    let (_, run) = *fuzz::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "{target} has no seeds");
    for (name, bytes) in inputs {
        println!("{name}");
        run(&bytes);
        for part in 1..4 {
            let at = bytes.len() * part / 4;
            run(&bytes[..at]);
            let mut changed = bytes.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 1 << part;
                run(&changed);
            }
        }
    }
}

#[test]
fn catalogue() {
    replay("catalogue");
}

#[test]
fn filter() {
    replay("filter");
}

#[test]
fn frame() {
    replay("frame");
}

#[test]
fn index_target() {
    replay("index");
}

#[test]
fn layer() {
    replay("layer");
}

#[test]
fn registry() {
    replay("registry");
}
