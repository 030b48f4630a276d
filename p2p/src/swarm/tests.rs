//! The logic of one node under random events. Whole clusters are simulated in the crate `lacewing-tests`.

mod random;
mod registry;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lacewing_format::Digest;
use proptest::prelude::*;

use super::rng::mix;
use super::*;
use crate::piece::Class;

const ORIGIN: OriginId = OriginId(7);

fn id(n: u64) -> PeerId {
    PeerId(mix(n ^ 0xCAFE))
}

fn piece(n: u64) -> PieceId {
    let blob = Digest([7; 32]);
    PieceId {
        blob,
        offset: n << 20,
        len: 1 << 20,
    }
}

/// The story: a file's last few bytes waited behind pieces a thousand times as long, and were taken for late: asked for twice, and
/// sent up the tree.
#[test]
fn a_tiny_piece_waits_as_long_as_those_it_stands_behind() {
    let tree = cluster(10).tree_of(&piece(1));
    let mut order: Vec<PeerId> = (0..10).map(id).collect();
    order.sort_by_key(|peer| tree.distance(*peer));
    let mut swarm = Swarm::new(Config::default(), order[1], 1);
    let mut actions = Vec::new();
    swarm.handle(Time(0), Event::MembersChanged(cluster(10)), &mut actions);
    let took = Duration::from_millis(200);
    let mut ask = |n: u64, piece: PieceId| {
        let (from, request) = (order[2 + n as usize % 8], RequestId(n));
        let hint = Hint {
            demand: 10,
            wants: 1,
            rate: 5 << 10,
        };
        let event = Event::Requested {
            from,
            request,
            piece,
            class: Class::Prefetch,
            tree,
            redirects: 0,
            held_only: false,
            origin: None,
            hint,
            here: true,
        };
        let mut actions = Vec::new();
        swarm.handle(Time(n * 1_000_000), event, &mut actions);
        if n < 4 {
            let event = Event::Uploaded {
                to: from,
                request,
                took,
            };
            swarm.handle(Time(n * 1_000_000).after(took), event, &mut actions);
        }
        actions
            .iter()
            .any(|action| matches!(action, Action::Accept { .. }))
    };
    assert!((0..16).all(|n| ask(n, piece(1))));
    assert!(ask(16, PieceId { len: 200, ..piece(1) }));
}

/// Members with ids of `0..count`, of which `bits` says who is unknown, in which zone and a leaf.
fn view(count: u64, bits: u64) -> View {
    let member = |n: u64| {
        let word = mix(bits ^ n);
        (!word.is_multiple_of(20)).then_some(Member {
            id: id(n),
            zone: ZoneId((word >> 8) as u16 % (1 + (bits % 3) as u16)),
            leaf: (word >> 32).is_multiple_of(10),
        })
    };
    View::new((0..count).filter_map(member).collect())
}

/// Members with ids of `0..count`, in one zone, no leaves.
fn cluster(count: u64) -> Arc<View> {
    let member = |n| Member {
        id: id(n),
        zone: ZoneId(0),
        leaf: false,
    };
    Arc::new(View::new((0..count).map(member).collect()))
}

proptest! {
    #[test]
    fn nobody_asks_a_later_node(count in 1_u64..400, bits: u64, me in 0_u64..400, relays in 1_usize..200) {
        let view = view(count, bits);
        let me = id(me);
        for tree in (0..TreeId::COUNT).map(TreeId).filter(|tree| view.knows(*tree)) {
            let mut asked = Vec::new();
            view.ancestors(me, tree, relays, &mut asked);
            for peer in &asked {
                prop_assert!(tree.distance(*peer) < tree.distance(me));
                prop_assert!(view.member(*peer).is_some_and(|member| !member.leaf));
            }
            let distinct: BTreeSet<_> = asked.iter().collect();
            prop_assert_eq!(distinct.len(), asked.len());
        }
    }
}

#[test]
fn a_slow_node_becomes_a_leaf() {
    let view = cluster(10);
    let tree = view.tree_of(&piece(1));
    let mut order: Vec<PeerId> = (0..10).map(id).collect();
    order.sort_by_key(|peer| tree.distance(*peer));
    let mut swarm = Swarm::new(Config::default(), order[0], 1);
    let mut actions = Vec::new();
    swarm.handle(Time(0), Event::MembersChanged(view), &mut actions);
    for n in 0..100_u64 {
        let (from, request) = (order[1 + n as usize % 9], RequestId(n));
        let now = Time(n * 100_000_000);
        let hint = Hint {
            demand: 0,
            wants: 1,
            rate: 1_000_000,
        };
        let event = Event::Requested {
            from,
            request,
            piece: piece(1),
            class: Class::Prefetch,
            tree,
            redirects: 2,
            held_only: false,
            origin: None,
            hint,
            here: true,
        };
        swarm.handle(now, event, &mut actions);
        let took = Duration::from_millis(50);
        let done = now.after(took);
        swarm.handle(
            done,
            Event::Uploaded {
                to: from,
                request,
                took,
            },
            &mut actions,
        );
    }
    assert!(actions.contains(&Action::AnnounceLeaf(true)));
    assert!(swarm.status().leaf);
}

/// Of so many members, the last in a tree: it may ask all others.
fn last_of(members: u64, tree: TreeId) -> PeerId {
    let distance = |peer: &PeerId| tree.distance(*peer);
    (0..members).map(id).max_by_key(distance).expect("some")
}

