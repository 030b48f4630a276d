//! A layer that is read becomes a blob and an index, in a thread of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use lacewing_format::Tree;

use crate::Error;
use crate::blob::{Blob, Plan, seal};
use crate::chunker::Counts;
use crate::hot::Hot;
use crate::index::{self, Source};
use crate::known::{Known, Origin};
use crate::output::Output;
use crate::spool::Spool;

/// A layer that is read, but whose frames may still be compressed.
pub(crate) struct Pending {
    pub(crate) number: usize,
    /// Number of its blob.
    pub(crate) blob: u16,
    pub(crate) tree: Tree,
    pub(crate) plan: Plan,
    pub(crate) spool: Arc<Spool>,
    pub(crate) hot: Hot,
    pub(crate) counts: Counts,
    pub(crate) plain_len: u64,
    pub(crate) origin: Origin,
}

/// What is to be done, in the order of layers.
pub(crate) enum Work {
    New(Box<Pending>),
    /// A layer that was converted before: its number, and what came of it.
    Again(usize, Box<Output>),
}

/// Takes results in the order of layers.
pub(crate) type Done<'a> = dyn FnMut(usize, Output) -> Result<(), Error> + Send + 'a;

/// Finishes layers until there are no more. Gives the blobs back, own ones included, and what was converted.
pub(crate) fn finish_all(
    work: &Receiver<Work>,
    mut blobs: HashMap<u16, Blob>,
    dir: &Path,
    done: &mut Done<'_>,
) -> Result<(HashMap<u16, Blob>, Vec<Known>), Error> {
    let mut known = Vec::new();
    for layer in work {
        match layer {
            Work::Again(number, output) => done(number, *output)?,
            Work::New(layer) => {
                let (number, origin) = (layer.number, layer.origin.clone());
                let new = finish(*layer, &mut blobs, dir)?;
                let output = new.again();
                known.push(Known { origin, output });
                done(number, new)?;
            }
        }
    }
    Ok((blobs, known))
}

/// Puts a layer's blob together and writes its index.
fn finish(layer: Pending, blobs: &mut HashMap<u16, Blob>, dir: &Path) -> Result<Output, Error> {
    let sealed = seal(&layer.plan, &layer.spool, dir)?;
    let (frames, chunks) = (sealed.blob.frames.len() as u64, sealed.blob.chunks.len() as u64);
    let blob = sealed
        .file
        .map(|file| (sealed.blob.digest, sealed.blob.stored_len, file));
    blobs.insert(layer.blob, sealed.blob);
    // All numbers up to this layer's are there: earlier blobs, and one for each layer read before.
    let all: Vec<&Blob> = (0..=layer.blob).filter_map(|n| blobs.get(&n)).collect();
    let source = Source {
        layer: layer.origin.facts.digest,
        diff_id: layer.origin.facts.diff_id,
    };
    let index = index::build(layer.tree, &all, &layer.hot, source)?;
    let named = index
        .blobs
        .iter()
        .map(|&n| (all[usize::from(n)].digest, all[usize::from(n)].stored_len))
        .collect();
    Ok(Output {
        blob,
        new_blob: None,
        index,
        plain_len: layer.plain_len,
        counts: layer.counts,
        frames,
        chunks,
        blobs: named,
    })
}
