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
mod plan;
mod shared;
mod trouble;
mod waiter;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use self::board::{Board, Key, Urgency};
use self::carry::stored_range;
use self::decode::Decoders;
#[cfg(feature = "fuzzing")]
pub(crate) use self::decode::decoded;
use self::plan::{Wanted, missing, present_parts, runs};
use self::shared::{Shared, watch_deadlines};
use self::trouble::Trouble;
pub(crate) use self::waiter::{Answer, Origin};
use self::waiter::{State, Waiter};
use crate::clock::Clock;
use crate::error::{ReadError, Result};
use crate::source::BlobSource;
use crate::store::pack::{PackNumber, blocks_of};
use crate::store::places::Places;
use crate::tally::Tally;
use crate::volumes::{Description, Volume, Volumes};

/// Most plain bytes of a run that somebody waits for: the largest READ, so one READ is one request.
const BLOCKING_RUN: u64 = 1 << 20;

/// Most plain bytes of other runs: about a megabyte stored, which amortises a round trip, bounds
/// what a blocked reader may have to wait behind, and keeps all runs under way below 40 MiB even
/// where nothing compresses.
const PREFETCH_RUN: u64 = 2 << 20;

/// Most plain bytes ahead of a sequential reader: two round trips of 40 ms at 100 MB/s.
const LARGEST_WINDOW: u64 = 8 << 20;

/// The same where other nodes are asked, which have to get the bytes themselves. With a few pieces under way a link of 40 Mbit/s
/// stands idle, because each piece takes half a second for every node on its way.
const LARGEST_WINDOW_OF_PEERS: u64 = 32 << 20;

/// Gets missing bytes.
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
}

/// What a fetcher needs from outside.
pub(crate) struct FetcherOptions {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) read_timeout: Duration,
    pub(crate) clock: Clock,
}

impl Fetcher {
    /// Starts the decoding threads and the watch over deadlines.
    pub(crate) fn new(
        options: FetcherOptions,
        places: Places,
        volumes: Arc<Volumes>,
        tally: Arc<Tally>,
    ) -> Result<Fetcher> {
        let board = Board::new(options.clock.now()).beside(options.source.asks_around());
        let shared = Arc::new(Shared {
            source: options.source,
            runtime: options.runtime,
            read_timeout: options.read_timeout,
            tally,
            places,
            volumes,
            board: Mutex::new(board),
            looks_again: AtomicBool::new(false),
            waiters: Mutex::default(),
            next_waiter: AtomicU64::new(0),
            waiting: Notify::new(),
            decoders: Decoders::start()?,
            trouble: Trouble::default(),
            given_up: Mutex::default(),
            full: AtomicBool::new(false),
            clock: options.clock,
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
        let pack = volume.pack.number();
        let mut bytes = None;
        // Goes round only when blocks were given up between two looks at them.
        let (wanted, mut board) = loop {
            let (wanted, described) = missing(volume, &read);
            if !described {
                return answer.fail(ReadError::Undescribed);
            }
            let just = |wanted: &Wanted| shared.just_given_up((pack, wanted.blocks.start));
            if wanted.iter().any(just) {
                return answer.fail(ReadError::Unavailable("just waited for in vain".into()));
            }
            // What is here is taken now: it may be given up before the rest has come.
            match take_present(volume, &read, &wanted, &mut bytes) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return answer.fail(error),
            }
            if wanted.is_empty() {
                return answer.data(&bytes.unwrap_or_default());
            }
            let board = shared.board();
            // What landed meanwhile is valid now: bits are set before a flight ends.
            if wanted
                .iter()
                .any(|wanted| volume.pack.bits().all(wanted.blocks.clone()))
            {
                continue;
            }
            break (wanted, board);
        };
        let keys: Vec<Key> = wanted.iter().map(|wanted| (pack, wanted.blocks.start)).collect();
        let waiter = Arc::new(Waiter {
            origin,
            interrupted: AtomicBool::new(false),
            deadline: shared.clock.now() + shared.read_timeout,
            frames: keys.clone(),
            volume: volume.clone(),
            offset: read.start,
            len: usize::try_from(read.end - read.start).unwrap_or(0),
            state: Mutex::new(State::new(answer, keys.len(), bytes)),
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

    /// Notes a read and says what to fetch ahead of it, if anything.
    pub(crate) fn on_read(&self, volume: &Volume, read: &Range<u64>) -> Option<Range<u64>> {
        let largest = match self.shared.source.asks_around() {
            true => LARGEST_WINDOW_OF_PEERS,
            false => LARGEST_WINDOW,
        };
        // Another thread that is just noting a read of the same pack spares us ours.
        let mut streams = volume.streams.try_lock().ok()?;
        let end_of_file = |offset| volume.end_of_file(offset, largest);
        streams.on_read(read.start, read.end - read.start, largest, end_of_file)
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
        let (wanted, _) = missing(volume, &range);
        let mut board = self.shared.board();
        let pack = volume.pack.number();
        let new = wanted
            .into_iter()
            .filter(|wanted| !board.flying((pack, wanted.blocks.start)));
        let mut expected = Vec::new();
        for run in runs(volume, new.collect(), Urgency::Ahead, PREFETCH_RUN, None) {
            expected.extend(stored_range(&run, 0..run.blocks.len()));
            board.enqueue(run);
        }
        self.shared.pump(board);
        let _within = self.shared.runtime.enter();
        for range in expected {
            self.shared.source.expect(volume.pack.identity().blob, range);
        }
    }

    /// A layer came that programs will begin to read.
    pub(crate) fn expect_readers(&self) {
        let now = self.shared.clock.now();
        self.shared.board().expect_readers(now);
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

/// Reads the parts of a read that are here into `bytes`, which is made when there is such a part; `false` if one has been
/// given up meanwhile.
fn take_present(
    volume: &Volume,
    read: &Range<u64>,
    wanted: &[Wanted],
    bytes: &mut Option<Vec<u8>>,
) -> Result<bool, ReadError> {
    for part in present_parts(read, wanted) {
        let len = usize::try_from(read.end - read.start).unwrap_or(0);
        let bytes = bytes.get_or_insert_with(|| vec![0; len]);
        let at = read.start + part.start as u64;
        let Some(part) = bytes.get_mut(part) else {
            return Ok(false);
        };
        if !volume
            .pack
            .read(at, part)
            .map_err(|error| ReadError::Store(error.to_string()))?
        {
            return Ok(false);
        }
    }
    Ok(true)
}
