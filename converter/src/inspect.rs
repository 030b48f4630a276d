//! What a converted image consists of; and its parts as files that the kernel mounts without us.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lacewing_format::limits::BLOCK;
use lacewing_format::{Digest, Index};
use lacewing_oci::{Access, Client, Reference, Store};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::Error;
use crate::error::io;
use crate::frames::{self, Blobs};
use crate::load;

/// What is in a converted image. The JSON form is stable: fields are only ever added.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// What was asked for.
    pub reference: String,
    /// One per platform; a single index file is one of one layer.
    pub images: Vec<ImageInspection>,
}

/// One platform's image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ImageInspection {
    /// `linux/amd64`; empty if unknown.
    pub platform: String,
    /// Digest of the image manifest.
    pub manifest: String,
    /// Bottom first.
    pub layers: Vec<LayerInspection>,
    /// All blobs that the layers point to, each once.
    pub blobs: Vec<BlobInspection>,
    /// Plain bytes of all files, each inode of each layer once, holes included.
    pub file_bytes: u64,
    /// Plain bytes of distinct chunks that the layers need.
    pub distinct_bytes: u64,
    /// Stored bytes of the frames that hold these.
    pub stored_bytes: u64,
    /// Stored bytes of all indexes.
    pub index_bytes: u64,
}

/// One layer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LayerInspection {
    /// Digest of the layer in the manifest.
    pub layer: String,
    /// Its stored bytes.
    pub layer_len: u64,
    /// Digest of the stored index.
    pub index: String,
    /// Bytes of the stored index.
    pub index_len: u64,
    /// Bytes of the plain index.
    pub index_plain_len: u64,
    /// Bytes of its EROFS image.
    pub erofs_len: u64,
    /// Count of inodes.
    pub inodes: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices (whiteouts too), FIFOs and sockets.
    pub specials: u64,
    /// Names of all these.
    pub names: u64,
    /// Bytes of regular files, holes included.
    pub file_bytes: u64,
    /// Plain bytes that files point to.
    pub data_bytes: u64,
    /// Count of frames it names.
    pub frames: u64,
    /// Count of chunks in these.
    pub chunks: u64,
    /// Frames to be fetched ahead.
    pub prefetch_frames: u64,
    /// Their stored bytes.
    pub prefetch_bytes: u64,
    /// Digests of the blobs it points to, in device order.
    pub blobs: Vec<String>,
}

/// One data blob, as far as the image needs it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BlobInspection {
    /// Digest of its stored bytes.
    pub blob: String,
    /// Its stored bytes.
    pub stored_len: u64,
    /// Bytes of its plain address space, padding included.
    pub plain_len: u64,
    /// Count of needed frames.
    pub frames: u64,
    /// Their stored bytes.
    pub needed_stored: u64,
    /// Count of chunks in them.
    pub chunks: u64,
    /// Plain bytes of these, without padding.
    pub needed_plain: u64,
}

fn layer_inspection(plain: &[u8]) -> Result<LayerInspection, Error> {
    let index = Index::parse(plain)?;
    let tree = index.check_tree()?;
    let stored = |frame: usize| u64::from(index.frames()[frame].stored_len());
    Ok(LayerInspection {
        layer: index.layer().to_string(),
        index_plain_len: plain.len() as u64,
        erofs_len: index.erofs_len(),
        inodes: tree.inodes,
        directories: tree.directories,
        files: tree.files,
        symlinks: tree.symlinks,
        specials: tree.specials,
        names: tree.names,
        file_bytes: tree.file_bytes,
        data_bytes: tree.data_bytes,
        frames: index.frames().len() as u64,
        chunks: index.chunks().len() as u64,
        prefetch_frames: index.prefetch().count() as u64,
        prefetch_bytes: index.prefetch().map(stored).sum(),
        blobs: index
            .devices()
            .iter()
            .map(|device| device.blob().to_string())
            .collect(),
        ..LayerInspection::default()
    })
}

fn finish(image: &mut ImageInspection, blobs: &Blobs) {
    for (digest, needed) in blobs {
        let chunks = || needed.frames.values().flat_map(|frame| &frame.chunks);
        image.blobs.push(BlobInspection {
            blob: digest.to_string(),
            stored_len: needed.stored_len,
            plain_len: u64::from(needed.blocks) * BLOCK as u64,
            frames: needed.frames.len() as u64,
            needed_stored: needed.frames.values().map(|frame| u64::from(frame.len)).sum(),
            chunks: chunks().count() as u64,
            needed_plain: chunks().map(|chunk| u64::from(chunk.len())).sum(),
        });
    }
    image.file_bytes = image.layers.iter().map(|layer| layer.file_bytes).sum();
    image.index_bytes = image.layers.iter().map(|layer| layer.index_len).sum();
    image.distinct_bytes = image.blobs.iter().map(|blob| blob.needed_plain).sum();
    image.stored_bytes = image.blobs.iter().map(|blob| blob.needed_stored).sum();
}

