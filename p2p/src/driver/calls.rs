//! Questions between nodes that are not about pieces: how are you, pull this image. Their words are the daemon's.
//!
//! They travel among the messages of members, told apart by their first bytes; a node that does not know them drops them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::node::{Done, Loop};

/// No message of a membership begins so.
const MARK: &[u8; 8] = b"\xf5lwcall\x01";
const QUESTION: u8 = 0;
const ANSWER: u8 = 1;

/// Longest question or answer: counters, and traffic with thousands of members.
pub(super) const MAX_CALL: usize = 512 << 10;

/// Questions of others that are being answered; further ones are dropped. In a rollout all nodes ask the first of a tree
/// at once; an answer is small.
const MOST: usize = 1024;

/// Answers questions of other nodes, which are members but may say anything.
pub trait Calls: Send + Sync + 'static {
    /// Answers; nothing if there is nothing to say.
    fn answer(&self, from: SocketAddr, question: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

#[derive(Default)]
pub(super) struct Calling {
    pub(super) answers: Option<Arc<dyn Calls>>,
    waiting: HashMap<u64, (SocketAddr, oneshot::Sender<Bytes>)>,
    next: u64,
    answering: Arc<AtomicUsize>,
}

fn framed(kind: u8, id: u64, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(MARK.len() + 9 + body.len());
    bytes.put_slice(MARK);
    bytes.put_u8(kind);
    bytes.put_u64_le(id);
    bytes.put_slice(body);
    bytes.freeze()
}

impl Loop {
    /// Asks a member. The answer may never come.
    pub(super) fn call(&mut self, to: SocketAddr, question: &Bytes, reply: oneshot::Sender<Bytes>) {
        if question.len() > MAX_CALL {
            return;
        }
        self.calling
            .waiting
            .retain(|_, (_, waiting)| !waiting.is_closed());
        self.calling.next += 1;
        let id = self.calling.next;
        self.calling.waiting.insert(id, (to, reply));
        self.gossip(to, framed(QUESTION, id, question));
    }

    /// There is no way to a member: nobody waits for what it would answer.
    pub(super) fn unanswered(&mut self, by: SocketAddr) {
        self.calling.waiting.retain(|_, (asked, _)| *asked != by);
    }

    /// Takes a message if it is a question or an answer.
    pub(super) fn called(&mut self, from: SocketAddr, bytes: &Bytes) -> bool {
        if bytes.len() < MARK.len() + 9 || !bytes.starts_with(MARK) {
            return false;
        }
        let mut body = bytes.slice(MARK.len()..);
        let (kind, id) = (body.get_u8(), body.get_u64_le());
        if body.len() > MAX_CALL {
            return true;
        }
        match kind {
            QUESTION => self.answer_call(from, id, body),
            ANSWER => {
                // Only whom it was asked may answer.
                if self
                    .calling
                    .waiting
                    .get(&id)
                    .is_some_and(|(asked, _)| *asked == from)
                    && let Some((_, waiting)) = self.calling.waiting.remove(&id)
                {
                    let _ = waiting.send(body);
                }
            }
            _ => {}
        }
        true
    }

    fn answer_call(&mut self, from: SocketAddr, id: u64, question: Bytes) {
        let Some(calls) = self.calling.answers.clone() else {
            return;
        };
        let answering = Arc::clone(&self.calling.answering);
        if answering.fetch_add(1, Ordering::Relaxed) >= MOST {
            answering.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let done = self.done.clone();
        tokio::spawn(async move {
            let answer = calls.answer(from, question).await;
            answering.fetch_sub(1, Ordering::Relaxed);
            if let Some(answer) = answer.filter(|answer| answer.len() <= MAX_CALL) {
                let _ = done.send(Done::Say(from, framed(ANSWER, id, &answer)));
            }
        });
    }
}
