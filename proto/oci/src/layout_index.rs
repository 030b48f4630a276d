//! `index.json` of an OCI image layout: finding images by name, and adding them. Pure.

use oci_spec::image::Descriptor;
use serde_json::{Map, Value, json};

/// The name of an image in a layout (OCI image-spec, annotations).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole reference, as containerd's exporter writes it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Names shown in an error: enough to choose from.
const SHOWN_NAMES: usize = 10;

/// The parsed document. Unknown fields are kept.
pub(crate) struct LayoutIndex {
    document: Map<String, Value>,
}

impl LayoutIndex {
    pub(crate) fn empty() -> LayoutIndex {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
        });
        let Value::Object(document) = document else {
            return LayoutIndex { document: Map::new() };
        };
        LayoutIndex { document }
    }

    /// # Errors
    /// What is wrong with the document.
    pub(crate) fn parse(text: &[u8]) -> Result<LayoutIndex, String> {
        let document: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if !document.get("manifests").is_some_and(Value::is_array) {
            return Err("it has no list \"manifests\"".to_owned());
        }
        Ok(LayoutIndex { document })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Keys and values came from JSON, so that this cannot fail.
        serde_json::to_vec(&self.document).unwrap_or_default()
    }

    fn manifests(&self) -> &[Value] {
        self.document
            .get("manifests")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// All names by which images can be asked for, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .manifests()
            .iter()
            .filter_map(|entry| annotation(entry, REF_NAME))
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Finds an image: by its exact name, else by the tag at the end of a whole reference; without a name, the one that
    /// has none, else the only one.
    ///
    /// # Errors
    /// `None` if it is not there; else why it cannot be told, or read.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Descriptor, Option<String>> {
        let Some(name) = name else {
            let nameless: Vec<&Value> = self
                .manifests()
                .iter()
                .filter(|entry| annotation(entry, REF_NAME).is_none())
                .collect();
            let one = nameless.len() == 1;
            return self.only(if one {
                nameless
            } else {
                self.manifests().iter().collect()
            });
        };
        let exact = |key: &str| -> Vec<&Value> {
            self.manifests()
                .iter()
                .filter(|entry| annotation(entry, key) == Some(name))
                .collect()
        };
        let by_tag = || {
            let ends_so = |entry: &&Value| {
                [REF_NAME, CONTAINERD_NAME].iter().any(|key| {
                    let tag = annotation(entry, key).and_then(|whole| whole.rsplit_once(':'));
                    tag.is_some_and(|(_, tag)| tag == name)
                })
            };
            self.manifests().iter().filter(ends_so).collect::<Vec<_>>()
        };
        let mut found = exact(REF_NAME);
        if found.is_empty() {
            found = exact(CONTAINERD_NAME);
        }
        if found.is_empty() {
            found = by_tag();
        }
        if found.is_empty() {
            Err(None)
        } else {
            self.only(found)
        }
    }

    /// The one digest that all of `found` name.
    fn only(&self, found: Vec<&Value>) -> Result<Descriptor, Option<String>> {
        let first = found
            .first()
            .ok_or_else(|| Some("it holds no image".to_owned()))?;
        if found
            .iter()
            .any(|entry| entry.get("digest") != first.get("digest"))
        {
            let names: Vec<String> = self.names().into_iter().take(SHOWN_NAMES).collect();
            return Err(Some(format!(
                "it holds several images, name one of: {}",
                names.join(", ")
            )));
        }
        read_entry(first).map_err(Some)
    }

    /// The entry for a digest, if there is one.
    pub(crate) fn by_digest(&self, digest: &str) -> Option<Descriptor> {
        let entry = self
            .manifests()
            .iter()
            .find(|entry| entry.get("digest").and_then(Value::as_str) == Some(digest));
        entry.and_then(|entry| read_entry(entry).ok())
    }

    /// Adds an image under `name`, in place of the one that had it; without a name, in place of one that has none.
    pub(crate) fn insert(&mut self, descriptor: &Descriptor, name: Option<&str>) {
        let mut entry = json!({
            "mediaType": descriptor.media_type().as_ref(),
            "digest": descriptor.digest().as_ref(),
            "size": descriptor.size(),
        });
        if let Some(name) = name {
            entry["annotations"] = json!({ REF_NAME: name });
        }
        let Some(manifests) = self.document.get_mut("manifests").and_then(Value::as_array_mut) else {
            return;
        };
        manifests.retain(|old| annotation(old, REF_NAME) != name);
        manifests.push(entry);
    }
}

