//! Digests of the runs of blobs that were found right as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lacewing_format::Digest;
use lacewing_p2p::PieceId;

use super::RUN;

/// Runs of all blobs together: 1 TiB of blobs, 8 MiB of memory.
const MOST: usize = 1 << 18;

#[derive(Default)]
struct State {
    /// With the order of their coming.
    blobs: HashMap<Digest, (Arc<[Digest]>, u64)>,
    runs: usize,
    count: u64,
}

/// What is known of runs.
#[derive(Default)]
pub(crate) struct Sums(Mutex<State>);

impl Sums {
    /// Takes in the digests of all runs of a blob, in order.
    pub(crate) fn learn(&self, blob: Digest, sums: Vec<Digest>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let count = state.count;
        state.runs += sums.len();
        if let Some((before, _)) = state.blobs.insert(blob, (sums.into(), count)) {
            state.runs -= before.len();
        }
        while state.runs > MOST && state.blobs.len() > 1 {
            let Some(oldest) = state
                .blobs
                .iter()
                .min_by_key(|(_, (_, at))| *at)
                .map(|(id, _)| *id)
            else {
                return;
            };
            if let Some((gone, _)) = state.blobs.remove(&oldest) {
                state.runs -= gone.len();
            }
        }
    }

    /// Whether a blob was found right.
    pub(crate) fn knows(&self, blob: &Digest) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.blobs.contains_key(blob)
    }

    /// The digest of a run.
    pub(crate) fn of(&self, piece: &PieceId) -> Option<Digest> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (sums, _) = state.blobs.get(&piece.blob)?;
        sums.get(usize::try_from(piece.offset / RUN).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_blobs_are_forgotten() {
        let sums = Sums::default();
        let name = |number: u64| Digest::of(&number.to_le_bytes());
        for number in 0..3 {
            sums.learn(name(number), vec![name(100 + number); MOST / 2]);
        }
        assert_eq!([0, 1, 2].map(|n| sums.knows(&name(n))), [false, true, true]);
        let piece = PieceId {
            blob: name(2),
            offset: RUN,
            len: 1,
        };
        assert_eq!(sums.of(&piece), Some(name(102)));
    }
}
