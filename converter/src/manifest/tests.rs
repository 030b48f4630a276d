#![allow(clippy::unwrap_used)]

use lacewing_format::{annotation, media_type};
use serde_json::{Map, Value, json};

use super::media::{CONFIG, DOCKER};
use super::members::Member;
use super::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn docker_manifests_become_oci_ones_and_ours_are_stripped() {
    let source = object(json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": DIGEST, "size": 7},
        "layers": [
            {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": DIGEST, "size": 9},
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": DIGEST, "size": 9, "annotations":
                {annotation::INDEX: "x", "org.example": "kept"}},
        ],
        "x-unknown": [1, 2],
    }));
    let manifest = Value::Object(plain(source));
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    assert_eq!(
        manifest["layers"][1]["annotations"],
        json!({"org.example": "kept"})
    );
    assert_eq!(manifest["x-unknown"], json!([1, 2]));
}

#[test]
fn members_are_images_only() {
    let entry = |media_type: &str, more: Value| {
        let mut entry = describe(media_type, DIGEST, 1);
        entry.extend(object(more));
        Value::Object(entry)
    };
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let index = object(json!({"manifests": [
        entry(MANIFEST, json!({"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}})),
        entry(MANIFEST, json!({"platform": unknown})),
        entry(MANIFEST, json!({"platform": unknown, "artifactType": media_type::ACCELERATOR})),
        entry(DOCKER[0].0, json!({})),
        entry(INDEX, json!({})),
    ]}));
    let (members, left_out) = members("test", &index).unwrap();
    let platforms: Vec<String> = members.iter().map(Member::platform).collect();
    assert_eq!(
        (platforms, left_out),
        (vec!["linux/arm64/v8".to_owned(), String::new()], 2)
    );
}

#[test]
fn nonsense_is_refused() {
    let rows = [
        "",
        "[]",
        "{",
        "{\"layers\": 1}",
        "{\"layers\": [1]}",
        "{\"layers\": [{}]}",
        "{\"manifests\": 5}",
    ];
    for text in rows {
        let Ok(document) = parse("test", text.as_bytes()) else {
            continue;
        };
        assert!(layers("test", &document).is_err(), "{text}");
        assert!(members("test", &document).is_err(), "{text}");
        assert!(config("test", &document).is_err(), "{text}");
    }
}
