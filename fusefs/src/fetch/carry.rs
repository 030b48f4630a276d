//! What happens to a run from its start to its end: other packs, the source, retries.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::board::{Run, Urgency};
use super::decode::{From, Job};
use super::shared::{Shared, Target};
use crate::error::ReadError;
use crate::source::{Class, SourceError};
use crate::tally::add;

/// How often the same frames are asked for when what comes is corrupt: once more because a
/// connection or a mirror may be to blame, and once more for a third source.
const CORRUPT_TRIES: u32 = 3;

/// First pause after a source was unavailable; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two tries: a registry that comes back is noticed within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Longest time for the first try of a request, after which it is made anew: a connection that
/// hangs must not use up the time a reader has. Doubles with each try, for links that are slow. Not
/// for a source that asks around: to it one that hangs is one of several.
const FIRST_LIMIT: Duration = Duration::from_secs(5);

/// Bound from below on the time for a try, where readers have very little time.
const SHORTEST_LIMIT: Duration = Duration::from_millis(500);

/// How often a request under way is checked for whether anybody waits for it, still or by now.
const CHECK: Duration = Duration::from_millis(50);

/// Carries a run through; every flight of it has landed in the end.
pub(crate) async fn carry(shared: Arc<Shared>, run: Run<Target>) {
    let run = Arc::new(run);
    let all: Vec<usize> = (0..run.blocks.len()).collect();
    let left = from_places(&shared, &run, all).await;
    for group in groups(&left) {
        from_source(&shared, &run, group).await;
    }
    shared.finish(run.urgency);
}

/// Splits ascending positions into rows of neighbours.
fn groups(positions: &[usize]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for position in positions {
        match groups.last_mut() {
            Some(last) if last.end == *position => last.end += 1,
            _ => groups.push(*position..*position + 1),
        }
    }
    groups
}

/// Makes frames valid from chunks that are on this node already; returns the others.
async fn from_places(shared: &Arc<Shared>, run: &Arc<Run<Target>>, all: Vec<usize>) -> Vec<usize> {
    let index = run.of.of.index.clone();
    let hinted = |position: &usize| {
        let view = index.view();
        let chunks = view.frame_chunks(run.first_frame + position);
        !chunks.is_empty()
            && chunks
                .iter()
                .all(|chunk| shared.places.find(&chunk.id()).next().is_some())
    };
    let (hinted, mut left): (Vec<usize>, Vec<usize>) = all.into_iter().partition(hinted);
    for group in groups(&hinted) {
        left.extend(decode(shared, run, group, From::Places).await);
    }
    left.sort_unstable();
    left
}

/// Gives a job to the decoding threads; returns the frames that could not be made valid.
async fn decode(
    shared: &Arc<Shared>,
    run: &Arc<Run<Target>>,
    frames: Range<usize>,
    from: From,
) -> Vec<usize> {
    let (left, answer) = oneshot::channel();
    let urgent = Job::urgent(run, shared.awaited(run, frames.clone()));
    let job = Job {
        shared: shared.clone(),
        run: run.clone(),
        frames: frames.clone(),
        from,
        left,
    };
    shared.decoders.hand(job, urgent);
    answer.await.unwrap_or_else(|_| frames.collect())
}

/// Fetches neighbouring frames until they are valid or there is no hope.
async fn from_source(shared: &Arc<Shared>, run: &Arc<Run<Target>>, frames: Range<usize>) {
    let mut todo = vec![frames];
    let mut pause = FIRST_PAUSE;
    let mut limit = match shared.source.asks_around() {
        true => shared.read_timeout,
        false => FIRST_LIMIT.min(shared.read_timeout / 4).max(SHORTEST_LIMIT),
    };
    let mut corrupt = 0;
    while let Some(group) = todo.pop() {
        let error = match attempt(shared, run, group.clone(), limit).await {
            Ok(bytes) => {
                let left = decode(shared, run, group, From::Stored(bytes)).await;
                if left.is_empty() {
                    continue;
                }
                todo.extend(groups(&left));
                SourceError::Corrupt("the bytes do not have the digest that the index says".into())
            }
            Err(error) => {
                todo.push(group);
                error
            }
        };
        let again = match &error {
            SourceError::Unavailable(_) => true,
            SourceError::Corrupt(_) => {
                corrupt += 1;
                corrupt < CORRUPT_TRIES
            }
            SourceError::Missing(_) | SourceError::Forbidden(_) => false,
        };
        let error = ReadError::from(error);
        shared.note_trouble(run, &error);
        todo = keep(shared, run, todo, again, &error);
        if !todo.is_empty() {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            limit *= 2;
        }
    }
}

