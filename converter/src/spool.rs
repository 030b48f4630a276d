//! Frames are compressed by many threads and written to a spool file in whatever order they are ready.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use lacewing_format::Codec;

use crate::Error;
use crate::compress::{Effort, FrameCompressor};
use crate::error::io;

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
    effort: Effort,
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
    pub(crate) fn send(
        &self,
        spool: &Arc<Spool>,
        number: u32,
        plain: Vec<u8>,
        effort: Effort,
    ) -> Result<(), Error> {
        let job = Job {
            spool: Arc::clone(spool),
            number,
            plain,
            effort,
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

fn work(level: i32, queue: &Receiver<Job>, give_back: &Sender<Vec<u8>>) {
    let mut compressor = FrameCompressor::new(level);
    for mut job in queue {
        let done = compressor
            .frame(&job.plain, job.effort)
            .and_then(|(codec, stored)| job.spool.put(job.number, codec, stored));
        if let Err(error) = done {
            job.spool.fail(error);
        }
        job.plain.clear();
        drop(give_back.try_send(job.plain));
    }
}
