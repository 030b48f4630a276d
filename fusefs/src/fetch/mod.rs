//! Getting missing bytes: single flight per frame, neighbours merged, blocked readers first.
//!
//! ```text
//! READ that misses ──┐                        ┌─ places: another pack has the chunks
//! read-ahead ────────┼─► board ─► run ─► carry ┤
//! completion ────────┘                        └─ source ─► decode, verify, keep ─► answers
//! ```

pub(crate) mod board;
mod carry;
mod decode;
mod trouble;
mod waiter;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lacewing_format::limits::BLOCK;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use self::board::{Board, Key, Run, Urgency};
use self::decode::Decoders;
#[cfg(feature = "fuzzing")]
pub(crate) use self::decode::decoded;
use self::trouble::Trouble;
pub(crate) use self::waiter::{Answer, Origin};
use self::waiter::{State, Waiter};
use crate::error::{ReadError, Result};
use crate::signal::being_killed;
use crate::source::BlobSource;
use crate::store::pack::{PackNumber, blocks_of};
use crate::store::places::Places;
use crate::tally::Tally;
use crate::volumes::{Description, Volume, Volumes};

/// Most plain bytes of a run that somebody waits for: the largest READ, so one READ is one request.
const BLOCKING_RUN: u64 = 1 << 20;

/// Most plain bytes of other runs: two or three megabytes stored, which amortises a round trip and
/// bounds what a blocked reader may have to wait behind.
const PREFETCH_RUN: u64 = 4 << 20;

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
    source: Arc<dyn BlobSource>,
    runtime: tokio::runtime::Handle,
    read_timeout: Duration,
    tally: Arc<Tally>,
    places: Places,
    volumes: Arc<Volumes>,
    board: Mutex<Board<Target, (u64, Arc<Waiter>)>>,
    waiters: Mutex<HashMap<u64, Arc<Waiter>>>,
    next_waiter: AtomicU64,
    waiting: Notify,
    decoders: Decoders,
    trouble: Trouble,
    /// Frames that some reader waited for in vain, and when it gave up.
    given_up: Mutex<HashMap<Key, Instant>>,
    /// Whether it was said that the store takes no more.
    full: AtomicBool,
}

/// Gets missing bytes.
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
}

/// What a fetcher needs from outside.
pub(crate) struct FetcherOptions {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) read_timeout: Duration,
}

/// A frame that is not here.
struct Wanted {
    of: Arc<Description>,
    frame: usize,
    blocks: Range<u32>,
}

impl Fetcher {
    /// Starts the decoding threads and the watch over deadlines.
    pub(crate) fn new(
        options: FetcherOptions,
        places: Places,
        volumes: Arc<Volumes>,
        tally: Arc<Tally>,
    ) -> Result<Fetcher> {
        let shared = Arc::new(Shared {
            source: options.source,
            runtime: options.runtime,
            read_timeout: options.read_timeout,
            tally,
            places,
            volumes,
            board: Mutex::new(Board::new()),
            waiters: Mutex::default(),
            next_waiter: AtomicU64::new(0),
            waiting: Notify::new(),
            decoders: Decoders::start()?,
            trouble: Trouble::default(),
            given_up: Mutex::default(),
            full: AtomicBool::new(false),
        });
        shared.runtime.spawn(watch_deadlines(Arc::downgrade(&shared)));
        Ok(Fetcher { shared })
    }

    /// Reads bytes of a pack of which some are missing. The answer comes from another thread.
    pub(crate) fn read(
        &self,
        volume: &Arc<Volume>,
        read: Range<u64>,
        origin: Origin,
        answer: Box<dyn Answer>,
    ) {
        let shared = &self.shared;
        let wanted = match wanted(volume, &read) {
            Ok(wanted) => wanted,
            Err(error) => return answer.fail(error),
        };
        let pack = volume.pack.number();
        let just = |wanted: &Wanted| shared.just_given_up((pack, wanted.blocks.start));
        if wanted.iter().any(just) {
            return answer.fail(ReadError::Unavailable("just waited for in vain".into()));
        }
        let mut board = shared.board();
        // What landed meanwhile is valid now: bits are set before a flight ends.
        let still = |wanted: &Wanted| !volume.pack.bits().all(wanted.blocks.clone());
        let wanted: Vec<Wanted> = wanted.into_iter().filter(still).collect();
        if wanted.is_empty() {
            drop(board);
            return answer_from_pack(volume, read, answer);
        }
        let present = present_parts(&read, &wanted);
        let keys: Vec<Key> = wanted.iter().map(|wanted| (pack, wanted.blocks.start)).collect();
        let waiter = Arc::new(Waiter {
            origin,
            interrupted: AtomicBool::new(false),
            deadline: Instant::now() + shared.read_timeout,
            frames: keys.clone(),
            volume: volume.clone(),
            offset: read.start,
            len: usize::try_from(read.end - read.start).unwrap_or(0),
            state: Mutex::new(State::new(answer, keys.len(), present)),
        });
        let number = shared.next_waiter.fetch_add(1, Ordering::Relaxed);
        shared.waiters().insert(number, waiter.clone());
        let new = wanted
            .into_iter()
            .filter(|wanted| !board.flying((pack, wanted.blocks.start)));
        for run in runs(volume, new.collect(), Urgency::Blocking, BLOCKING_RUN, None) {
            board.enqueue(run);
        }
        for key in keys {
            board.join(key, (number, waiter.clone()));
        }
        shared.pump(board);
        shared.waiting.notify_one();
    }

