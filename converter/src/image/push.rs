//! The manifests of a converted image.

use bytes::Bytes;
use lacewing_format::annotation::IndexRef;
use lacewing_format::{Digest, media_type};
use lacewing_oci::Reference;
use serde_json::{Map, Value, json};

use super::{Converted, Job};
use crate::Error;
use crate::manifest;
use crate::report::ImageReport;

/// Whether a registry's host ends with a port; the colons inside `[::1]` are none.
fn has_port(host: &str) -> bool {
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    after_address.contains(':')
}

/// Pushes an image's manifest and its accelerator's; gives their descriptors for the image index.
pub(super) async fn push_image(
    job: &Job<'_>,
    member: Option<Map<String, Value>>,
    converted: Converted,
) -> Result<(Value, Value, ImageReport), Error> {
    let Converted {
        mut manifest,
        platform,
        indexes,
        blobs,
        mut report,
    } = converted;
    let config = manifest
        .get("config")
        .and_then(|c| c.get("digest"))
        .and_then(Value::as_str);
    let config = config.unwrap_or("").to_owned();
    let references: Vec<IndexRef> = indexes.iter().map(|(index, _)| *index).collect();
    manifest::annotate(&mut manifest, &config, &references);
    if let Reference::Registry(place) = job.dst
        && has_port(&place.host)
    {
        manifest::name_host(&mut manifest, &place.host);
    }
    if job.options.native {
        manifest::make_native(&mut manifest, &references);
    }
    let bytes = manifest::bytes(manifest);
    let digest = Digest::of(&bytes).to_string();
    let subject = manifest::describe(manifest::MANIFEST, &digest, bytes.len() as u64);
    let accelerator = manifest::bytes(manifest::accelerator(&subject, &indexes, &blobs));
    let accelerator_digest = Digest::of(&accelerator).to_string();
    let mut entry = manifest::describe(manifest::MANIFEST, &accelerator_digest, accelerator.len() as u64);
    entry.insert("artifactType".to_owned(), json!(media_type::ACCELERATOR));
    entry.insert(
        "platform".to_owned(),
        json!({ "os": "unknown", "architecture": "unknown" }),
    );
    if let Some(target) = &job.target {
        let media = manifest::media(manifest::MANIFEST);
        target.put_manifest(media.clone(), bytes.into(), None).await?;
        let empty = manifest::EMPTY;
        target
            .put_bytes(manifest::media(empty.0), Bytes::from_static(empty.1))
            .await?;
        target.put_manifest(media, accelerator.into(), None).await?;
    }
    let mut image = member.unwrap_or_default();
    image.extend(subject);
    image.entry("platform").or_insert_with(|| platform.into());
    report.manifest = digest;
    report.accelerator = accelerator_digest;
    Ok((image.into(), entry.into(), report))
}
