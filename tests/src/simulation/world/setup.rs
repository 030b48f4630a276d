//! A scenario's cluster before the first event, and how it grows.

use lacewing_p2p::swarm::{Member, ZoneId};

use super::super::scenario::Fault;
use super::*;

/// Views are made for so many groups of nodes at most: one for each node would not fit into memory for 10,000.
const VIEWS: usize = 1000;
/// Until all know what a member says of itself; members' gossip takes some rounds.
const GOSSIP: Nanos = 1_000_000_000;
/// Fetches that the registry serves at once.
const REGISTRY_PLACES: usize = 64;

impl World {
    /// Sets a scenario up.
    pub fn new(scenario: Scenario) -> Self {
        let count = scenario.nodes;
        let mut rng = Rng::new(scenario.seed);
        let mut order: Vec<usize> = (0..count).collect();
        rng.shuffle(&mut order);
        let slow_count = (count as f64 * scenario.slow).round() as usize;
        let crash_count = (count as f64 * scenario.crashed).round() as usize;
        let mut slow = vec![false; count];
        for at in &order[..slow_count] {
            slow[*at] = true;
        }
        let crashing: Vec<usize> = order[slow_count..slow_count + crash_count].to_vec();
        let ids: Vec<PeerId> = (0..count as u64)
            .map(|n| PeerId(mix(scenario.seed.wrapping_mul(31_337) ^ n)))
            .collect();
        let numbers = ids.iter().enumerate().map(|(n, id)| (*id, n as u32)).collect();
        let nodes = (0..count)
            .map(|n| Node::new(&scenario, ids[n], slow[n]))
            .collect();
        let mut world = Self {
            now: 0,
            count: 0,
            heap: BinaryHeap::new(),
            nodes,
            ids,
            numbers,
            views: Vec::new(),
            registry: Link::new(scenario.registry_link, REGISTRY_PLACES),
            registry_pieces: 0,
            blob: Digest::of(&scenario.seed.to_le_bytes()),
            startup: scenario.startup(),
            to_finish: 0,
            actions: Vec::new(),
            outcome: Outcome::default(),
            rng,
            scenario,
        };
        world.choose_users();
        for at in crashing {
            let when = nanos(world.rng.fraction() * world.scenario.crash_within);
            world.push(when, What::Crash(at as u32));
        }
        world.make_views();
        world.begin();
        world
    }

    fn choose_users(&mut self) {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        self.rng.shuffle(&mut order);
        order.truncate(self.scenario.users.unwrap_or(usize::MAX));
        self.to_finish = order.len();
        for at in order {
            self.nodes[at].user = true;
        }
    }

    fn make_views(&mut self) {
        let zones = self.scenario.zones.max(1);
        let all: Vec<Member> = (self.ids.iter().enumerate())
            .map(|(n, id)| Member {
                id: *id,
                zone: ZoneId(n as u16 % zones),
                leaf: false,
            })
            .collect();
        if self.scenario.unseen == 0.0 {
            self.views.push(Arc::new(View::new(all)));
            return;
        }
        let groups = if all.len() > VIEWS { 64 } else { all.len() };
        for group in 0..groups {
            let mut seen = Vec::with_capacity(all.len());
            for (n, member) in all.iter().enumerate() {
                if n == group || self.rng.fraction() >= self.scenario.unseen {
                    seen.push(*member);
                }
            }
            self.views.push(Arc::new(View::new(seen)));
        }
    }

    fn begin(&mut self) {
        let faults = self.scenario.faults.clone();
        let joining = faults.iter().find_map(|fault| match fault {
            Fault::JoinOver(seconds) => Some(*seconds),
            _ => None,
        });
        for at in 0..self.nodes.len() {
            if joining.is_none() {
                let view = Arc::clone(&self.views[at % self.views.len()]);
                self.feed(at, Event::MembersChanged(view));
            }
            let spread = joining.map_or(nanos(self.rng.fraction() * self.scenario.jitter), |seconds| {
                nanos(seconds * at as f64 / self.nodes.len() as f64) + 200_000_000
            });
            if self.nodes[at].user {
                self.push(spread, What::Start(at as u32));
            }
        }
        if let Some(seconds) = joining {
            let steps = (seconds / 0.2).ceil() as u32;
            for step in 0..=steps {
                self.push(u64::from(step) * 200_000_000, What::Members(step));
            }
        }
        for fault in faults {
            if let Fault::ClockJump { node, at, by } = fault {
                self.push(nanos(at), What::Jump(node as u32, (by * 1e9) as i64));
            }
        }
    }

    pub(super) fn members_join(&mut self, step: u32) {
        let total = self.nodes.len();
        let seconds = self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::JoinOver(seconds) => Some(*seconds),
            _ => None,
        });
        let joined = (f64::from(step + 1) * 0.2 / seconds.unwrap_or(1.0) * total as f64) as usize;
        let joined = joined.clamp(1, total);
        let zones = self.scenario.zones.max(1);
        let member = |n: usize| Member {
            id: self.ids[n],
            zone: ZoneId(n as u16 % zones),
            leaf: self.nodes[n].leaf,
        };
        self.views = vec![Arc::new(View::new((0..joined).map(member).collect()))];
        self.show_views();
    }

    fn show_views(&mut self) {
        for at in 0..self.nodes.len() {
            let view = Arc::clone(&self.views[at % self.views.len()]);
            if view.member(self.ids[at]).is_some() {
                self.feed(at, Event::MembersChanged(view));
            }
        }
    }

    /// A node says that it is a leaf, or is none any more.
    pub(super) fn announce_leaf(&mut self, at: usize, leaf: bool) {
        self.nodes[at].leaf = leaf;
        self.push(self.now + GOSSIP, What::Leaves);
    }

    pub(super) fn leaves_are_known(&mut self) {
        let told = |view: &Arc<View>| {
            let members = view.members().iter().map(|member| Member {
                leaf: self.nodes[self.numbers[&member.id] as usize].leaf,
                ..*member
            });
            Arc::new(View::new(members.collect()))
        };
        self.views = self.views.iter().map(told).collect();
        self.show_views();
    }
}

impl Node {
    fn new(scenario: &Scenario, id: PeerId, slow: bool) -> Self {
        let rate = if slow { scenario.link / 10.0 } else { scenario.link };
        Self {
            swarm: Swarm::new(scenario.config.clone(), id, scenario.seed ^ id.0),
            link: Link::new(rate, usize::MAX),
            held: Bits::new(scenario.pieces),
            reader: Reader::new(scenario.pieces),
            user: false,
            slow,
            leaf: false,
            dead: false,
            timer: Nanos::MAX,
            clock: 0,
            parents: BTreeSet::new(),
        }
    }
}
