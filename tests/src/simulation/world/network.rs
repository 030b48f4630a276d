//! Messages and bytes on their way.

use lacewing_p2p::swarm::Failure;

use super::super::link::Transfer;
use super::super::scenario::Fault;
use super::*;

impl World {
    pub(super) fn parted(&self, one: u32, other: u32) -> bool {
        self.scenario.faults.iter().any(|fault| match fault {
            Fault::Partition { below, from, until } => {
                let during = self.now >= nanos(*from) && self.now < nanos(*until);
                during && ((one as usize) < *below) != ((other as usize) < *below)
            }
            _ => false,
        })
    }

    /// How long a message takes.
    pub(super) fn one_way(&self) -> Nanos {
        nanos(self.scenario.rtt / 2.0)
    }

    pub(super) fn tell(&mut self, from: u32, to: PeerId, event: Event) {
        let to = self.numbers[&to];
        if !self.nodes[to as usize].dead && !self.parted(from, to) {
            let waits = self.nodes[to as usize]
                .link
                .wait_in(self.now, self.scenario.queue_bytes);
            let at = self.now + self.one_way() + waits;
            self.push(at, What::Message(to, event));
        }
    }

    pub(super) fn message(&mut self, to: usize, mut event: Event) {
        if let Event::Requested { piece, here, .. } = &mut event {
            *here = self.nodes[to].held.get(self.number(piece));
        }
        self.feed(to, event);
    }

    pub(super) fn start_link(&mut self, at: u32) {
        let under_way = self.scenario.daemon.map(|daemon| daemon.under_way);
        let room_at =
            |nodes: &[Node], to: u32| under_way.map_or(0, |bytes| nodes[to as usize].link.has_room(bytes));
        let link = self.link_mut(at);
        let mut link = std::mem::replace(link, Link::new(1.0, 0));
        if let Some(takes) = link.start(|to| room_at(&self.nodes, to) <= self.now) {
            self.push(self.now + takes, What::Quantum(at));
        } else if link.busy.is_none()
            && let Some(room) = link.receivers().map(|to| room_at(&self.nodes, to)).min()
        {
            self.push(room.max(self.now + 1), What::Room(at));
        }
        *self.link_mut(at) = link;
    }

    fn link_mut(&mut self, at: u32) -> &mut Link {
        match at {
            REGISTRY => &mut self.registry,
            at => &mut self.nodes[at as usize].link,
        }
    }

    pub(super) fn quantum(&mut self, at: u32) {
        let sent = self.link_mut(at).sent();
        let alive = at == REGISTRY || !self.nodes[at as usize].dead;
        if !alive {
            return;
        }
        if let Some(transfer) = sent {
            self.deliver_quantum(at, transfer);
        }
        self.start_link(at);
    }

    pub(super) fn deliver_quantum(&mut self, from: u32, transfer: Transfer) {
        let to = transfer.to as usize;
        if from != REGISTRY && self.scenario.zones > 1 {
            let zones = u32::from(self.scenario.zones);
            if from % zones != transfer.to % zones {
                self.outcome.between_zones += f64::from(transfer.quantum);
            }
        }
        let arrives = self.now + self.one_way();
        let come_in = self.nodes[to].link.come_in(arrives, transfer.quantum);
        if transfer.left > 0 {
            return;
        }
        let mut hint = Hint::default();
        if from != REGISTRY {
            let took = std::time::Duration::from_nanos(self.now - transfer.began);
            let (peer, request) = (self.ids[to], transfer.request);
            hint.rate = self.nodes[from as usize].swarm.status().rate;
            self.feed(
                from as usize,
                Event::Uploaded {
                    to: peer,
                    request,
                    took,
                },
            );
        }
        if !self.parted(from, transfer.to) {
            let what = What::Come {
                to: transfer.to,
                from,
                request: transfer.request,
                piece: transfer.piece as usize,
                hint,
            };
            self.push(come_in + nanos(self.scenario.verify), what);
        }
    }

    pub(super) fn come(&mut self, to: usize, from: u32, request: RequestId, piece: usize, hint: Hint) {
        if self.nodes[to].dead {
            return;
        }
        if from != REGISTRY && self.scenario.faults.contains(&Fault::Liar(from as usize)) {
            self.outcome.corrupt_found += 1;
            let failure = Failure::Corrupt;
            self.feed(to, Event::AskFailed { request, failure });
            return;
        }
        if self.nodes[to].held.set(piece) {
            self.nodes[to].reader.held += 1;
            self.check_done(to);
        } else {
            self.outcome.wasted += 1;
        }
        let piece = self.piece(piece);
        if from == REGISTRY {
            self.feed(to, Event::OriginReceived { piece });
        } else {
            self.feed(to, Event::Received { request, hint });
        }
        self.feed(to, Event::PieceArrived { piece }); // it may have been called off when it was here already
    }
}
