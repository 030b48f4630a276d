//! Completing layers while nobody waits: first what start-up reads, then the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lacewing_format::Index;
use lacewing_format::limits::BLOCK;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::error::ReadError;
use crate::fetch::Fetcher;
use crate::layer::Layer;
use crate::pace::Pace;
use crate::store::space::Space;
use crate::volumes::Volumes;

/// Most plain bytes asked for at a time; two such batches are under way.
const BATCH: u64 = 4 << 20;

/// Batches of a layer before another layer has its turn.
const TURN: usize = 16;

/// First pause after a failure; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two tries of a layer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often packs that changed are flushed and their bitmaps checkpointed, and memory of what was
/// read is given back. What a power loss may cost, to be fetched again.
const CHECKPOINT: Duration = Duration::from_secs(3);

/// How often it is looked whether there is room again for what nobody waits for.
const ROOM: Duration = Duration::from_secs(5);

/// A wish for a layer to be completed.
pub(crate) struct Ask {
    pub(crate) layer: Arc<Layer>,
    /// Somebody waits: whatever the hour, and as fast as may be.
    pub(crate) now: bool,
}

/// What limits completion.
pub(crate) struct Limits {
    pub(crate) pace: Pace,
    pub(crate) space: Arc<Space>,
}

/// A layer that is being completed.
struct Work {
    layer: Arc<Layer>,
    now: bool,
    /// Next frame to look at.
    next: usize,
    /// Whether anything failed since the last start from frame 0.
    failed: bool,
    pause: Duration,
    not_before: Instant,
}

/// Completes layers in the order in which they come. Ends when the sender is gone.
pub(crate) async fn complete(fetcher: Weak<Fetcher>, mut asks: UnboundedReceiver<Ask>, limits: Limits) {
    let mut works: VecDeque<Work> = VecDeque::new();
    loop {
        while let Ok(ask) = asks.try_recv() {
            begin(&fetcher, &mut works, ask, &limits).await;
        }
        works.retain(|work| !work.layer.gone.load(Ordering::Acquire));
        let now = Instant::now();
        let ready = works.iter().position(|work| work.not_before <= now);
        if let Some(mut work) = ready.and_then(|at| works.remove(at)) {
            let Some(fetcher) = fetcher.upgrade() else { return };
            let wait = limits.wait(work.now);
            if wait.is_zero() {
                works.extend(turn(&fetcher, work, &limits, &asks).await);
            } else {
                work.not_before = now + wait;
                works.push_back(work);
            }
            continue;
        }
        let soonest = works.iter().map(|work| work.not_before).min();
        let wait = async {
            match soonest {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => begin(&fetcher, &mut works, ask, &limits).await,
                None => return,
            },
            () = wait => {}
        }
    }
}

