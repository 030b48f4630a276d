//! Images: which manifests there are, what goes where, and in which order it is pushed.
//!
//! Everything a manifest points to is pushed before it, and the tag moves last.

mod layers;
mod push;
mod summary;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use lacewing_format::annotation::IndexRef;
use lacewing_format::{Digest, media_type};
use lacewing_oci::{Access, Client, Descriptor, Reference, Store};
use serde_json::{Map, Value};

use crate::layer::{LayerConverter, Settings};
use crate::limits::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use crate::load::{self, Image};
use crate::manifest::{self, ConfigFacts, invalid};
use crate::progress::{Event, Progress};
use crate::report::{ImageReport, Report};
use crate::{ConvertOptions, Error, earlier};
use layers::convert_layers;
use push::push_image;
use summary::{cpu_seconds, layer_report, total};

/// What all parts of a conversion share.
struct Job<'a> {
    src: &'a Reference,
    dst: &'a Reference,
    source: Store,
    /// None for a dry run.
    target: Option<Store>,
    options: &'a ConvertOptions,
    progress: Arc<dyn Progress>,
    spool_dir: PathBuf,
}

/// An image whose layers are all converted and sent.
struct Converted {
    manifest: Map<String, Value>,
    platform: Map<String, Value>,
    indexes: Vec<(IndexRef, String)>,
    blobs: Vec<(Digest, u64)>,
    report: ImageReport,
}

/// Converts `src` and writes the result to `dst`.
///
/// # Errors
/// See [`Error`]; nothing appears under `dst`'s tag then.
pub async fn convert(
    client: &Client,
    src: &Reference,
    dst: &Reference,
    options: &ConvertOptions,
    progress: Arc<dyn Progress>,
) -> Result<Report, Error> {
    validate(options)?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let source = Store::open(client, src, Access::Read).await?;
    let (target, known) = open_target(client, dst, options).await?;
    let earlier = earlier::blobs(client, dst, known.as_ref(), options, progress.as_ref()).await?;
    let at_target = || target.as_ref().and_then(Store::spool_dir);
    let spool_dir = options.spool_dir.clone().or_else(at_target);
    let spool_dir = spool_dir.unwrap_or_else(std::env::temp_dir);
    let job = Job {
        src,
        dst,
        source,
        target,
        options,
        progress,
        spool_dir,
    };
    let settings = Settings {
        chunk_size: options.chunk_size,
        level: options.level,
        jobs: jobs(options),
        spool_dir: job.spool_dir.clone(),
        record: options.record.clone(),
    };
    let mut converter = LayerConverter::new(settings, earlier);
    let found = find(&job).await?;
    let mut report = Report {
        source: src.to_string(),
        target: dst.to_string(),
        ..Report::default()
    };
    let mut manifests = Vec::new();
    let mut accelerators = Vec::new();
    for image in found.images {
        let (converted, back) = convert_image(&job, &image, converter).await?;
        converter = back;
        let (image, accelerator, image_report) = push_image(&job, image.member, converted).await?;
        manifests.push(image);
        accelerators.push(accelerator);
        report.images.push(image_report);
    }
    manifests.append(&mut accelerators);
    let index = manifest::bytes(manifest::image_index(found.index.as_ref(), manifests));
    report.digest = Digest::of(&index).to_string();
    report.dry_run = options.dry_run;
    if let Some(target) = job.target {
        target
            .put_root(manifest::media(manifest::INDEX), index.into())
            .await?;
        target.finish().await?;
    }
    total(&mut report);
    report.record_files = options.record.as_ref().map_or(0, |record| record.files() as u64);
    report.record_files_found = converter.found() as u64;
    report.wall_seconds = started.elapsed().as_secs_f64();
    report.cpu_seconds = cpu_seconds() - cpu;
    Ok(report)
}

fn validate(options: &ConvertOptions) -> Result<(), Error> {
    let size = options.chunk_size;
    if !size.is_power_of_two() || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&size) {
        return Err(invalid(
            "chunk size",
            format!("{size} is not a power of two from 64 KiB to 1 MiB"),
        ));
    }
    if !(1..=19).contains(&options.level) {
        return Err(invalid("level", format!("{} is not from 1 to 19", options.level)));
    }
    Ok(())
}

fn jobs(options: &ConvertOptions) -> usize {
    match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    }
}

