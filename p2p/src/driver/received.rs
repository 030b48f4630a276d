//! What comes over connections: requests of others, and what they send for ours, which is judged beside the loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, warn};

use super::Verdict;
use super::history::Source;
use super::node::{Done, Loop};
use crate::piece::PieceId;
use crate::swarm::{Event, Failure, Hint, PeerId, Refusal, RequestId};
use crate::transport::{Happening, LinkId, Message, Wish};

/// Nodes that sent wrong bytes and are told of in the status.
const MOST_WRONG: usize = 32;

impl Loop {
    /// Something came over a connection.
    pub(super) fn happened(&mut self, link: LinkId, what: Happening) {
        let Some((peer, inward)) = self.links.owner(link) else {
            return;
        };
        match what {
            Happening::Requested(request, wish) if inward => self.requested(peer, link, request, wish),
            Happening::Cancelled(request) if inward => {
                self.asking.remove(&(peer, request));
                self.tell(Event::RequestCancelled { from: peer, request });
            }
            Happening::Promoted(request) if inward => {
                self.tell(Event::RequestPromoted { from: peer, request });
            }
            Happening::Sent(request, took, len) => {
                self.status.bytes_to_peers += len as u64;
                if let Some(address) = self.links.address(peer) {
                    self.history.sent(address, len as u64);
                }
                self.asking.remove(&(peer, request));
                self.tell(Event::Uploaded {
                    to: peer,
                    request,
                    took,
                });
            }
            Happening::Acknowledged(request, hint) => self.tell(Event::Accepted { request, hint }),
            Happening::Progressed(request, bytes) => self.tell(Event::Progressed { request, bytes }),
            Happening::Arrived(request, bytes, hint) => self.judge(request, bytes, hint),
            Happening::Redirected(request, to, hint) => {
                self.asked.remove(&request);
                self.tell(Event::Redirected { request, to, hint });
            }
            Happening::Refused(request, reason) => {
                self.asked.remove(&request);
                self.tell(Event::Refused { request, reason });
            }
            Happening::Exchanged(bytes) => {
                if let Some(address) = self.links.address(peer) {
                    self.exchanged(address, bytes);
                }
            }
            Happening::Closed(error) => {
                debug!(peer = ?self.links.address(peer), "connection ended: {error}");
                self.closed(link);
            }
            // An asker's message on a connection of ours.
            Happening::Requested(..) | Happening::Cancelled(_) | Happening::Promoted(_) => {}
        }
    }

    /// Takes a message that is not about pieces: a call, or one between members.
    fn exchanged(&mut self, from: SocketAddr, bytes: Bytes) {
        let done = self.done.clone();
        let say = move |answer| {
            let _ = done.send(Done::Say(from, answer));
        };
        if !self.calling.take(from, &bytes, say) {
            self.members.take(from, bytes);
        }
    }

    pub(super) fn requested(&mut self, from: PeerId, link: LinkId, request: RequestId, wish: Wish) {
        let piece = wish.piece;
        let here = self.store.contains(&piece);
        let permitted = here || self.verifier.permits(&piece, &wish.of);
        let origin = permitted.then(|| self.known.origin(&wish.of));
        if !permitted {
            if let Some(link) = self.links.from(link) {
                link.send(Message::Refused {
                    id: request,
                    why: Refusal::Forbidden,
                });
            }
            return;
        }
        if !here && self.known.of(&piece).is_none() {
            self.known.note(piece, Arc::new(wish.of), Instant::now());
        }
        self.asking.insert((from, request), link);
        self.tell(Event::Requested {
            from,
            request,
            piece,
            class: wish.class,
            tree: wish.tree,
            redirects: wish.redirects,
            held_only: wish.held_only,
            origin,
            hint: wish.hint,
            here,
        });
    }

    /// Holds what a peer sent against the index, beside the loop.
    pub(super) fn judge(&mut self, request: RequestId, bytes: Bytes, hint: Hint) {
        let Some((peer, piece)) = self.asked.get(&request).copied() else {
            return;
        };
        let (Some(of), Some(from)) = (self.known.of(&piece), self.links.address(peer)) else {
            return;
        };
        let (verifier, done) = (self.verifier.clone(), self.done.clone());
        tokio::spawn(async move {
            let verdict = verifier
                .verify(piece, (*of).clone(), Some(from), bytes.clone())
                .await;
            let _ = done.send(Done::Judged {
                request,
                piece,
                hint,
                bytes,
                verdict,
            });
        });
    }

    pub(super) fn judged(
        &mut self,
        request: RequestId,
        piece: PieceId,
        hint: Hint,
        bytes: Bytes,
        verdict: Verdict,
    ) {
        let asked = self.asked.remove(&request);
        match verdict {
            Verdict::Right => {
                // Right bytes are welcome even if the request was given up meanwhile.
                if !self.store.contains(&piece) {
                    self.status.bytes_from_peers += bytes.len() as u64;
                    if let Some(address) = asked.and_then(|(peer, _)| self.links.address(peer)) {
                        self.history.came(piece, Source::Peer(address));
                    }
                    self.store.put(piece, bytes);
                }
                match asked {
                    Some(_) => self.tell(Event::Received { request, hint }),
                    None => self.tell(Event::PieceArrived { piece }),
                }
            }
            Verdict::Wrong => {
                if let Some(address) = asked.and_then(|(peer, _)| self.links.address(peer)) {
                    self.name(address, &piece);
                }
                self.tell(Event::AskFailed {
                    request,
                    failure: Failure::Corrupt,
                });
            }
            Verdict::Unproven => self.tell(Event::AskFailed {
                request,
                failure: Failure::Stalled,
            }),
        }
    }

    /// Tells who sent wrong bytes, or vouched for them.
    pub(super) fn name(&mut self, address: SocketAddr, piece: &PieceId) {
        warn!(%address, ?piece, "a node is at fault for wrong bytes; it is cut off");
        self.history.was_wrong(*piece, address);
        self.status.wrong.push(address);
        if self.status.wrong.len() > MOST_WRONG {
            self.status.wrong.remove(0);
        }
    }
}
