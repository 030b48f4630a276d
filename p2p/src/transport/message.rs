//! What two nodes say to each other, as bytes. Pure; everything read is hostile until it is a [`Message`].
//!
//! A message is four bytes of length (little-endian, of what follows), one byte of kind, and the fields. Integers are
//! little-endian, texts and bytes carry their length before them. A message with bytes left over, an unknown kind or
//! a length above [`MAX_MESSAGE`](super::limits::MAX_MESSAGE) ends the connection.
//!
//! | kind | from | says |
//! |---|---|---|
//! | `Hello` | both, first | version of the protocol, where the sender listens |
//! | `Request` | asker | a piece, its class, its tree, what proves it |
//! | `Cancel`, `Promote` | asker | the piece is not wanted any more; somebody waits for it now |
//! | `Ack` | asked | the request was understood and the piece is here or on its way |
//! | `Data`, `Done` | asked | stored bytes of the piece in order; all of them were sent |
//! | `Redirect` | asked | ask this node in my place |
//! | `Refused` | asked | no, and why |
//! | `Ping`, `Pong` | both | the connection lives |
//! | `Exchange` | both | members and gossip, see [`crate::members`] |

#[cfg(test)]
mod tests;
mod wire;

use bytes::Bytes;
use lacewing_format::Digest;

use crate::piece::{Class, PieceId};
use crate::swarm::{Hint, PeerId, Refusal, RequestId, TreeId};

/// Version of the protocol; nodes of another one are not talked to.
pub const VERSION: u16 = 1;

/// By which index a piece is known, and where that index is. A node that lacks the index gets it first, so that it can
/// verify the piece.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// The index that binds the piece. The same digest as the piece's blob: the piece is this index itself.
    pub index: Digest,
    /// Stored bytes of the index.
    pub index_len: u64,
    /// Repository, as `host/repository`. Never credentials.
    pub place: String,
}

/// A wish for a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The piece: never empty, at most [`MAX_PIECE`](super::limits::MAX_PIECE) bytes.
    pub piece: PieceId,
    /// How urgent it is.
    pub class: Class,
    /// By which tree the asked node was chosen.
    pub tree: TreeId,
    /// Redirects that led to the asked node.
    pub redirects: u8,
    /// The piece is wanted only if the asked node has it now.
    pub held_only: bool,
    /// What the asker tells.
    pub hint: Hint,
    /// What proves the piece.
    pub of: Provenance,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First on every connection, from both sides.
    Hello {
        /// [`VERSION`] of the sender.
        version: u16,
        /// `host:port` under which the sender is a member.
        address: String,
    },
    /// Asks for a piece.
    Request {
        /// Names it from now on.
        id: RequestId,
        /// What is wanted, and what proves it.
        wish: Wish,
    },
    /// Ends a request that nobody needs any more.
    Cancel {
        /// The request.
        id: RequestId,
    },
    /// Makes a prefetch a blocking request.
    Promote {
        /// The request.
        id: RequestId,
    },
    /// The request is being worked on.
    Ack {
        /// The request.
        id: RequestId,
        /// What the asked node tells.
        hint: Hint,
    },
    /// Bytes of the piece, from `offset` in it.
    Data {
        /// The request.
        id: RequestId,
        /// Where in the piece they belong; every byte is sent once and in order.
        offset: u32,
        /// At most [`MAX_DATA`](super::limits::MAX_DATA).
        bytes: Bytes,
    },
    /// All bytes were sent.
    Done {
        /// The request.
        id: RequestId,
        /// What the asked node tells.
        hint: Hint,
    },
    /// Another node is to be asked.
    Redirect {
        /// The request.
        id: RequestId,
        /// A member that comes before the asker in the piece's tree.
        to: PeerId,
        /// What the asked node tells.
        hint: Hint,
    },
    /// The request ends without the piece.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        why: Refusal,
    },
    /// Asks for a sign of life.
    Ping,
    /// Gives one.
    Pong,
    /// Members and gossip; opaque here.
    Exchange {
        /// At most [`MAX_EXCHANGE`](super::limits::MAX_EXCHANGE).
        bytes: Bytes,
    },
}

/// What is wrong with received bytes. The connection ends; the peer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A length above its bound.
    #[error("{what} of {len} bytes, more than {limit}")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The bound.
        limit: u64,
    },
    /// The message ends before its fields, or goes on after them.
    #[error("message of the wrong length")]
    Length,
    /// No such kind, class or reason.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// A text that is not UTF-8.
    #[error("text that is no text")]
    Text,
}
