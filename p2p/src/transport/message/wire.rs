//! Messages as bytes, and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lacewing_format::Digest;

use super::{Malformed, Message, Provenance, Wish};
use crate::piece::{Class, PieceId};
use crate::swarm::{Hint, PeerId, Refusal, RequestId, TreeId};
use crate::transport::limits::{MAX_ADDRESS, MAX_DATA, MAX_EXCHANGE, MAX_MESSAGE, MAX_PIECE, MAX_PLACE};

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
