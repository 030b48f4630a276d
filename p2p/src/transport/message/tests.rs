//! Messages survive the way, and nothing else does.

#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use lacewing_format::Digest;

use super::{Malformed, Message, Provenance, VERSION, Wish};
use crate::piece::{Class, PieceId};
use crate::swarm::{Hint, PeerId, Refusal, RequestId, TreeId};
use crate::transport::limits::{MAX_PIECE, MAX_PLACE};
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
