//! What two nodes say to each other, as bytes. Pure; everything read is hostile until it is a [`Message`].
//!
//! A message is four bytes of length (little-endian, of what follows), one byte of kind, and the fields. Integers are
//! little-endian, texts and bytes carry their length before them. A message with bytes left over, an unknown kind or
//! a length above [`MAX_MESSAGE`] ends the connection.
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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lacewing_format::Digest;

use super::limits::{MAX_ADDRESS, MAX_DATA, MAX_EXCHANGE, MAX_MESSAGE, MAX_PIECE, MAX_PLACE};
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
    /// The piece: never empty, at most [`MAX_PIECE`] bytes.
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
        /// At most [`MAX_DATA`].
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
        /// At most [`MAX_EXCHANGE`].
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

const HELLO: u8 = 1;
const REQUEST: u8 = 2;
const CANCEL: u8 = 3;
const PROMOTE: u8 = 4;
const ACK: u8 = 5;
const DATA: u8 = 6;
const DONE: u8 = 7;
const REDIRECT: u8 = 8;
const REFUSED: u8 = 9;
const PING: u8 = 10;
const PONG: u8 = 11;
const EXCHANGE: u8 = 12;

const REFUSALS: [Refusal; 5] = [
    Refusal::Busy,
    Refusal::Unavailable,
    Refusal::Missing,
    Refusal::Forbidden,
    Refusal::Order,
];

impl Message {
    /// Appends the message with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        let at = out.len();
        out.put_u32_le(0);
        self.encode_fields(out);
        let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        debug_assert!(len as usize <= MAX_MESSAGE);
        out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn encode_fields(&self, out: &mut BytesMut) {
        match self {
            Message::Hello { version, address } => {
                out.put_u8(HELLO);
                out.put_u16_le(*version);
                put_text(out, address, MAX_ADDRESS);
            }
            Message::Request { id, wish } => {
                put_id(out, REQUEST, *id);
                out.put_u8(u8::from(wish.class == Class::Prefetch) | u8::from(wish.held_only) << 1);
                out.put_u16_le(wish.tree.0);
                out.put_u8(wish.redirects);
                put_hint(out, wish.hint);
                out.put_slice(&wish.piece.blob.0);
                out.put_u64_le(wish.piece.offset);
                out.put_u32_le(wish.piece.len);
                out.put_slice(&wish.of.index.0);
                out.put_u64_le(wish.of.index_len);
                put_text(out, &wish.of.place, MAX_PLACE);
            }
            Message::Cancel { id } => put_id(out, CANCEL, *id),
            Message::Promote { id } => put_id(out, PROMOTE, *id),
            Message::Ack { id, hint } => {
                put_id(out, ACK, *id);
                put_hint(out, *hint);
            }
            Message::Data { id, offset, bytes } => {
                put_id(out, DATA, *id);
                out.put_u32_le(*offset);
                out.put_slice(bytes);
            }
            Message::Done { id, hint } => {
                put_id(out, DONE, *id);
                put_hint(out, *hint);
            }
            Message::Redirect { id, to, hint } => {
                put_id(out, REDIRECT, *id);
                out.put_u64_le(to.0);
                put_hint(out, *hint);
            }
            Message::Refused { id, why } => {
                put_id(out, REFUSED, *id);
                let code = REFUSALS.iter().position(|refusal| refusal == why).unwrap_or(0);
                out.put_u8(code as u8);
            }
            Message::Ping => out.put_u8(PING),
            Message::Pong => out.put_u8(PONG),
            Message::Exchange { bytes } => {
                out.put_u8(EXCHANGE);
                out.put_slice(bytes);
            }
        }
    }

