//! What two nodes say to each other, as bytes. Pure; everything read is hostile until it is a [`Message`].
//!
//! A message is four bytes of length (little-endian, of what follows), one byte of kind, and the fields. Integers are
//! little-endian, texts and bytes carry their length before them. A message with bytes left over, an unknown kind or
//! a length above [`MAX_MESSAGE`] ends the connection.
//!
//! | kind | from | says |
//! |---|---|---|
//! | `Hello` | both, first | version of the protocol, where the sender listens |
//! | `Request` | asker | a piece, its class, whom the chain went through |
//! | `Cancel`, `Promote` | asker | the piece is not wanted any more; somebody waits for it now |
//! | `Ack` | asked | the request was understood and the piece is here or on its way |
//! | `Data`, `Done` | asked | bytes of the piece in order; all of them were sent |
//! | `Redirect` | asked | ask this node in my place |
//! | `Refused` | asked | no, and why |
//! | `Ping`, `Pong` | both | the connection lives |
//! | `Exchange` | both | members and gossip, see [`crate::members`] |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lacewing_format::Digest;

use super::limits::{MAX_ADDRESS, MAX_DATA, MAX_EXCHANGE, MAX_MESSAGE, MAX_PIECE, MAX_PLACE, MAX_REASON};

/// Version of the protocol; nodes of another one are not talked to.
pub const VERSION: u16 = 1;

/// Names a request on its connection; chosen by the asker, never used twice.
pub type RequestId = u32;

/// A run of a blob's stored bytes, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PieceName {
    /// The blob.
    pub blob: Digest,
    /// First byte in the blob.
    pub start: u64,
    /// How many bytes, never 0, at most [`MAX_PIECE`].
    pub len: u32,
}

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

/// Why a request was refused. The asker turns to somebody else, or to the registry, as the reason says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too much is waiting already.
    Busy,
    /// The asked node may not or cannot know the index.
    Unknown,
    /// The origin refused the asked node's credentials; the asker's may do.
    Forbidden,
    /// The origin has not got it.
    Missing,
    /// The piece could not be had in time.
    Unavailable,
    /// What came was not what the index binds.
    Corrupt,
    /// The asked node comes later than the asker in the piece's tree.
    Order,
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
        /// Somebody is blocked until it is here.
        blocking: bool,
        /// Redirects that this request has gone through.
        redirects: u8,
        /// The asker wants it for itself and not for a node below it.
        own: bool,
        /// The piece.
        piece: PieceName,
        /// What proves it.
        of: Provenance,
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
    },
    /// Another node is to be asked.
    Redirect {
        /// The request.
        id: RequestId,
        /// Address of a member that comes before the asked one in the piece's tree.
        to: String,
    },
    /// The request ends without the piece.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        why: Refusal,
        /// For people.
        reason: String,
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

