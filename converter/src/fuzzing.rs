//! The readers of layers, frames and documents, for fuzz targets. Not an interface: nothing else uses it.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use lacewing_format::{Digest, Index, Tree};

use crate::Error;
use crate::decompress::{PlainStream, decoder};
use crate::frames::{self, Blobs};
use crate::hot::Hints;
use crate::known::Facts;
use crate::layer::{LayerConverter, Settings, Stored};
use crate::{index, load, manifest, verify};

/// Converts the layers of an image (stored bytes, bottom first) and proves the result equal to them.
///
/// # Errors
/// Why the layers are refused. A result that differs from its layers is a panic.
pub fn layers(layers: &[Vec<u8>], spool_dir: &Path) -> Result<(), Error> {
    let mut facts = Vec::new();
    for layer in layers {
        let stored_len = layer.len() as u64;
        let stream = PlainStream::start(Cursor::new(layer.clone()), stored_len);
        facts.push(Facts {
            digest: Digest::of(layer),
            diff_id: stream.finish()?.diff_id,
            stored_len,
        });
    }
    let settings = Settings {
        chunk_size: 64 << 10,
        level: 1,
        jobs: 1,
        spool_dir: spool_dir.to_owned(),
        record: None,
    };
    let mut blobs: HashMap<Digest, Vec<u8>> = HashMap::new();
    let mut indexes = Vec::new();
    let mut open = |number: usize| Ok(Box::new(Cursor::new(layers[number].clone())) as Stored);
    let hints = Hints::new(&["/a".to_owned()], "/");
    LayerConverter::new(settings, Vec::new()).convert(&hints, &facts, &mut open, &mut |_, output| {
        if let Some((digest, _, file)) = &output.blob {
            blobs.insert(*digest, std::fs::read(file).map_err(crate::error::io("blob"))?);
        }
        indexes.push(output.index.stored);
        Ok(())
    })?;
    compare(layers, &indexes, &blobs)
}

fn compare(layers: &[Vec<u8>], indexes: &[Vec<u8>], blobs: &HashMap<Digest, Vec<u8>>) -> Result<(), Error> {
    let mut lowers: Vec<Arc<Tree>> = Vec::new();
    let mut needed = Blobs::new();
    for (layer, stored) in layers.iter().zip(indexes) {
        let plain = index::decode(stored)?;
        let index = verify::parse(&plain).expect("an index just written is sound");
        let mut tar = decoder(layer.as_slice())?;
        let (differences, lower) = verify::differences(&mut tar, &lowers, index)?;
        assert_eq!(differences, [], "converted and original differ");
        lowers.insert(0, lower);
        frames::collect(index, &mut needed).expect("indexes of one image agree");
    }
    for (digest, needed) in &needed {
        let blob = &blobs[digest];
        assert_eq!(
            (Digest::of(blob), blob.len() as u64),
            (*digest, needed.stored_len)
        );
        let mut plain = Vec::new();
        for (&offset, frame) in &needed.frames {
            let stored = &blob[offset as usize..][..frame.len as usize];
            frames::decode(frame, stored, &mut plain).expect("a frame just written decodes");
            frames::verify(frame, &plain).expect("a frame just written is genuine");
        }
    }
    Ok(())
}

/// Decodes and verifies the stored bytes of an index's frame; its plain bytes, padding included.
///
/// # Errors
/// What is wrong with them.
pub fn frame(index: Index<'_>, frame: usize, stored: &[u8]) -> Result<Vec<u8>, String> {
    let needed = frames::NeededFrame {
        len: index.frames()[frame].stored_len(),
        codec: index.frames()[frame].codec(),
        chunks: index.frame_chunks(frame).to_vec(),
    };
    let mut plain = Vec::new();
    frames::decode(&needed, stored, &mut plain)?;
    frames::verify(&needed, &plain)?;
    Ok(plain)
}

/// Decodes a stored index.
///
/// # Errors
/// [`Error::Decompress`], [`Error::Limit`].
pub fn stored_index(stored: &[u8]) -> Result<Vec<u8>, Error> {
    index::decode(stored)
}

/// Reads a document as image index, image manifest and image config, and makes a converted image's of it.
///
/// # Errors
/// The first that is wrong.
pub fn document(text: &[u8]) -> Result<(), Error> {
    let document = manifest::parse("document", text)?;
    let again = manifest::parse("document", &manifest::bytes(document.clone()))?;
    assert_eq!(again, document);
    let facts = manifest::config_facts("document", text)?;
    if manifest::is_index(&document) {
        for member in manifest::members("document", &document)?.0 {
            let _ = manifest::platform_matches(&member.platform(), "linux/amd64");
        }
        return Ok(());
    }
    let _ = manifest::config("document", &document)?;
    let layers = manifest::layers("document", &document)?;
    let indexes: Vec<_> = (0..facts.diff_ids.len().max(layers.len()) as u64)
        .map(|size| lacewing_format::annotation::IndexRef {
            digest: Digest::of(b""),
            size,
        })
        .collect();
    let mut converted = manifest::plain(document);
    manifest::annotate(&mut converted, "config", &indexes);
    let bound = load::bound_layers("document", &converted)?;
    assert_eq!(bound.len(), layers.len(), "every layer is bound to its index");
    manifest::make_native(&mut converted, &indexes);
    Ok(())
}