    /// Takes the next whole message off `buffer`; nothing if more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`]; nothing after it can be understood.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        let Some(head) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*head) as usize;
        bounded("message", len, MAX_MESSAGE)?;
        if buffer.len() < 4 + len {
            return Ok(None);
        }
        buffer.advance(4);
        let mut body = buffer.split_to(len).freeze();
        let message = Message::fields(&mut body)?;
        if body.is_empty() {
            Ok(Some(message))
        } else {
            Err(Malformed::Length)
        }
    }

    fn fields(body: &mut Bytes) -> Result<Message, Malformed> {
        let kind = take(body, 1)?[0];
        if let HELLO = kind {
            let version = u16::from_le_bytes(array(body)?);
            let address = text(body, "address", MAX_ADDRESS)?;
            return Ok(Message::Hello { version, address });
        }
        if let PING = kind {
            return Ok(Message::Ping);
        }
        if let PONG = kind {
            return Ok(Message::Pong);
        }
        if let EXCHANGE = kind {
            bounded("exchange", body.len(), MAX_EXCHANGE)?;
            let bytes = std::mem::take(body);
            return Ok(Message::Exchange { bytes });
        }
        let id = RequestId(u64::from_le_bytes(array(body)?));
        Ok(match kind {
            REQUEST => Message::request(id, body)?,
            CANCEL => Message::Cancel { id },
            PROMOTE => Message::Promote { id },
            ACK => Message::Ack {
                id,
                hint: hint(body)?,
            },
            DATA => {
                let offset = u32::from_le_bytes(array(body)?);
                bounded("data", body.len(), MAX_DATA)?;
                let bytes = std::mem::take(body);
                Message::Data { id, offset, bytes }
            }
            DONE => Message::Done {
                id,
                hint: hint(body)?,
            },
            REDIRECT => Message::Redirect {
                id,
                to: PeerId(u64::from_le_bytes(array(body)?)),
                hint: hint(body)?,
            },
            REFUSED => {
                let code = usize::from(take(body, 1)?[0]);
                let why = *REFUSALS.get(code).ok_or(Malformed::Unknown("refusal"))?;
                Message::Refused { id, why }
            }
            _ => return Err(Malformed::Unknown("kind of message")),
        })
    }

    fn request(id: RequestId, body: &mut Bytes) -> Result<Message, Malformed> {
        let flags = take(body, 1)?[0];
        let class = match flags & 1 {
            0 => Class::Blocking,
            _ => Class::Prefetch,
        };
        if flags > 3 {
            return Err(Malformed::Unknown("flag"));
        }
        let tree = TreeId(u16::from_le_bytes(array(body)?));
        let redirects = take(body, 1)?[0];
        let hint = hint(body)?;
        let blob = Digest(array(body)?);
        let offset = u64::from_le_bytes(array(body)?);
        let len = u32::from_le_bytes(array(body)?);
        bounded("piece", len as usize, MAX_PIECE)?;
        if len == 0 || offset.checked_add(u64::from(len)).is_none() {
            return Err(Malformed::Length);
        }
        let index = Digest(array(body)?);
        let index_len = u64::from_le_bytes(array(body)?);
        let place = text(body, "place", MAX_PLACE)?;
        let wish = Wish {
            piece: PieceId { blob, offset, len },
            class,
            tree,
            redirects,
            held_only: flags & 2 != 0,
            hint,
            of: Provenance {
                index,
                index_len,
                place,
            },
        };
        Ok(Message::Request { id, wish })
    }
}

fn put_id(out: &mut BytesMut, kind: u8, id: RequestId) {
    out.put_u8(kind);
    out.put_u64_le(id.0);
}

fn put_hint(out: &mut BytesMut, hint: Hint) {
    out.put_u32_le(hint.demand);
    out.put_u32_le(hint.wants);
    out.put_u32_le(hint.rate);
}

fn hint(body: &mut Bytes) -> Result<Hint, Malformed> {
    Ok(Hint {
        demand: u32::from_le_bytes(array(body)?),
        wants: u32::from_le_bytes(array(body)?),
        rate: u32::from_le_bytes(array(body)?),
    })
}

/// Our own texts are bounded where they are made; what is longer all the same is cut, never sent too long.
fn put_text(out: &mut BytesMut, text: &str, limit: usize) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

fn bounded(what: &'static str, len: usize, limit: usize) -> Result<(), Malformed> {
    if len <= limit {
        return Ok(());
    }
    Err(Malformed::TooLong {
        what,
        len: len as u64,
        limit: limit as u64,
    })
}

fn take(body: &mut Bytes, len: usize) -> Result<Bytes, Malformed> {
    if body.len() < len {
        return Err(Malformed::Length);
    }
    Ok(body.split_to(len))
}

fn array<const N: usize>(body: &mut Bytes) -> Result<[u8; N], Malformed> {
    let bytes = take(body, N)?;
    bytes.as_ref().try_into().map_err(|_| Malformed::Length)
}

