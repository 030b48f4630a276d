//! On whose word runs are believed until their blob is proven, and how nodes ask each other for it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lacewing_format::Digest;
use lacewing_p2p::PieceId;
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::transport::limits::MAX_PLACE;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Runs in each of two generations: 128 GiB of blobs that nobody here reads to the end, 4 MiB of memory.
const MOST: usize = 1 << 15;

/// Runs that are read from their origin at a time to find out who is right.
const TURNS: usize = 2;

/// A node that did not answer is not waited for long for so long.
const SILENCE: Duration = Duration::from_secs(10);

/// Nodes remembered for that.
const MOST_SILENT: usize = 1024;

/// First byte of a question. [`crate::swarm`] has others.
const HAVE: u8 = 3;
const GET: u8 = 4;

/// On whose word a digest is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voucher {
    /// This node has read the run from its origin, or an earlier process has accepted it.
    Own,
    /// The first of the run's tree says so, who should have read it: what it says is its own fault.
    First(SocketAddr),
    /// Another node, in its place. It may itself have believed the first.
    StandIn(SocketAddr),
}

/// A digest, and on whose word it is believed.
pub(crate) type Word = (Digest, Voucher);

#[derive(Default)]
struct State {
    young: HashMap<PieceId, Word>,
    old: HashMap<PieceId, Word>,
    silent: HashMap<SocketAddr, Instant>,
}

/// What is believed of runs.
pub(crate) struct Words {
    state: Mutex<State>,
    turns: Semaphore,
    /// Other nodes make other choices.
    chance: RandomState,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            state: Mutex::default(),
            turns: Semaphore::new(TURNS),
            chance: RandomState::new(),
        }
    }
}

impl Words {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a run's digest is, and on whose word.
    pub(crate) fn note(&self, piece: PieceId, sum: Digest, voucher: Voucher) {
        let mut state = self.state();
        if state.young.len() >= MOST {
            state.old = std::mem::take(&mut state.young);
        }
        state.young.insert(piece, (sum, voucher));
    }

    /// What is believed of a run, and on whose word.
    pub(crate) fn of(&self, piece: &PieceId) -> Option<Word> {
        let state = self.state();
        state.young.get(piece).or_else(|| state.old.get(piece)).copied()
    }

    /// Nothing is believed of a run any more.
    pub(crate) fn forget(&self, piece: &PieceId) {
        let mut state = self.state();
        state.young.remove(piece);
        state.old.remove(piece);
    }

    /// Whether a node did not answer lately.
    pub(crate) fn is_silent(&self, peer: &SocketAddr) -> bool {
        let state = self.state();
        state
            .silent
            .get(peer)
            .is_some_and(|since| since.elapsed() < SILENCE)
    }

    /// A node has answered a question, or has not.
    pub(crate) fn answered(&self, peer: SocketAddr, answered: bool) {
        let mut state = self.state();
        if answered {
            state.silent.remove(&peer);
            return;
        }
        if state.silent.len() >= MOST_SILENT {
            state.silent.retain(|_, since| since.elapsed() < SILENCE);
        }
        if state.silent.len() < MOST_SILENT {
            state.silent.insert(peer, Instant::now());
        }
    }

    /// One of `count`, for a run always the same one on this node.
    pub(crate) fn choice(&self, piece: &PieceId, count: u32) -> usize {
        let chance = self.chance.hash_one(piece) % u64::from(count.max(1));
        usize::try_from(chance).unwrap_or(0)
    }

    /// Waits for a turn to read from an origin.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }
}

/// What a node asks another one about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Its digest, if the run is there.
    Have(PieceId, Provenance),
    /// Its digest; the run is to be got if it is not there.
    Get(PieceId, Provenance),
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The run's digest.
    Digest(Digest),
    /// It has not got the run.
    Nothing,
    /// Nothing at all.
    NoAnswer,
}

impl Question {
    /// Whether a message may be one.
    pub(crate) fn is(message: &[u8]) -> bool {
        matches!(message.first(), Some(&HAVE | &GET))
    }

