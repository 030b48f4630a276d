//! The threads that turn stored bytes into verified plain bytes and keep them.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use lacewing_format::limits::{BLOCK, MAX_FRAME_PLAIN};
use lacewing_format::{Codec, Index};
use tokio::sync::oneshot;
use tracing::warn;
use zstd::bulk::Decompressor;

use super::board::{MOST_RUNS, Run, Urgency};
use super::shared::{Shared, Target};
use crate::error::{IoContext, Result};
use crate::store::places::Place;
use crate::tally::add;

/// Threads that decode: one reader can use no more than one at a time, and two keep a node's
/// containers from waiting for each other without taking all its cores.
const THREADS: usize = 2;

/// Stack of a decoding thread: zstd keeps its state on the heap.
const STACK: usize = 256 << 10;

/// Frames of a run to be made valid.
pub(crate) struct Job {
    /// Board, store and counters.
    pub(crate) shared: Arc<Shared>,
    /// The run.
    pub(crate) run: Arc<Run<Target>>,
    /// Positions of the frames in the run.
    pub(crate) frames: Range<usize>,
    /// Where the plain bytes come from.
    pub(crate) from: From,
    /// Gets the positions of the frames that could not be made valid.
    pub(crate) left: oneshot::Sender<Vec<usize>>,
}

/// Where plain bytes come from.
pub(crate) enum From {
    /// The stored bytes of the frames, end to end.
    Stored(Bytes),
    /// Packs on this node that may hold the same chunks.
    Places,
}

/// Hands jobs to the threads, urgent ones first.
pub(crate) struct Decoders {
    urgent: Sender<Job>,
    other: Sender<Job>,
}

impl Decoders {
    /// Starts the threads. They end when the last sender is gone.
    pub(crate) fn start() -> Result<Decoders> {
        let (urgent, urgent_jobs) = bounded(MOST_RUNS);
        let (other, other_jobs) = bounded(MOST_RUNS);
        for number in 0..THREADS {
            let (urgent, other) = (urgent_jobs.clone(), other_jobs.clone());
            thread::Builder::new()
                .name(format!("decode-{number}"))
                .stack_size(STACK)
                .spawn(move || work(&urgent, &other))
                .at("start", "a decoding thread")?;
        }
        Ok(Decoders { urgent, other })
    }

    /// Hands over a job. There are never more jobs than runs, so the channels have room.
    pub(crate) fn hand(&self, job: Job, urgent: bool) {
        let sender = if urgent { &self.urgent } else { &self.other };
        let _ = sender.send(job);
    }
}

fn work(urgent: &Receiver<Job>, other: &Receiver<Job>) {
    let Ok(mut worker) = Worker::new() else {
        warn!("no memory for a decoding thread");
        return;
    };
    loop {
        let job = match urgent.try_recv() {
            Ok(job) => Ok(job),
            Err(_) => select! {
                recv(urgent) -> job => job,
                recv(other) -> job => job,
            },
        };
        match job {
            Ok(job) => worker.run(job),
            Err(_) => return,
        }
    }
}

/// A thread's decoder and buffer, used again for each frame.
struct Worker {
    zstd: Decompressor<'static>,
    plain: Vec<u8>,
}

impl Worker {
    fn new() -> io::Result<Worker> {
        Ok(Worker {
            zstd: Decompressor::new()?,
            plain: Vec::new(),
        })
    }

    fn run(&mut self, job: Job) {
        let index = job.run.of.of.index.clone();
        let view = index.view();
        let mut left = Vec::new();
        let mut stored_at = 0;
        for position in job.frames.clone() {
            let frame = job.run.first_frame + position;
            let done = match &job.from {
                From::Stored(bytes) => {
                    let len = view
                        .frames()
                        .get(frame)
                        .map_or(0, |frame| frame.stored_len() as usize);
                    let stored = bytes.get(stored_at..stored_at + len).unwrap_or(&[]);
                    stored_at += len;
                    self.decode(&job, &view, frame, stored)
                }
                From::Places => self.gather(&job, &view, frame),
            };
            if !done {
                left.push(position);
            }
        }
        // Buffers of unusually large frames are not kept: 1 MiB of small files, padded, is usual.
        if self.plain.capacity() > (2 << 20) {
            self.plain = Vec::new();
        }
        let _ = job.left.send(left);
    }

    /// Decodes and verifies a frame; `false` if its bytes are not what the index says.
    fn decode(&mut self, job: &Job, view: &Index<'_>, frame: usize, stored: &[u8]) -> bool {
        let Some(plain) = plain(&mut self.zstd, &mut self.plain, view, frame, stored) else {
            add(&job.shared.tally.corrupt, 1);
            return false;
        };
        add(&job.shared.tally.decoded_bytes, plain.len() as u64);
        let target = &job.run.of;
        let first = view.frame_block(frame);
        let kept = target
            .volume
            .keep(&target.of, frame, |pack| pack.store(first, plain));
        land(job, view, frame, plain, kept);
        true
    }

