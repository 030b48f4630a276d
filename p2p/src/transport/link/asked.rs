//! Requests of ours that are open on a connection, and what has come of their pieces.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use crate::swarm::RequestId;
use crate::transport::TransportError;
use crate::transport::limits::MAX_REQUESTS;

/// Room made for a piece when its first bytes come; a longer one grows.
const ROOM: usize = 2 << 20;

/// Bytes of a piece that has begun to come.
#[derive(Debug)]
struct Partial {
    len: usize,
    bytes: BytesMut,
}

/// The requests that were not answered yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    open: HashMap<RequestId, Partial>,
}

impl Asked {
    /// Opens a request for a piece of `len` bytes; `false` if too many are open.
    pub(super) fn open(&mut self, id: RequestId, len: usize) -> bool {
        if self.open.len() >= MAX_REQUESTS {
            return false;
        }
        let bytes = BytesMut::new();
        self.open.insert(id, Partial { len, bytes });
        true
    }

    /// Whether a request is open.
    pub(super) fn contains(&self, id: RequestId) -> bool {
        self.open.contains_key(&id)
    }

    /// Ends a request without its piece; `false` if it was not open.
    pub(super) fn close(&mut self, id: RequestId) -> bool {
        self.open.remove(&id).is_some()
    }

    /// Takes in bytes of a piece; `false` if nobody wants them: what was cancelled may still be on its way.
    ///
    /// # Errors
    /// They are not the next bytes of the piece, or more than it has.
    pub(super) fn add(&mut self, id: RequestId, offset: u32, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(piece) = self.open.get_mut(&id) else {
            return Ok(false);
        };
        if offset as usize != piece.bytes.len() || bytes.len() > piece.len - piece.bytes.len() {
            return Err(TransportError::Protocol("bytes that do not belong there"));
        }
        if piece.bytes.is_empty() {
            // Only now: a peer that never sends costs no memory.
            piece.bytes.reserve(piece.len.min(ROOM));
        }
        piece.bytes.extend_from_slice(bytes);
        Ok(true)
    }

    /// Ends a request with its piece; none if it was not open.
    ///
    /// # Errors
    /// Bytes of the piece are missing.
    pub(super) fn finish(&mut self, id: RequestId) -> Result<Option<Bytes>, TransportError> {
        match self.open.remove(&id) {
            Some(piece) if piece.bytes.len() == piece.len => Ok(Some(piece.bytes.freeze())),
            Some(_) => Err(TransportError::Protocol("half a piece")),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: RequestId = RequestId(1);

    fn asked(len: usize) -> Asked {
        let mut asked = Asked::default();
        assert!(asked.open(ID, len));
        asked
    }

    #[test]
    fn a_piece_comes_in_order_and_whole() {
        let mut asked = asked(5);
        assert!(asked.add(ID, 0, b"abc").unwrap());
        assert!(asked.add(ID, 3, b"de").unwrap());
        assert_eq!(asked.finish(ID).unwrap().unwrap(), b"abcde"[..]);
        assert_eq!(asked.finish(ID).unwrap(), None);
    }

    #[test]
    fn bytes_that_do_not_belong_there_are_refused() {
        for (offset, bytes) in [(1, &b"a"[..]), (0, b"abcdef"), (u32::MAX, b"a")] {
            assert!(asked(5).add(ID, offset, bytes).is_err(), "{offset}");
        }
        let mut twice = asked(5);
        twice.add(ID, 0, b"abc").unwrap();
        assert!(twice.add(ID, 0, b"abc").is_err());
        assert!(twice.add(ID, 3, b"def").is_err());
    }

    #[test]
    fn half_a_piece_is_none() {
        let mut asked = asked(5);
        asked.add(ID, 0, b"abc").unwrap();
        assert!(asked.finish(ID).is_err());
    }

    #[test]
    fn what_was_cancelled_may_still_come() {
        let mut asked = asked(5);
        assert!(asked.close(ID));
        assert!(!asked.close(ID));
        assert!(!asked.add(ID, 0, b"abc").unwrap());
        assert_eq!(asked.finish(ID).unwrap(), None);
    }

    #[test]
    fn open_requests_are_bounded() {
        let mut asked = Asked::default();
        for number in 0..MAX_REQUESTS as u64 {
            assert!(asked.open(RequestId(number), 1));
        }
        assert!(!asked.open(RequestId(u64::MAX), 1));
    }
}