fn text(body: &mut Bytes, what: &'static str, limit: usize) -> Result<String, Malformed> {
    let len = usize::from(u16::from_le_bytes(array(body)?));
    bounded(what, len, limit)?;
    let bytes = take(body, len)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const HINT: Hint = Hint {
        demand: 3,
        wants: 2,
        rate: u32::MAX,
    };

    fn samples() -> Vec<Message> {
        let wish = Wish {
            piece: PieceId {
                blob: Digest::of(b"blob"),
                offset: 1 << 40,
                len: 300_000,
            },
            class: Class::Prefetch,
            tree: TreeId(31),
            redirects: 2,
            held_only: true,
            hint: HINT,
            of: Provenance {
                index: Digest::of(b"index"),
                index_len: 12_345,
                place: "registry.example:5000/a/b".to_owned(),
            },
        };
        let id = RequestId(7);
        vec![
            Message::Hello {
                version: VERSION,
                address: "10.0.0.1:7070".to_owned(),
            },
            Message::Request { id, wish },
            Message::Cancel { id },
            Message::Promote { id },
            Message::Ack { id, hint: HINT },
            Message::Data {
                id,
                offset: 65_536,
                bytes: Bytes::from(vec![9; 1000]),
            },
            Message::Done {
                id: RequestId(u64::MAX),
                hint: HINT,
            },
            Message::Redirect {
                id,
                to: PeerId(99),
                hint: HINT,
            },
            Message::Refused {
                id,
                why: Refusal::Order,
            },
            Message::Ping,
            Message::Pong,
            Message::Exchange {
                bytes: Bytes::from_static(b"gossip"),
            },
        ]
    }

    #[test]
    fn every_message_comes_back() {
        let mut bytes = BytesMut::new();
        samples().iter().for_each(|message| message.encode(&mut bytes));
        for message in samples() {
            assert_eq!(Message::decode(&mut bytes).unwrap(), Some(message));
        }
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_message_cut_anywhere_is_waited_for() {
        for message in samples() {
            let mut whole = BytesMut::new();
            message.encode(&mut whole);
            for len in 0..whole.len() {
                let mut part = BytesMut::from(&whole[..len]);
                assert_eq!(
                    Message::decode(&mut part).unwrap(),
                    None,
                    "{message:?} cut at {len}"
                );
                assert_eq!(part.len(), len, "nothing was taken");
            }
        }
    }

    #[test]
    fn a_shortened_or_lengthened_message_is_refused() {
        for message in samples() {
            let mut whole = BytesMut::new();
            message.encode(&mut whole);
            let body = whole.len() - 4;
            let open_ended = matches!(message, Message::Data { .. } | Message::Exchange { .. });
            for len in [body - 1, body + 1] {
                let mut changed = whole.clone();
                changed.resize(4 + len, 0);
                changed[..4].copy_from_slice(&(len as u32).to_le_bytes());
                assert_eq!(Message::decode(&mut changed).is_ok(), open_ended, "{message:?}");
            }
        }
    }

    #[test]
    fn sizes_are_refused_before_anything_is_kept_for_them() {
        let mut huge = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(
            Message::decode(&mut huge),
            Err(Malformed::TooLong { .. })
        ));
        let mut request = BytesMut::new();
        samples()[1].encode(&mut request);
        let len_at = 4 + 1 + 8 + 1 + 2 + 1 + 12 + 32 + 8;
        for len in [0, MAX_PIECE as u32 + 1, u32::MAX] {
            let mut changed = request.clone();
            changed[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
            assert!(Message::decode(&mut changed).is_err(), "{len}");
        }
    }

    #[test]
    fn a_long_place_is_cut_at_a_character() {
        let Message::Request { id, mut wish } = samples().swap_remove(1) else {
            unreachable!("the second sample is a request")
        };
        wish.of.place = "ä".repeat(MAX_PLACE);
        let mut bytes = BytesMut::new();
        Message::Request { id, wish }.encode(&mut bytes);
        assert!(Message::decode(&mut bytes).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Message::decode(&mut buffer) {}
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..200, flip in 1u8..=255, which in 0usize..12) {
            let mut bytes = BytesMut::new();
            samples()[which].encode(&mut bytes);
            if at < bytes.len() {
                bytes[at] ^= flip;
            }
            let _ = Message::decode(&mut bytes);
        }
    }
}