#[test]
fn a_peer_that_lied_is_cut_off() {
    let view = cluster(20);
    let tree = view.tree_of(&piece(1));
    let last = last_of(20, tree);
    let mut swarm = Swarm::new(Config::default(), last, 1);
    let mut actions = Vec::new();
    swarm.handle(Time(0), Event::MembersChanged(view), &mut actions);
    let (class, origin) = (Class::Blocking, ORIGIN);
    swarm.handle(
        Time(0),
        Event::Wanted {
            piece: piece(1),
            class,
            origin,
        },
        &mut actions,
    );
    let asked = |actions: &[Action]| {
        actions.iter().rev().find_map(|action| match action {
            Action::Ask { peer, request, .. } => Some((*peer, *request)),
            _ => None,
        })
    };
    let (liar, request) = asked(&actions).expect("somebody is asked");
    let failure = Failure::Corrupt;
    swarm.handle(Time(1), Event::AskFailed { request, failure }, &mut actions);
    assert!(actions.contains(&Action::Distrust(liar)));
    let (next, _) = asked(&actions).expect("another one is asked");
    assert_ne!(next, liar);
    let standings = swarm.explain(&piece(1)).candidates;
    let standing = standings.iter().find(|candidate| candidate.peer == liar);
    assert_eq!(
        standing.map(|candidate| candidate.standing),
        Some(Standing::CutOff)
    );
}

/// The last of ten members in the tree of the first piece, and what it does when it wants so many pieces of that tree.
fn wanting(count: u64) -> (Swarm, Vec<Action>) {
    let view = cluster(10);
    let tree = view.tree_of(&piece(0));
    let last = last_of(10, tree);
    let mut swarm = Swarm::new(Config::default(), last, 1);
    let mut actions = Vec::new();
    swarm.handle(Time(0), Event::MembersChanged(view), &mut actions);
    for n in 0..count {
        let piece = piece(n * u64::from(TreeId::COUNT));
        let (class, origin) = (Class::Prefetch, ORIGIN);
        swarm.handle(Time(0), Event::Wanted { piece, class, origin }, &mut actions);
    }
    (swarm, actions)
}

/// Fires the timer as it is set until nothing is in flight; hands all actions to `look`, which answers with events.
fn run_out(swarm: &mut Swarm, first: Vec<Action>, mut look: impl FnMut(&Action) -> Option<Event>) -> Time {
    let (mut now, mut timer, mut actions) = (Time(0), None, first);
    for _ in 0..10_000 {
        for action in std::mem::take(&mut actions) {
            if let Action::SetTimer(at) = action {
                timer = Some(at);
            }
            if let Some(event) = look(&action) {
                swarm.handle(now, event, &mut actions);
            }
        }
        if actions.is_empty() && swarm.status().flights == 0 {
            return now;
        }
        if actions.is_empty() {
            now = timer
                .take()
                .expect("a timer while something is in flight")
                .max(now);
            swarm.handle(now, Event::TimerFired, &mut actions);
        }
    }
    panic!("it does not end")
}

/// The story: behind a slow link a whole window of pieces was asked for twice, since each took long.
#[test]
fn a_slow_peer_that_gives_other_pieces_is_not_taken_for_dead() {
    let (mut swarm, mut actions) = wanting(16);
    let mut owed = Vec::new();
    for step in 1..=400 {
        for action in std::mem::take(&mut actions) {
            if let Action::Ask { peer, request, .. } = action {
                owed.push((peer, request));
            }
        }
        // Everybody sends all the time, and is done with a piece every two seconds.
        let mut sending = BTreeSet::new();
        let now = Time(0).after(Duration::from_millis(100) * step);
        let turn: Vec<_> = owed
            .iter()
            .copied()
            .filter(|(peer, _)| sending.insert(*peer))
            .collect();
        for (_, request) in &turn {
            let (request, hint) = (*request, Hint::default());
            let event = if step % 20 == 0 {
                Event::Received { request, hint }
            } else {
                Event::Progressed { request, bytes: 1 }
            };
            swarm.handle(now, event, &mut actions);
        }
        if step % 20 == 0 {
            owed.retain(|ask| !turn.contains(ask));
        }
        swarm.handle(now, Event::TimerFired, &mut actions);
    }
    assert_eq!(swarm.status().flights, 0);
    assert!(swarm.counts.hedged <= 2, "{} of 16", swarm.counts.hedged);
}

#[test]
fn peers_that_are_all_silent_end_in_an_error() {
    let (mut swarm, actions) = wanting(1);
    let mut failed = 0;
    let end = run_out(&mut swarm, actions, |action| {
        failed += u32::from(matches!(action, Action::Fail { .. }));
        None
    });
    assert_eq!(failed, 1);
    assert_eq!(end, Time(0).after(Config::default().deadline));
}

#[test]
fn a_peer_that_dies_with_all_it_took_holds_nobody_up_until_the_deadline() {
    let (mut swarm, actions) = wanting(64);
    let mut dead = None;
    let mut delivered = 0;
    let end = run_out(&mut swarm, actions, |action| match action {
        Action::Ask { peer, request, .. } => {
            let (request, hint) = (*request, Hint::default());
            let dies = *dead.get_or_insert(*peer) == *peer;
            Some(if dies {
                Event::Accepted { request, hint }
            } else {
                Event::Received { request, hint }
            })
        }
        Action::Deliver { .. } => {
            delivered += 1;
            None
        }
        _ => None,
    });
    assert_eq!(delivered, 64);
    assert!(end < Time(0).after(Duration::from_secs(5)), "{end:?}");
}