const REFUSALS: [Refusal; 7] = [
    Refusal::Busy,
    Refusal::Unknown,
    Refusal::Forbidden,
    Refusal::Missing,
    Refusal::Unavailable,
    Refusal::Corrupt,
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
            Message::Request {
                id,
                blocking,
                redirects,
                own,
                piece,
                of,
            } => {
                out.put_u8(REQUEST);
                out.put_u32_le(*id);
                out.put_u8(u8::from(*blocking) | u8::from(*own) << 1);
                out.put_u8(*redirects);
                out.put_slice(&piece.blob.0);
                out.put_u64_le(piece.start);
                out.put_u32_le(piece.len);
                out.put_slice(&of.index.0);
                out.put_u64_le(of.index_len);
                put_text(out, &of.place, MAX_PLACE);
            }
            Message::Cancel { id } => put_id(out, CANCEL, *id),
            Message::Promote { id } => put_id(out, PROMOTE, *id),
            Message::Ack { id } => put_id(out, ACK, *id),
            Message::Data { id, offset, bytes } => {
                put_id(out, DATA, *id);
                out.put_u32_le(*offset);
                out.put_slice(bytes);
            }
            Message::Done { id } => put_id(out, DONE, *id),
            Message::Redirect { id, to } => {
                put_id(out, REDIRECT, *id);
                put_text(out, to, MAX_ADDRESS);
            }
            Message::Refused { id, why, reason } => {
                put_id(out, REFUSED, *id);
                let code = REFUSALS.iter().position(|refusal| refusal == why).unwrap_or(0);
                out.put_u8(code as u8);
                put_text(out, reason, MAX_REASON);
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
        let id = u32::from_le_bytes(array(body)?);
        Ok(match kind {
            REQUEST => Message::request(id, body)?,
            CANCEL => Message::Cancel { id },
            PROMOTE => Message::Promote { id },
            ACK => Message::Ack { id },
            DATA => {
                let offset = u32::from_le_bytes(array(body)?);
                bounded("data", body.len(), MAX_DATA)?;
                let bytes = std::mem::take(body);
                Message::Data { id, offset, bytes }
            }
            DONE => Message::Done { id },
            REDIRECT => Message::Redirect {
                id,
                to: text(body, "address", MAX_ADDRESS)?,
            },
            REFUSED => {
                let code = usize::from(take(body, 1)?[0]);
                let why = *REFUSALS.get(code).ok_or(Malformed::Unknown("refusal"))?;
                let reason = text(body, "reason", MAX_REASON)?;
                Message::Refused { id, why, reason }
            }
            _ => return Err(Malformed::Unknown("kind of message")),
        })
    }

    fn request(id: RequestId, body: &mut Bytes) -> Result<Message, Malformed> {
        let flags = take(body, 1)?[0];
        if flags > 3 {
            return Err(Malformed::Unknown("flag"));
        }
        let redirects = take(body, 1)?[0];
        let blob = Digest(array(body)?);
        let start = u64::from_le_bytes(array(body)?);
        let len = u32::from_le_bytes(array(body)?);
        bounded("piece", len as usize, MAX_PIECE)?;
        if len == 0 || start.checked_add(u64::from(len)).is_none() {
            return Err(Malformed::Length);
        }
        let index = Digest(array(body)?);
        let index_len = u64::from_le_bytes(array(body)?);
        let place = text(body, "place", MAX_PLACE)?;
        Ok(Message::Request {
            id,
            blocking: flags & 1 != 0,
            own: flags & 2 != 0,
            redirects,
            piece: PieceName { blob, start, len },
            of: Provenance {
                index,
                index_len,
                place,
            },
        })
    }
}

fn put_id(out: &mut BytesMut, kind: u8, id: RequestId) {
    out.put_u8(kind);
    out.put_u32_le(id);
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

    fn samples() -> Vec<Message> {
        let piece = PieceName {
            blob: Digest::of(b"blob"),
            start: 1 << 40,
            len: 300_000,
        };
        let of = Provenance {
            index: Digest::of(b"index"),
            index_len: 12_345,
            place: "registry.example:5000/a/b".to_owned(),
        };
        vec![
            Message::Hello {
                version: VERSION,
                address: "10.0.0.1:7070".to_owned(),
            },
            Message::Request {
                id: 7,
                blocking: true,
                redirects: 2,
                own: false,
                piece,
                of,
            },
            Message::Cancel { id: 1 },
            Message::Promote { id: 2 },
            Message::Ack { id: 3 },
            Message::Data {
                id: 4,
                offset: 65_536,
                bytes: Bytes::from(vec![9; 1000]),
            },
            Message::Done { id: u32::MAX },
            Message::Redirect {
                id: 5,
                to: "[::1]:1".to_owned(),
            },
            Message::Refused {
                id: 6,
                why: Refusal::Order,
                reason: "späte Reihe".to_owned(),
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
                assert_eq!(Message::decode(&mut part).unwrap(), None, "{message:?} cut at {len}");
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
        assert!(matches!(Message::decode(&mut huge), Err(Malformed::TooLong { .. })));
        let mut request = BytesMut::new();
        samples()[1].encode(&mut request);
        let len_at = 4 + 1 + 4 + 2 + 32 + 8;
        for len in [0, MAX_PIECE as u32 + 1, u32::MAX] {
            let mut changed = request.clone();
            changed[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
            assert!(Message::decode(&mut changed).is_err(), "{len}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let mut bytes = BytesMut::new();
        let reason = "ä".repeat(MAX_REASON);
        let why = Refusal::Busy;
        Message::Refused { id: 1, why, reason }.encode(&mut bytes);
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
