//! A converted image is compared with its original layers, entry by entry and chunk by chunk.

mod contents;
mod trees;

use std::collections::BTreeSet;
use std::sync::Arc;

use lacewing_format::{Digest, Index, Tree, media_type};
use lacewing_oci::{Access, Client, Descriptor, Error as StoreError, Reference, Store};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use crate::Error;
use crate::apply::{apply_layer, skeleton};
use crate::decompress::{Plain, PlainStream};
use crate::frames::{self, Blobs};
use crate::load::{self, Image, LayerIndex};
use crate::manifest;
use crate::stream::BlobReader;
use contents::Ids;

/// Most differences that are listed: more do not tell more.
const MAX_DIFFERENCES: usize = 1000;

/// One way in which a converted image differs from its original layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Digest of the layer, or of the blob or manifest it is about.
    pub layer: String,
    /// Path in the layer, lossy; empty if it is about the layer as a whole.
    pub path: String,
    /// What differs.
    pub what: String,
}

/// Collects differences, up to a bound.
#[derive(Debug, Default)]
struct Findings {
    layer: String,
    list: Vec<Difference>,
}

impl Findings {
    fn add(&mut self, path: &[u8], what: impl Into<String>) {
        if self.list.len() < MAX_DIFFERENCES {
            let path = String::from_utf8_lossy(path).into_owned();
            self.list.push(Difference {
                layer: self.layer.clone(),
                path,
                what: what.into(),
            });
        }
    }
}

/// Proves a converted image equal to its original layers, for all its platforms: applies each original layer anew,
/// compares the tree with the index's, every file's content with the chunks that the index names, and reads every frame
/// of every blob to compare its chunks with their digests. Empty if nothing differs.
///
/// A native image has no original layers: there, indexes and blobs are checked.
///
/// # Errors
/// What cannot be read at all. What can be read and is wrong is a [`Difference`].
pub async fn check(client: &Client, reference: &Reference) -> Result<Vec<Difference>, Error> {
    let store = Store::open(client, reference, Access::Read).await?;
    let images = load::images(&store, None, |_| true).await?;
    let mut findings = Findings::default();
    let mut blobs = Blobs::new();
    for image in &images.images {
        let mut named = BTreeSet::new();
        findings = check_image(&store, image, findings, &mut blobs, &mut named).await?;
        if let Some(index) = &images.index {
            check_accelerator(&store, index, image, &named, &mut findings).await?;
        }
    }
    let runtime = Handle::current();
    let check = move || check_blobs(&runtime, &store, &blobs, findings);
    let findings = tokio::task::spawn_blocking(check)
        .await
        .map_err(|_| Error::Stopped)??;
    Ok(findings.list)
}

/// The indexes of an image, with what is wrong with single ones.
async fn read_indexes(
    store: &Store,
    image: &Image,
    findings: &mut Findings,
) -> Result<Vec<(Descriptor, Option<LayerIndex>)>, Error> {
    let what = format!("{}@{}", store.place(), image.digest);
    let mut indexes = Vec::new();
    let room = load::Room::default();
    for (layer, reference) in load::bound_layers(&what, &image.manifest)? {
        findings.layer = layer.digest().to_string();
        let index = match load::index(store, layer.clone(), reference, &room).await {
            Ok(index) => Some(index),
            Err(
                error @ (Error::Store(StoreError::Corrupt { .. } | StoreError::NotFound { .. })
                | Error::Decompress { .. }
                | Error::Limit { .. }),
            ) => {
                findings.add(b"", format!("index: {error}"));
                None
            }
            Err(error) => return Err(error),
        };
        indexes.push((layer, index));
    }
    Ok(indexes)
}

async fn check_image(
    store: &Store,
    image: &Image,
    mut findings: Findings,
    blobs: &mut Blobs,
    named: &mut BTreeSet<Digest>,
) -> Result<Findings, Error> {
    let what = format!("{}@{}", store.place(), image.digest);
    let config = manifest::config(&what, &image.manifest)?;
    let facts = manifest::config_facts(&what, &crate::image::read_small(store, &config).await?)?;
    let layers = read_indexes(store, image, &mut findings).await?;
    if layers.len() != facts.diff_ids.len() {
        return Err(manifest::invalid(what, "counts of layers and diff ids differ"));
    }
    for (layer, index) in &layers {
        findings.layer = layer.digest().to_string();
        let Some(index) = index else { continue };
        let collect = |index: Index<'_>| {
            named.extend(index.devices().iter().map(lacewing_format::Device::blob));
            frames::collect(index, blobs)
        };
        if let Err(what) = parse(&index.plain).and_then(collect) {
            findings.add(b"", what);
        }
    }
    let (runtime, store) = (Handle::current(), store.clone());
    let work = move || -> Result<Findings, Error> {
        let mut lowers: Vec<Arc<Tree>> = Vec::new();
        for ((layer, index), diff_id) in layers.iter().zip(&facts.diff_ids) {
            findings.layer = layer.digest().to_string();
            if layer.media_type().to_string() == media_type::NATIVE_LAYER {
                continue;
            }
            let lower = check_layer(
                &runtime,
                &store,
                layer,
                index.as_ref(),
                *diff_id,
                &lowers,
                &mut findings,
            )?;
            lowers.insert(0, lower);
        }
        Ok(findings)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopped)?
}