    /// Fetches bytes that will be read soon. Does nothing for what is here or on its way.
    pub(crate) fn ahead(&self, volume: &Arc<Volume>, range: Range<u64>) {
        let range = range.start..range.end.min(volume.pack.len());
        if range.is_empty()
            || volume
                .pack
                .bits()
                .all(blocks_of(range.start, (range.end - range.start) as usize))
        {
            return;
        }
        let wanted = described(volume, &range);
        let mut board = self.shared.board();
        let pack = volume.pack.number();
        let new = wanted
            .into_iter()
            .filter(|wanted| !board.flying((pack, wanted.blocks.start)));
        for run in runs(volume, new.collect(), Urgency::Ahead, PREFETCH_RUN, None) {
            board.enqueue(run);
        }
        self.shared.pump(board);
    }

    /// Makes frames of an index valid at low priority and waits for it. Frames that are on their
    /// way for somebody else are not waited for.
    pub(crate) async fn complete(
        &self,
        volume: &Arc<Volume>,
        of: &Arc<Description>,
        frames: Range<usize>,
    ) -> Result<(), ReadError> {
        let (done, mut failures) = mpsc::unbounded_channel();
        {
            let mut board = self.shared.board();
            let pack = volume.pack.number();
            let wanted = frames.map(|frame| Wanted {
                of: of.clone(),
                frame,
                blocks: of.blocks(frame),
            });
            let new = wanted.filter(|wanted| {
                !volume.pack.bits().all(wanted.blocks.clone()) && !board.flying((pack, wanted.blocks.start))
            });
            for run in runs(
                volume,
                new.collect(),
                Urgency::Background,
                PREFETCH_RUN,
                Some(done),
            ) {
                board.enqueue(run);
            }
            self.shared.pump(board);
        }
        let mut first = Ok(());
        while let Some(error) = failures.recv().await {
            first = first.and(Err(error));
        }
        first
    }

    /// Notes that a signal came for the process that made a request. Most signals do not end its
    /// wait: an error in place of bytes would reach the program. Only one that is being killed is
    /// let go ([`watch_deadlines`]).
    pub(crate) fn interrupt(&self, unique: u64) {
        let waiters = self.shared.waiters();
        if let Some(waiter) = waiters.values().find(|waiter| waiter.origin.unique == unique) {
            waiter.interrupted.store(true, Ordering::Release);
        }
    }

    /// Why a pack's bytes cannot be had, if so.
    pub(crate) fn trouble(&self, pack: PackNumber) -> Option<String> {
        self.shared.trouble.of(pack)
    }

