//! Links: whose quantum goes out next, and when it has come in.

use std::collections::VecDeque;

use lacewing_p2p::swarm::RequestId;

use super::Nanos;

/// A piece goes out in so many quanta.
pub(crate) const QUANTA: u32 = 8;

/// A piece on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: u32,
    pub(crate) request: RequestId,
    pub(crate) piece: u32,
    pub(crate) left: u32,
    /// Bytes of each.
    pub(crate) quantum: u32,
    pub(crate) began: Nanos,
    pub(crate) cancelled: bool,
}

impl Transfer {
    /// A piece of `len` bytes as it begins.
    pub(crate) fn new(to: u32, request: RequestId, piece: u32, len: u32, began: Nanos) -> Self {
        Self {
            to,
            request,
            piece,
            left: QUANTA,
            quantum: (len / QUANTA).max(1),
            began,
            cancelled: false,
        }
    }
}

/// A node's link, or the registry's.
#[derive(Debug)]
pub(crate) struct Link {
    bits_a_second: f64,
    /// Transfers under way, by class; the first is next.
    pub(crate) active: [VecDeque<Transfer>; 2],
    /// Transfers that wait for a place among them (the registry's).
    pub(crate) queued: [VecDeque<Transfer>; 2],
    pub(crate) places: usize,
    /// What is going out now; its class.
    pub(crate) busy: Option<(Transfer, usize)>,
    /// When all that is on its way in will have come in.
    pub(crate) in_until: Nanos,
    /// Bytes sent.
    pub(crate) sent: u64,
}

impl Link {
    pub(crate) fn new(bits_a_second: f64, places: usize) -> Self {
        Self {
            bits_a_second,
            active: Default::default(),
            queued: Default::default(),
            places,
            busy: None,
            in_until: 0,
            sent: 0,
        }
    }

    /// How long so many bytes take.
    fn time(&self, bytes: u32) -> Nanos {
        (f64::from(bytes) * 8.0 / self.bits_a_second * 1e9) as Nanos
    }

    pub(crate) fn add(&mut self, transfer: Transfer, class: usize) {
        if self.active[class].len() < self.places {
            self.active[class].push_back(transfer);
        } else {
            self.queued[class].push_back(transfer);
        }
    }

    /// Takes the next quantum to send, if the link is free, and tells how long it takes; `room`: whether one may be under way to
    /// that node.
    pub(crate) fn start(&mut self, room: impl Fn(u32) -> bool) -> Option<Nanos> {
        if self.busy.is_some() {
            return None;
        }
        for class in 0..2 {
            while self.active[class].len() < self.places
                && let Some(next) = self.queued[class].pop_front()
            {
                self.active[class].push_back(next);
            }
            let next = self.active[class].iter().position(|transfer| room(transfer.to));
            if let Some(transfer) = next.and_then(|next| self.active[class].remove(next)) {
                self.busy = Some((transfer, class));
                return Some(self.time(transfer.quantum));
            }
        }
        None
    }

    /// A quantum is out: returns the transfer as it is now; it goes on unless it is at its end.
    pub(crate) fn sent(&mut self) -> Option<Transfer> {
        let (mut transfer, class) = self.busy.take()?;
        self.sent += u64::from(transfer.quantum);
        transfer.left -= 1;
        if transfer.left > 0 && !transfer.cancelled {
            self.active[class].push_back(transfer);
        }
        (!transfer.cancelled).then_some(transfer)
    }

    /// When a quantum of so many bytes that arrives at `at` has come in.
    pub(crate) fn come_in(&mut self, at: Nanos, bytes: u32) -> Nanos {
        self.in_until = (self.in_until + self.time(bytes)).max(at);
        self.in_until
    }

    /// Where something waits to go out.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = u32> {
        self.active.iter().flatten().map(|transfer| transfer.to)
    }

    /// From when on no more than `bytes` are on their way in.
    pub(crate) fn has_room(&self, bytes: u32) -> Nanos {
        self.in_until.saturating_sub(self.time(bytes))
    }

    /// How long a message waits behind what is on its way in, of which at most `queue` bytes stand before it.
    pub(crate) fn wait_in(&self, now: Nanos, queue: u32) -> Nanos {
        self.in_until.saturating_sub(now).min(self.time(queue))
    }

    pub(crate) fn remove(&mut self, to: u32, request: RequestId) {
        for queue in self.active.iter_mut().chain(&mut self.queued) {
            queue.retain(|transfer| (transfer.to, transfer.request) != (to, request));
        }
        if let Some((transfer, _)) = &mut self.busy
            && (transfer.to, transfer.request) == (to, request)
        {
            transfer.cancelled = true; // the quantum that is going out is lost
        }
    }

    pub(crate) fn promote(&mut self, to: u32, request: RequestId) {
        for queues in [&mut self.active, &mut self.queued] {
            let at = (queues[1].iter()).position(|transfer| (transfer.to, transfer.request) == (to, request));
            let found = at.and_then(|at| queues[1].remove(at));
            queues[0].extend(found);
        }
        if let Some((transfer, class)) = &mut self.busy
            && (transfer.to, transfer.request) == (to, request)
        {
            *class = 0;
        }
    }
}
