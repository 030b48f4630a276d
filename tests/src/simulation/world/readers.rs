//! What the nodes' readers want, and what they have.

use super::*;

/// Where all pieces are in the end.
const ORIGIN: lacewing_p2p::swarm::OriginId = lacewing_p2p::swarm::OriginId(0);

impl World {
    pub(super) fn piece(&self, number: usize) -> PieceId {
        let len = self.scenario.piece_bytes;
        PieceId {
            blob: self.blob,
            offset: number as u64 * u64::from(len),
            len,
        }
    }

    pub(super) fn number(&self, piece: &PieceId) -> usize {
        (piece.offset / u64::from(self.scenario.piece_bytes)) as usize
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.nodes[at].dead {
            return;
        }
        self.nodes[at].reader.started = self.now;
        if self.scenario.reads > 0 {
            self.read(at);
        }
        self.prefetch(at);
    }

    pub(super) fn prefetch(&mut self, at: usize) {
        loop {
            let window = if self.scenario.reads == 0 {
                self.scenario.window.max(1)
            } else {
                self.scenario.window
            };
            let node = &mut self.nodes[at];
            let reader = &mut node.reader;
            if reader.started == Nanos::MAX
                || reader.outstanding >= window
                || reader.next >= self.scenario.pieces
            {
                return;
            }
            let piece = reader.next;
            reader.next += 1;
            if !node.held.get(piece) {
                reader.outstanding += 1;
                reader.prefetching.set(piece);
                self.want(at, piece, Class::Prefetch);
            }
        }
    }

    pub(super) fn want(&mut self, at: usize, piece: usize, class: Class) {
        if self.nodes[at].dead || self.nodes[at].held.get(piece) {
            return;
        }
        let piece = self.piece(piece);
        self.feed(
            at,
            Event::Wanted {
                piece,
                class,
                origin: ORIGIN,
            },
        );
    }

    /// A want that ended in an error is repeated, unless the piece came meanwhile.
    pub(super) fn rewant(&mut self, at: usize, piece: usize, class: Class) {
        if self.nodes[at].held.get(piece) && !self.nodes[at].dead {
            self.delivered(at, piece);
        } else {
            self.want(at, piece, class);
        }
    }

    pub(super) fn read(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.dead {
            return;
        }
        if node.reader.reads >= self.scenario.reads {
            self.finish(at);
            return;
        }
        let piece = node.reader.reads * self.scenario.stride % self.scenario.pieces;
        node.reader.reads += 1;
        node.reader.reading = Some((piece, self.now));
        if node.held.get(piece) {
            self.read_done(at);
        } else {
            self.want(at, piece, Class::Blocking);
        }
    }

    pub(super) fn read_done(&mut self, at: usize) {
        if let Some((_, since)) = self.nodes[at].reader.reading.take() {
            if !self.nodes[at].slow {
                self.outcome.latency.push((self.now - since) as f64 / 1e6);
            }
            let think = -self.scenario.think * (1.0 - self.rng.fraction()).ln();
            self.push(self.now + nanos(think), What::Read(at as u32));
        }
    }

    pub(super) fn finish(&mut self, at: usize) {
        if self.nodes[at].reader.done.is_none() {
            self.nodes[at].reader.done = Some(self.now);
            self.to_finish -= 1;
        }
    }

    pub(super) fn delivered(&mut self, at: usize, piece: usize) {
        assert!(
            self.nodes[at].held.get(piece),
            "what is delivered is in the store"
        );
        let reader = &mut self.nodes[at].reader;
        if reader.prefetching.get(piece) {
            reader.outstanding = reader.outstanding.saturating_sub(1);
        }
        if reader.reading.is_some_and(|reading| reading.0 == piece) {
            self.read_done(at);
        }
        self.check_done(at);
        self.prefetch(at);
    }

    pub(super) fn check_done(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.user && self.scenario.reads == 0 && node.reader.held == self.scenario.pieces {
            self.finish(at);
        }
    }
}
