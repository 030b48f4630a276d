//! What registries send and users configure. First byte of the input: which parser, the rest is its text.

use lacewing_converter::fuzzing as converter;
use lacewing_format::Digest;
use lacewing_format::annotation::IndexRef;
use lacewing_oci::fuzzing as oci;

use super::input::scratch;

/// Feeds one parser.
pub fn run(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    match which % 10 {
        0 => challenge(bytes),
        1 => ranges(&text),
        2 => reference(&text),
        3 => hosts(&text),
        4 => {
            let _ = oci::docker_config(bytes, "registry.example:5000", "a/b");
            let _ = oci::docker_config(bytes, "docker.io", "library/debian");
        }
        5 => {
            let _ = oci::layout_index(bytes, None);
            let _ = oci::layout_index(bytes, Some("1"));
        }
        6 => manifest(bytes),
        7 => {
            let seconds = oci::token_seconds(bytes);
            assert!(seconds.is_none_or(|seconds| (50..=24 * 3600).contains(&seconds)));
        }
        8 => archive(bytes),
        _ => digests(&text),
    }
}

fn challenge(bytes: &[u8]) {
    for (scheme, params) in oci::challenges(bytes) {
        assert!(!scheme.is_empty());
        assert!(params.iter().all(|(name, _)| !name.is_empty()));
    }
}

fn ranges(text: &str) {
    oci::headers(text);
    if let Some((range, total)) = oci::content_range(text) {
        assert!(range.start < range.end);
        let total = total.map_or("*".to_owned(), |total| {
            assert!(range.end <= total);
            total.to_string()
        });
        let written = format!("bytes {}-{}/{total}", range.start, range.end - 1);
        assert_eq!(oci::content_range(&written).map(|(found, _)| found), Some(range));
    }
}

fn reference(text: &str) {
    if let Ok(parsed) = oci::reference(text) {
        let written = parsed.to_string();
        let again = oci::reference(&written);
        assert_eq!(again.as_ref().ok(), Some(&parsed), "{text:?} became {written:?}");
    }
}

fn hosts(text: &str) {
    let Ok(addresses) = oci::hosts(text, "registry.example:5000") else {
        return;
    };
    for address in addresses {
        assert!(matches!(address.scheme(), "http" | "https"), "{address}");
        assert!(address.has_host());
    }
}

fn manifest(bytes: &[u8]) {
    for kind in [
        None,
        Some("application/vnd.oci.image.index.v1+json"),
        Some("text/plain"),
    ] {
        let _ = oci::manifest_kind(kind, bytes);
    }
    let _ = converter::document(bytes);
}

fn archive(bytes: &[u8]) {
    scratch(|dir| {
        let file = dir.join("archive.tar");
        std::fs::write(&file, bytes).expect("a small file");
        let _ = oci::archive(&file, 1 << 20);
    });
}

fn digests(text: &str) {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = text.parse::<IndexRef>() {
        assert_eq!(reference.to_string(), text);
    }
}
