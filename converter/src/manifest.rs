//! Manifests, image indexes and configs as documents: what we do not know in them stays as it is.

use lacewing_format::annotation::{self, IndexRef};
use lacewing_format::{Digest, media_type};
use lacewing_oci::{Descriptor, MediaType};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::limits::{MAX_LAYERS, MAX_MANIFESTS};

/// Media type of an image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image config.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type and bytes of the config of what needs none.
pub(crate) const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// All annotations of ours begin so.
const OURS: &str = "containerd.io/snapshot/lacewing/";

/// Docker's media types and the OCI ones of the same content.
const DOCKER: [(&str, &str); 8] = [
    ("application/vnd.docker.distribution.manifest.v2+json", MANIFEST),
    ("application/vnd.docker.distribution.manifest.list.v2+json", INDEX),
    ("application/vnd.docker.container.image.v1+json", CONFIG),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ),
];

pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Invalid {
        what: what.into(),
        reason: reason.into(),
    }
}

/// The OCI media type for a media type.
pub(crate) fn oci_type(media_type: &str) -> &str {
    DOCKER
        .iter()
        .find(|(docker, _)| *docker == media_type)
        .map_or(media_type, |(_, oci)| oci)
}

/// Parses a JSON document that must be an object.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid(what, "not a JSON object")),
        Err(error) => Err(invalid(what, error.to_string())),
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or("")
}

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

/// `os/architecture[/variant]` of a platform or a config.
pub(crate) fn platform_name(object: &Map<String, Value>) -> String {
    let parts = [
        text(object, "os"),
        text(object, "architecture"),
        text(object, "variant"),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

/// Does a platform agree with a wanted one? A variant that is not asked for does not matter.
pub(crate) fn platform_matches(platform: &str, wanted: &str) -> bool {
    platform == wanted
        || platform
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The platform of this machine in OCI's words.
pub(crate) fn this_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
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

/// What a conversion needs of an image config.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFacts {
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) platform: Map<String, Value>,
    pub(crate) commands: Vec<String>,
    pub(crate) folder: String,
}

/// Reads an image config.
pub(crate) fn config_facts(what: &str, bytes: &[u8]) -> Result<ConfigFacts, Error> {
    let document = parse(what, bytes)?;
    let diff_ids = document
        .get("rootfs")
        .and_then(|r| r.get("diff_ids"))
        .and_then(Value::as_array);
    let diff_id = |value: &Value| {
        let text = value.as_str().unwrap_or("");
        text.parse()
            .map_err(|e: lacewing_format::DigestParseError| invalid(what, e.to_string()))
    };
    let diff_ids = diff_ids
        .into_iter()
        .flatten()
        .map(diff_id)
        .collect::<Result<_, Error>>()?;
    let mut facts = ConfigFacts {
        diff_ids,
        ..ConfigFacts::default()
    };
    for key in ["architecture", "os", "os.version", "os.features", "variant"] {
        if let Some(value) = document.get(key) {
            facts.platform.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(Value::Object(run)) = document.get("config") {
        for key in ["Entrypoint", "Cmd"] {
            let words = run.get(key).and_then(Value::as_array).into_iter().flatten();
            facts
                .commands
                .extend(words.filter_map(Value::as_str).map(str::to_owned));
        }
        text(run, "WorkingDir").clone_into(&mut facts.folder);
    }
    Ok(facts)
}

/// An image manifest in OCI terms, without annotations of ours on its layers.
pub(crate) fn plain(mut manifest: Map<String, Value>) -> Map<String, Value> {
    manifest.insert("mediaType".to_owned(), json!(MANIFEST));
    if let Some(config) = manifest.get_mut("config") {
        to_oci(config);
    }
    for layer in manifest
        .get_mut("layers")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
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

fn to_oci(descriptor: &mut Value) {
    if let Some(media_type) = descriptor.get_mut("mediaType") {
        *media_type = json!(oci_type(media_type.as_str().unwrap_or("")));
    }
}

/// Binds each layer to its index.
pub(crate) fn annotate(manifest: &mut Map<String, Value>, config: &str, indexes: &[IndexRef]) {
    let layers = manifest
        .get_mut("layers")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for (layer, index) in layers.zip(indexes) {
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
    let layers = manifest
        .get_mut("layers")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for annotations in layers.filter_map(|layer| layer.get_mut("annotations")?.as_object_mut()) {
        annotations.insert(annotation::HOST.to_owned(), json!(host));
    }
}

/// Puts the indexes in place of the layers.
pub(crate) fn make_native(manifest: &mut Map<String, Value>, indexes: &[IndexRef]) {
    let layers = manifest
        .get_mut("layers")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for (layer, index) in layers.zip(indexes) {
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

/// A descriptor as a document.
pub(crate) fn describe(media_type: &str, digest: &str, size: u64) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("mediaType".to_owned(), json!(media_type));
    object.insert("digest".to_owned(), json!(digest));
    object.insert("size".to_owned(), json!(size));
    object
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

/// A document's bytes: keys sorted, no white space.
pub(crate) fn bytes(document: Map<String, Value>) -> Vec<u8> {
    // A document of strings and numbers always has a text.
    serde_json::to_vec(&Value::Object(document)).unwrap_or_default()
}

/// A media type for [`Descriptor`]s.
pub(crate) fn media(name: &str) -> MediaType {
    MediaType::from(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
    fn platforms() {
        let rows = [
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", false),
            ("linux/arm", "linux/arm64", false),
            ("linux/arm64", "linux/arm", false),
            ("linux/amd64", "linux/amd64", true),
        ];
        for (platform, wanted, want) in rows {
            assert_eq!(platform_matches(platform, wanted), want, "{platform} {wanted}");
        }
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
}