    /// As it goes to the other node. Little-endian: digest of the blob, offset and length of the run, length and place of
    /// the blob.
    pub(crate) fn written(&self) -> Bytes {
        let (kind, piece, of) = match self {
            Question::Have(piece, of) => (HAVE, piece, of),
            Question::Get(piece, of) => (GET, piece, of),
        };
        let mut out = BytesMut::with_capacity(64 + of.place.len());
        out.put_u8(kind);
        out.put_slice(&piece.blob.0);
        out.put_u64_le(piece.offset);
        out.put_u32_le(piece.len);
        out.put_u64_le(of.index_len);
        out.put_slice(of.place.as_bytes());
        out.freeze()
    }

    /// Reads what another node asks.
    pub(crate) fn read(message: &[u8]) -> Option<Question> {
        let (head, place) = message.split_at_checked(1 + 32 + 8 + 4 + 8)?;
        if place.len() > MAX_PLACE {
            return None;
        }
        let (kind, mut rest) = head.split_first()?;
        let mut blob = [0; 32];
        rest.copy_to_slice(&mut blob);
        let piece = PieceId {
            blob: Digest(blob),
            offset: rest.get_u64_le(),
            len: rest.get_u32_le(),
        };
        let of = Provenance {
            index: piece.blob,
            index_len: rest.get_u64_le(),
            place: String::from_utf8(place.to_vec()).ok()?,
        };
        match *kind {
            HAVE => Some(Question::Have(piece, of)),
            GET => Some(Question::Get(piece, of)),
            _ => None,
        }
    }
}

impl Said {
    /// As it goes back.
    pub(crate) fn written(self) -> Bytes {
        match self {
            Said::Digest(digest) => Bytes::copy_from_slice(&digest.0),
            Said::Nothing | Said::NoAnswer => Bytes::new(),
        }
    }

    /// Reads an answer.
    pub(crate) fn read(message: &[u8]) -> Option<Said> {
        if message.is_empty() {
            return Some(Said::Nothing);
        }
        Some(Said::Digest(Digest(message.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn piece(offset: u64) -> PieceId {
        PieceId {
            blob: Digest::of(b"blob"),
            offset,
            len: 7,
        }
    }

    #[test]
    fn what_is_asked_and_said_is_understood() {
        let of = Provenance {
            index: piece(0).blob,
            index_len: 1 << 40,
            place: "h:1/a/b".to_owned(),
        };
        for question in [
            Question::Have(piece(1 << 33), of.clone()),
            Question::Get(piece(0), of),
        ] {
            let written = question.written();
            assert!(Question::is(&written));
            assert_eq!(Question::read(&written), Some(question));
            assert_eq!(Question::read(&written[..50]), None);
        }
        for said in [Said::Nothing, Said::Digest(Digest::of(b"run"))] {
            assert_eq!(Said::read(&said.written()), Some(said));
        }
        assert_eq!(Said::read(b"short"), None);
    }

    #[test]
    fn the_oldest_words_are_forgotten() {
        let words = Words::default();
        let sum = Digest::of(b"run");
        for number in 0..2 * MOST as u64 + 1 {
            words.note(piece(number), sum, Voucher::Own);
        }
        assert_eq!(words.of(&piece(0)), None);
        assert_eq!(words.of(&piece(2 * MOST as u64)), Some((sum, Voucher::Own)));
        words.forget(&piece(2 * MOST as u64));
        assert_eq!(words.of(&piece(2 * MOST as u64)), None);
    }

    #[test]
    fn a_crowd_spreads() {
        let words = Words::default();
        assert!((0..100).all(|number| words.choice(&piece(number), 1) == 0));
        let mut chosen: Vec<usize> = (0..1000).map(|number| words.choice(&piece(number), 8)).collect();
        assert_eq!(words.choice(&piece(0), 8), chosen[0]);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn who_answers_again_is_not_silent() {
        let words = Words::default();
        let peer: SocketAddr = "10.0.0.1:7070".parse().unwrap();
        words.answered(peer, false);
        assert!(words.is_silent(&peer));
        words.answered(peer, true);
        assert!(!words.is_silent(&peer));
    }
}
