//! What the swarm wants done, done.

use bytes::Bytes;
use std::time::Instant;
use tracing::{debug, info};

use super::links::{Deferred, Way};
use super::node::{Done, Loop};
use super::{GetError, OriginError, Verdict};
use crate::error::FetchError;
use crate::piece::{Class, PieceId};
use crate::swarm::{Action, Event, Hint, PeerId, RequestId};
use crate::transport::{Message, Wish};

impl Loop {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Ask { .. } => self.ask(action),
            Action::Cancel { peer, request } => self.take_back(peer, request),
            Action::Promote { peer, request } => {
                if let Some(link) = self.links.to(peer) {
                    link.promote(request);
                }
            }
            Action::AskOrigin { piece, class, .. } => self.ask_origin(piece, class),
            // The registry has one queue; what is under way there goes on as it is.
            Action::PromoteOrigin { .. } => {}
            Action::CancelOrigin { piece } => {
                if let Some(task) = self.origins.remove(&piece) {
                    task.abort();
                }
            }
            Action::Accept { to, request, hint } => {
                self.answer(to, request, false, |id| Message::Ack { id, hint })
            }
            Action::Serve {
                to,
                request,
                piece,
                class,
                hint,
            } => self.load(to, request, piece, class, hint),
            Action::PromoteUpload { to, request } => {
                let link = self.asking.get(&(to, request));
                if let Some(link) = link.and_then(|link| self.links.from(*link)) {
                    link.hurry(request);
                }
            }
            Action::StopUpload { to, request } => {
                let link = self.asking.remove(&(to, request));
                if let Some(link) = link.and_then(|link| self.links.from(link)) {
                    link.stop(request);
                }
            }
            Action::Redirect {
                to,
                request,
                next,
                hint,
            } => self.answer(to, request, true, |id| Message::Redirect { id, to: next, hint }),
            Action::Refuse { to, request, reason } => {
                self.answer(to, request, true, |id| Message::Refused { id, why: reason });
            }
            Action::Deliver { piece } => self.deliver(piece),
            Action::Fail { piece, error } => self.fail(piece, error),
            Action::AnnounceLeaf(leaf) => {
                info!(leaf, "this node changes its place in the trees");
                self.members.announce_leaf(leaf || self.me.leaf);
            }
            Action::Suspect(peer) => {
                if let Some(address) = self.links.address(peer) {
                    self.members.suspect(address);
                }
            }
            Action::Distrust(peer) => {
                for link in self.links.with(peer) {
                    self.close(link);
                }
            }
            Action::SetTimer(at) => self.timer = Some(at),
        }
    }

    /// A request of ours is not wanted any more; it may not even have left.
    fn take_back(&mut self, peer: PeerId, request: RequestId) {
        self.asked.remove(&request);
        if !self.links.withdraw(peer, request)
            && let Some(link) = self.links.to(peer)
        {
            link.cancel(request);
        }
    }

    /// Tells who waits for a piece that nobody delivers it, with what its origin said last.
    fn fail(&mut self, piece: PieceId, error: FetchError) {
        let reason = self.reasons.remove(&piece).unwrap_or_default();
        for waiter in self.waiters.remove(&piece).unwrap_or_default() {
            let reason = reason.clone();
            let _ = waiter.reply.send(Err(GetError { error, reason }));
        }
    }

    fn ask(&mut self, action: Action) {
        let Action::Ask {
            peer,
            request,
            piece,
            class,
            tree,
            redirects,
            held_only,
            hint,
            ..
        } = action
        else {
            return;
        };
        let Some(of) = self.known.of(&piece) else {
            return self.report_unreachable(request);
        };
        self.asked.insert(request, (peer, piece));
        if let Some(address) = self.links.address(peer) {
            self.history.asked(piece, Some(address));
        }
        let wish = Wish {
            piece,
            class,
            tree,
            redirects,
            held_only,
            hint,
            of: (*of).clone(),
        };
        let deferred = Deferred::Ask(request, Box::new(wish));
        match self.links.send(peer, deferred, Instant::now()) {
            Way::Sent => {}
            // A handshake takes longer than a living node needs to answer: that is no reason to pass the node over, and
            // if it takes too long, a second node is asked.
            Way::Waits => self.report_accepted(request),
            Way::Dial(address) => {
                self.dial(peer, address);
                self.report_accepted(request);
            }
            Way::None => self.report_unreachable(request),
        }
    }

    /// Reports through the queue: the swarm must not be told while its actions are being done.
    fn report_accepted(&mut self, request: RequestId) {
        let hint = Hint::default();
        let _ = self.done.send(Done::Told(Event::Accepted { request, hint }));
    }

    fn report_unreachable(&mut self, request: RequestId) {
        self.asked.remove(&request);
        let failure = crate::swarm::Failure::Unreachable;
        let _ = self.done.send(Done::Told(Event::AskFailed { request, failure }));
    }

    fn ask_origin(&mut self, piece: PieceId, class: Class) {
        let Some(of) = self.known.of(&piece) else {
            let error = OriginError {
                error: FetchError::Unavailable,
                retry_after: None,
                reason: "it is forgotten where the piece is".to_owned(),
            };
            let _ = self.done.send(Done::Origin(piece, Err(error)));
            return;
        };
        self.history.asked(piece, None);
        let (origin, verifier, done) = (self.origin.clone(), self.verifier.clone(), self.done.clone());
        let rate = self.origin_rate.clone();
        let task = tokio::spawn(async move {
            rate.take(class == Class::Blocking, piece.len as usize).await;
            let result = match origin.read(piece, (*of).clone(), class).await {
                Ok(bytes) => {
                    let verdict = verifier.verify(piece, (*of).clone(), None, bytes.clone()).await;
                    Ok((bytes, verdict))
                }
                Err(error) => Err(error),
            };
            let _ = done.send(Done::Origin(piece, result));
        });
        self.origins.insert(piece, task.abort_handle());
    }

    pub(super) fn origin_answered(&mut self, piece: PieceId, result: Result<(Bytes, Verdict), OriginError>) {
        if self.origins.remove(&piece).is_none() && result.is_err() {
            return;
        }
        let (error, retry_after, reason) = match result {
            Ok((bytes, Verdict::Right)) => {
                if !self.store.contains(&piece) {
                    self.status.bytes_from_origin += bytes.len() as u64;
                    self.history.came(piece, super::Source::Origin);
                    self.store.put(piece, bytes);
                }
                return self.tell(Event::OriginReceived { piece });
            }
            Ok((_, Verdict::Wrong)) => {
                let reason = "the origin's bytes are not what the index says".to_owned();
                (FetchError::Corrupt, None, reason)
            }
            Ok((_, Verdict::Unproven)) => {
                let reason = "the index that proves it is not to be had".to_owned();
                (FetchError::Unavailable, None, reason)
            }
            Err(error) => (error.error, error.retry_after, error.reason),
        };
        debug!(?piece, "origin: {reason}");
        self.reasons.insert(piece, reason);
        self.tell(Event::OriginFailed {
            piece,
            error,
            retry_after,
        });
        // Nobody waits here: nobody will ask for the reason.
        if !self.waiters.contains_key(&piece) {
            self.reasons.remove(&piece);
        }
    }

    /// Sends a short answer to a request.
    fn answer(
        &mut self,
        to: PeerId,
        request: RequestId,
        last: bool,
        message: impl FnOnce(RequestId) -> Message,
    ) {
        let Some(link) = self.asking.get(&(to, request)).copied() else {
            return;
        };
        if let Some(link) = self.links.from(link) {
            link.send(message(request));
        }
        if last {
            self.asking.remove(&(to, request));
        }
    }

    fn load(&mut self, to: PeerId, request: RequestId, piece: PieceId, class: Class, hint: Hint) {
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let bytes = store.get(&piece).await;
            let _ = done.send(Done::Loaded {
                to,
                request,
                class,
                hint,
                bytes,
            });
        });
    }

    pub(super) fn loaded(
        &mut self,
        to: PeerId,
        request: RequestId,
        class: Class,
        hint: Hint,
        bytes: Option<Bytes>,
    ) {
        // Stopped or cancelled meanwhile: nobody expects it.
        let Some(link) = self.asking.get(&(to, request)).copied() else {
            return;
        };
        match (bytes, self.links.from(link)) {
            (Some(bytes), Some(link)) => link.answer(request, bytes, class == Class::Blocking, hint),
            (bytes, _) => {
                let gone = bytes.is_none();
                self.tell(Event::UploadFailed { to, request, gone });
            }
        }
    }

    fn deliver(&mut self, piece: PieceId) {
        self.reasons.remove(&piece);
        let waiters = self.waiters.remove(&piece).unwrap_or_default();
        if waiters.is_empty() {
            return;
        }
        let store = self.store.clone();
        tokio::spawn(async move {
            let bytes = store.get(&piece).await;
            for waiter in waiters {
                let answer = bytes.clone().ok_or_else(|| GetError {
                    error: FetchError::Unavailable,
                    reason: "it was evicted at once".to_owned(),
                });
                let _ = waiter.reply.send(answer);
            }
        });
    }
}