/// Opens the target for writing, and for a look at what is there: the same, but for a dry run.
async fn open_target(
    client: &Client,
    dst: &Reference,
    options: &ConvertOptions,
) -> Result<(Option<Store>, Option<Store>), Error> {
    if !options.dry_run {
        let store = Store::open(client, dst, Access::Write).await?;
        return Ok((Some(store.clone()), Some(store)));
    }
    match Store::open(client, dst, Access::Read).await {
        Ok(store) => Ok((None, Some(store))),
        Err(lacewing_oci::Error::NotFound { .. } | lacewing_oci::Error::Io { .. }) => Ok((None, None)),
        Err(error) => Err(error.into()),
    }
}

/// The images to convert.
async fn find(job: &Job<'_>) -> Result<load::Images, Error> {
    let wanted = &job.options.platforms;
    let matches = |platform: &str| {
        wanted.is_empty()
            || platform.is_empty()
            || wanted.iter().any(|w| manifest::platform_matches(platform, w))
    };
    let found = load::images(&job.source, None, matches).await?;
    if found.images.is_empty() {
        return Err(invalid(
            job.src.to_string(),
            "has no image for the platforms asked for",
        ));
    }
    if found.left_out > 0 {
        let note = format!(
            "{} attestations or other artifacts of the source are left out",
            found.left_out
        );
        job.progress.event(Event::Note(note));
    }
    Ok(found)
}

async fn convert_image(
    job: &Job<'_>,
    image: &Image,
    converter: LayerConverter,
) -> Result<(Converted, LayerConverter), Error> {
    let what = format!("{}@{}", job.source.place(), image.digest);
    let manifest = manifest::plain(image.manifest.clone());
    let config = manifest::config(&what, &manifest)?;
    let config_bytes = read_small(&job.source, &config).await?;
    let facts = manifest::config_facts(&format!("config of {what}"), &config_bytes)?;
    let layers = manifest::layers(&what, &manifest)?;
    refuse_unconvertible(&what, &layers, &facts)?;
    let platform = manifest::platform_name(&facts.platform);
    job.progress.event(Event::ImageStarted {
        platform: platform.clone(),
        layers: layers.len(),
    });
    let (outputs, converter) = convert_layers(job, &layers, &facts, converter).await?;
    if let Some(target) = &job.target {
        target
            .put_bytes(config.media_type().clone(), config_bytes)
            .await?;
    }
    let mut converted = Converted {
        manifest,
        platform: facts.platform,
        indexes: Vec::new(),
        blobs: Vec::new(),
        report: ImageReport {
            platform,
            ..ImageReport::default()
        },
    };
    let mut known = HashSet::new();
    for (layer, output) in layers.iter().zip(outputs) {
        converted
            .indexes
            .push((output.index.reference, layer.digest().to_string()));
        converted
            .blobs
            .extend(output.blobs.iter().filter(|(digest, _)| known.insert(*digest)));
        converted.report.layers.push(layer_report(layer, &output));
    }
    Ok((converted, converter))
}

fn refuse_unconvertible(what: &str, layers: &[Descriptor], facts: &ConfigFacts) -> Result<(), Error> {
    if layers.len() != facts.diff_ids.len() {
        let counts = format!(
            "{} layers, but {} diff ids in the config",
            layers.len(),
            facts.diff_ids.len()
        );
        return Err(invalid(what, counts));
    }
    for layer in layers {
        let media_type = layer.media_type().to_string();
        if media_type == media_type::NATIVE_LAYER {
            return Err(invalid(what, "a native image has no original layers to convert"));
        }
        if media_type.ends_with("+encrypted") {
            return Err(invalid(what, "encrypted layers cannot be converted"));
        }
        lacewing_oci::digest_of(layer)?;
    }
    Ok(())
}

/// Reads a small document whole.
pub(crate) async fn read_small(store: &Store, descriptor: &Descriptor) -> Result<Bytes, Error> {
    if descriptor.size() > crate::limits::MAX_CONFIG {
        let (value, limit) = (descriptor.size(), crate::limits::MAX_CONFIG);
        return Err(Error::Limit {
            what: "length of the config",
            value,
            limit,
        });
    }
    let mut blob = store.blob(descriptor).await?;
    let mut bytes = Vec::new();
    while let Some(part) = blob.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests;
