//! Which frames a range of bytes needs, and how they are grouped into runs.

use std::ops::Range;
use std::sync::Arc;

use lacewing_format::limits::BLOCK;
use tokio::sync::mpsc;

use super::board::{Run, Urgency};
use super::shared::Target;
use crate::error::ReadError;
use crate::store::pack::blocks_of;
use crate::volumes::{Description, Volume};

/// A frame that is not here.
pub(super) struct Wanted {
    pub(super) of: Arc<Description>,
    pub(super) frame: usize,
    pub(super) blocks: Range<u32>,
}

/// Frames that are not valid and lie in a range of bytes; and whether all of the range is
/// described.
pub(super) fn missing(volume: &Volume, range: &Range<u64>) -> (Vec<Wanted>, bool) {
    let blocks = blocks_of(range.start, (range.end - range.start) as usize);
    let mut wanted = Vec::new();
    let mut at = volume.pack.bits().next_unset(blocks.clone());
    while at < blocks.end {
        let Some(found) = want(volume, at) else {
            return (wanted, false);
        };
        let next = found.blocks.end.max(at + 1).min(blocks.end);
        at = volume.pack.bits().next_unset(next..blocks.end);
        wanted.push(found);
    }
    (wanted, true)
}

fn want(volume: &Volume, block: u32) -> Option<Wanted> {
    let (of, frame) = volume.frame_at(block)?;
    let blocks = of.blocks(frame);
    Some(Wanted { of, frame, blocks })
}

/// Parts of a read that no wanted frame covers, relative to its start.
pub(super) fn present_parts(read: &Range<u64>, wanted: &[Wanted]) -> Vec<Range<usize>> {
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
pub(super) fn runs(
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
