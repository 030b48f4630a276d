//! A reader that waits for frames.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::board::Key;
use crate::error::ReadError;
use crate::volumes::Volume;

/// Takes the answer to one read. Exactly one of the two methods is called, once, unless the engine
/// is closed before.
pub(crate) trait Answer: Send {
    /// The bytes, all of them.
    fn data(self: Box<Self>, bytes: &[u8]);
    /// The reason why there are none.
    fn fail(self: Box<Self>, error: ReadError);
}

/// Whose read it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The kernel's name of the request.
    pub(crate) unique: u64,
    /// The thread that made it; 0 if it is not to be seen from here.
    pub(crate) pid: u32,
}

/// One read with some of its frames missing.
pub(crate) struct Waiter {
    /// Whose read it is.
    pub(crate) origin: Origin,
    /// Whether a signal came for the process that reads.
    pub(crate) interrupted: AtomicBool,
    /// When the read fails at the latest.
    pub(crate) deadline: Instant,
    /// The frames that were missing when the read came.
    pub(super) frames: Vec<Key>,
    pub(super) volume: Arc<Volume>,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) state: Mutex<State>,
}

/// How far a read has come.
pub(super) struct State {
    answer: Option<Box<dyn Answer>>,
    /// Frames that have not come yet.
    missing: usize,
    /// The read's bytes as far as they came; made with the first part that is not all of it.
    bytes: Option<Vec<u8>>,
}

impl State {
    /// A read for which `missing` frames must come; `bytes` has the parts that were here already.
    pub(super) fn new(answer: Box<dyn Answer>, missing: usize, bytes: Option<Vec<u8>>) -> State {
        State {
            answer: Some(answer),
            missing,
            bytes,
        }
    }
}

impl Waiter {
    /// Whether the read has not been answered.
    pub(crate) fn waits(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer
            .is_some()
    }

    /// Gives the waiter a frame that starts at byte `start` of the pack. Returns whether the
    /// waiter is done.
    pub(crate) fn deliver(&self, start: u64, plain: &[u8]) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.answer.is_none() {
            return true;
        }
        state.missing = state.missing.saturating_sub(1);
        let from = start.max(self.offset);
        let to = (start + plain.len() as u64).min(self.offset + self.len as u64);
        let part = if from < to {
            &plain[(from - start) as usize..(to - start) as usize]
        } else {
            &[]
        };
        if part.len() == self.len {
            let answer = state.answer.take();
            drop(state);
            answer.into_iter().for_each(|answer| answer.data(part));
            return true;
        }
        let at = (from.saturating_sub(self.offset)) as usize;
        let mut bytes = state.bytes.take().unwrap_or_else(|| vec![0; self.len]);
        if let Some(to) = bytes.get_mut(at..at + part.len()) {
            to.copy_from_slice(part);
        }
        if state.missing > 0 {
            state.bytes = Some(bytes);
            return false;
        }
        let answer = state.answer.take();
        drop(state);
        answer.into_iter().for_each(|answer| answer.data(&bytes));
        true
    }

    /// Takes the answer out, if the read has not been answered; who takes it must give it.
    pub(crate) fn take(&self) -> Option<Box<dyn Answer>> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer
            .take()
    }

    /// Answers with an error, if the read has not been answered.
    pub(crate) fn fail(&self, error: ReadError) {
        self.take()
            .into_iter()
            .for_each(|answer| answer.fail(error.clone()));
    }
}
