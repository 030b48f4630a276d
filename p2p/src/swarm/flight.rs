//! One piece on its way to this node, for all who wait for it.

use super::time::Time;
use super::uploads::Key;
use super::{OriginId, PeerId, RequestId, TreeId};
use crate::error::FetchError;
use crate::piece::{Class, PieceId};

/// A request that was sent to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) request: RequestId,
    pub(crate) peer: PeerId,
    pub(crate) sent: Time,
    /// Only for what the peer holds or is about to get from the origin.
    pub(crate) held_only: bool,
    /// How many pieces have come that were asked for later.
    pub(crate) overtaken: u32,
    /// When it is too late to take the request, if the peer is not heard of before.
    pub(crate) answer_by: Time,
    pub(crate) accepted: bool,
    /// That it was overtaken is counted.
    pub(crate) blamed: bool,
    /// It did not take the request in time; an answer is welcome, but others are asked meanwhile.
    pub(crate) silent: bool,
}

/// How a piece was asked for: how long one takes to come says little about how long another does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As a blocking one from the first.
    Blocking,
    /// As a prefetched one that nobody is blocked for.
    Prefetch,
    /// As a prefetched one that somebody is blocked for by now; it takes the rest of its time.
    Promoted,
}

/// How a flight stands with the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtOrigin {
    No,
    /// For a free place among the fetches from origins.
    Queued,
    Asked,
}

/// A fetch that all who want the piece share.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) piece: PieceId,
    pub(crate) tree: TreeId,
    pub(crate) class: Class,
    pub(crate) manner: Manner,
    /// `None`: this node may not or cannot go to the origin.
    pub(crate) origin: Option<OriginId>,
    pub(crate) mine: bool,
    pub(crate) waiters: Vec<Key>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) tried: Vec<PeerId>,
    pub(crate) redirects: u8,
    pub(crate) at_origin: AtOrigin,
    /// Those who were asked and may not read at the origin.
    pub(crate) forbidden: Vec<PeerId>,
    /// The origin failed: those who are not earlier are asked, too, whether they hold the piece.
    pub(crate) origin_failed: bool,
    pub(crate) last_error: FetchError,
    /// When it began, or was promoted.
    pub(crate) started: Time,
    /// From when on this node goes to the origin although it is far back in the tree.
    pub(crate) patient_until: Time,
    pub(crate) deadline: Time,
    /// When it ends even if all that is wrong is this node's link.
    pub(crate) given_up: Time,
    pub(crate) hedge_at: Time,
    /// When it is looked at for whether it was overtaken.
    pub(crate) look_at: Time,
    pub(crate) retry_at: Time,
    /// Fetches in a row that all sources refused.
    pub(crate) rounds: u32,
    /// When the timer looks at this flight next; its only live entry there.
    pub(crate) due: Time,
}

pub(crate) const NEVER: Time = Time(u64::MAX);

impl Flight {
    pub(crate) fn new(piece: PieceId, tree: TreeId, class: Class, now: Time) -> Self {
        Self {
            piece,
            tree,
            class,
            manner: match class {
                Class::Blocking => Manner::Blocking,
                Class::Prefetch => Manner::Prefetch,
            },
            origin: None,
            mine: false,
            waiters: Vec::new(),
            asks: Vec::new(),
            tried: Vec::new(),
            redirects: 0,
            at_origin: AtOrigin::No,
            forbidden: Vec::new(),
            origin_failed: false,
            last_error: FetchError::Unavailable,
            started: now,
            patient_until: now,
            deadline: NEVER,
            given_up: NEVER,
            hedge_at: NEVER,
            look_at: NEVER,
            retry_at: NEVER,
            rounds: 0,
            due: NEVER,
        }
    }

    /// When something must be looked at.
    pub(crate) fn next_due(&self) -> Time {
        let unheard = self.asks.iter().filter(|ask| !ask.accepted && !ask.silent);
        let acks = unheard.map(|ask| ask.answer_by).min();
        let hedge = if self.asks.is_empty() {
            NEVER
        } else {
            self.hedge_at.min(self.look_at)
        };
        acks.unwrap_or(NEVER)
            .min(hedge)
            .min(self.retry_at)
            .min(self.deadline)
    }

    /// Since when this node waits for the source that it asked last, as urgently as it does now.
    pub(crate) fn waits_since(&self) -> Time {
        let asked = self.asks.iter().map(|ask| ask.sent).max();
        asked.map_or(self.started, |asked| asked.max(self.started))
    }

    /// Whether nothing is under way for this piece.
    pub(crate) fn idle(&self) -> bool {
        self.asks.iter().all(|ask| ask.silent) && self.at_origin == AtOrigin::No
    }
}
