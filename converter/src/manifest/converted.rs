//! The documents of a converted image, made from those of its original.

use lacewing_format::annotation::{self, IndexRef};
use lacewing_format::{Digest, media_type};
use serde_json::{Map, Value, json};

use super::document::describe;
use super::media::{EMPTY, INDEX, MANIFEST, oci_type};

/// All annotations of ours begin so.
const OURS: &str = "containerd.io/snapshot/lacewing/";

/// An image manifest in OCI terms, without annotations of ours on its layers.
pub(crate) fn plain(mut manifest: Map<String, Value>) -> Map<String, Value> {
    manifest.insert("mediaType".to_owned(), json!(MANIFEST));
    if let Some(config) = manifest.get_mut("config") {
        to_oci(config);
    }
    for layer in layers_of(&mut manifest) {
        to_oci(layer);
        let Some(annotations) = layer.get_mut("annotations").and_then(Value::as_object_mut) else {
            continue;
        };
        annotations.retain(|key, _| !key.starts_with(OURS));
        if annotations.is_empty()
            && let Some(layer) = layer.as_object_mut()
        {
            layer.remove("annotations");
        }
    }
    manifest
}

fn layers_of(manifest: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    let layers = manifest.get_mut("layers").and_then(Value::as_array_mut);
    layers.into_iter().flatten()
}

/// Puts OCI's name of a descriptor's media type in place of docker's.
fn to_oci(descriptor: &mut Value) {
    if let Some(media_type) = descriptor.get_mut("mediaType") {
        *media_type = json!(oci_type(media_type.as_str().unwrap_or("")));
    }
}

/// Binds each layer to its index.
pub(crate) fn annotate(manifest: &mut Map<String, Value>, config: &str, indexes: &[IndexRef]) {
    for (layer, index) in layers_of(manifest).zip(indexes) {
        let digest = layer.get("digest").cloned().unwrap_or_default();
        let Some(layer) = layer.as_object_mut() else {
            continue;
        };
        let annotations = layer.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(annotation::INDEX.to_owned(), json!(index.to_string()));
            annotations.insert(annotation::CONFIG.to_owned(), json!(config));
            annotations.insert(annotation::LAYER.to_owned(), digest);
        }
    }
}

/// Tells each layer the registry's host, where that has a port.
pub(crate) fn name_host(manifest: &mut Map<String, Value>, host: &str) {
    for annotations in layers_of(manifest).filter_map(|layer| layer.get_mut("annotations")?.as_object_mut()) {
        annotations.insert(annotation::HOST.to_owned(), json!(host));
    }
}

/// Puts the indexes in place of the layers.
pub(crate) fn make_native(manifest: &mut Map<String, Value>, indexes: &[IndexRef]) {
    for (layer, index) in layers_of(manifest).zip(indexes) {
        let Some(layer) = layer.as_object_mut() else {
            continue;
        };
        layer.insert("mediaType".to_owned(), json!(media_type::NATIVE_LAYER));
        layer.insert("digest".to_owned(), json!(index.digest.to_string()));
        layer.insert("size".to_owned(), json!(index.size));
        layer.remove("urls");
        if let Some(annotations) = layer.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.insert(annotation::LAYER.to_owned(), json!(index.digest.to_string()));
        }
    }
}

/// The accelerator manifest: keeps an image's indexes and blobs together with it.
pub(crate) fn accelerator(
    subject: &Map<String, Value>,
    indexes: &[(IndexRef, String)],
    blobs: &[(Digest, u64)],
) -> Map<String, Value> {
    let index = |(index, layer): &(IndexRef, String)| {
        let mut entry = describe(media_type::INDEX, &index.digest.to_string(), index.size);
        entry.insert("annotations".to_owned(), json!({ annotation::LAYER: layer }));
        Value::Object(entry)
    };
    let blob = |(digest, len): &(Digest, u64)| describe(media_type::BLOB, &digest.to_string(), *len).into();
    let layers: Vec<Value> = indexes.iter().map(index).chain(blobs.iter().map(blob)).collect();
    let config = describe(EMPTY.0, &Digest::of(EMPTY.1).to_string(), EMPTY.1.len() as u64);
    let mut manifest = Map::new();
    manifest.insert("schemaVersion".to_owned(), json!(2));
    manifest.insert("mediaType".to_owned(), json!(MANIFEST));
    manifest.insert("artifactType".to_owned(), json!(media_type::ACCELERATOR));
    manifest.insert("config".to_owned(), config.into());
    manifest.insert("layers".to_owned(), layers.into());
    manifest.insert("subject".to_owned(), subject.clone().into());
    manifest
}

/// The image index of a converted image.
pub(crate) fn image_index(source: Option<&Map<String, Value>>, manifests: Vec<Value>) -> Map<String, Value> {
    let mut index = Map::new();
    index.insert("schemaVersion".to_owned(), json!(2));
    index.insert("mediaType".to_owned(), json!(INDEX));
    index.insert("manifests".to_owned(), manifests.into());
    if let Some(annotations) = source.and_then(|source| source.get("annotations")) {
        index.insert("annotations".to_owned(), annotations.clone());
    }
    index
}
