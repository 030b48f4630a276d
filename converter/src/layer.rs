//! Layers of one image, bottom first, through the whole pipeline.
//!
//! Three kinds of threads: one decompresses ([`crate::decompress`]), one applies the tar and cuts chunks (the caller's),
//! several compress frames ([`crate::spool`]). The blob of a layer is put together, and its index written, in a fourth
//! while the next layer is read.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use lacewing_format::{Digest, Tree};
use tempfile::TempPath;

use crate::Error;
use crate::apply::{apply_layer, skeleton};
use crate::blob::{Blob, Dedup, Place, Plan, seal};
use crate::chunker::{Chunker, Counts};
use crate::decompress::PlainStream;
use crate::hot::Hints;
use crate::index::{self, Source, StoredIndex};
use crate::spool::{Compressors, Spool};

/// A layer to convert.
pub(crate) struct Input {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) stored_len: u64,
    /// Its stored bytes, verified at their end.
    pub(crate) stream: Box<dyn Read + Send>,
}

/// A converted layer.
pub(crate) struct Output {
    /// Digest, length and file of the new blob; none if nothing was new.
    pub(crate) blob: Option<(Digest, u64, TempPath)>,
    /// The same without the file, once it is sent.
    pub(crate) new_blob: Option<(Digest, u64)>,
    pub(crate) index: StoredIndex,
    pub(crate) plain_len: u64,
    pub(crate) counts: Counts,
    pub(crate) frames: u64,
    pub(crate) chunks: u64,
    /// Digest and stored length of all blobs the index points to.
    pub(crate) blobs: Vec<(Digest, u64)>,
}

/// How to convert.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) chunk_size: u32,
    pub(crate) level: i32,
    pub(crate) jobs: usize,
    pub(crate) spool_dir: PathBuf,
}

/// A layer that is read, but whose frames may still be compressed.
struct Pending {
    number: usize,
    tree: Tree,
    plan: Plan,
    spool: Arc<Spool>,
    hot: Vec<(u8, Place)>,
    counts: Counts,
    source: Source,
    plain_len: u64,
}

/// Converts layers that may share chunks: those of one image, and of its other platforms.
pub(crate) struct LayerConverter {
    settings: Settings,
    dedup: Dedup,
    compressors: Compressors,
    /// What happened to all layers so far.
    counts: Counts,
    /// Blobs of earlier images, then own ones as far as they are numbered.
    earlier: usize,
    numbered: usize,
    done: HashMap<u16, Blob>,
}

impl LayerConverter {
    /// Starts with the blobs of earlier images.
    pub(crate) fn new(settings: Settings, earlier: Vec<Blob>) -> Self {
        let mut dedup = Dedup::default();
        for (number, blob) in earlier.iter().enumerate() {
            for (chunk, record) in blob.chunks.iter().enumerate() {
                let place = Place {
                    blob: number as u16,
                    chunk: chunk as u32,
                };
                dedup.entry(record.id()).or_insert(place);
            }
        }
        let compressors = Compressors::start(settings.jobs, settings.level);
        let count = earlier.len();
        let done = earlier
            .into_iter()
            .enumerate()
            .map(|(n, blob)| (n as u16, blob))
            .collect();
        Self {
            settings,
            dedup,
            compressors,
            counts: Counts::default(),
            earlier: count,
            numbered: count,
            done,
        }
    }

    /// Converts the layers of an image. `open` gives the layers bottom first, `done` takes the results in the same order
    /// from another thread.
    ///
    /// # Errors
    /// The first of any thread.
    pub(crate) fn convert(
        &mut self,
        hints: &Hints,
        count: usize,
        open: &mut dyn FnMut(usize) -> Result<Input, Error>,
        done: &mut (dyn FnMut(usize, Output) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        let blobs = std::mem::take(&mut self.done);
        let dir = self.settings.spool_dir.clone();
        let first = self.numbered;
        let (to_finisher, pending) = sync_channel(1);
        let finished = std::thread::scope(|scope| {
            let finisher = scope.spawn(move || finish_all(&pending, blobs, first, &dir, done));
            let read = self.read_all(hints, count, open, &to_finisher);
            drop(to_finisher);
            let finished = finisher.join().map_err(|_| Error::Stopped)?;
            match (read, finished) {
                // The finisher's failure is why reading was stopped.
                (Err(Error::Stopped), Err(error)) | (Ok(()), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), Ok(blobs)) => Ok(blobs),
            }
        })?;
        self.done = finished;
        Ok(())
    }

