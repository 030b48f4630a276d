//! Layers of one image, bottom first, through the whole pipeline.
//!
//! Three kinds of threads: one decompresses ([`crate::decompress`]), one applies the tar and cuts chunks (the caller's),
//! several compress frames ([`crate::spool`]). The blob of a layer is put together, and its index written, in a fourth
//! ([`crate::finish`]) while the next layer is read.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use lacewing_format::Tree;

use crate::Error;
use crate::apply::{Applied, apply, skeleton};
use crate::blob::{Blob, Dedup, Place};
use crate::chunker::{Chunker, Counts, Recorded};
use crate::decompress::PlainStream;
use crate::finish::{Done, Pending, Work, finish_all};
use crate::hot::Hints;
use crate::known::{self, Facts, Known, Origin};
use crate::record::Record;
use crate::spool::{Compressors, Spool};

/// A layer's stored bytes, verified at their end.
pub(crate) type Stored = Box<dyn Read + Send>;

/// Opens a layer by its number.
pub(crate) type Open<'a> = dyn FnMut(usize) -> Result<Stored, Error> + 'a;

/// How to convert.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) chunk_size: u32,
    pub(crate) level: i32,
    pub(crate) jobs: usize,
    pub(crate) spool_dir: PathBuf,
    pub(crate) record: Option<Arc<Record>>,
}

/// Converts layers that may share chunks: those of one image, and of its other platforms.
pub(crate) struct LayerConverter {
    settings: Settings,
    dedup: Dedup,
    /// Chunks of earlier images that a record has named.
    recorded: HashSet<Place>,
    /// Paths that the record names and a layer has.
    found: HashSet<Vec<u8>>,
    compressors: Compressors,
    /// What happened to all layers so far.
    counts: Counts,
    /// Blobs of earlier images, then own ones as far as they are numbered.
    earlier: usize,
    numbered: usize,
    done: HashMap<u16, Blob>,
    known: Vec<Known>,
}