/// An index that may be trusted to be well-formed.
pub(crate) fn parse(plain: &[u8]) -> Result<Index<'_>, String> {
    let index = Index::parse(plain).map_err(|e| format!("index: {e}"))?;
    index.check_tree().map_err(|e| format!("index: {e}"))?;
    Ok(index)
}

fn check_layer(
    runtime: &Handle,
    store: &Store,
    layer: &Descriptor,
    index: Option<&LayerIndex>,
    diff_id: Digest,
    lowers: &[Arc<Tree>],
    findings: &mut Findings,
) -> Result<Arc<Tree>, Error> {
    // What is wrong with the index has been said before.
    let index = index.and_then(|index| parse(&index.plain).ok());
    let mut ids = Ids::new(index.map_or_else(|| Ok(Vec::new()), trees::chunk_sizes)?);
    let stream = BlobReader::open(runtime, store, layer, None, Box::new(|_| {}))?;
    let mut stream = PlainStream::start(stream, layer.size());
    let tree = apply_layer(&mut stream, lowers, &mut ids)?;
    let Plain { diff_id: found, .. } = stream.finish()?;
    if found != diff_id {
        findings.add(
            b"",
            format!("the tar's digest is {found}, the config says {diff_id}"),
        );
    }
    if let Some(index) = index {
        if index.layer() != lacewing_oci::digest_of(layer)? || index.diff_id() != diff_id {
            findings.add(b"", "the index was made for another layer");
        }
        trees::compare(&tree, &ids, index, findings)?;
    }
    Ok(skeleton(&tree))
}

/// What differs between a plain tar and its index, and the skeleton for the layers above; for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn differences(
    tar: impl std::io::Read,
    lowers: &[Arc<Tree>],
    index: Index<'_>,
) -> Result<(Vec<Difference>, Arc<Tree>), Error> {
    let mut findings = Findings::default();
    let mut ids = Ids::new(trees::chunk_sizes(index)?);
    let tree = apply_layer(tar, lowers, &mut ids)?;
    trees::compare(&tree, &ids, index, &mut findings)?;
    Ok((findings.list, skeleton(&tree)))
}

/// Reads all blobs.
fn check_blobs(
    runtime: &Handle,
    store: &Store,
    blobs: &Blobs,
    mut findings: Findings,
) -> Result<Findings, Error> {
    for (digest, needed) in blobs {
        findings.layer = digest.to_string();
        let mut wrong = Vec::new();
        let read = frames::read_blob(runtime, store, *digest, needed, &mut |_, plain| {
            wrong.extend(plain.err());
            Ok(())
        });
        wrong.into_iter().for_each(|what| findings.add(b"", what));
        match read {
            Ok(()) => {}
            Err(Error::Store(error @ (StoreError::NotFound { .. } | StoreError::Corrupt { .. }))) => {
                findings.add(b"", error.to_string());
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                findings.add(b"", "the blob ends before its last frame");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(findings)
}

/// Does an accelerator manifest keep all that the image needs?
async fn check_accelerator(
    store: &Store,
    index: &Map<String, Value>,
    image: &Image,
    blobs: &BTreeSet<Digest>,
    findings: &mut Findings,
) -> Result<(), Error> {
    findings.layer.clone_from(&image.digest);
    let manifests = index
        .get("manifests")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let ours = |m: &&Value| m.get("artifactType").and_then(Value::as_str) == Some(media_type::ACCELERATOR);
    for entry in manifests.filter(ours) {
        let descriptor = manifest::descriptor("accelerator", entry)?;
        let document = manifest::parse("accelerator", &store.manifest(&descriptor).await?)?;
        let subject = document
            .get("subject")
            .and_then(|s| s.get("digest"))
            .and_then(Value::as_str);
        if subject != Some(image.digest.as_str()) {
            continue;
        }
        let kept: BTreeSet<String> = manifest::layers("accelerator", &document)?
            .iter()
            .map(|layer| layer.digest().to_string())
            .collect();
        let what = format!("{}@{}", store.place(), image.digest);
        let indexes = load::bound_layers(&what, &image.manifest)?;
        let indexes = indexes.iter().map(|(_, index)| ("index", index.digest));
        for (kind, digest) in indexes.chain(blobs.iter().map(|&blob| ("blob", blob))) {
            if !kept.contains(&digest.to_string()) {
                findings.add(
                    b"",
                    format!("the accelerator manifest does not list {kind} {digest}"),
                );
            }
        }
        return Ok(());
    }
    findings.add(b"", "the image has no accelerator manifest");
    Ok(())
}
