//! What containerd and its clients send to the snapshotter's socket. First byte of the input: which parser.

use std::collections::HashMap;

use lacewing_format::annotation;
use lacewing_snapshotter::{LayerRef, fuzzing};

use super::input::Input;

/// Feeds one parser.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 5 {
        0 => filters(input),
        1 => quoted(input),
        2 => labels(input),
        3 => connection(input),
        _ => record(input.0),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Any filters, one a line.
fn filters(input: Input<'_>) {
    let filters: Vec<String> = text(input.0).split('\n').map(str::to_owned).collect();
    let labels = HashMap::from([
        ("a".to_owned(), "1".to_owned()),
        ("b.c/d".to_owned(), "x y".to_owned()),
    ]);
    let together = fuzzing::matches(&filters, "name", "parent", labels.clone());
    if let Ok(together) = together {
        // Of several filters one must match.
        let one = |filter: &String| {
            fuzzing::matches(std::slice::from_ref(filter), "name", "parent", labels.clone()).ok()
        };
        let any = filters.iter().any(|filter| one(filter) == Some(true));
        assert_eq!(together, any, "{filters:?}");
    }
}

/// A label of any key and value, found by a filter that quotes both.
fn quoted(mut input: Input<'_>) {
    let (key, value) = (text(input.counted()), text(input.counted()));
    if value.is_empty() {
        return;
    }
    let labels = HashMap::from([(key.clone(), value.clone())]);
    let filter = |operator: &str, value: &str| {
        let filter = format!("labels.{}{operator}{}", quote(&key), quote(value));
        fuzzing::matches(&[filter], "name", "parent", labels.clone()).expect("a well-formed filter")
    };
    assert!(filter("==", &value));
    assert!(!filter("!=", &value));
    assert!(!filter("==", &format!("{value}x")));
}

fn quote(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() || c == char::REPLACEMENT_CHARACTER => format!("\\U{:08x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Values of the labels that a Prepare may carry.
fn labels(mut input: Input<'_>) {
    let keys = [
        annotation::INDEX,
        annotation::CONFIG,
        annotation::LAYER,
        lacewing_snapshotter::IMAGE_LABEL,
        lacewing_snapshotter::MANIFEST_LABEL,
        lacewing_snapshotter::LAYER_LABEL,
        lacewing_snapshotter::IMAGE_LAYERS_LABEL,
    ];
    let labels: HashMap<String, String> = keys
        .iter()
        .map(|key| ((*key).to_owned(), text(input.counted())))
        .collect();
    if let Ok(layer) = LayerRef::from_labels(&labels) {
        let index = layer.index.map(|index| index.to_string()).unwrap_or_default();
        assert_eq!(index, labels[annotation::INDEX]);
        assert!(layer.image.is_none_or(|image| image == labels[keys[3]]));
    }
}

/// A client's HTTP/2 bytes: none is lost, added or moved, however they are cut, and only `/` and `%` change.
fn connection(mut input: Input<'_>) {
    let part = usize::from(input.byte());
    let whole = fuzzing::rewritten(input.0, usize::MAX);
    assert_eq!(whole.len(), input.0.len());
    assert_eq!(fuzzing::rewritten(input.0, part), whole);
}

/// A record of the metadata store.
fn record(bytes: &[u8]) {
    if let Some(written) = fuzzing::record(bytes) {
        assert_eq!(fuzzing::record(&written), Some(written.clone()));
    }
}