impl Limits {
    /// How long a layer has to wait for its turn; zero: it has it.
    fn wait(&self, now: bool) -> Duration {
        if now {
            return Duration::ZERO;
        }
        if !self.space.roomy() {
            return ROOM;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.pace
            .window
            .map_or(Duration::ZERO, |window| window.wait(since_1970))
    }
}

/// Begins to fetch what a recorded start of a layer has read, in its order, without waiting for it. It will be read in a
/// moment, so that it goes as what is read ahead of a reader, beside what processes wait for.
pub(crate) fn begin_recorded(fetcher: &Fetcher, layer: &Layer, space: &Space) {
    let view = layer.index.view();
    if !view.recorded() || !space.roomy() {
        return;
    }
    for batch in hot_batches(&view, |frame| layer.has(frame)) {
        let Some(part) = layer.parts.get(view.frame_device(batch.start)) else {
            continue;
        };
        let (first, last) = (part.of.blocks(batch.start), part.of.blocks(batch.end - 1));
        let bytes = u64::from(first.start) * BLOCK as u64..u64::from(last.end) * BLOCK as u64;
        fetcher.ahead(&part.volume, bytes);
    }
}

/// Takes a layer up: fetches what its index says start-up reads, at any hour.
async fn begin(fetcher: &Weak<Fetcher>, works: &mut VecDeque<Work>, ask: Ask, limits: &Limits) {
    let Ask { layer, now } = ask;
    if let Some(known) = works.iter_mut().find(|work| work.layer.id == layer.id) {
        if now && !known.now {
            known.now = true;
            known.not_before = Instant::now();
        }
        return;
    }
    if layer.complete() {
        return;
    }
    if let Some(fetcher) = fetcher.upgrade().filter(|_| limits.space.roomy()) {
        fetcher.expect_readers();
        let hot = hot_batches(&layer.index.view(), |frame| layer.has(frame));
        for pair in hot.chunks(2) {
            let failed =
                futures::future::join_all(pair.iter().map(|batch| fetch(&fetcher, &layer, batch.clone())));
            if failed.await.iter().any(Result::is_err) {
                break;
            }
        }
    }
    let not_before = Instant::now();
    works.push_back(Work {
        layer,
        now,
        next: 0,
        failed: false,
        pause: FIRST_PAUSE,
        not_before,
    });
}

/// Gives a layer its turn, at most until another one asks; returns it if there is more to do.
async fn turn(
    fetcher: &Fetcher,
    mut work: Work,
    limits: &Limits,
    asks: &UnboundedReceiver<Ask>,
) -> Option<Work> {
    let pace = if work.now { Pace::default() } else { limits.pace };
    for _ in 0..TURN / 2 {
        let began = Instant::now();
        let layer = work.layer.clone();
        let (mut batches, mut stored) = (Vec::new(), 0);
        while batches.len() < 2 {
            let view = layer.index.view();
            let most = pace.batch(BATCH);
            let Some(batch) = next_batch(&view, work.next, most, |frame| layer.has(frame)) else {
                break;
            };
            work.next = batch.end;
            stored += stored_len(&view, batch.clone());
            batches.push(fetch(fetcher, &layer, batch));
        }
        if batches.is_empty() {
            return end_of_pass(work).await;
        }
        for fetched in futures::future::join_all(batches).await {
            work.failed |= fetched.is_err();
        }
        if work.failed {
            return Some(pause(work));
        }
        let rest = pace.pause(stored, began.elapsed());
        if !rest.is_zero() {
            work.not_before = Instant::now() + rest;
            return Some(work);
        }
        // What start-up reads of a layer that came now goes before the rest of this one.
        if !asks.is_empty() || !work.now && !limits.space.roomy() {
            break;
        }
    }
    Some(work)
}

/// Stored bytes of neighbouring frames.
fn stored_len(view: &Index<'_>, frames: Range<usize>) -> u64 {
    let len = |frame: usize| {
        view.frames()
            .get(frame)
            .map_or(0, |frame| u64::from(frame.stored_len()))
    };
    frames.map(len).sum()
}

/// What to do when the last frame has been looked at.
async fn end_of_pass(mut work: Work) -> Option<Work> {
    if !work.layer.complete() {
        // Somebody else is fetching the rest, or it failed: look again later.
        work.next = 0;
        return Some(pause(work));
    }
    let layer = work.layer.clone();
    let flushed = tokio::task::spawn_blocking(move || layer.checkpoint()).await;
    match flushed {
        Ok(Ok(())) => info!(layer = %work.layer.id, "layer is complete"),
        Ok(Err(error)) => warn!(layer = %work.layer.id, %error, "layer is complete but not flushed"),
        Err(_) => {}
    }
    None
}

fn pause(mut work: Work) -> Work {
    work.not_before = Instant::now() + work.pause;
    work.pause = (work.pause * 2).min(LONGEST_PAUSE);
    work.failed = false;
    work.next = 0;
    work
}

async fn fetch(fetcher: &Fetcher, layer: &Layer, frames: Range<usize>) -> Result<(), ReadError> {
    let device = layer.index.view().frame_device(frames.start);
    match layer.parts.get(device) {
        Some(part) => fetcher.complete(&part.volume, &part.of, frames).await,
        None => Ok(()),
    }
}

/// The next frames of one device that are missing, from `next` on, as many as fit into a batch.
fn next_batch(view: &Index<'_>, next: usize, most: u64, has: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let first = (next..view.frames().len()).find(|frame| !has(*frame))?;
    let device = view.frame_device(first);
    let mut plain = u64::from(view.frame_plain_len(first));
    let mut end = first + 1;
    while end < view.frames().len() && !has(end) && view.frame_device(end) == device {
        plain += u64::from(view.frame_plain_len(end));
        if plain > most {
            break;
        }
        end += 1;
    }
    Some(first..end)
}

/// Missing frames of the prefetch list, neighbours together.
fn hot_batches(view: &Index<'_>, has: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut plain = 0;
    for frame in view.prefetch().filter(|frame| !has(*frame)) {
        plain += u64::from(view.frame_plain_len(frame));
        match batches.last_mut() {
            Some(last)
                if last.end == frame
                    && plain <= BATCH
                    && view.frame_device(last.start) == view.frame_device(frame) =>
            {
                last.end += 1;
            }
            _ => {
                plain = u64::from(view.frame_plain_len(frame));
                batches.push(frame..frame + 1);
            }
        }
    }
    batches
}

/// Takes checkpoints of packs that changed, every few seconds, as long as there are packs.
pub(crate) async fn checkpoints(volumes: Weak<Volumes>) {
    loop {
        sleep(CHECKPOINT).await;
        let Some(volumes) = volumes.upgrade() else { return };
        let flushed = tokio::task::spawn_blocking(move || {
            for volume in volumes.all() {
                if let Err(error) = volume.pack.checkpoint() {
                    warn!(%error, "a pack was not flushed");
                }
                volume.pack.give_back();
            }
        });
        let _ = flushed.await;
    }
}