impl LayerConverter {
    /// Starts with the blobs of earlier images.
    pub(crate) fn new(settings: Settings, earlier: Vec<Blob>) -> Self {
        let (dedup, recorded) = found(&earlier, settings.record.is_some());
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
            recorded,
            found: HashSet::new(),
            compressors,
            counts: Counts::default(),
            earlier: count,
            numbered: count,
            done,
            known: Vec::new(),
        }
    }

    /// Count of files that the record names and that were found.
    pub(crate) fn found(&self) -> usize {
        self.found.len()
    }

    /// Converts the layers of an image, bottom first. `open` is asked for those that were not converted before; `done` takes
    /// the results of all, in the same order, from another thread.
    ///
    /// # Errors
    /// The first of any thread.
    pub(crate) fn convert(
        &mut self,
        hints: &Hints,
        layers: &[Facts],
        open: &mut Open<'_>,
        done: &mut Done<'_>,
    ) -> Result<(), Error> {
        let blobs = std::mem::take(&mut self.done);
        let dir = self.settings.spool_dir.clone();
        let (to_finisher, work) = sync_channel(1);
        let (blobs, known) = std::thread::scope(|scope| {
            let finisher = scope.spawn(move || finish_all(&work, blobs, &dir, done));
            let read = self.read_all(hints, layers, open, &to_finisher);
            drop(to_finisher);
            let finished = finisher.join().map_err(|_| Error::Stopped)?;
            match (read, finished) {
                // The finisher's failure is why reading was stopped.
                (Err(Error::Stopped), Err(error)) | (Ok(()), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), Ok(finished)) => Ok(finished),
            }
        })?;
        self.done = blobs;
        self.known.extend(known);
        Ok(())
    }

    fn read_all(
        &mut self,
        hints: &Hints,
        layers: &[Facts],
        open: &mut Open<'_>,
        out: &SyncSender<Work>,
    ) -> Result<(), Error> {
        let hints = Arc::new(hints.clone());
        let again = known::find(&self.known, layers, &hints);
        let again: Vec<_> = again
            .iter()
            .map(|known| known.map(|known| (known.output.again(), Arc::clone(&known.origin.skeleton))))
            .collect();
        let unread = (0..layers.len()).filter(|&number| again[number].is_none());
        let mut unread = unread.collect::<Vec<_>>().into_iter();
        let mut start = |number: Option<usize>| {
            let start = |number: usize| open(number).map(|stored| (stored, layers[number].stored_len));
            let opened = number.map(start).transpose()?;
            Ok::<_, Error>(opened.map(|(stored, len)| PlainStream::start(stored, len)))
        };
        let mut next = start(unread.next())?;
        // Layers below the present one, the topmost first.
        let mut lowers: Vec<Arc<Tree>> = Vec::new();
        for (number, again) in again.into_iter().enumerate() {
            let (work, skeleton) = if let Some((output, skeleton)) = again {
                (Work::Again(number, Box::new(output)), skeleton)
            } else {
                let stream = next.take().ok_or(Error::Stopped)?;
                // The following layer's decompression runs ahead, as far as its queue goes.
                next = start(unread.next())?;
                let pending = self.read(&layers[..=number], &hints, &lowers, stream)?;
                let skeleton = Arc::clone(&pending.origin.skeleton);
                (Work::New(Box::new(pending)), skeleton)
            };
            lowers.insert(0, skeleton);
            out.send(work).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    /// Reads the last of `layers`.
    fn read(
        &mut self,
        layers: &[Facts],
        hints: &Arc<Hints>,
        lowers: &[Arc<Tree>],
        mut stream: PlainStream,
    ) -> Result<Pending, Error> {
        let (facts, below) = layers.split_last().ok_or(Error::Stopped)?;
        let blob = u16::try_from(self.numbered).map_err(|_| Error::Limit {
            what: "count of blobs",
            value: self.numbered as u64,
            limit: 65535,
        })?;
        self.numbered += 1;
        let spool = Arc::new(Spool::new(&self.settings.spool_dir)?);
        let numbers = (blob, self.earlier as u16);
        let (dedup, size) = (&mut self.dedup, self.settings.chunk_size);
        let recorded = self.settings.record.as_deref().map(|record| Recorded {
            record,
            stored: &self.recorded,
            dir: &self.settings.spool_dir,
        });
        let spooled = Arc::clone(&spool);
        let mut chunker = Chunker::new(size, numbers, dedup, &self.compressors, spooled, hints, recorded);
        chunker.before = self.counts;
        let Applied { tree, stands_alone } = apply(&mut stream, lowers, &mut chunker)?;
        chunker.finish()?;
        let (plan, hot, counts) = (chunker.plan, chunker.hot, chunker.counts);
        self.found.extend(chunker.found);
        self.counts.add(&counts);
        let plain = stream.finish()?;
        if plain.diff_id != facts.diff_id {
            return Err(Error::Corrupt {
                what: format!("tar of layer {}", facts.digest),
                expected: facts.diff_id,
                found: plain.diff_id,
            });
        }
        let origin = Origin {
            facts: *facts,
            below: below.iter().map(|layer| layer.digest).collect(),
            hints: Arc::clone(hints),
            stands_alone,
            skeleton: skeleton(&tree),
        };
        Ok(Pending {
            number: below.len(),
            blob,
            tree,
            plan,
            spool,
            hot,
            counts,
            plain_len: plain.len,
            origin,
        })
    }
}

/// Where the chunks of earlier images are, and, if a record is to be followed, which of them stand among what one has named.
fn found(earlier: &[Blob], follow: bool) -> (Dedup, HashSet<Place>) {
    let (mut dedup, mut recorded) = (Dedup::default(), HashSet::new());
    for (number, blob) in earlier.iter().enumerate() {
        for (at, frame) in blob.frames.iter().enumerate() {
            let first = frame.first_chunk() as usize;
            let named = follow && blob.recorded.contains(&at);
            for chunk in first..first + frame.chunk_count() as usize {
                let place = Place {
                    blob: number as u16,
                    chunk: chunk as u32,
                };
                let id = blob.chunks[chunk].id();
                if named {
                    recorded.insert(place);
                    dedup.insert(id, place);
                } else {
                    dedup.entry(id).or_insert(place);
                }
            }
        }
    }
    (dedup, recorded)
}

#[cfg(test)]
mod tests;
