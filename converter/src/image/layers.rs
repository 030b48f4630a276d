//! An image's layers go through the pipeline, and what comes out of it is sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lacewing_format::{Digest, media_type};
use lacewing_oci::{Descriptor, Reference, Store};
use tempfile::{NamedTempFile, TempPath};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Job;
use crate::Error;
use crate::error::io;
use crate::hot::Hints;
use crate::known::Facts;
use crate::layer::{LayerConverter, Stored};
use crate::manifest::{self, ConfigFacts};
use crate::output::Output;
use crate::progress::Event;
use crate::stream::BlobReader;

/// Layers that are sent at the same time.
const UPLOADS: usize = 4;

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
pub(super) async fn convert_layers(
    job: &Job<'_>,
    layers: &[Descriptor],
    facts: &ConfigFacts,
    mut converter: LayerConverter,
) -> Result<(Vec<Output>, LayerConverter), Error> {
    let send = layers_to_send(job, layers).await?;
    let copies: Copies = Arc::new(Mutex::new(layers.iter().map(|_| None).collect()));
    let hints = Hints::new(&facts.commands, &facts.folder);
    let known = known_facts(layers, facts)?;
    let mut open = opener(job, layers, &known, send, Arc::clone(&copies));
    let (results, mut ready) = mpsc::channel(1);
    let work = tokio::task::spawn_blocking(move || {
        let mut done = move |number, output| {
            results
                .blocking_send((number, output))
                .map_err(|_| Error::Stopped)
        };
        converter
            .convert(&hints, &known, &mut open, &mut done)
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

fn known_facts(layers: &[Descriptor], facts: &ConfigFacts) -> Result<Vec<Facts>, Error> {
    let known = |(layer, diff_id): (&Descriptor, &Digest)| {
        Ok(Facts {
            digest: lacewing_oci::digest_of(layer)?,
            diff_id: *diff_id,
            stored_len: layer.size(),
        })
    };
    layers.iter().zip(&facts.diff_ids).map(known).collect()
}

/// Opens layers for the pipeline.
fn opener(
    job: &Job<'_>,
    layers: &[Descriptor],
    known: &[Facts],
    send: Vec<bool>,
    copies: Copies,
) -> Box<dyn FnMut(usize) -> Result<Stored, Error> + Send> {
    let (layers, known) = (layers.to_vec(), known.to_vec());
    let (store, progress, dir) = (
        job.source.clone(),
        Arc::clone(&job.progress),
        job.spool_dir.clone(),
    );
    let runtime = Handle::current();
    Box::new(move |number| {
        progress.event(Event::LayerStarted {
            layer: number,
            digest: known[number].digest,
            stored_len: known[number].stored_len,
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
        Ok(Box::new(stream) as Stored)
    })
}

/// Sends a layer's blob, index and, if the target lacks it, the original layer. The files go then.
async fn upload(
    job: &Job<'_>,
    number: usize,
    layer: &Descriptor,
    mut output: Output,
    copy: Option<TempPath>,
) -> Result<Output, Error> {
    if output.index.stored.is_empty() {
        let text = format!("layer {number} is the same as for another platform: converted once");
        job.progress.event(Event::Note(text));
        return Ok(output);
    }
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
