//! What may enter the dependency graph: `.deny.toml`, held against cargo's metadata. cargo-deny reads the same file and
//! looks further (advisories); this needs neither it nor a network.

use std::collections::BTreeSet;
use std::process::Command;

struct Rules {
    allowed: BTreeSet<String>,
    banned: Vec<String>,
}

fn rules() -> Rules {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.deny.toml");
    let file: toml::Table = std::fs::read_to_string(path)
        .expect("readable")
        .parse()
        .expect("TOML");
    let text = |value: &toml::Value| value.as_str().expect("a string").to_owned();
    Rules {
        allowed: file["licenses"]["allow"]
            .as_array()
            .expect("a list")
            .iter()
            .map(text)
            .collect(),
        banned: file["bans"]["deny"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|ban| text(&ban["name"]))
            .collect(),
    }
}

fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"]
        .as_array_mut()
        .expect("packages")
        .drain(..)
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences. Terms: `or` of `and` of licences or groups; a slash is
/// the old way to write `or`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut tokens, allowed)
}

fn any_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(tokens, allowed);
    while tokens.last() == Some(&"OR") {
        tokens.pop();
        met |= all_of(tokens, allowed);
    }
    met
}

fn all_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.last() == Some(&"AND") {
        tokens.pop();
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    match tokens.pop() {
        Some("(") => {
            let met = any_of(tokens, allowed);
            tokens.pop();
            met
        }
        Some(licence) if tokens.last() == Some(&"WITH") => {
            tokens.pop();
            let exception = tokens.pop().unwrap_or_default();
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        Some(licence) => allowed.contains(licence),
        None => false,
    }
}

#[test]
fn expressions_are_read_as_spdx_has_them() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        .map(str::to_owned)
        .into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0) AND Apache-2.0", true),
        ("(MIT AND GPL-3.0) OR ISC", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-3.0 WITH LLVM-exception OR GPL-2.0", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_licence_is_an_allowed_one() {
    let rules = rules();
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !satisfied(package["license"].as_str().unwrap_or(""), &rules.allowed))
        .map(|package| format!("{}: {}", package["name"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not allowed by .deny.toml: {refused:#?}");
}

#[test]
fn no_banned_crate_is_in_the_graph() {
    let rules = rules();
    let found: Vec<_> = packages()
        .iter()
        .filter_map(|package| package["name"].as_str().map(str::to_owned))
        .filter(|name| rules.banned.contains(name))
        .collect();
    assert!(found.is_empty(), "banned by .deny.toml: {found:?}");
}