fn contradiction(what: String) -> Error {
    crate::manifest::invalid("index", what)
}

/// Describes a converted image.
///
/// # Errors
/// [`Error::NotConverted`]; see [`Error`].
pub async fn inspect(client: &Client, reference: &Reference) -> Result<Inspection, Error> {
    let store = Store::open(client, reference, Access::Read).await?;
    let found = load::images(&store, None, |_| true).await?;
    let mut inspection = Inspection {
        reference: reference.to_string(),
        ..Inspection::default()
    };
    for image in &found.images {
        let mut entry = ImageInspection {
            platform: image.platform.clone(),
            manifest: image.digest.clone(),
            ..ImageInspection::default()
        };
        let mut blobs = Blobs::new();
        for index in load::indexes(&store, image).await? {
            let mut layer = layer_inspection(&index.plain)?;
            layer.layer = index.layer.digest().to_string();
            layer.layer_len = index.layer.size();
            layer.index = index.index.digest.to_string();
            layer.index_len = index.index.size;
            frames::collect(Index::parse(&index.plain)?, &mut blobs).map_err(contradiction)?;
            entry.layers.push(layer);
        }
        finish(&mut entry, &blobs);
        inspection.images.push(entry);
    }
    Ok(inspection)
}

/// Describes a single index file, stored or plain.
///
/// # Errors
/// [`Error::Io`], and what is wrong with the index.
pub fn inspect_file(path: &Path) -> Result<Inspection, Error> {
    let bytes = std::fs::read(path).map_err(io(path.display().to_string()))?;
    let is_stored = bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let plain = if is_stored {
        crate::index::decode(&bytes)?
    } else {
        bytes.clone()
    };
    let mut layer = layer_inspection(&plain)?;
    if is_stored {
        layer.index = Digest::of(&bytes).to_string();
        layer.index_len = bytes.len() as u64;
    }
    let mut blobs = Blobs::new();
    frames::collect(Index::parse(&plain)?, &mut blobs).map_err(contradiction)?;
    let mut image = ImageInspection {
        layers: vec![layer],
        ..ImageInspection::default()
    };
    finish(&mut image, &blobs);
    Ok(Inspection {
        reference: path.display().to_string(),
        images: vec![image],
    })
}

/// Writes per layer an EROFS image, `NNN-LAYER.erofs` with the layer's position and the start of its digest, and for
/// each blob a plain device, `BLOB.device`, sparse where the image needs nothing. The EROFS device table names the blobs
/// in order. Only this machine's platform, or the first if there is none for it.
///
/// # Errors
/// See [`Error`]; frames that do not have their digests are errors.
pub async fn export(client: &Client, reference: &Reference, dir: &Path) -> Result<(), Error> {
    let store = Store::open(client, reference, Access::Read).await?;
    let image = load::image(&store, None).await?;
    let indexes = load::indexes(&store, &image).await?;
    let (runtime, dir) = (Handle::current(), dir.to_owned());
    let work = move || {
        let mut blobs = Blobs::new();
        for (number, layer) in indexes.iter().enumerate() {
            let index = Index::parse(&layer.plain)?;
            index.check_tree()?;
            frames::collect(index, &mut blobs).map_err(contradiction)?;
            let digest = lacewing_oci::digest_of(&layer.layer)?;
            let path = dir.join(format!("{number:03}-{}.erofs", &digest.hex()[..12]));
            let len = usize::try_from(index.erofs_len())
                .unwrap_or(usize::MAX)
                .min(layer.plain.len());
            std::fs::write(&path, &layer.plain[..len]).map_err(io(path.display().to_string()))?;
        }
        write_devices(&runtime, &store, &blobs, &dir)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopped)?
}

fn write_devices(
    runtime: &Handle,
    store: &Store,
    blobs: &BTreeMap<Digest, frames::Needed>,
    dir: &Path,
) -> Result<(), Error> {
    for (digest, needed) in blobs {
        let path = dir.join(format!("{}.device", digest.hex()));
        let name = path.display().to_string();
        let file = File::create(&path).map_err(io(name.clone()))?;
        file.set_len(u64::from(needed.blocks) * BLOCK as u64)
            .map_err(io(name.clone()))?;
        frames::read_blob(runtime, store, *digest, needed, &mut |frame, plain| {
            let plain = plain.map_err(|what| crate::manifest::invalid(format!("blob {digest}"), what))?;
            let block = frame.chunks.first().map_or(0, |chunk| u64::from(chunk.block()));
            file.write_all_at(plain, block * BLOCK as u64)
                .map_err(io(name.clone()))
        })?;
    }
    Ok(())
}
