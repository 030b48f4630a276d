//! The logic of one node under random events. Whole clusters are simulated in the crate `lacewing-tests`.

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
fn a_node_alone_asks_the_origin() {
    let mut swarm = Swarm::new(Config::default(), id(1), 1);
    let mut actions = Vec::new();
    let (piece, class, origin) = (piece(1), Class::Blocking, ORIGIN);
    swarm.handle(Time(0), Event::Wanted { piece, class, origin }, &mut actions);
    assert!(
        actions.contains(&Action::AskOrigin { piece, origin, class }),
        "{actions:?}"
    );
    actions.clear();
    swarm.handle(Time(1), Event::OriginReceived { piece }, &mut actions);
    assert!(actions.contains(&Action::Deliver { piece }), "{actions:?}");
}

#[test]
fn a_slow_node_becomes_a_leaf() {
    let members = (0..10).map(|n| Member {
        id: id(n),
        zone: ZoneId(0),
        leaf: false,
    });
    let view = Arc::new(View::new(members.collect()));
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

#[test]
fn a_peer_that_lied_is_cut_off() {
    let members = (0..20).map(|n| Member {
        id: id(n),
        zone: ZoneId(0),
        leaf: false,
    });
    let view = Arc::new(View::new(members.collect()));
    let tree = view.tree_of(&piece(1));
    let last = (0..20)
        .map(id)
        .max_by_key(|peer| tree.distance(*peer))
        .expect("some");
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