    fn read_all(
        &mut self,
        hints: &Hints,
        count: usize,
        open: &mut dyn FnMut(usize) -> Result<Input, Error>,
        out: &SyncSender<Pending>,
    ) -> Result<(), Error> {
        // Layers below the present one, the topmost first.
        let mut lowers: Vec<Arc<Tree>> = Vec::new();
        let mut next = if count > 0 { Some(start(open(0)?)) } else { None };
        for number in 0..count {
            let (input, stream) = next.take().ok_or(Error::Stopped)?;
            // The following layer's decompression runs ahead, as far as its queue goes.
            if number + 1 < count {
                next = Some(start(open(number + 1)?));
            }
            let pending = self.read(number, hints, &lowers, input, stream)?;
            if number + 1 < count {
                lowers.insert(0, skeleton(&pending.tree));
            }
            out.send(pending).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    /// Reads one layer.
    fn read(
        &mut self,
        number: usize,
        hints: &Hints,
        lowers: &[Arc<Tree>],
        input: Facts,
        mut stream: PlainStream,
    ) -> Result<Pending, Error> {
        let blob = u16::try_from(self.numbered).map_err(|_| Error::Limit {
            what: "count of blobs",
            value: self.numbered as u64,
            limit: 65535,
        })?;
        self.numbered += 1;
        let spool = Arc::new(Spool::new(&self.settings.spool_dir)?);
        let numbers = (blob, self.earlier as u16);
        let (dedup, size) = (&mut self.dedup, self.settings.chunk_size);
        let mut chunker = Chunker::new(size, numbers, dedup, &self.compressors, Arc::clone(&spool), hints);
        chunker.before = self.counts;
        let tree = apply_layer(&mut stream, lowers, &mut chunker)?;
        chunker.finish()?;
        let (plan, hot, counts) = (chunker.plan, chunker.hot, chunker.counts);
        self.counts.add(&counts);
        let plain = stream.finish()?;
        if plain.diff_id != input.diff_id {
            return Err(Error::Corrupt {
                what: format!("tar of layer {}", input.digest),
                expected: input.diff_id,
                found: plain.diff_id,
            });
        }
        let source = Source {
            layer: input.digest,
            diff_id: plain.diff_id,
        };
        Ok(Pending {
            number,
            tree,
            plan,
            spool,
            hot,
            counts,
            source,
            plain_len: plain.len,
        })
    }
}

/// What is known of a layer before it is read.
struct Facts {
    digest: Digest,
    diff_id: Digest,
}

fn start(input: Input) -> (Facts, PlainStream) {
    let facts = Facts {
        digest: input.digest,
        diff_id: input.diff_id,
    };
    (facts, PlainStream::start(input.stream, input.stored_len))
}

fn finish_all(
    pending: &Receiver<Pending>,
    mut blobs: HashMap<u16, Blob>,
    first: usize,
    dir: &std::path::Path,
    done: &mut (dyn FnMut(usize, Output) -> Result<(), Error> + Send),
) -> Result<HashMap<u16, Blob>, Error> {
    for layer in pending {
        let number = layer.number;
        let output = finish(layer, &mut blobs, first, dir)?;
        done(number, output)?;
    }
    Ok(blobs)
}

/// Puts a layer's blob together and writes its index.
fn finish(
    layer: Pending,
    blobs: &mut HashMap<u16, Blob>,
    first: usize,
    dir: &std::path::Path,
) -> Result<Output, Error> {
    let sealed = seal(&layer.plan, &layer.spool, dir)?;
    let (frames, chunks) = (sealed.blob.frames.len() as u64, sealed.blob.chunks.len() as u64);
    let blob = sealed
        .file
        .map(|file| (sealed.blob.digest, sealed.blob.stored_len, file));
    blobs.insert((first + layer.number) as u16, sealed.blob);
    // All numbers up to this layer's are there: earlier blobs, and one for each layer before.
    let all: Vec<&Blob> = (0..=first + layer.number)
        .filter_map(|n| blobs.get(&(n as u16)))
        .collect();
    let index = index::build(layer.tree, &all, &layer.hot, layer.source)?;
    let named = index
        .blobs
        .iter()
        .map(|&n| (all[usize::from(n)].digest, all[usize::from(n)].stored_len));
    let named = named.collect();
    let (plain_len, counts) = (layer.plain_len, layer.counts);
    Ok(Output {
        blob,
        new_blob: None,
        index,
        plain_len,
        counts,
        frames,
        chunks,
        blobs: named,
    })
}

#[cfg(test)]
mod tests;
