//! What comes over connections, told to who owns them.

use std::time::Duration;

use bytes::Bytes;

use super::TransportError;
use super::link::LinkId;
use super::message::Wish;
use crate::swarm::{Hint, PeerId, Refusal, RequestId};

/// What came over a connection.
#[derive(Debug)]
pub enum Happening {
    /// The other node wants a piece.
    Requested(RequestId, Wish),
    /// The other node does not want it any more.
    Cancelled(RequestId),
    /// The other node has a blocked reader for it now.
    Promoted(RequestId),
    /// A piece of ours was handed to the kernel whole; how long it took, and how many bytes it was.
    Sent(RequestId, Duration, usize),
    /// Our request is being worked on.
    Acknowledged(RequestId, Hint),
    /// Bytes of the answer to our request come; told now and then.
    Progressed(RequestId, u32),
    /// Our request is answered: as many bytes as asked for, not verified.
    Arrived(RequestId, Bytes, Hint),
    /// Ask another node.
    Redirected(RequestId, PeerId, Hint),
    /// Our request is refused.
    Refused(RequestId, Refusal),
    /// Members and gossip.
    Exchanged(Bytes),
    /// The connection has ended, and with it all requests over it.
    Closed(TransportError),
}

/// A happening and where it came from.
#[derive(Debug)]
pub struct Event {
    /// The connection.
    pub link: LinkId,
    /// What happened.
    pub what: Happening,
}
