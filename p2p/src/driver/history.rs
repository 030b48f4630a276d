//! Where the latest pieces came from, and what went between this node and each other one: for people.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lacewing_format::Digest;

use crate::piece::PieceId;

/// Pieces that are remembered: 64 GiB in runs of 4 MiB, and a few MiB of memory.
const MOST: usize = 16_384;

/// Nodes asked for one piece that are remembered.
const MOST_ASKED: usize = 16;

/// Who delivered a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another node.
    Peer(SocketAddr),
    /// A registry or another origin, from this node.
    Origin,
}

/// What was done to get a piece.
#[derive(Clone, Debug)]
pub struct Trail {
    /// When it was first asked for anywhere.
    pub begun: Instant,
    /// Whom it was asked from, in this order; the same node can be asked again.
    pub asked: Vec<SocketAddr>,
    /// How often its origin was asked.
    pub origin_asked: u32,
    /// Who delivered it in the end, and after how long.
    pub source: Option<(Source, Duration)>,
    /// Nodes whose bytes were wrong.
    pub wrong: Vec<SocketAddr>,
}

/// What went between this node and another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Verified bytes from it.
    pub from: u64,
    /// Bytes to it.
    pub to: u64,
}

#[derive(Debug, Default)]
pub(super) struct History {
    trails: HashMap<PieceId, Trail>,
    order: VecDeque<PieceId>,
    pub(super) traffic: HashMap<SocketAddr, Traffic>,
}

impl History {
    pub(super) fn asked(&mut self, piece: PieceId, peer: Option<SocketAddr>) {
        let trail = self.trail(piece);
        match peer {
            Some(peer) if trail.asked.len() < MOST_ASKED => trail.asked.push(peer),
            Some(_) => {}
            None => trail.origin_asked += 1,
        }
    }

    pub(super) fn came(&mut self, piece: PieceId, source: Source) {
        let trail = self.trail(piece);
        trail.source = Some((source, trail.begun.elapsed()));
        if let Source::Peer(peer) = source {
            self.traffic.entry(peer).or_default().from += u64::from(piece.len);
        }
    }

    pub(super) fn was_wrong(&mut self, piece: PieceId, peer: SocketAddr) {
        let trail = self.trail(piece);
        if trail.wrong.len() < MOST_ASKED {
            trail.wrong.push(peer);
        }
    }

    pub(super) fn sent(&mut self, peer: SocketAddr, len: u64) {
        self.traffic.entry(peer).or_default().to += len;
    }

    pub(super) fn of(&self, piece: &PieceId) -> Option<Trail> {
        self.trails.get(piece).cloned()
    }

    /// The pieces of a blob that are remembered.
    pub(super) fn pieces_of(&self, blob: &Digest) -> Vec<PieceId> {
        let mut pieces: Vec<PieceId> = self
            .trails
            .keys()
            .filter(|piece| piece.blob == *blob)
            .copied()
            .collect();
        pieces.sort_unstable();
        pieces
    }

    /// The piece's trail; a new one if the last one ended with the piece.
    fn trail(&mut self, piece: PieceId) -> &mut Trail {
        if !self.trails.contains_key(&piece) {
            self.order.push_back(piece);
            while self.order.len() > MOST {
                if let Some(oldest) = self.order.pop_front() {
                    self.trails.remove(&oldest);
                }
            }
        }
        self.trails.entry(piece).or_insert_with(|| Trail {
            begun: Instant::now(),
            asked: Vec::new(),
            origin_asked: 0,
            source: None,
            wrong: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let piece = |offset| PieceId {
            blob: Digest::of(b"blob"),
            offset,
            len: 10,
        };
        let peer: SocketAddr = "10.0.0.1:7070".parse().unwrap();
        let mut history = History::default();
        for offset in 0..=MOST as u64 {
            history.asked(piece(offset), Some(peer));
            history.came(piece(offset), Source::Peer(peer));
        }
        assert!(history.of(&piece(0)).is_none());
        let last = history.of(&piece(MOST as u64)).unwrap();
        assert_eq!(last.asked, [peer]);
        assert_eq!(last.source.unwrap().0, Source::Peer(peer));
        assert_eq!(history.traffic[&peer].from, 10 * (MOST as u64 + 1));
    }
}
