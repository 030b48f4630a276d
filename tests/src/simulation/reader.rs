//! What runs on a node: wants pieces, and measures how long they take.

use std::collections::VecDeque;

use super::Nanos;

/// Bits, one for each piece.
#[derive(Clone, Debug)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(crate) fn get(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// Sets a bit; tells whether it was clear.
    pub(crate) fn set(&mut self, at: usize) -> bool {
        let before = self.get(at);
        self.0[at / 64] |= 1 << (at % 64);
        !before
    }
}

/// A program and the prefetching for it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) started: Nanos,
    /// When a daemon's program had read its start-up set.
    pub(crate) started_up: Option<Nanos>,
    /// When it had all it wanted.
    pub(crate) done: Option<Nanos>,
    /// First piece that was not prefetched yet.
    pub(crate) next: usize,
    /// Pieces under way for the prefetching.
    pub(crate) outstanding: usize,
    pub(crate) prefetching: Bits,
    /// Reads done so far, and the one that is going on: which piece, since when.
    pub(crate) reads: usize,
    pub(crate) reading: Option<(usize, Nanos)>,
    /// Pieces that are here.
    pub(crate) held: usize,
    /// What a daemon's store is at.
    pub(crate) store: Store,
}

/// A daemon's store, completing an image.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Runs it has taken up and not begun.
    pub(crate) waiting: VecDeque<Vec<usize>>,
    /// Runs under way: since when, and the pieces that are not here yet.
    pub(crate) runs: Vec<(Nanos, Vec<usize>)>,
    /// Pieces prefetched behind a run.
    pub(crate) window: usize,
    /// Pieces that are prefetched while a program waits.
    pub(crate) beside: Vec<usize>,
    /// When the program waited last, if it has.
    pub(crate) waited: Option<Nanos>,
    /// When a run was begun last.
    pub(crate) begun: Nanos,
    /// It looks at this moment whether it may begin a run.
    pub(crate) look: Nanos,
}

impl Store {
    /// A piece is here; returns since when the run has been under way that it has ended.
    pub(crate) fn came(&mut self, piece: usize) -> Option<Nanos> {
        for run in self
            .waiting
            .iter_mut()
            .chain(self.runs.iter_mut().map(|run| &mut run.1))
        {
            run.retain(|missing| *missing != piece);
        }
        let over = self.runs.iter().position(|run| run.1.is_empty())?;
        Some(self.runs.swap_remove(over).0)
    }
}

impl Reader {
    pub(crate) fn new(pieces: usize) -> Self {
        Self {
            started: Nanos::MAX,
            started_up: None,
            done: None,
            next: 0,
            outstanding: 0,
            prefetching: Bits::new(pieces),
            reads: 0,
            reading: None,
            held: 0,
            store: Store::default(),
        }
    }
}
