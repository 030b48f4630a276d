//! Manifests, image indexes and configs.

use serde_json::{Value, json};

use crate::world::{ANNOTATION, CONFIG, INDEX, MANIFEST, World, describe, small_tar};

/// A converted image whose documents are then tampered with.
fn converted() -> (World, Value) {
    let world = World::new();
    world.image(&[small_tar()]);
    world.convert().unwrap();
    assert_eq!(world.check(), [""; 0]);
    world.mount().unwrap();
    let manifest = world.converted();
    (world, manifest)
}

#[test]
fn a_manifest_that_is_cut_or_flipped_is_refused_or_means_the_same_layers() {
    let (world, manifest) = converted();
    let text = manifest.to_string().into_bytes();
    for at in 0..text.len() {
        for cut in [true, false] {
            let mut bad = text.clone();
            if cut {
                bad.truncate(at);
            } else {
                bad[at] ^= 1 << (at % 7);
            }
            let blob = world.put("target", &bad);
            world.tag("target", MANIFEST, &blob);
            let mounted = world.mount();
            assert!(!cut || mounted.is_err(), "cut at {at}");
            if at % 9 == 0 && mounted.is_err() {
                assert_ne!(world.check(), [""; 0], "flipped at {at}");
            }
        }
    }
}

#[test]
fn content_that_does_not_have_its_digest_is_named() {
    let (world, manifest) = converted();
    let index = manifest["layers"][0]["annotations"][ANNOTATION].as_str().unwrap();
    let index = index.split(',').next().unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    for (what, digest) in [("index", index), ("layer", layer), ("config", config)] {
        let good = world.read("target", digest);
        let changes: [fn(&mut Vec<u8>); 4] = [
            |bytes| bytes[0] ^= 1,
            |bytes| *bytes.last_mut().unwrap() ^= 0x80,
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.push(0),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            std::fs::write(world.path("target", digest), &bad).unwrap();
            let found = world.check();
            assert!(
                found.iter().any(|text| text.contains(digest)),
                "{what}, change {number}: {found:?}"
            );
            assert_eq!(world.mount().is_err(), what == "index", "{what}, change {number}");
        }
        std::fs::remove_file(world.path("target", digest)).unwrap();
        let found = world.check();
        assert!(
            found.iter().any(|text| text.contains(digest)),
            "{what} missing: {found:?}"
        );
        std::fs::write(world.path("target", digest), good).unwrap();
    }
    assert_eq!(world.check(), [""; 0]);
}

#[test]
fn lengths_that_lie_are_refused() {
    let world = World::new();
    let good = world.image(&[small_tar()]);
    let size = good["layers"][0]["size"].as_u64().unwrap();
    let lies = [
        json!(0),
        json!(size - 1),
        json!(size + 1),
        json!(u64::MAX),
        json!(-1),
        json!("7"),
    ];
    for lie in &lies {
        for pointer in ["/layers/0/size", "/config/size"] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = lie.clone();
            world.manifest("source", &bad);
            world.convert().expect_err(pointer);
        }
    }
    world.manifest("source", &good);
    world.convert().unwrap();
    let manifest = world.converted();
    let index = manifest["layers"][0]["annotations"][ANNOTATION]
        .as_str()
        .unwrap()
        .to_owned();
    let (digest, size) = index.split_once(',').unwrap();
    let size: u64 = size.parse().unwrap();
    for lie in [0, size - 1, size + 1, 1 << 31, u64::MAX] {
        let mut bad = manifest.clone();
        bad["layers"][0]["annotations"][ANNOTATION] = json!(format!("{digest},{lie}"));
        world.manifest("target", &bad);
        world.mount().unwrap_err();
        assert_ne!(world.check(), [""; 0], "{lie}");
    }
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let (world, manifest) = converted();
    let deep = "[".repeat(100_000);
    let mut layers = manifest.clone();
    layers["layers"] = Value::Array(vec![manifest["layers"][0].clone(); 1001]);
    let mut numbers = manifest.clone();
    numbers["layers"] = json!([7, 7, 7]);
    let rows: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("object", "{}".to_owned()),
        ("deep", deep),
        ("number", "1e999".to_owned()),
        ("null", "null".to_owned()),
        ("layers of another kind", numbers.to_string()),
        ("too many layers", layers.to_string()),
        (
            "too many manifests",
            json!({"manifests": vec![json!({}); 1001]}).to_string(),
        ),
        ("too large", format!("{}{}", manifest, " ".repeat(5 << 20))),
    ];
    for (name, text) in rows {
        for layout in ["source", "target"] {
            let blob = world.put(layout, text.as_bytes());
            for kind in [MANIFEST, INDEX] {
                world.tag(layout, kind, &blob);
                let refused = if layout == "source" {
                    world.convert().is_err()
                } else {
                    world.mount().is_err() && world.check() != [""; 0]
                };
                assert!(refused, "{name} at the {layout} as {kind}");
            }
        }
    }
}

#[test]
fn digests_are_no_paths() {
    let world = World::new();
    let good = world.image(&[small_tar()]);
    let secret = world.dir.path().join("secret");
    std::fs::write(&secret, small_tar()).unwrap();
    for digest in [
        "sha256:../../../secret",
        "../secret",
        "sha256:",
        "sha512:00",
        "sha256:00",
        "/etc/passwd",
    ] {
        for pointer in ["/layers/0/digest", "/config/digest"] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = json!(digest);
            world.manifest("source", &bad);
            world.convert().expect_err(digest);
        }
    }
}

#[test]
fn a_config_that_lies_about_its_layers_is_refused() {
    let world = World::new();
    let good = world.image(&[small_tar()]);
    let other = lacewing_format::Digest::of(b"another tar").to_string();
    let rows = [
        ("another tar", json!([other])),
        ("none", json!([])),
        ("too many", json!([other, other])),
        ("no digest", json!(["latest"])),
    ];
    for (name, diff_ids) in rows {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = world.put("source", config.to_string().as_bytes());
        let mut bad = good.clone();
        bad["config"] = describe(CONFIG, &config);
        world.manifest("source", &bad);
        world.convert().expect_err(name);
    }
}
