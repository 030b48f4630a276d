//! Between a node's logic and the world: events in, actions out.

use lacewing_p2p::swarm::Time;

use super::super::link::Transfer;
use super::super::scenario::Fault;
use super::*;

/// After an error a reader tries again.
const AGAIN: Nanos = 100_000_000;

impl World {
    pub(super) fn feed(&mut self, at: usize, event: Event) {
        if self.nodes[at].dead {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        let now = Time(self.now.saturating_add_signed(self.nodes[at].clock));
        self.nodes[at].swarm.handle(now, event, &mut actions);
        // what an action causes on this very node must not come between the others
        for action in &actions {
            self.act(at, *action);
        }
        actions.clear();
        self.actions = actions;
    }

    fn act(&mut self, at: usize, action: Action) {
        let from = at as u32;
        match action {
            Action::Ask { .. }
            | Action::Cancel { .. }
            | Action::Promote { .. }
            | Action::Accept { .. }
            | Action::Redirect { .. }
            | Action::Refuse { .. } => self.tell_peer(at, action),
            Action::AskOrigin { piece, class, .. } => self.tell_registry(from, Call::Fetch(piece, class)),
            Action::CancelOrigin { piece } => self.tell_registry(from, Call::Cancel(piece)),
            Action::PromoteOrigin { piece } => self.tell_registry(from, Call::Promote(piece)),
            Action::Serve {
                to,
                request,
                piece,
                class,
                ..
            } => self.serve(at, to, request, &piece, class),
            Action::PromoteUpload { to, request } => {
                let to = self.numbers[&to];
                self.nodes[at].link.promote(to, request);
            }
            Action::StopUpload { to, request } => {
                let to = self.numbers[&to];
                self.nodes[at].link.remove(to, request);
            }
            Action::Deliver { piece } => self.delivered(at, self.number(&piece)),
            Action::Fail { piece, .. } => self.failed(at, self.number(&piece)),
            Action::AnnounceLeaf(leaf) => self.announce_leaf(at, leaf),
            Action::SetTimer(Time(when)) => {
                let when = when
                    .saturating_add_signed(-self.nodes[at].clock)
                    .max(self.now + 1);
                self.nodes[at].timer = when;
                self.push(when, What::Timer(from));
            }
            _ => {}
        }
    }

    /// An action that is a message to another node is an event there.
    fn tell_peer(&mut self, at: usize, action: Action) {
        let me = self.ids[at];
        let (peer, event) = match action {
            Action::Ask {
                peer,
                request,
                piece,
                class,
                tree,
                redirects,
                held_only,
                origin,
                hint,
            } => {
                let earlier = tree.distance(peer) < tree.distance(me);
                assert!(earlier || held_only, "only earlier nodes are asked to fetch");
                self.nodes[at].parents.extend(self.numbers.get(&peer));
                let event = Event::Requested {
                    from: me,
                    request,
                    piece,
                    class,
                    tree,
                    redirects,
                    held_only,
                    origin,
                    hint,
                    here: false, // looked up when it comes in
                };
                (peer, event)
            }
            Action::Cancel { peer, request } => (peer, Event::RequestCancelled { from: me, request }),
            Action::Promote { peer, request } => (peer, Event::RequestPromoted { from: me, request }),
            Action::Accept { to, request, hint } => (to, Event::Accepted { request, hint }),
            Action::Redirect {
                to,
                request,
                next,
                hint,
            } => {
                let redirected = Event::Redirected {
                    request,
                    to: next,
                    hint,
                };
                (to, redirected)
            }
            Action::Refuse { to, request, reason } => (to, Event::Refused { request, reason }),
            _ => return,
        };
        self.tell(at as u32, peer, event);
    }

    fn failed(&mut self, at: usize, piece: usize) {
        self.outcome.failures += 1;
        let reading = self.nodes[at].reader.reading;
        let class = if reading.is_some_and(|reading| reading.0 == piece) {
            Class::Blocking
        } else {
            Class::Prefetch
        };
        self.push(self.now + AGAIN, What::Rewant(at as u32, piece, class));
    }

    fn serve(&mut self, at: usize, to: PeerId, request: RequestId, piece: &PieceId, class: Class) {
        if self.scenario.faults.contains(&Fault::Stalled(at)) {
            return;
        }
        let number = self.number(piece) as u32;
        let transfer = Transfer::new(self.numbers[&to], request, number, piece.len, self.now);
        self.nodes[at].link.add(transfer, class as usize);
        self.start_link(at as u32);
    }
}
