//! Frames are compressed by many threads and written to a spool file in whatever order they are ready.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use lacewing_format::Codec;

use crate::Error;
use crate::error::io;

/// Part of its plain length that a frame must save to be stored compressed. Below, decoding costs more than it saves.
const MIN_SAVING: usize = 32;

/// Where a frame's stored bytes are in the spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) codec: Codec,
}

/// The frames of one blob that are ready.
pub(crate) struct Spool {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    len: u64,
    ready: Vec<Option<Stored>>,
    count: usize,
    error: Option<Error>,
}

impl Spool {
    /// Makes an empty spool in a folder; its file has no name and goes with it.
    pub(crate) fn new(dir: &Path) -> Result<Self, Error> {
        let file = tempfile::tempfile_in(dir).map_err(io("spool file"))?;
        Ok(Self {
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, number: u32, codec: Codec, bytes: &[u8]) -> Result<(), Error> {
        let len = bytes.len() as u32;
        let offset = {
            let mut state = self.lock();
            let offset = state.len;
            state.len += u64::from(len);
            offset
        };
        self.file.write_all_at(bytes, offset).map_err(io("spool file"))?;
        let mut state = self.lock();
        let number = number as usize;
        if state.ready.len() <= number {
            state.ready.resize(number + 1, None);
        }
        state.ready[number] = Some(Stored { offset, len, codec });
        state.count += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Waits until `count` frames are there, and tells where.
    pub(crate) fn wait(&self, count: usize) -> Result<Vec<Stored>, Error> {
        let mut state = self.lock();
        while state.count < count && state.error.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        std::mem::take(&mut state.ready)
            .into_iter()
            .map(|stored| stored.ok_or(Error::Stopped))
            .collect()
    }

    /// Reads a frame's stored bytes.
    pub(crate) fn read(&self, stored: &Stored, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.resize(stored.len as usize, 0);
        self.file
            .read_exact_at(buffer, stored.offset)
            .map_err(io("spool file"))
    }
}

struct Job {
    spool: Arc<Spool>,
    number: u32,
    plain: Vec<u8>,
}

/// Threads that compress frames. Ends when dropped.
pub(crate) struct Compressors {
    jobs: Option<Sender<Job>>,
    used: Receiver<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
}

impl Compressors {
    /// Starts `count` threads that compress at `level`; the queue holds two frames for each.
    pub(crate) fn start(count: usize, level: i32) -> Self {
        let (jobs, queue) = bounded::<Job>(count * 2);
        let (give_back, used) = bounded(count * 2 + 8);
        let thread = |_| {
            let (queue, give_back) = (queue.clone(), give_back.clone());
            std::thread::spawn(move || work(level, &queue, &give_back))
        };
        Self {
            jobs: Some(jobs),
            used,
            threads: (0..count).map(thread).collect(),
        }
    }

    /// An empty buffer, used before if there is one.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.used.try_recv().unwrap_or_default()
    }

    /// Compresses a frame into a spool. Blocks while the queue is full.
    pub(crate) fn send(&self, spool: &Arc<Spool>, number: u32, plain: Vec<u8>) -> Result<(), Error> {
        let job = Job {
            spool: Arc::clone(spool),
            number,
            plain,
        };
        self.jobs
            .as_ref()
            .ok_or(Error::Stopped)?
            .send(job)
            .map_err(|_| Error::Stopped)
    }
}

impl Drop for Compressors {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has left its spool waiting; its owner is gone as well.
            drop(thread.join());
        }
    }
}

/// A compressor with a level's parameters, two of which are tuned: measured on frames of a Python image (59 MB, half of it
/// shared libraries), level 3 gets 0.6 % smaller with matches of 4 bytes and tables that fit the cache, level 5 gets
/// 1 % smaller with matches of 4 bytes and 16 instead of 4 to 32 tries, both at the same cost.
fn compressor(level: i32) -> std::io::Result<zstd::bulk::Compressor<'static>> {
    use zstd::zstd_safe::{CParameter, Strategy};
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let tuned: &[CParameter] = match level {
        3 => &[
            CParameter::Strategy(Strategy::ZSTD_dfast),
            CParameter::HashLog(17),
            CParameter::ChainLog(16),
            CParameter::MinMatch(4),
        ],
        5 => &[
            CParameter::Strategy(Strategy::ZSTD_greedy),
            CParameter::SearchLog(4),
            CParameter::MinMatch(4),
        ],
        _ => &[],
    };
    for parameter in tuned {
        compressor.set_parameter(*parameter)?;
    }
    Ok(compressor)
}

fn work(level: i32, queue: &Receiver<Job>, give_back: &Sender<Vec<u8>>) {
    let mut compressor = compressor(level);
    let mut stored = Vec::new();
    for mut job in queue {
        let result = match &mut compressor {
            Ok(compressor) => frame(compressor, &job, &mut stored),
            Err(error) => Err(Error::Io {
                what: "zstd".to_owned(),
                source: std::io::Error::other(error.to_string()),
            }),
        };
        if let Err(error) = result {
            job.spool.fail(error);
        }
        job.plain.clear();
        drop(give_back.try_send(job.plain));
    }
}

fn frame(compressor: &mut zstd::bulk::Compressor<'_>, job: &Job, stored: &mut Vec<u8>) -> Result<(), Error> {
    stored.clear();
    stored.reserve(zstd::zstd_safe::compress_bound(job.plain.len()));
    compressor
        .compress_to_buffer(&job.plain, stored)
        .map_err(io("zstd"))?;
    let saving = job.plain.len() / MIN_SAVING;
    if stored.len() + saving < job.plain.len() {
        job.spool.put(job.number, Codec::Zstd, stored)
    } else {
        job.spool.put(job.number, Codec::Raw, &job.plain)
    }
}
