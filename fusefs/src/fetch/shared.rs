//! What all fetches share: the board, who waits, and how flights end.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lacewing_format::limits::BLOCK;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use super::board::{Board, Key, Run, Urgency};
use super::carry;
use super::decode::Decoders;
use super::trouble::Trouble;
use super::waiter::Waiter;
use crate::clock::Clock;
use crate::error::ReadError;
use crate::signal::being_killed;
use crate::source::BlobSource;
use crate::store::places::Places;
use crate::tally::Tally;
use crate::volumes::{Description, Volume, Volumes};

/// How long a frame counts as just waited for in vain. When read-ahead fails, the kernel reads the
/// page that is needed once more, at once; without this the reader's time would pass twice. Only
/// the first such read is refused: the next one may be the program's own.
const JUST: Duration = Duration::from_millis(50);

/// How often readers that wait are checked against their deadline.
const DEADLINE_TICK: Duration = Duration::from_millis(100);

/// What a run needs beside its frames.
#[derive(Clone)]
pub(crate) struct Target {
    /// The pack.
    pub(crate) volume: Arc<Volume>,
    /// The index that lists the frames.
    pub(crate) of: Arc<Description>,
    /// Told of failures; closed when all parts of the run are over.
    pub(crate) done: Option<mpsc::UnboundedSender<ReadError>>,
}

/// Everything that fetches share.
pub(crate) struct Shared {
    pub(super) source: Arc<dyn BlobSource>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) read_timeout: Duration,
    pub(super) clock: Clock,
    pub(super) tally: Arc<Tally>,
    pub(super) places: Places,
    pub(super) volumes: Arc<Volumes>,
    pub(super) board: Mutex<Board<Target, (u64, Arc<Waiter>)>>,
    pub(super) waiters: Mutex<HashMap<u64, Arc<Waiter>>>,
    pub(super) next_waiter: AtomicU64,
    pub(super) waiting: Notify,
    /// Whether [`look_again`] is under way.
    pub(super) looks_again: AtomicBool,
    pub(super) decoders: Decoders,
    pub(super) trouble: Trouble,
    /// Frames that some reader waited for in vain, and when it gave up.
    pub(super) given_up: Mutex<HashMap<Key, Instant>>,
    /// Whether it was said that the store takes no more.
    pub(super) full: AtomicBool,
}

impl Shared {
    pub(super) fn board(&self) -> MutexGuard<'_, Board<Target, (u64, Arc<Waiter>)>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waiters(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what may be started.
    pub(super) fn pump(self: &Arc<Self>, mut board: MutexGuard<'_, Board<Target, (u64, Arc<Waiter>)>>) {
        let now = self.clock.now();
        let started: Vec<Run<Target>> = std::iter::from_fn(|| board.start(now)).collect();
        let later = board.look_again();
        drop(board);
        for run in started {
            self.runtime.spawn(carry::carry(self.clone(), run));
        }
        if let Some(later) = later.filter(|_| !self.looks_again.swap(true, Ordering::AcqRel)) {
            self.runtime.spawn(look_again(Arc::downgrade(self), later - now));
        }
    }

    /// Notes that a run is over.
    pub(super) fn finish(self: &Arc<Self>, urgency: Urgency) {
        let mut board = self.board();
        board.finish(urgency, self.clock.now());
        self.pump(board);
    }

    /// Whether anybody waits for one of these frames.
    pub(super) fn awaited(&self, run: &Run<Target>, frames: Range<usize>) -> bool {
        let board = self.board();
        let mut keys = frames.filter_map(|position| run.key(position));
        keys.any(|key| {
            board
                .waiters(key, run.number)
                .iter()
                .any(|(_, waiter)| waiter.waits())
        })
    }