fn annotation<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get("annotations")?.get(key)?.as_str()
}

/// Media type, digest and size; the rest of an entry is the layout's own business.
fn read_entry(entry: &Value) -> Result<Descriptor, String> {
    let full: Descriptor = serde_json::from_value(entry.clone()).map_err(|error| error.to_string())?;
    Ok(Descriptor::new(
        full.media_type().clone(),
        full.size(),
        full.digest().clone(),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lacewing_format::Digest;
    use oci_spec::image::MediaType;

    use super::*;
    use crate::verify::describe;

    fn image(seed: &str) -> Descriptor {
        describe(MediaType::ImageManifest, &Digest::of(seed.as_bytes()), 7)
    }

    fn sample() -> LayoutIndex {
        let mut index = LayoutIndex::empty();
        index.insert(&image("a"), Some("1"));
        index.insert(&image("b"), Some("docker.io/library/debian:12"));
        index.insert(&image("c"), Some("ghcr.io/x/y:dup"));
        index.insert(&image("d"), Some("quay.io/x/y:dup"));
        LayoutIndex::parse(&index.to_bytes()).unwrap()
    }

    #[test]
    fn finds_by_name_and_by_tag() {
        let index = sample();
        assert_eq!(index.find(Some("1")), Ok(image("a")));
        assert_eq!(index.find(Some("docker.io/library/debian:12")), Ok(image("b")));
        assert_eq!(index.find(Some("12")), Ok(image("b")));
        assert_eq!(index.find(Some("13")), Err(None));
        for ambiguous in [Some("dup"), None] {
            let reason = index.find(ambiguous).unwrap_err().unwrap();
            assert!(reason.contains("name one of: 1, docker.io"), "{reason}");
        }
        assert_eq!(index.by_digest(image("c").digest().as_ref()), Some(image("c")));
        assert_eq!(index.by_digest("sha256:00"), None);
    }

    #[test]
    fn replaces_a_name_and_keeps_the_rest() {
        let mut index = sample();
        index.document.insert("x".into(), json!(1));
        index.insert(&image("z"), Some("1"));
        assert_eq!(index.find(Some("1")), Ok(image("z")));
        assert_eq!(index.names().len(), 4);
        assert_eq!(index.document.get("x"), Some(&json!(1)));
    }

    #[test]
    fn nameless_images() {
        let mut index = LayoutIndex::empty();
        assert_eq!(index.find(None).unwrap_err().unwrap(), "it holds no image");
        index.insert(&image("b"), None);
        index.insert(&image("a"), None);
        assert_eq!(index.manifests().len(), 1);
        assert_eq!(index.find(None), Ok(image("a")));
        index.insert(&image("a"), Some("same"));
        assert_eq!(
            index.find(None),
            Ok(image("a")),
            "several names of one image are no question"
        );
    }

    #[test]
    fn containerd_names() {
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"m/x","digest":"{}","size":1,
                "annotations":{{"io.containerd.image.name":"docker.io/a/b:1","org.opencontainers.image.ref.name":"1"}}}}]}}"#,
            Digest::of(b"x")
        );
        let index = LayoutIndex::parse(text.as_bytes()).unwrap();
        for name in ["1", "docker.io/a/b:1"] {
            assert!(index.find(Some(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_what_is_no_index() {
        for text in ["", "[]", "{}", r#"{"manifests":{}}"#] {
            assert!(LayoutIndex::parse(text.as_bytes()).is_err(), "{text}");
        }
        let index = LayoutIndex::parse(br#"{"manifests":[{"digest":7}]}"#).unwrap();
        assert!(index.find(None).unwrap_err().is_some());
    }
}
