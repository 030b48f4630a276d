//! Images: which manifests there are, what goes where, and in which order it is pushed.
//!
//! Everything a manifest points to is pushed before it, and the tag moves last.

mod summary;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lacewing_format::annotation::IndexRef;
use lacewing_format::{Digest, media_type};
use lacewing_oci::{Access, Client, Descriptor, Reference, Store};
use serde_json::{Map, Value, json};
use tempfile::{NamedTempFile, TempPath};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::io;
use crate::hot::Hints;
use crate::layer::{Input, LayerConverter, Output, Settings};
use crate::limits::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use crate::load::{self, Image};
use crate::manifest::{self, ConfigFacts, invalid};
use crate::progress::{Event, Progress};
use crate::report::{ImageReport, Report};
use crate::stream::BlobReader;
use crate::{ConvertOptions, Error, earlier};
use summary::{cpu_seconds, layer_report, total};

/// Layers that are sent at the same time.
const UPLOADS: usize = 4;

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

/// Which original layers the target lacks: these are kept while they are read.
async fn layers_to_send(job: &Job<'_>, layers: &[Descriptor]) -> Result<Vec<bool>, Error> {
    let mut send = vec![false; layers.len()];
    let Some(target) = job.target.as_ref().filter(|_| !job.options.native) else {
        return Ok(send);
    };
    let mut seen = HashSet::new();
    for (layer, send) in layers.iter().zip(&mut send) {
        if !seen.insert(layer.digest().to_string()) || target.has_blob(layer).await? {
            continue;
        }
        let mounted = match job.src {
            Reference::Registry(from) => target.mount_blob(layer, from).await?,
            _ => false,
        };
        *send = !mounted;
    }
    Ok(send)
}

type Copies = Arc<Mutex<Vec<Option<TempPath>>>>;

/// Runs the pipeline in threads and sends what comes out of it.
async fn convert_layers(
    job: &Job<'_>,
    layers: &[Descriptor],
    facts: &ConfigFacts,
    mut converter: LayerConverter,
) -> Result<(Vec<Output>, LayerConverter), Error> {
    let send = layers_to_send(job, layers).await?;
    let copies: Copies = Arc::new(Mutex::new(layers.iter().map(|_| None).collect()));
    let hints = Hints::new(&facts.commands, &facts.folder);
    let mut open = opener(job, layers, facts, send, Arc::clone(&copies))?;
    let (results, mut ready) = mpsc::channel(1);
    let count = layers.len();
    let work = tokio::task::spawn_blocking(move || {
        let mut done = move |number, output| {
            results
                .blocking_send((number, output))
                .map_err(|_| Error::Stopped)
        };
        converter
            .convert(&hints, count, &mut open, &mut done)
            .map(|()| converter)
    });
    let uploads = futures::stream::poll_fn(|context| ready.poll_recv(context)).map(|(number, output)| {
        let copy = copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(number)
            .and_then(Option::take);
        upload(job, number, &layers[number], output, copy)
    });
    let outputs: Result<Vec<Output>, Error> = uploads.buffered(UPLOADS).try_collect().await;
    drop(ready);
    let converter = work.await.map_err(|_| Error::Stopped)?;
    match (outputs, converter) {
        (Ok(outputs), Ok(converter)) => Ok((outputs, converter)),
        // The pipeline stopped because its results could not be sent.
        (Err(error), Err(Error::Stopped)) | (Err(error), Ok(_)) | (_, Err(error)) => Err(error),
    }
}

type Opener = Box<dyn FnMut(usize) -> Result<Input, Error> + Send>;

/// Opens layers for the pipeline.
fn opener(
    job: &Job<'_>,
    layers: &[Descriptor],
    facts: &ConfigFacts,
    send: Vec<bool>,
    copies: Copies,
) -> Result<Opener, Error> {
    let digests: Vec<Digest> = layers
        .iter()
        .map(lacewing_oci::digest_of)
        .collect::<Result<_, lacewing_oci::Error>>()?;
    let (layers, diff_ids) = (layers.to_vec(), facts.diff_ids.clone());
    let (store, progress, dir) = (
        job.source.clone(),
        Arc::clone(&job.progress),
        job.spool_dir.clone(),
    );
    let runtime = Handle::current();
    Ok(Box::new(move |number| {
        let (digest, stored_len) = (digests[number], layers[number].size());
        progress.event(Event::LayerStarted {
            layer: number,
            digest,
            stored_len,
        });
        let mut copy = None;
        if send[number] {
            let (file, path) = NamedTempFile::new_in(&dir)
                .map_err(io("copy of a layer"))?
                .into_parts();
            copies.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(path);
            copy = Some(file);
        }
        let progress = Arc::clone(&progress);
        let on_read = Box::new(move |stored| {
            progress.event(Event::LayerRead {
                layer: number,
                stored,
            })
        });
        let stream = BlobReader::open(&runtime, &store, &layers[number], copy, on_read)?;
        Ok(Input {
            digest,
            diff_id: diff_ids[number],
            stored_len,
            stream: Box::new(stream),
        })
    }))
}

/// Sends a layer's blob, index and, if the target lacks it, the original layer. The files go then.
async fn upload(
    job: &Job<'_>,
    number: usize,
    layer: &Descriptor,
    mut output: Output,
    copy: Option<TempPath>,
) -> Result<Output, Error> {
    let blob = output.blob.take();
    output.new_blob = blob.as_ref().map(|(digest, len, _)| (*digest, *len));
    job.progress.event(Event::LayerConverted {
        layer: number,
        plain_len: output.plain_len,
        blob_len: output.new_blob.map_or(0, |(_, len)| len),
        index_len: output.index.reference.size,
    });
    if let Some(target) = &job.target {
        if let Some((digest, len, file)) = blob {
            let descriptor = lacewing_oci::describe(manifest::media(media_type::BLOB), &digest, len);
            put(job, target, &descriptor, digest, file).await?;
        }
        let stored = Bytes::from(std::mem::take(&mut output.index.stored));
        target
            .put_bytes(manifest::media(media_type::INDEX), stored)
            .await?;
        if let Some(copy) = copy {
            put(job, target, layer, lacewing_oci::digest_of(layer)?, copy).await?;
        }
    }
    Ok(output)
}

async fn put(
    job: &Job<'_>,
    target: &Store,
    descriptor: &Descriptor,
    digest: Digest,
    file: TempPath,
) -> Result<(), Error> {
    let len = descriptor.size();
    let sent = |sent| job.progress.event(Event::Upload { digest, sent, len });
    target.move_blob(descriptor, file, &sent).await?;
    Ok(())
}

/// Whether a registry's host ends with a port; the colons inside `[::1]` are none.
fn has_port(host: &str) -> bool {
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    after_address.contains(':')
}

/// Pushes an image's manifest and its accelerator's; gives their descriptors for the image index.
async fn push_image(
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

#[cfg(test)]
mod tests;