    /// Ends a flight with its bytes.
    pub(super) fn deliver(&self, key: Key, plain: &[u8]) {
        let waiters = self.board().land(key);
        if waiters.iter().any(|(_, waiter)| waiter.waits()) {
            waiters[0]
                .1
                .volume
                .pack
                .note_served(u64::from(key.1) * BLOCK as u64, plain.len());
        }
        let start = u64::from(key.1) * BLOCK as u64;
        for (number, waiter) in waiters {
            if waiter.deliver(start, plain) {
                self.waiters().remove(&number);
            }
        }
    }

    /// Ends a flight without bytes.
    pub(super) fn fail(&self, run: &Run<Target>, position: usize, error: &ReadError) {
        let Some(key) = run.key(position) else { return };
        let waiters = self.board().fail(key, run.number);
        for (number, waiter) in waiters {
            waiter.fail(error.clone());
            self.waiters().remove(&number);
        }
        if let Some(done) = &run.of.done {
            let _ = done.send(error.clone());
        }
    }

    /// Notes that a reader's time was over before its frames came.
    pub(super) fn give_up(&self, waiter: &Waiter) {
        let now = self.clock.now();
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|_, when| now.duration_since(*when) < JUST);
        given_up.extend(waiter.frames.iter().map(|key| (*key, now)));
    }

    /// Whether a reader's time for this frame has only just been over. Says so once.
    pub(super) fn just_given_up(&self, key: Key) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        given_up
            .remove(&key)
            .is_some_and(|when| now.duration_since(when) < JUST)
    }

    pub(super) fn note_trouble(&self, run: &Run<Target>, error: &ReadError) {
        let pack = run.of.volume.pack.identity();
        let layer = run.of.of.index.view().layer();
        self.trouble.note(pack.number, pack.blob, layer, error);
    }

    /// Notes that the store takes bytes (again).
    pub(super) fn stored(&self) {
        if self.full.load(Ordering::Relaxed) {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that verified bytes could not be kept. Readers have them all the same; completing in
    /// the background stops.
    pub(super) fn unstored(&self, run: &Run<Target>, error: &io::Error) {
        if !self.full.swap(true, Ordering::AcqRel) {
            let path = run.of.volume.pack.path().display();
            warn!(pack = %path, %error, "the store takes no more; bytes are fetched on each read");
        }
        if let Some(done) = &run.of.done {
            let _ = done.send(ReadError::Store(error.to_string()));
        }
    }
}

/// Starts, after a while, what was held back because a process waited.
async fn look_again(shared: Weak<Shared>, wait: Duration) {
    tokio::time::sleep(wait).await;
    if let Some(shared) = shared.upgrade() {
        shared.looks_again.store(false, Ordering::Release);
        shared.pump(shared.board());
    }
}

/// Fails readers whose time is over.
pub(super) async fn watch_deadlines(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if strong.waiters().is_empty() {
            let waiting = strong.waiting.notified();
            // Wakes now and then to notice that the fetcher is gone.
            let _ = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        }
        let now = strong.clock.now();
        let waiters: Vec<(u64, Arc<Waiter>)> = strong
            .waiters()
            .iter()
            .map(|(number, waiter)| (*number, waiter.clone()))
            .collect();
        for (number, waiter) in waiters {
            let error = if waiter.deadline <= now {
                strong.give_up(&waiter);
                ReadError::Unavailable(format!("no bytes within {:?}", strong.read_timeout))
            } else if waiter.interrupted.load(Ordering::Acquire) && being_killed(waiter.origin.pid) {
                ReadError::Interrupted
            } else {
                continue;
            };
            strong.waiters().remove(&number);
            // Who is answered may read again at once: that must not join the old flights.
            let answer = waiter.take();
            let mut board = strong.board();
            for key in &waiter.frames {
                board.abandon(*key, |(_, waiter)| waiter.waits());
            }
            drop(board);
            answer.into_iter().for_each(|answer| answer.fail(error.clone()));
        }
        drop(strong);
        tokio::time::sleep(DEADLINE_TICK).await;
    }
}
