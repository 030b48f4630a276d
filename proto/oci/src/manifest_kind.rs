//! Which documents are manifests, by name and by content.

use oci_spec::image::MediaType;

/// Docker's manifest, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What requests for manifests accept. The last entry lets old servers show what they have, so that it can be named.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// The media type of a `Content-Type`, if it is one of a manifest or image index.
pub(crate) fn known(content_type: &str) -> Option<MediaType> {
    let name = content_type.split(';').next().unwrap_or_default().trim();
    match name {
        OCI_MANIFEST => Some(MediaType::ImageManifest),
        OCI_INDEX => Some(MediaType::ImageIndex),
        DOCKER_MANIFEST | DOCKER_LIST => Some(MediaType::Other(name.to_owned())),
        _ => None,
    }
}

/// What a document is: by its `Content-Type`, or, where that says nothing, by what it says itself.
///
/// # Errors
/// The reason why it is refused.
pub(crate) fn of(content_type: Option<&str>, document: &[u8]) -> Result<MediaType, String> {
    if let Some(known) = content_type.and_then(known) {
        return Ok(known);
    }
    let json: serde_json::Value = serde_json::from_slice(document)
        .map_err(|_| "it is neither a manifest nor an image index".to_owned())?;
    let told = json.get("mediaType").and_then(|v| v.as_str());
    if let Some(known) = told.and_then(known) {
        return Ok(known);
    }
    let schema_1 = json.get("schemaVersion").and_then(|v| v.as_u64()) == Some(1)
        || [content_type, told]
            .iter()
            .flatten()
            .any(|name| name.contains("docker.distribution.manifest.v1"));
    if schema_1 {
        return Err(
            "it is a docker manifest of schema 1, which is not supported; push it anew with a current client"
                .to_owned(),
        );
    }
    // OCI made `mediaType` optional; the lists tell the two apart.
    match (told, json.get("manifests"), json.get("config")) {
        (None, Some(list), None) if list.is_array() => Ok(MediaType::ImageIndex),
        (None, None, Some(config)) if config.is_object() => Ok(MediaType::ImageManifest),
        _ => Err(format!(
            "it is neither a manifest nor an image index: {:?}",
            told.or(content_type).unwrap_or("?")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let rows: [(Option<&str>, &str, Result<&str, &str>); 12] = [
            (Some(OCI_INDEX), "", Ok(OCI_INDEX)),
            (
                Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
                "",
                Ok(OCI_MANIFEST),
            ),
            (Some(DOCKER_LIST), "", Ok(DOCKER_LIST)),
            (
                Some("text/plain"),
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#,
                Ok(OCI_INDEX),
            ),
            (None, r#"{"schemaVersion":2,"manifests":[]}"#, Ok(OCI_INDEX)),
            (
                None,
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                Ok(OCI_MANIFEST),
            ),
            (None, r#"{"schemaVersion":1,"fsLayers":[]}"#, Err("schema 1")),
            (
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                "{}",
                Err("schema 1"),
            ),
            (None, r#"{"manifests":[],"config":{}}"#, Err("neither")),
            (None, r#"{"mediaType":"text/x","config":{}}"#, Err("\"text/x\"")),
            (Some("text/html"), "<html>", Err("neither")),
            (None, "[]", Err("neither")),
        ];
        for (content_type, document, expected) in rows {
            let found = of(content_type, document.as_bytes());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_ref(), expected, "{document}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{document}: {found}"),
                (found, _) => panic!("{content_type:?} {document}: {found:?}"),
            }
        }
    }
}
