//! What goes between members: packets of the library, and all that a node knows at once.

use bytes::{BufMut, Bytes, BytesMut};

use super::identity::Id;
use crate::limits::MAX_MEMBERS;
use crate::members::MAX_ZONE;
use crate::transport::limits::MAX_EXCHANGE;

/// A packet of the library.
const PACKET: u8 = 0;
/// All members that the sender knows; it wants ours.
const QUESTION: u8 = 1;
/// All members that the sender knows.
const ANSWER: u8 = 2;

/// A member's address, generation and meta in their longest form, in bytes.
const LONGEST_ID: usize = 20 + 10 + MAX_ZONE + 6;

/// What one member sends to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exchange<'a> {
    /// A packet of the library.
    Packet(&'a [u8]),
    /// Members that the sender knows; it wants ours.
    Question(Vec<Id>),
    /// Members that the sender knows.
    Answer(Vec<Id>),
}

impl Exchange<'_> {
    /// Reads what came from another node: nothing if it is nonsense. Of members only those that keep to the bounds are taken.
    pub(super) fn read(bytes: &[u8]) -> Option<Exchange<'_>> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            PACKET => Some(Exchange::Packet(rest)),
            QUESTION => Some(Exchange::Question(members(rest)?)),
            ANSWER => Some(Exchange::Answer(members(rest)?)),
            _ => None,
        }
    }

    /// The bytes that go to another node. Members that do not fit are left out: gossip tells them.
    pub(super) fn written(&self) -> Option<Bytes> {
        match self {
            Exchange::Packet(packet) => Some(with_kind(PACKET, packet)),
            Exchange::Question(ids) => Some(with_kind(QUESTION, &list(ids)?)),
            Exchange::Answer(ids) => Some(with_kind(ANSWER, &list(ids)?)),
        }
    }
}

fn members(bytes: &[u8]) -> Option<Vec<Id>> {
    let ids = postcard::from_bytes::<Vec<Id>>(bytes).ok()?;
    let sound = ids.into_iter().filter(|id| id.meta.is_sound());
    Some(sound.take(MAX_MEMBERS).collect())
}

fn list(ids: &[Id]) -> Option<Vec<u8>> {
    let fitting = ids.len().min(MAX_EXCHANGE / LONGEST_ID);
    postcard::to_allocvec(&ids[..fitting]).ok()
}

fn with_kind(kind: u8, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.put_u8(kind);
    out.put_slice(bytes);
    out.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;
    use crate::members::Meta;

    fn id(zone: &str) -> Id {
        Id {
            address: SocketAddr::from(([255; 16], u16::MAX)),
            generation: u64::MAX,
            meta: Meta {
                zone: zone.to_owned(),
                class: u8::MAX,
                leaf: true,
                trees: u8::MAX,
            },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for exchange in [
            Exchange::Packet(b"packet"),
            Exchange::Question(vec![id("a"), id("b")]),
            Exchange::Answer(Vec::new()),
        ] {
            let bytes = exchange.written().unwrap();
            assert_eq!(Exchange::read(&bytes), Some(exchange));
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        for bytes in [&b""[..], b"\x01\xff\xff\xff\xff\xff\xff", b"\x02", b"\x09x"] {
            assert_eq!(Exchange::read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn members_that_keep_to_no_bounds_are_passed_over() {
        let written = Exchange::Answer(vec![id("a b"), id("a")]).written().unwrap();
        assert_eq!(Exchange::read(&written), Some(Exchange::Answer(vec![id("a")])));
    }

    #[test]
    fn an_exchange_fits_into_a_message() {
        let many = vec![id(&"z".repeat(MAX_ZONE)); MAX_EXCHANGE / LONGEST_ID + 1];
        let written = Exchange::Question(many).written().unwrap();
        assert!(written.len() <= MAX_EXCHANGE, "{}", written.len());
    }
}