/// Which frames to try again; the others' flights end with the error.
fn keep(
    shared: &Arc<Shared>,
    run: &Arc<Run<Target>>,
    todo: Vec<Range<usize>>,
    again: bool,
    error: &ReadError,
) -> Vec<Range<usize>> {
    let mut kept = Vec::new();
    for position in todo.into_iter().flatten() {
        let corrupt = matches!(error, ReadError::Corrupt(_));
        // Nobody waits: whoever asks next tries again. Corrupt bytes are asked for again all the
        // same, since a neighbour's damage is no reason to give up a whole run.
        if again && (corrupt || shared.awaited(run, position..position + 1)) {
            kept.push(position);
        } else {
            shared.fail(run, position, error);
        }
    }
    kept.sort_unstable();
    let mut groups = groups(&kept);
    groups.reverse();
    groups
}

/// Asks the source once. Ends early when nobody waits any more.
async fn attempt(
    shared: &Arc<Shared>,
    run: &Arc<Run<Target>>,
    frames: Range<usize>,
    limit: Duration,
) -> Result<Bytes, SourceError> {
    let range = stored_range(run, frames.clone())
        .ok_or_else(|| SourceError::Corrupt("the index has no such frames".into()))?;
    let expected = range.end - range.start;
    let class = match run.urgency {
        Urgency::Blocking => Class::Blocking,
        Urgency::Ahead => Class::Ahead,
        Urgency::Background => Class::Background,
    };
    let blob = run.of.volume.pack.identity().blob;
    add(&shared.tally.source_reads, 1);
    let read = timeout(limit, shared.source.read(blob, range.clone(), class));
    tokio::pin!(read);
    let mut hurries = false;
    let answer = loop {
        tokio::select! {
            answer = &mut read => break answer,
            () = sleep(CHECK) => {}
        }
        let blocking = run.urgency == Urgency::Blocking;
        if !blocking && hurries {
            continue; // it is hurried, and goes on whoever leaves
        }
        match (blocking, shared.awaited(run, frames.clone())) {
            (true, false) => return Err(SourceError::Unavailable("nobody waits any more".into())),
            (false, true) => {
                hurries = true;
                shared.source.hurry(blob, range.clone());
            }
            _ => {}
        }
    };
    let late = |_| SourceError::Unavailable(format!("no answer within {limit:?}"));
    let bytes = answer.map_err(late)??;
    add(&shared.tally.source_bytes, bytes.len() as u64);
    if bytes.len() as u64 != expected {
        let reason = format!("{} bytes came in place of {expected}", bytes.len());
        return Err(SourceError::Corrupt(reason));
    }
    Ok(bytes)
}

/// Where neighbouring frames' stored bytes are.
pub(super) fn stored_range(run: &Run<Target>, frames: Range<usize>) -> Option<Range<u64>> {
    let view = run.of.of.index.view();
    let first = view.frames().get(run.first_frame + frames.start)?;
    let last = view.frames().get(run.first_frame + frames.end.checked_sub(1)?)?;
    let end = last.stored_offset().checked_add(u64::from(last.stored_len()))?;
    (first.stored_offset() < end).then_some(first.stored_offset()..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_grouped_into_rows() {
        assert_eq!(groups(&[]), []);
        assert_eq!(groups(&[0, 1, 2, 5, 7, 8]), [0..3, 5..6, 7..9]);
    }
}
