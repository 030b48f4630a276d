//! What proves the pieces that are being fetched: remembered for as long as a fetch can last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::piece::PieceId;
use crate::swarm::OriginId;
use crate::transport::Provenance;

/// Longer than a fetch can take: what was not used in two of these is forgotten.
const ROUND: Duration = Duration::from_secs(120);

/// Most pieces remembered in a round.
const MOST: usize = 200_000;

/// Most origins told apart; further ones share the last number, and so a breaker.
const MOST_ORIGINS: usize = 4_096;

/// Provenance of pieces, and numbers of origins.
#[derive(Debug)]
pub(super) struct Known {
    young: HashMap<PieceId, Arc<Provenance>>,
    old: HashMap<PieceId, Arc<Provenance>>,
    since: Instant,
    origins: HashMap<String, OriginId>,
}

impl Known {
    pub(super) fn new(now: Instant) -> Known {
        Known {
            young: HashMap::new(),
            old: HashMap::new(),
            since: now,
            origins: HashMap::new(),
        }
    }

    /// Remembers what proves a piece.
    pub(super) fn note(&mut self, piece: PieceId, of: Arc<Provenance>, now: Instant) {
        if now.saturating_duration_since(self.since) > ROUND || self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
        self.young.insert(piece, of);
    }

    /// What proves a piece.
    pub(super) fn of(&mut self, piece: &PieceId) -> Option<Arc<Provenance>> {
        if let Some(of) = self.young.get(piece) {
            return Some(of.clone());
        }
        let of = self.old.remove(piece)?;
        self.young.insert(*piece, of.clone());
        Some(of)
    }

    /// The number of the host behind a repository.
    pub(super) fn origin(&mut self, of: &Provenance) -> OriginId {
        let host = of.place.split('/').next().unwrap_or("");
        if let Some(origin) = self.origins.get(host) {
            return *origin;
        }
        let origin = OriginId(self.origins.len().min(MOST_ORIGINS) as u32);
        if self.origins.len() < MOST_ORIGINS {
            self.origins.insert(host.to_owned(), origin);
        }
        origin
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lacewing_format::Digest;

    fn of(place: &str) -> Arc<Provenance> {
        Arc::new(Provenance {
            index: Digest::of(b"index"),
            index_len: 1,
            place: place.to_owned(),
        })
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let piece = |offset| PieceId {
            blob: Digest::of(b"blob"),
            offset,
            len: 1,
        };
        let start = Instant::now();
        let mut known = Known::new(start);
        known.note(piece(1), of("a/b"), start);
        known.note(piece(2), of("a/b"), start);
        known.note(piece(3), of("a/b"), start + ROUND * 2);
        assert!(known.of(&piece(1)).is_some());
        known.note(piece(4), of("a/b"), start + ROUND * 4);
        assert!(known.of(&piece(1)).is_some());
        assert!(known.of(&piece(2)).is_none());
    }

    #[test]
    fn origins_are_hosts() {
        let mut known = Known::new(Instant::now());
        let first = known.origin(&of("a:5000/x"));
        assert_eq!(known.origin(&of("a:5000/y/z")), first);
        assert_ne!(known.origin(&of("b/x")), first);
    }
}
