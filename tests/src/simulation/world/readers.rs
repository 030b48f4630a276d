//! What the nodes' readers want, and what they have.

use super::super::scenario::Daemon;
use super::*;

/// Where all pieces are in the end.
const ORIGIN: lacewing_p2p::swarm::OriginId = lacewing_p2p::swarm::OriginId(0);

impl World {
    pub(super) fn piece(&self, number: usize) -> PieceId {
        PieceId {
            blob: self.blob,
            offset: number as u64 * u64::from(self.scenario.piece_bytes),
            len: self.scenario.len(number),
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
        if self.scenario.reads > 0 || self.scenario.daemon.is_some() {
            self.read(at);
        }
        self.prefetch(at);
    }

    pub(super) fn prefetch(&mut self, at: usize) {
        if let Some(daemon) = self.scenario.daemon {
            return self.complete_image(at, &daemon);
        }
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

    /// Goes on with what a daemon's store does while nobody waits, or even though somebody does.
    fn complete_image(&mut self, at: usize, daemon: &Daemon) {
        let node = &mut self.nodes[at];
        if node.reader.started == Nanos::MAX || node.reader.held == self.scenario.pieces {
            return;
        }
        let store = &mut node.reader.store;
        if store.runs.is_empty() && store.waiting.is_empty() {
            let missing = (0..self.scenario.pieces).filter(|piece| !node.held.get(*piece));
            let batch: Vec<usize> = missing.take(daemon.batch).collect();
            store.waiting = batch.chunks(daemon.run).map(<[usize]>::to_vec).collect();
        }
        while self.nodes[at].reader.store.runs.len() < daemon.runs {
            let Some(alone) = self.may_begin(at, daemon) else {
                return self.go_on_beside(at, daemon);
            };
            let Some(run) = self.nodes[at].reader.store.waiting.pop_front() else {
                return;
            };
            let Some(last) = run.last().copied() else { continue };
            let (now, store) = (self.now, &mut self.nodes[at].reader.store);
            store.runs.push((now, run.clone()));
            store.begun = now;
            if store.window == 0 {
                store.window = daemon.window.2;
            }
            let window = if alone { 0 } else { store.window };
            let behind = last + 1..(last + 1 + window).min(self.scenario.pieces);
            for piece in run.into_iter().chain(behind) {
                self.want(at, piece, Class::Prefetch);
            }
        }
    }

    /// Prefetches some pieces although a program waits.
    fn go_on_beside(&mut self, at: usize, daemon: &Daemon) {
        let node = &mut self.nodes[at];
        let held = &node.held;
        node.reader.store.beside.retain(|piece| !held.get(*piece));
        let room = daemon.beside.saturating_sub(node.reader.store.beside.len());
        let under_way = &node.reader.store.beside;
        let missing =
            (0..self.scenario.pieces).filter(|piece| !held.get(*piece) && !under_way.contains(piece));
        let next: Vec<usize> = missing.take(room).collect();
        self.nodes[at].reader.store.beside.extend(&next);
        for piece in next {
            self.want(at, piece, Class::Prefetch);
        }
    }

    /// Whether a store may begin a run now, and if so, whether alone; if not, it looks again.
    fn may_begin(&mut self, at: usize, daemon: &Daemon) -> Option<bool> {
        if self.is_blocked(at) {
            self.nodes[at].reader.store.waited = Some(self.now);
            return None;
        }
        let (now, store) = (self.now, &mut self.nodes[at].reader.store);
        let Some(waited) = store.waited else {
            return Some(false);
        };
        let quiet_at = waited + nanos(daemon.quiet);
        let look = quiet_at.min(store.begun + nanos(daemon.least));
        if now >= look {
            return Some(now < quiet_at);
        }
        if store.look != look {
            store.look = look;
            self.push(look, What::Complete(at as u32));
        }
        None
    }

    /// Whether a program waits for what no run brings.
    fn is_blocked(&self, at: usize) -> bool {
        let (reader, held) = (&self.nodes[at].reader, &self.nodes[at].held);
        let waits =
            |(piece, _)| !held.get(piece) && !reader.store.runs.iter().any(|run| run.1.contains(&piece));
        reader.reading.is_some_and(waits)
    }

    /// A piece is here: a daemon's store may go on, and asks for more or less ahead.
    fn run_over(&mut self, at: usize, piece: usize, daemon: &Daemon) {
        let store = &mut self.nodes[at].reader.store;
        if let Some(since) = store.came(piece) {
            let (took, (least, most, _)) = (self.now - since, daemon.window);
            store.window = match nanos(daemon.pace) {
                pace if took > 2 * pace => store.window / 2,
                pace if took < pace => store.window + 1,
                _ => store.window,
            };
            store.window = store.window.clamp(least, most);
        }
    }

    /// The piece of the next read; `None` after the last.
    fn next_read(&self, at: usize) -> Option<usize> {
        let (reads, pieces) = (self.nodes[at].reader.reads, self.scenario.pieces);
        if self.scenario.daemon.is_none() {
            return (reads < self.scenario.reads).then(|| reads * self.scenario.stride % pieces);
        }
        let startup = &self.startup;
        match reads.checked_sub(startup.len()) {
            None => Some(startup[reads]),
            Some(in_order) => (in_order < pieces).then_some(in_order),
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

    /// Whether a daemon's program has read its start-up set.
    fn started_up(&self, at: usize) -> bool {
        self.scenario.daemon.is_some() && self.nodes[at].reader.reads >= self.startup.len()
    }

    pub(super) fn read(&mut self, at: usize) {
        if self.nodes[at].dead {
            return;
        }
        let Some(piece) = self.next_read(at) else {
            self.finish(at);
            return;
        };
        let (now, started) = (self.now, self.started_up(at));
        let node = &mut self.nodes[at];
        if started {
            node.reader.started_up.get_or_insert(now);
        }
        node.reader.reads += 1;
        node.reader.reading = Some((piece, self.now));
        if node.held.get(piece) {
            self.read_done(at);
        } else {
            self.want(at, piece, Class::Blocking);
        }
        if let Some(daemon) = self.scenario.daemon.filter(|_| started) {
            let window = daemon
                .ahead
                .min(piece + 1)
                .min(self.nodes[at].reader.store.window.max(daemon.window.2));
            for ahead in piece + 1..(piece + 1 + window).min(self.scenario.pieces) {
                self.want(at, ahead, Class::Prefetch);
            }
        }
    }

    pub(super) fn read_done(&mut self, at: usize) {
        let now = self.now;
        let reader = &mut self.nodes[at].reader;
        if let Some((_, since)) = reader.reading.take() {
            if since < now {
                reader.store.waited = Some(now);
            }
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
        if let Some(daemon) = self.scenario.daemon {
            self.run_over(at, piece, &daemon);
        }
        let reader = &mut self.nodes[at].reader;
        if reader.reading.is_some_and(|reading| reading.0 == piece) {
            self.read_done(at);
        }
        self.check_done(at);
        self.prefetch(at);
    }

    pub(super) fn check_done(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.user
            && self.scenario.reads == 0
            && self.scenario.daemon.is_none()
            && node.reader.held == self.scenario.pieces
        {
            self.finish(at);
        }
    }
}
