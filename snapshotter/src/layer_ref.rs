//! Where a layer comes from, as far as the labels of a Prepare tell.
//!
//! Two kinds of labels say something. The annotations that conversion wrote on the layer's descriptor
//! (`containerd.io/snapshot/lacewing/*`) come with every client, because containerd's unpacker passes on
//! annotations with the prefix `containerd.io/snapshot/` whatever its settings. The labels
//! `containerd.io/snapshot/cri.*` name the image, and come from the CRI plugin, from the transfer
//! service and from nerdctl, if annotations are enabled there. What is then still unknown (which
//! registry and repository) is told by containerd's content store, where
//! [`SOURCE_LABEL_PREFIX`] on the config blob [`LayerRef::config`] names it.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use lacewing_format::Digest;
use lacewing_format::annotation::{self, IndexRef};

/// The chain id under which containerd will look for the layer. Only its unpacker sets it.
pub const CHAIN_ID_LABEL: &str = "containerd.io/snapshot.ref";
/// Marks a snapshot whose bytes may not be here yet, as other lazy snapshotters do.
pub const REMOTE_LABEL: &str = "containerd.io/snapshot/remote";
/// The value of [`REMOTE_LABEL`].
pub(crate) const REMOTE_VALUE: &str = "remote snapshot";
/// The full reference of the image being pulled.
pub const IMAGE_LABEL: &str = "containerd.io/snapshot/cri.image-ref";
/// The digest of the image's manifest.
pub const MANIFEST_LABEL: &str = "containerd.io/snapshot/cri.manifest-digest";
/// The digest of the layer's blob.
pub const LAYER_LABEL: &str = "containerd.io/snapshot/cri.layer-digest";
/// The blobs of this layer and those above it, comma-separated, cut at a label's limit.
pub const IMAGE_LAYERS_LABEL: &str = "containerd.io/snapshot/cri.image-layers";
/// Labels of a blob in containerd's content store: the registry's host follows, the value lists
/// repositories, comma-separated.
pub const SOURCE_LABEL_PREFIX: &str = "containerd.io/distribution.source.";

/// What a Prepare's labels say about a layer. Absent is what no label says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerRef {
    /// The image's reference as the client spelt it.
    pub image: Option<String>,
    /// The image's manifest.
    pub manifest: Option<Digest>,
    /// The layer's blob.
    pub layer: Option<Digest>,
    /// The blobs of this layer and those above it; may be cut.
    pub image_layers: Vec<Digest>,
    /// The layer's index. Absent: the image is not converted.
    pub index: Option<IndexRef>,
    /// The image's config.
    pub config: Option<Digest>,
}

/// A label's value is not what its key promises. Nothing has changed; the image must be converted again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerRefError {
    /// The value does not parse.
    #[error("label {key}: {why}")]
    Malformed {
        /// The label's key.
        key: &'static str,
        /// What is wrong with its value.
        why: String,
    },
    /// The annotations were written for another layer than the one they stand on.
    #[error("the annotations are those of layer {annotated}, the layer is {layer}")]
    OtherLayer {
        /// The layer that the annotations name.
        annotated: Digest,
        /// The layer that the client names.
        layer: Digest,
    },
}

impl LayerRef {
    /// Reads the labels of a Prepare.
    ///
    /// # Errors
    /// [`LayerRefError`] if one of Lacewing's own annotations, or a digest that containerd sends, is malformed.
    pub fn from_labels(labels: &HashMap<String, String>) -> Result<Self, LayerRefError> {
        let annotated: Option<Digest> = parsed(labels, annotation::LAYER)?;
        let named: Option<Digest> = parsed(labels, LAYER_LABEL)?;
        if let (Some(annotated), Some(layer)) = (annotated, named)
            && annotated != layer
        {
            return Err(LayerRefError::OtherLayer { annotated, layer });
        }
        Ok(Self {
            image: labels.get(IMAGE_LABEL).filter(|v| !v.is_empty()).cloned(),
            manifest: parsed(labels, MANIFEST_LABEL)?,
            layer: named.or(annotated),
            image_layers: image_layers(labels),
            index: parsed(labels, annotation::INDEX)?,
            config: parsed(labels, annotation::CONFIG)?,
        })
    }
}

fn parsed<T>(labels: &HashMap<String, String>, key: &'static str) -> Result<Option<T>, LayerRefError>
where
    T: FromStr<Err: Display>,
{
    let Some(value) = labels.get(key).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|error: T::Err| LayerRefError::Malformed {
            key,
            why: error.to_string(),
        })
}

/// A hint only, and cut by its sender: what does not parse is left out.
fn image_layers(labels: &HashMap<String, String>) -> Vec<Digest> {
    let value = labels.get(IMAGE_LAYERS_LABEL).map_or("", String::as_str);
    value
        .split(',')
        .filter_map(|digest| digest.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(rows: &[(&str, String)]) -> HashMap<String, String> {
        rows.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    #[test]
    fn all_that_cri_sends_for_a_converted_image() {
        let [layer, above, manifest, config, index] = [b"l", b"a", b"m", b"c", b"i"].map(|b| Digest::of(b));
        let read = LayerRef::from_labels(&labels(&[
            (IMAGE_LABEL, "registry.example/app:1".to_owned()),
            (MANIFEST_LABEL, manifest.to_string()),
            (LAYER_LABEL, layer.to_string()),
            (IMAGE_LAYERS_LABEL, format!("{layer},{above},sha256:cu")),
            (annotation::INDEX, format!("{index},77")),
            (annotation::CONFIG, config.to_string()),
            (annotation::LAYER, layer.to_string()),
        ]))
        .unwrap();
        assert_eq!(read.image.as_deref(), Some("registry.example/app:1"));
        assert_eq!(read.manifest, Some(manifest));
        assert_eq!(read.layer, Some(layer));
        assert_eq!(read.image_layers, [layer, above]);
        assert_eq!(
            read.index,
            Some(IndexRef {
                digest: index,
                size: 77
            })
        );
        assert_eq!(read.config, Some(config));
    }

    #[test]
    fn annotations_alone_name_layer_index_and_config() {
        let d = Digest::of(b"x");
        let read = LayerRef::from_labels(&labels(&[
            (annotation::INDEX, format!("{d},1")),
            (annotation::CONFIG, d.to_string()),
            (annotation::LAYER, d.to_string()),
        ]))
        .unwrap();
        assert_eq!((read.layer, read.config, read.image), (Some(d), Some(d), None));
    }

    #[test]
    fn an_image_that_is_not_converted_has_no_index() {
        assert_eq!(
            LayerRef::from_labels(&HashMap::new()).unwrap(),
            LayerRef::default()
        );
    }

    #[test]
    fn malformed_and_misplaced_annotations_are_refused() {
        let d = Digest::of(b"x");
        for (key, value) in [
            (annotation::INDEX, d.to_string()),
            (annotation::CONFIG, "latest".to_owned()),
            (annotation::LAYER, "sha256:12".to_owned()),
        ] {
            let error = LayerRef::from_labels(&labels(&[(key, value)])).unwrap_err();
            assert!(
                matches!(error, LayerRefError::Malformed { key: k, .. } if k == key),
                "{error}"
            );
        }
        let other = Digest::of(b"y");
        let error = LayerRef::from_labels(&labels(&[
            (annotation::LAYER, d.to_string()),
            (LAYER_LABEL, other.to_string()),
        ]));
        assert_eq!(
            error,
            Err(LayerRefError::OtherLayer {
                annotated: d,
                layer: other
            })
        );
    }
}