    /// Forgets all that was not started. Who waits stays unanswered.
    pub(crate) fn close(&self) {
        drop(self.shared.board().drain());
        self.shared.waiters().clear();
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board<Target, (u64, Arc<Waiter>)>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what may be started.
    fn pump(self: &Arc<Self>, mut board: MutexGuard<'_, Board<Target, (u64, Arc<Waiter>)>>) {
        let started: Vec<Run<Target>> = std::iter::from_fn(|| board.start()).collect();
        drop(board);
        for run in started {
            self.runtime.spawn(carry::carry(self.clone(), run));
        }
    }

    /// Notes that a run is over.
    fn finish(self: &Arc<Self>, urgency: Urgency) {
        let mut board = self.board();
        board.finish(urgency);
        self.pump(board);
    }

    /// Whether anybody waits for one of these frames.
    fn awaited(&self, run: &Run<Target>, frames: Range<usize>) -> bool {
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
    fn deliver(&self, key: Key, plain: &[u8]) {
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
    fn fail(&self, run: &Run<Target>, position: usize, error: &ReadError) {
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
    fn give_up(&self, waiter: &Waiter) {
        let now = Instant::now();
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|_, when| now.duration_since(*when) < JUST);
        given_up.extend(waiter.frames.iter().map(|key| (*key, now)));
    }

    /// Whether a reader's time for this frame has only just been over. Says so once.
    fn just_given_up(&self, key: Key) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.remove(&key).is_some_and(|when| when.elapsed() < JUST)
    }

    fn note_trouble(&self, run: &Run<Target>, error: &ReadError) {
        let pack = run.of.volume.pack.identity();
        let layer = run.of.of.index.view().layer();
        self.trouble.note(pack.number, pack.blob, layer, error);
    }

    /// Notes that the store takes bytes (again).
    fn stored(&self) {
        if self.full.load(Ordering::Relaxed) {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that verified bytes could not be kept. Readers have them all the same; completing in
    /// the background stops.
    fn unstored(&self, run: &Run<Target>, error: &io::Error) {
        if !self.full.swap(true, Ordering::AcqRel) {
            let path = run.of.volume.pack.path().display();
            warn!(pack = %path, %error, "the store takes no more; bytes are fetched on each read");
        }
        if let Some(done) = &run.of.done {
            let _ = done.send(ReadError::Store(error.to_string()));
        }
    }
}

/// Fails readers whose time is over.
async fn watch_deadlines(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if strong.waiters().is_empty() {
            let waiting = strong.waiting.notified();
            // Wakes now and then to notice that the fetcher is gone.
            let _ = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        }
        let now = Instant::now();
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

/// Frames that are not valid and lie in a range of bytes, as far as they are described.
fn described(volume: &Volume, range: &Range<u64>) -> Vec<Wanted> {
    let blocks = blocks_of(range.start, (range.end - range.start) as usize);
    let mut wanted = Vec::new();
    let mut at = volume.pack.bits().next_unset(blocks.clone());
    while at < blocks.end {
        let Some(found) = want(volume, at) else { break };
        at = volume
            .pack
            .bits()
            .next_unset(found.blocks.end.max(at + 1)..blocks.end);
        wanted.push(found);
    }
    wanted
}

/// Frames that must come before a read can be answered.
fn wanted(volume: &Volume, read: &Range<u64>) -> Result<Vec<Wanted>, ReadError> {
    let blocks = blocks_of(read.start, (read.end - read.start) as usize);
    let mut wanted = Vec::new();
    let mut at = volume.pack.bits().next_unset(blocks.clone());
    while at < blocks.end {
        let found = want(volume, at).ok_or(ReadError::Undescribed)?;
        at = volume
            .pack
            .bits()
            .next_unset(found.blocks.end.max(at + 1)..blocks.end);
        wanted.push(found);
    }
    Ok(wanted)
}

fn want(volume: &Volume, block: u32) -> Option<Wanted> {
    let (of, frame) = volume.frame_at(block)?;
    let blocks = of.blocks(frame);
    Some(Wanted { of, frame, blocks })
}

/// Parts of a read that no wanted frame covers, relative to its start.
fn present_parts(read: &Range<u64>, wanted: &[Wanted]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut at = read.start;
    for wanted in wanted {
        let start = u64::from(wanted.blocks.start) * BLOCK as u64;
        if at < start {
            parts.push((at - read.start) as usize..(start.min(read.end) - read.start) as usize);
        }
        at = at.max(u64::from(wanted.blocks.end) * BLOCK as u64);
    }
    if at < read.end {
        parts.push((at - read.start) as usize..(read.end - read.start) as usize);
    }
    parts
}

/// Groups frames into runs: neighbours in one index whose stored bytes are end to end.
fn runs(
    volume: &Arc<Volume>,
    wanted: Vec<Wanted>,
    urgency: Urgency,
    limit: u64,
    done: Option<mpsc::UnboundedSender<ReadError>>,
) -> Vec<Run<Target>> {
    let mut runs: Vec<Run<Target>> = Vec::new();
    let mut plain = 0;
    for next in wanted {
        let len = u64::from(next.blocks.end - next.blocks.start) * BLOCK as u64;
        let view = next.of.index.view();
        let joins = runs.last().is_some_and(|run| {
            let last = run.first_frame + run.blocks.len();
            Arc::ptr_eq(&run.of.of, &next.of)
                && last == next.frame
                && plain + len <= limit
                && end_to_end(&view, last - 1, next.frame)
        });
        match runs.last_mut() {
            Some(run) if joins => {
                run.blocks.push(next.blocks.start);
                plain += len;
            }
            _ => {
                plain = len;
                runs.push(Run {
                    of: Target {
                        volume: volume.clone(),
                        of: next.of.clone(),
                        done: done.clone(),
                    },
                    pack: volume.pack.number(),
                    number: 0,
                    first_frame: next.frame,
                    blocks: vec![next.blocks.start],
                    urgency,
                });
            }
        }
    }
    runs
}

/// Whether a frame's stored bytes begin where another's end.
fn end_to_end(view: &lacewing_format::Index<'_>, first: usize, second: usize) -> bool {
    let (Some(first), Some(second)) = (view.frames().get(first), view.frames().get(second)) else {
        return false;
    };
    first.stored_offset().checked_add(u64::from(first.stored_len())) == Some(second.stored_offset())
}

/// Answers a read whose bytes have all come meanwhile.
fn answer_from_pack(volume: &Volume, read: Range<u64>, answer: Box<dyn Answer>) {
    let mut bytes = vec![0; usize::try_from(read.end - read.start).unwrap_or(0)];
    match volume.pack.read(read.start, &mut bytes) {
        Ok(true) => answer.data(&bytes),
        Ok(false) => answer.fail(ReadError::Unavailable("given up while read".into())),
        Err(error) => answer.fail(ReadError::Store(error.to_string())),
    }
}
