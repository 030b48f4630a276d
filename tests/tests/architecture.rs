//! Who may import whom: misc/docs/architecture.md, held against cargo's metadata.

use std::collections::BTreeMap;
use std::process::Command;

/// Crate, and which of our crates it may name in `[dependencies]`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("lacewing-format", &[]),
    ("lacewing-rpc", &[]),
    ("lacewing-oci", &["lacewing-format"]),
    ("lacewing-converter", &["lacewing-format", "lacewing-oci"]),
    ("lacewing-fusefs", &["lacewing-format"]),
    ("lacewing-p2p", &["lacewing-format", "lacewing-rpc"]),
    ("lacewing-snapshotter", &["lacewing-format", "lacewing-rpc"]),
];

/// What a crate must never know, whatever the reason: (crate, dependency).
const NEVER: &[(&str, &str)] = &[
    ("lacewing-format", "tokio"),
    ("lacewing-format", "nix"),
    ("lacewing-format", "rustix"),
    ("lacewing-fusefs", "reqwest"),
    ("lacewing-fusefs", "tonic"),
    ("lacewing-p2p", "fuse-backend-rs"),
    ("lacewing-p2p", "tar"),
    ("lacewing-converter", "fuse-backend-rs"),
    ("lacewing-converter", "tonic"),
    ("lacewing-snapshotter", "fuse-backend-rs"),
    ("lacewing-snapshotter", "reqwest"),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name = |value: &serde_json::Value| value["name"].as_str().expect("a name").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies").iter();
            (
                name(package),
                normal.filter(|d| d["kind"].is_null()).map(name).collect(),
            )
        })
        .collect()
}

#[test]
fn imports_between_crates_are_those_of_the_table() {
    let dependencies = dependencies();
    for (krate, allowed) in MAY_IMPORT {
        let ours = dependencies[*krate].iter().filter(|d| d.starts_with("lacewing"));
        let surplus: Vec<_> = ours.filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(
            surplus.is_empty(),
            "{krate} imports {surplus:?}; allowed: {allowed:?}"
        );
    }
}

#[test]
fn no_crate_knows_what_it_must_not() {
    let dependencies = dependencies();
    for (krate, banned) in NEVER {
        assert!(
            !dependencies[*krate].iter().any(|d| d == banned),
            "{krate} must not depend on {banned}"
        );
    }
}
