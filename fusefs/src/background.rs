//! Completing layers while nobody waits: first what start-up reads, then the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lacewing_format::Index;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::error::ReadError;
use crate::fetch::Fetcher;
use crate::layer::Layer;
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

/// A layer that is being completed.
struct Work {
    layer: Arc<Layer>,
    /// Next frame to look at.
    next: usize,
    /// Whether anything failed since the last start from frame 0.
    failed: bool,
    pause: Duration,
    not_before: Instant,
}

/// Completes layers in the order in which they come. Ends when the sender is gone.
pub(crate) async fn complete(fetcher: Weak<Fetcher>, mut layers: UnboundedReceiver<Arc<Layer>>) {
    let mut works: VecDeque<Work> = VecDeque::new();
    loop {
        while let Ok(layer) = layers.try_recv() {
            begin(&fetcher, &mut works, layer).await;
        }
        works.retain(|work| !work.layer.gone.load(Ordering::Acquire));
        let now = Instant::now();
        let ready = works.iter().position(|work| work.not_before <= now);
        if let Some(work) = ready.and_then(|at| works.remove(at)) {
            let Some(fetcher) = fetcher.upgrade() else { return };
            works.extend(turn(&fetcher, work).await);
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
            layer = layers.recv() => match layer {
                Some(layer) => begin(&fetcher, &mut works, layer).await,
                None => return,
            },
            () = wait => {}
        }
    }
}

/// Takes a layer up: fetches what its index says start-up reads.
async fn begin(fetcher: &Weak<Fetcher>, works: &mut VecDeque<Work>, layer: Arc<Layer>) {
    if works.iter().any(|work| work.layer.id == layer.id) || layer.complete() {
        return;
    }
    if let Some(fetcher) = fetcher.upgrade() {
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
        next: 0,
        failed: false,
        pause: FIRST_PAUSE,
        not_before,
    });
}

/// Gives a layer its turn; returns it if there is more to do.
async fn turn(fetcher: &Fetcher, mut work: Work) -> Option<Work> {
    for _ in 0..TURN / 2 {
        let layer = work.layer.clone();
        let mut batches = Vec::new();
        while batches.len() < 2 {
            let Some(batch) = next_batch(&layer.index.view(), work.next, |frame| layer.has(frame)) else {
                break;
            };
            work.next = batch.end;
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
    }
    Some(work)
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
fn next_batch(view: &Index<'_>, next: usize, has: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let first = (next..view.frames().len()).find(|frame| !has(*frame))?;
    let device = view.frame_device(first);
    let mut plain = u64::from(view.frame_plain_len(first));
    let mut end = first + 1;
    while end < view.frames().len() && !has(end) && view.frame_device(end) == device {
        plain += u64::from(view.frame_plain_len(end));
        if plain > BATCH {
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