    /// Puts a frame together from chunks that other packs hold; `false` if one is not to be found.
    fn gather(&mut self, job: &Job, view: &Index<'_>, frame: usize) -> bool {
        let len = view.frame_plain_len(frame).min(MAX_FRAME_PLAIN) as usize;
        self.plain.clear();
        self.plain.resize(len, 0);
        let first = view.frame_block(frame);
        let mut found = Vec::new();
        for chunk in view.frame_chunks(frame) {
            let at = (chunk.block() - first) as usize * BLOCK;
            let Some(plain) = self.plain.get_mut(at..at + chunk.len() as usize) else {
                return false;
            };
            let from = job.shared.places.find(&chunk.id()).find_map(|place| {
                let from = job.shared.volumes.get(place.pack)?;
                let read = from
                    .pack
                    .read_unverified(u64::from(place.block) * BLOCK as u64, plain);
                let same = read.is_ok() && blake3::hash(plain).as_bytes() == &chunk.id().0;
                same.then_some((from, place.block))
            });
            match from {
                Some(from) => found.push((at, chunk.blocks() as usize * BLOCK, chunk.block(), from)),
                None => return false,
            }
        }
        let target = &job.run.of;
        let kept = target.volume.keep(&target.of, frame, |pack| {
            found.into_iter().try_for_each(|(at, len, block, (from, place))| {
                let plain = &self.plain[at..at + len];
                if from.pack.number() != pack.number() {
                    pack.store_from(block, (&from.pack, place), plain)
                } else {
                    pack.store(block, plain)
                }
            })
        });
        add(&job.shared.tally.dedup_bytes, len as u64);
        land(job, view, frame, &self.plain, kept);
        true
    }
}

/// Decodes and verifies a frame into `buffer`; nothing if its bytes are not what the index says.
fn plain<'a>(
    zstd: &mut Decompressor<'_>,
    buffer: &'a mut Vec<u8>,
    view: &Index<'_>,
    frame: usize,
    stored: &'a [u8],
) -> Option<&'a [u8]> {
    let len = view.frame_plain_len(frame).min(MAX_FRAME_PLAIN) as usize;
    let plain = match view.frames().get(frame)?.codec()? {
        Codec::Raw => stored,
        Codec::Zstd => {
            buffer.resize(len, 0);
            let decoded = zstd.decompress_to_buffer(stored, &mut buffer[..len]).ok()?;
            &buffer[..decoded]
        }
    };
    (plain.len() == len && genuine(view, frame, plain)).then_some(plain)
}

/// A frame's plain bytes, for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn decoded(index: &Index<'_>, frame: usize, stored: &[u8]) -> Option<Vec<u8>> {
    let (mut zstd, mut buffer) = (Decompressor::new().ok()?, Vec::new());
    plain(&mut zstd, &mut buffer, index, frame, stored).map(<[u8]>::to_vec)
}

/// Whether every chunk of a frame has its digest and is padded with zeros.
fn genuine(view: &Index<'_>, frame: usize, plain: &[u8]) -> bool {
    let first = view.frame_block(frame);
    view.frame_chunks(frame).iter().all(|chunk| {
        let at = (chunk.block() - first) as usize * BLOCK;
        let end = at + chunk.len() as usize;
        let Some(bytes) = plain.get(at..at + chunk.blocks() as usize * BLOCK) else {
            return false;
        };
        let (bytes, padding) = bytes.split_at(end - at);
        blake3::hash(bytes).as_bytes() == &chunk.id().0 && padding.iter().all(|byte| *byte == 0)
    })
}

/// Ends a frame's flight: answers who waited, notes where its chunks are now.
fn land(job: &Job, view: &Index<'_>, frame: usize, plain: &[u8], kept: io::Result<()>) {
    let pack = job.run.of.volume.pack.number();
    let block = view.frame_block(frame);
    job.shared.deliver((pack, block), plain);
    job.shared.trouble.over(pack);
    match kept {
        Ok(()) => {
            job.shared.stored();
            for chunk in view.frame_chunks(frame) {
                job.shared.places.note(
                    &chunk.id(),
                    Place {
                        pack,
                        block: chunk.block(),
                    },
                );
            }
        }
        Err(error) => {
            add(&job.shared.tally.unstored, 1);
            job.shared.unstored(&job.run, &error);
        }
    }
}

impl Job {
    /// Whether the job's thread should take it before others.
    pub(crate) fn urgent(run: &Run<Target>, awaited: bool) -> bool {
        awaited || run.urgency == Urgency::Blocking
    }
}
