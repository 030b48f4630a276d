//! What a manifest or an image index lists, in bounds.

use lacewing_format::media_type;
use lacewing_oci::Descriptor;
use serde_json::{Map, Value};

use super::document::{invalid, text};
use super::media::{CONFIG, INDEX, MANIFEST, oci_type};
use super::platform::platform_name;
use crate::Error;
use crate::limits::{MAX_LAYERS, MAX_MANIFESTS};

/// Is the document an image index (and not a manifest)?
pub(crate) fn is_index(document: &Map<String, Value>) -> bool {
    match oci_type(text(document, "mediaType")) {
        INDEX => true,
        MANIFEST => false,
        _ => document.contains_key("manifests"),
    }
}

/// One member of an image index that is an image.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Where its manifest is.
    pub(crate) descriptor: Descriptor,
    /// The descriptor as it stands in the index.
    pub(crate) document: Map<String, Value>,
}

impl Member {
    /// `linux/amd64`, `linux/arm64/v8`; empty if the index does not say.
    pub(crate) fn platform(&self) -> String {
        match self.document.get("platform") {
            Some(Value::Object(platform)) => platform_name(platform),
            _ => String::new(),
        }
    }
}

pub(crate) fn descriptor(what: &str, value: &Value) -> Result<Descriptor, Error> {
    serde_json::from_value(value.clone()).map_err(|error| invalid(what, error.to_string()))
}

/// The images of an image index: not attestations, accelerators or other artifacts. And how many were left out that are
/// not ours.
pub(crate) fn members(what: &str, index: &Map<String, Value>) -> Result<(Vec<Member>, usize), Error> {
    let manifests = list(
        what,
        index,
        "manifests",
        ("count of manifests in the image index", MAX_MANIFESTS),
    )?;
    let mut members = Vec::new();
    let mut left_out = 0;
    for manifest in manifests {
        let Value::Object(document) = manifest else {
            return Err(invalid(what, "descriptor is not an object"));
        };
        let artifact = text(document, "artifactType");
        let platform = document.get("platform").and_then(Value::as_object);
        let unknown = platform.is_some_and(|p| text(p, "os") == "unknown");
        if oci_type(text(document, "mediaType")) == MANIFEST
            && !unknown
            && artifact != media_type::ACCELERATOR
        {
            members.push(Member {
                descriptor: descriptor(what, manifest)?,
                document: document.clone(),
            });
        } else if artifact != media_type::ACCELERATOR {
            left_out += 1;
        }
    }
    Ok((members, left_out))
}

/// The layers of an image manifest.
pub(crate) fn layers(what: &str, manifest: &Map<String, Value>) -> Result<Vec<Descriptor>, Error> {
    let layers = list(what, manifest, "layers", ("count of layers", MAX_LAYERS))?;
    layers.iter().map(|layer| descriptor(what, layer)).collect()
}

/// The config's descriptor, if the manifest is one of a container image.
pub(crate) fn config(what: &str, manifest: &Map<String, Value>) -> Result<Descriptor, Error> {
    let Some(config) = manifest.get("config") else {
        return Err(invalid(what, "manifest has no config"));
    };
    let config = descriptor(what, config)?;
    let media_type = config.media_type().to_string();
    if oci_type(&media_type) != CONFIG {
        return Err(invalid(
            what,
            format!("not a container image: its config is {media_type}"),
        ));
    }
    Ok(config)
}

/// The list under a key of a document, at most as long as its limit, which comes with its name.
fn list<'a>(
    what: &str,
    document: &'a Map<String, Value>,
    key: &str,
    (name, limit): (&'static str, usize),
) -> Result<&'a [Value], Error> {
    let Some(Value::Array(values)) = document.get(key) else {
        return Err(invalid(what, format!("it has no {key}")));
    };
    if values.len() > limit {
        return Err(Error::Limit {
            what: name,
            value: values.len() as u64,
            limit: limit as u64,
        });
    }
    Ok(values)
}
