//! What happened: everything a swarm learns, it learns from one of these.

use std::sync::Arc;
use std::time::Duration;

use super::{Hint, OriginId, PeerId, RequestId, TreeId, View};
use crate::error::FetchError;
use crate::piece::{Class, PieceId};

/// Something happened outside. Events about requests that are over (answered, cancelled) are ignored, so that the driver
/// need not keep order between sockets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The members of the cluster, or what is known of them, are now these.
    MembersChanged(Arc<View>),

    /// This node wants a piece that its store lacks. Ends in exactly one `Deliver` or `Fail` unless `Unwanted` comes
    /// first; wanting a piece again joins the fetch, and wanting it as [`Class::Blocking`] promotes it.
    Wanted {
        /// What is wanted.
        piece: PieceId,
        /// How urgently.
        class: Class,
        /// From which origin it can be had in the end.
        origin: OriginId,
    },
    /// Nobody on this node waits for the piece any more. It is fetched to the end only if peers wait for it.
    Unwanted {
        /// What was wanted.
        piece: PieceId,
    },
    /// The store got the piece by other means than an action of this swarm.
    PieceArrived {
        /// What is here now.
        piece: PieceId,
    },

    /// A peer asks for a piece. The driver looks into its store first and says whether it is there.
    Requested {
        /// Who asks.
        from: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// What it asks for.
        piece: PieceId,
        /// How urgently.
        class: Class,
        /// By which tree it came here.
        tree: TreeId,
        /// How many redirects led the asker here.
        redirects: u8,
        /// Whether the asker wants the piece only if it is here now (asked of nodes that are not earlier than the asker).
        held_only: bool,
        /// Where this node would get the piece in the end; `None` if it may not or cannot (then it only serves what it
        /// has or its own parents have).
        origin: Option<OriginId>,
        /// What the asker told on the way.
        hint: Hint,
        /// Whether the store has the piece.
        here: bool,
    },
    /// The asker needs the piece now.
    RequestPromoted {
        /// Who asked.
        from: PeerId,
        /// The asker's name for the request.
        request: RequestId,
    },
    /// The asker does not need the answer any more.
    RequestCancelled {
        /// Who asked.
        from: PeerId,
        /// The asker's name for the request.
        request: RequestId,
    },
    /// The connections with a peer are gone: what it asked is cancelled, what it was asked has failed.
    PeerLost {
        /// Which peer.
        peer: PeerId,
    },

    /// It has come out that a peer gave, or vouched for, wrong bytes; no request that goes on tells it.
    PeerLied {
        /// Which peer.
        peer: PeerId,
    },

    /// The peer has taken the request and works on it.
    Accepted {
        /// Which request of ours.
        request: RequestId,
        /// What the peer told.
        hint: Hint,
    },
    /// Some bytes of the answer came. Optional; keeps [`Failure::Stalled`] honest and feeds `explain`.
    Progressed {
        /// Which request of ours.
        request: RequestId,
        /// How many bytes since the last such event.
        bytes: u32,
    },
    /// The whole piece came, was verified, and is in the store.
    Received {
        /// Which request of ours.
        request: RequestId,
        /// What the peer told.
        hint: Hint,
    },
    /// The peer names another one to ask instead.
    Redirected {
        /// Which request of ours.
        request: RequestId,
        /// Whom to ask. Believed only if it is a known member and earlier in the tree than this node.
        to: PeerId,
        /// What the peer told.
        hint: Hint,
    },
    /// The peer will not answer this request.
    Refused {
        /// Which request of ours.
        request: RequestId,
        /// Why.
        reason: Refusal,
    },
    /// The request failed on the way.
    AskFailed {
        /// Which request of ours.
        request: RequestId,
        /// How.
        failure: Failure,
    },

    /// The origin's bytes came, were verified, and are in the store.
    OriginReceived {
        /// Which piece.
        piece: PieceId,
    },
    /// The origin did not deliver.
    OriginFailed {
        /// Which piece.
        piece: PieceId,
        /// Why. `Missing` and `Forbidden` end the fetch here; the others are tried again within the deadline.
        error: FetchError,
        /// For how long the origin wants to be left alone (429 and 503, `Retry-After`); opens its breaker. `None` for
        /// failures of this one request.
        retry_after: Option<Duration>,
    },

    /// The bytes asked for by `Serve` have all been handed to the network.
    Uploaded {
        /// Who got them.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// From the first byte to the last.
        took: Duration,
    },
    /// The bytes could not be sent.
    UploadFailed {
        /// Who did not get them.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// Whether it was because the store does not have the piece any more (evicted since `Requested`).
        gone: bool,
    },

    /// The moment of the last `SetTimer` has come. A timer that fires early or late does no harm.
    TimerFired,
}

/// How a request to a peer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// No connection could be made, or it broke before an answer.
    Unreachable,
    /// The answer stopped in the middle for longer than the driver's patience.
    Stalled,
    /// The bytes were not those of the piece. The peer is cut off.
    Corrupt,
}

/// Why a peer refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It holds as many requests as it may. Others may help; it may later.
    Busy,
    /// It could get the piece from nobody in time.
    Unavailable,
    /// The origin told it that there is no such blob.
    Missing,
    /// It may not have the piece from the origin, or the asker may not have it from it.
    Forbidden,
    /// It fetches the piece by another tree, or the asker is not later in the tree than it is.
    Order,
}
