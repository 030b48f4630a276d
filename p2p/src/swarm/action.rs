//! What to do: everything a swarm wants done, it says in one of these.

use super::{Hint, OriginId, PeerId, Refusal, RequestId, Time, TreeId};
use crate::error::FetchError;
use crate::piece::{Class, PieceId};

/// Something the driver is to do. Actions are in order; each is small and carries all that is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Ask `peer` for `piece`. Answer with `Accepted`, then `Received`, `Redirected`, `Refused` or `AskFailed`.
    Ask {
        /// Whom to ask.
        peer: PeerId,
        /// Our name for the request; unique in the swarm's life.
        request: RequestId,
        /// What to ask for.
        piece: PieceId,
        /// How urgently.
        class: Class,
        /// The tree by which the peer was chosen.
        tree: TreeId,
        /// How many redirects there were.
        redirects: u8,
        /// Whether the peer is to answer only if it has the piece now.
        held_only: bool,
        /// Where the piece can be had in the end, if this node knows.
        origin: Option<OriginId>,
        /// What to tell the peer.
        hint: Hint,
    },
    /// Tell `peer` that the answer is not needed any more; no event is expected for the request.
    Cancel {
        /// Whom.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// Tell `peer` that the answer is needed now.
    Promote {
        /// Whom.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// Get the piece from the origin. Answer with `OriginReceived` or `OriginFailed`.
    AskOrigin {
        /// What to get.
        piece: PieceId,
        /// Where.
        origin: OriginId,
        /// How urgently.
        class: Class,
    },
    /// The piece that is being fetched from the origin is needed now.
    PromoteOrigin {
        /// Which piece.
        piece: PieceId,
    },
    /// The origin's answer is not needed any more; no event is expected for it.
    CancelOrigin {
        /// Which piece.
        piece: PieceId,
    },

    /// Tell the asker that its request was taken.
    Accept {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// What to tell it.
        hint: Hint,
    },
    /// Send the piece. Answer with `Uploaded` or `UploadFailed`.
    Serve {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// What to send.
        piece: PieceId,
        /// How urgently: blocking answers go strictly before others on the wire.
        class: Class,
        /// What to tell the asker at the end.
        hint: Hint,
    },
    /// An upload that was begun goes on as this class.
    PromoteUpload {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
    },
    /// Stop an upload that was begun; no event is expected for it.
    StopUpload {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
    },
    /// Tell the asker to ask `next` instead.
    Redirect {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// Whom it should ask.
        next: PeerId,
        /// What to tell it.
        hint: Hint,
    },
    /// Tell the asker no.
    Refuse {
        /// Who asked.
        to: PeerId,
        /// The asker's name for the request.
        request: RequestId,
        /// Why not.
        reason: Refusal,
    },

    /// The piece is in the store; whoever waits on this node can read it.
    Deliver {
        /// Which piece.
        piece: PieceId,
    },
    /// The piece could not be had; whoever waits on this node gets the error.
    Fail {
        /// Which piece.
        piece: PieceId,
        /// Why.
        error: FetchError,
    },

    /// Gossip that this node is, or is no longer, a leaf: too slow to be a parent.
    AnnounceLeaf(bool),
    /// The peer does not answer; tell the membership.
    Suspect(PeerId),
    /// The peer delivered wrong bytes: close its connections, count it, name it. This swarm does not ask it for a while.
    Distrust(PeerId),
    /// Send `TimerFired` at this moment; replaces the moment set before.
    SetTimer(Time),
}
