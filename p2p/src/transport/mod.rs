//! Moving bytes between nodes: small framed messages over TLS on TCP, many requests on one connection.

pub mod endpoint;
mod happening;
pub mod limits;
pub mod link;
pub mod message;
mod outbox;
mod pace;
mod stream;

pub use endpoint::{Endpoint, Incoming};
pub use happening::{Event, Happening};
pub use link::{Context, Link, LinkId, Timing};
pub use message::{Message, Provenance, Wish};
pub use pace::Pace;
pub use stream::Stream;

use self::message::Malformed;

/// Why a connection could not be made or has ended. Requests over it have to go elsewhere; nothing else has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The network's. Trying again later may help.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// What came is no message.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A message that may not come then.
    #[error("protocol: {0}")]
    Protocol(&'static str),
    /// Another version of the protocol.
    #[error("the other node speaks version {0}")]
    Version(u16),
    /// It closed the connection.
    #[error("closed")]
    Closed,
    /// No sign of life.
    #[error("silent")]
    Silent,
    /// No connection in time.
    #[error("no connection within {0:?}")]
    Late(std::time::Duration),
    /// Its certificate is not one of this cluster, or not for its address.
    #[error("not a member: {0}")]
    Stranger(String),
    /// The address is none.
    #[error("no address: {0}")]
    Address(String),
}
