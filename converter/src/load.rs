//! Converted images are found and their indexes read.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use lacewing_format::annotation::{self, IndexRef};
use lacewing_format::limits::MAX_INDEX;
use lacewing_format::media_type;
use lacewing_oci::{Descriptor, Store};
use serde_json::{Map, Value};

use crate::Error;
use crate::limits::MAX_INDEXES;
use crate::manifest::{self, invalid};

/// Indexes read at the same time.
const AT_ONCE: usize = 4;

/// A layer's index, verified by the digest in the layer's annotation.
#[derive(Clone, Debug)]
pub struct LayerIndex {
    /// Descriptor of the layer in the image manifest.
    pub layer: Descriptor,
    /// Digest and size of the stored index.
    pub index: IndexRef,
    /// The stored (zstd) index.
    pub stored: bytes::Bytes,
    /// The plain index: decompressed, nothing else checked.
    pub plain: Vec<u8>,
}

/// An image manifest of a store.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) platform: String,
    /// Its descriptor in the image index it came from.
    pub(crate) member: Option<Map<String, Value>>,
    pub(crate) manifest: Map<String, Value>,
}

/// All images that a reference names, and the image index that names them, if there is one.
pub(crate) struct Images {
    pub(crate) index: Option<Map<String, Value>>,
    pub(crate) images: Vec<Image>,
    /// Members that are no images and none of ours.
    pub(crate) left_out: usize,
}

/// Reads the image or image index that `reference` names in a store.
pub(crate) async fn images(
    store: &Store,
    reference: Option<&str>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Images, Error> {
    let root = store.resolve(reference).await?;
    let what = format!("{}@{}", store.place(), root.digest());
    let document = manifest::parse(&what, &store.manifest(&root).await?)?;
    if !manifest::is_index(&document) {
        let image = Image {
            digest: root.digest().to_string(),
            platform: String::new(),
            member: None,
            manifest: document,
        };
        return Ok(Images {
            index: None,
            images: vec![image],
            left_out: 0,
        });
    }
    let (members, left_out) = manifest::members(&what, &document)?;
    let mut images = Vec::new();
    for member in members {
        let platform = member.platform();
        if !wanted(&platform) {
            continue;
        }
        let digest = member.descriptor.digest().to_string();
        let what = format!("{}@{digest}", store.place());
        let manifest = manifest::parse(&what, &store.manifest(&member.descriptor).await?)?;
        images.push(Image {
            digest,
            platform,
            member: Some(member.document),
            manifest,
        });
    }
    Ok(Images {
        index: Some(document),
        images,
        left_out,
    })
}

/// Finds one platform's image.
pub(crate) async fn image(store: &Store, platform: Option<&str>) -> Result<Image, Error> {
    let wanted = platform.map_or_else(manifest::this_platform, str::to_owned);
    let found = images(store, None, |p| {
        p.is_empty() || manifest::platform_matches(p, &wanted)
    })
    .await?;
    let missing = || invalid(store.place(), format!("has no image for {wanted}"));
    found.images.into_iter().next().ok_or_else(missing)
}

/// The layers of a converted image with the indexes their annotations name.
pub(crate) fn bound_layers(
    what: &str,
    manifest: &Map<String, Value>,
) -> Result<Vec<(Descriptor, IndexRef)>, Error> {
    let bound = |layer: Descriptor| {
        let annotation = layer
            .annotations()
            .as_ref()
            .and_then(|a| a.get(annotation::INDEX));
        let reason = "a layer has no index annotation";
        let text = annotation.ok_or_else(|| Error::NotConverted {
            what: what.to_owned(),
            reason,
        })?;
        let index: IndexRef = text
            .parse()
            .map_err(|e: annotation::IndexRefParseError| invalid(what, e.to_string()))?;
        Ok((layer, index))
    };
    manifest::layers(what, manifest)?.into_iter().map(bound).collect()
}

/// What memory is left for the plain indexes of one image.
#[derive(Debug)]
pub(crate) struct Room(AtomicU64);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicU64::new(MAX_INDEXES))
    }
}

impl Room {
    fn take(&self, len: u64) -> Result<(), Error> {
        let less = |room: u64| room.checked_sub(len);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map(drop).map_err(|room| Error::Limit {
            what: "length of all indexes",
            value: MAX_INDEXES - room + len,
            limit: MAX_INDEXES,
        })
    }
}

/// Reads a stored index and decompresses it.
pub(crate) async fn index(
    store: &Store,
    layer: Descriptor,
    index: IndexRef,
    room: &Room,
) -> Result<LayerIndex, Error> {
    if index.size > MAX_INDEX {
        return Err(Error::Limit {
            what: "length of the stored index",
            value: index.size,
            limit: MAX_INDEX,
        });
    }
    let descriptor = lacewing_oci::describe(manifest::media(media_type::INDEX), &index.digest, index.size);
    let mut blob = store.blob(&descriptor).await?;
    let mut stored = Vec::new();
    while let Some(part) = blob.next().await {
        stored.extend_from_slice(&part?);
    }
    let plain = crate::index::decode(&stored)?;
    room.take(plain.len() as u64)?;
    Ok(LayerIndex {
        layer,
        index,
        stored: stored.into(),
        plain,
    })
}

/// Reads the indexes of an image, bottom layer first.
pub(crate) async fn indexes(store: &Store, image: &Image) -> Result<Vec<LayerIndex>, Error> {
    let what = format!("{}@{}", store.place(), image.digest);
    load_indexes_of(store, bound_layers(&what, &image.manifest)?).await
}

/// The layers of one platform's image with the indexes their annotations name, bottom layer first. `platform`:
/// `linux/amd64`; none: this machine's.
///
/// # Errors
/// [`Error::NotConverted`] if a layer has no index annotation; see [`Error`].
pub async fn find_indexes(
    store: &Store,
    platform: Option<&str>,
) -> Result<Vec<(Descriptor, IndexRef)>, Error> {
    let image = image(store, platform).await?;
    bound_layers(&format!("{}@{}", store.place(), image.digest), &image.manifest)
}

/// Reads indexes, in the order given.
///
/// # Errors
/// See [`Error`].
pub async fn load_indexes_of(
    store: &Store,
    layers: Vec<(Descriptor, IndexRef)>,
) -> Result<Vec<LayerIndex>, Error> {
    let room = Room::default();
    let reads = layers
        .into_iter()
        .map(|(layer, reference)| index(store, layer, reference, &room));
    futures::stream::iter(reads).buffered(AT_ONCE).try_collect().await
}

/// Reads the indexes of one platform's image, as [`find_indexes`] finds them.
///
/// # Errors
/// As [`find_indexes`].
pub async fn load_indexes(store: &Store, platform: Option<&str>) -> Result<Vec<LayerIndex>, Error> {
    load_indexes_of(store, find_indexes(store, platform).await?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_share_their_room() {
        let room = Room::default();
        for _ in 0..MAX_INDEXES >> 30 {
            assert!(room.take(1 << 30).is_ok());
        }
        assert!(room.take(0).is_ok());
        assert!(matches!(room.take(1), Err(Error::Limit { value, .. }) if value == MAX_INDEXES + 1));
    }
}
