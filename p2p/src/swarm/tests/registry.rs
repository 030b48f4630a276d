//! When a node goes to the registry, and whom it asks before.

use super::*;

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
fn what_nobody_waits_for_has_a_quarter_of_the_places_at_the_origin() {
    let config = Config {
        origin_limit: 8,
        ..Config::default()
    };
    let mut swarm = Swarm::new(config, id(1), 1);
    let mut actions = Vec::new();
    let want = |n, class| Event::Wanted {
        piece: piece(n),
        class,
        origin: ORIGIN,
    };
    let asked = |actions: &mut Vec<Action>| -> Vec<PieceId> {
        let asked = actions.drain(..).filter_map(|action| match action {
            Action::AskOrigin { piece, .. } => Some(piece),
            _ => None,
        });
        asked.collect()
    };
    for n in 0..5 {
        swarm.handle(Time(n), want(n, Class::Prefetch), &mut actions);
    }
    assert_eq!(asked(&mut actions), [piece(0), piece(1)]);
    swarm.handle(Time(10), want(9, Class::Blocking), &mut actions);
    assert_eq!(asked(&mut actions), [piece(9)], "a process waits");
    swarm.handle(Time(11), want(4, Class::Blocking), &mut actions);
    assert_eq!(asked(&mut actions), [piece(4)], "a process has come to wait");
    for n in [9, 4, 0] {
        assert_eq!(asked(&mut actions), [], "others are still under way");
        swarm.handle(Time(12), Event::OriginReceived { piece: piece(n) }, &mut actions);
    }
    assert_eq!(asked(&mut actions), [piece(2)]);
}

#[test]
fn in_a_cluster_each_node_prefetches_one_piece_at_a_time_from_the_origin() {
    let (_, mut swarm, begun) = of_rank(0, LONG_AGO);
    let tree = swarm.view.tree_of(&piece(1));
    let mine: Vec<u64> = (1..5000)
        .filter(|n| swarm.view.tree_of(&piece(*n)) == tree)
        .collect();
    let mut actions = Vec::new();
    for n in &mine[..3] {
        swarm.handle(begun, want(*n, Class::Prefetch), &mut actions);
    }
    let asked = |actions: &[Action]| {
        actions
            .iter()
            .filter(|action| matches!(action, Action::AskOrigin { .. }))
            .count()
    };
    assert_eq!(asked(&actions), 1, "{actions:?}");
    let piece = piece(mine[0]);
    swarm.handle(begun, Event::OriginReceived { piece }, &mut actions);
    assert_eq!(asked(&actions), 2, "{actions:?}");
}

/// Ten members in the order of the tree of `piece(1)`, and the logic of the one of this rank, which joined `joined` ago: long ago
/// it is no newcomer.
fn of_rank(rank: usize, joined: Duration) -> (Vec<PeerId>, Swarm, Time) {
    let view = cluster(10);
    let tree = view.tree_of(&piece(1));
    let mut order: Vec<PeerId> = (0..10).map(id).collect();
    order.sort_by_key(|peer| tree.distance(*peer));
    let mut swarm = Swarm::new(Config::default(), order[rank], 1);
    swarm.handle(Time(0), Event::MembersChanged(view), &mut Vec::new());
    (order, swarm, Time(0).after(joined))
}

const LONG_AGO: Duration = Duration::from_secs(3600);

fn want(n: u64, class: Class) -> Event {
    let (piece, origin) = (piece(n), ORIGIN);
    Event::Wanted { piece, class, origin }
}

/// Whom it asks: the request, and whether only for what is held.
fn asks(actions: &[Action]) -> Vec<(PeerId, RequestId, bool)> {
    let asks = actions.iter().filter_map(|action| match action {
        Action::Ask {
            peer,
            request,
            held_only,
            ..
        } => Some((*peer, *request, *held_only)),
        _ => None,
    });
    asks.collect()
}

fn goes_to_origin(actions: &[Action]) -> bool {
    let to_origin = |action: &Action| matches!(action, Action::AskOrigin { .. });
    actions.iter().any(to_origin)
}

/// A request for `piece(1)` by the last of the ten.
fn request(order: &[PeerId], number: u64, held_only: bool) -> Event {
    Event::Requested {
        from: order[9],
        request: RequestId(number),
        piece: piece(1),
        class: Class::Prefetch,
        tree: cluster(10).tree_of(&piece(1)),
        redirects: 2,
        held_only,
        origin: Some(ORIGIN),
        hint: Hint::default(),
        here: false,
    }
}

/// The story: at the start of a rollout, when nobody knew yet how long a piece takes, second nodes fetched what first ones did.
#[test]
fn the_second_of_a_tree_does_not_go_to_the_registry_because_time_goes_by() {
    let (order, mut swarm, begun) = of_rank(1, LONG_AGO);
    let mut actions = Vec::new();
    swarm.handle(begun, want(1, Class::Blocking), &mut actions);
    let first = asks(&actions);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].0, order[0]);
    let (request, hint) = (first[0].1, Hint::default());
    swarm.handle(begun, Event::Accepted { request, hint }, &mut actions);
    for tenth in 1..20 {
        let now = begun.after(Duration::from_millis(100) * tenth);
        let bytes = 1;
        swarm.handle(now, Event::Progressed { request, bytes }, &mut actions);
        swarm.handle(now, Event::TimerFired, &mut actions);
    }
    assert!(
        !goes_to_origin(&actions),
        "the first gives signs of life: {actions:?}"
    );
    for tenth in 20..80 {
        let now = begun.after(Duration::from_millis(100) * tenth);
        swarm.handle(now, Event::TimerFired, &mut actions);
    }
    assert!(goes_to_origin(&actions), "it gives none any more: {actions:?}");
}

/// Answers the asks after the first `answered`, and counts them there: `first` may not read the piece, all others see to it.
fn forbid(first: PeerId, now: Time, swarm: &mut Swarm, actions: &mut Vec<Action>, answered: &mut usize) {
    for (peer, request, _) in asks(actions).split_off(*answered) {
        let (reason, hint) = (Refusal::Forbidden, Hint::default());
        let answer = match peer == first {
            true => Event::Refused { request, reason },
            false => Event::Accepted { request, hint },
        };
        swarm.handle(now, answer, actions);
        *answered += 1;
    }
}

/// The story: where the first of a tree had no log-in, the third fetched what the second was just fetching.
#[test]
fn where_the_first_may_not_read_it_the_third_does_not_overtake_the_second() {
    let (order, mut swarm, begun) = of_rank(2, LONG_AGO);
    let mut actions = Vec::new();
    swarm.handle(begun, want(1, Class::Blocking), &mut actions);
    let mut answered = 0;
    for tenth in 0..20 {
        let now = begun.after(Duration::from_millis(100) * tenth);
        forbid(order[0], now, &mut swarm, &mut actions, &mut answered);
        for (_, request, _) in asks(&actions) {
            swarm.handle(now, Event::Progressed { request, bytes: 1 }, &mut actions);
        }
        swarm.handle(now, Event::TimerFired, &mut actions);
    }
    assert!(asks(&actions).iter().any(|ask| ask.0 == order[0]));
    assert!(!goes_to_origin(&actions), "the second is at work: {actions:?}");
    let now = begun.after(Duration::from_secs(2));
    for (_, request, _) in asks(&actions) {
        let reason = Refusal::Unavailable;
        swarm.handle(now, Event::Refused { request, reason }, &mut actions);
    }
    assert!(goes_to_origin(&actions), "nobody is any more: {actions:?}");
}

/// The story: on a busy machine, when nothing came for a moment, all who had been refused by a first without a log-in went to the
/// registry together.
#[test]
fn where_the_first_may_not_read_it_the_third_stands_in_for_the_second_and_nobody_else_does() {
    for (rank, goes) in [(2, true), (3, false)] {
        let (order, mut swarm, begun) = of_rank(rank, LONG_AGO);
        let (mut actions, hint) = (Vec::new(), Hint::default());
        let mut others = 2..;
        while asks(&actions).is_empty() {
            let n = others.next().unwrap_or_default();
            swarm.handle(begun, want(n, Class::Blocking), &mut actions);
        }
        let (_, request, _) = asks(&actions)[0];
        swarm.handle(begun, Event::Received { request, hint }, &mut actions);
        actions.clear();
        swarm.handle(begun, want(1, Class::Blocking), &mut actions);
        let mut answered = 0;
        for tenth in 0..20 {
            let now = begun.after(Duration::from_millis(100) * tenth);
            forbid(order[0], now, &mut swarm, &mut actions, &mut answered);
            swarm.handle(now, Event::TimerFired, &mut actions);
        }
        assert!(asks(&actions).iter().any(|ask| ask.0 == order[0]));
        assert_eq!(goes_to_origin(&actions), goes, "rank {rank}: {actions:?}");
    }
}

/// The story: who was sent to a first without a log-in, by a second that did not know yet that it would want the blob, went to the
/// registry, and so did the second a moment later.
#[test]
fn who_was_sent_to_one_that_may_not_read_asks_whoever_sent_it_again() {
    let hint = Hint::default();
    // All of them want the blob, as this node hears, so that it asks one in between.
    let behind = |rank: usize| {
        let (order, mut swarm, begun) = of_rank(rank, LONG_AGO);
        let mut actions = Vec::new();
        swarm.handle(begun, want(2, Class::Blocking), &mut actions);
        let (_, request, _) = *asks(&actions).first()?;
        let demand = Hint { demand: 10, ..hint };
        swarm.handle(
            begun,
            Event::Accepted {
                request,
                hint: demand,
            },
            &mut actions,
        );
        actions.clear();
        swarm.handle(begun, want(1, Class::Blocking), &mut actions);
        (asks(&actions).first()?.0 != order[0]).then_some((order, swarm, begun, actions))
    };
    let (order, mut swarm, begun, mut actions) = (1..10).find_map(behind).expect("a tree has levels");
    let (parent, request, _) = asks(&actions)[0];
    let to = order[0];
    swarm.handle(begun, Event::Redirected { request, to, hint }, &mut actions);
    let (first, request, _) = asks(&actions)[1];
    assert_eq!(first, order[0]);
    actions.clear();
    let reason = Refusal::Forbidden;
    swarm.handle(begun, Event::Refused { request, reason }, &mut actions);
    let again = |action: &Action| matches!(action, Action::Ask { peer, redirects, .. } if *peer == parent && *redirects >= Config::default().redirects);
    assert!(actions.iter().any(again), "and it has to see to it: {actions:?}");
    assert!(!goes_to_origin(&actions), "{actions:?}");
}

#[test]
fn a_newcomer_asks_the_next_of_the_tree_before_the_registry() {
    let just = Duration::from_secs(1);
    for (joined, class, asks_first) in [
        (just, Class::Prefetch, true),
        (just, Class::Blocking, false),
        (LONG_AGO, Class::Prefetch, false),
    ] {
        let (order, mut swarm, begun) = of_rank(0, joined);
        let mut actions = Vec::new();
        swarm.handle(begun, want(1, class), &mut actions);
        assert_eq!(goes_to_origin(&actions), !asks_first, "{actions:?}");
        for rank in [1, 2].into_iter().filter(|_| asks_first) {
            let asked = asks(&actions);
            let (peer, request, held_only) = *asked.last().expect("one is asked");
            assert_eq!((peer, held_only), (order[rank], true));
            actions.clear();
            let reason = Refusal::Unavailable;
            swarm.handle(begun, Event::Refused { request, reason }, &mut actions);
        }
        assert!(goes_to_origin(&actions), "nobody has it: {actions:?}");
    }
}

#[test]
fn a_newcomer_among_newcomers_goes_to_the_registry() {
    let (order, mut swarm, begun) = of_rank(0, Duration::from_secs(1));
    swarm.asked_in_vain = IN_VAIN - 1;
    let mut actions = Vec::new();
    swarm.handle(begun, want(1, Class::Prefetch), &mut actions);
    let (peer, request, _) = *asks(&actions).last().expect("one is asked");
    assert_eq!(peer, order[1]);
    let reason = Refusal::Unavailable;
    swarm.handle(begun, Event::Refused { request, reason }, &mut actions);
    assert!(goes_to_origin(&actions), "no third one is asked: {actions:?}");
}

#[test]
fn a_node_that_lets_others_down_asks_them_before_the_registry() {
    let (order, mut swarm, begun) = of_rank(0, LONG_AGO);
    let mut actions = Vec::new();
    for n in 0..LET_DOWN {
        let number = RequestId(u64::from(n));
        swarm.handle(begun, request(&order, number.0, false), &mut actions);
        let (from, request) = (order[9], number);
        swarm.handle(begun, Event::RequestCancelled { from, request }, &mut actions);
    }
    actions.clear();
    swarm.handle(begun, want(1, Class::Blocking), &mut actions);
    assert!(!goes_to_origin(&actions), "{actions:?}");
    assert_eq!(
        asks(&actions).first().map(|ask| (ask.0, ask.2)),
        Some((order[1], true))
    );
}

#[test]
fn who_asks_for_what_is_held_gets_what_comes_from_the_registry() {
    let (order, mut swarm, begun) = of_rank(0, LONG_AGO);
    let mut actions = Vec::new();
    swarm.handle(begun, request(&order, 1, true), &mut actions);
    let refused = |number, actions: &[Action]| {
        let refuses = |action: &Action| matches!(action, Action::Refuse { request: RequestId(of), .. } if *of == number);
        actions.iter().any(refuses)
    };
    assert!(refused(1, &actions), "it is not here: {actions:?}");
    assert!(!goes_to_origin(&actions), "nothing is fetched for that");
    swarm.handle(begun, want(1, Class::Prefetch), &mut actions);
    assert!(goes_to_origin(&actions));
    swarm.handle(begun, request(&order, 2, true), &mut actions);
    assert!(!refused(2, &actions), "{actions:?}");
    actions.clear();
    swarm.handle(begun, Event::OriginReceived { piece: piece(1) }, &mut actions);
    let served = |action: &Action| {
        matches!(
            action,
            Action::Serve {
                request: RequestId(2),
                ..
            }
        )
    };
    assert!(actions.iter().any(served), "{actions:?}");
}

/// The story: of five nodes one was slow, and the others waited for it, piece after piece, for those whose tree it begins.
#[test]
fn what_a_slow_first_owes_the_second_gets_from_the_registry() {
    let (order, mut swarm, begun) = of_rank(1, LONG_AGO);
    let mut actions = Vec::new();
    // Pieces of the same tree, of which none comes, and others, which all come.
    let of_tree = |n: u64| 1 + n * u64::from(TreeId::COUNT);
    for n in 0..3 {
        swarm.handle(begun, want(of_tree(n), Class::Prefetch), &mut actions);
    }
    assert!(asks(&actions).iter().all(|ask| ask.0 == order[0]));
    assert_eq!(asks(&actions).len(), 3);
    let hint = Hint::default();
    for (_, request, _) in asks(&actions) {
        swarm.handle(begun, Event::Accepted { request, hint }, &mut actions);
    }
    let mut now = begun;
    for n in 2..40 {
        actions.clear();
        now = now.after(Duration::from_millis(50));
        swarm.handle(now, want(n, Class::Prefetch), &mut actions);
        for (peer, request, _) in asks(&actions) {
            if peer != order[0] {
                swarm.handle(now, Event::Received { request, hint }, &mut actions);
            }
        }
        swarm.handle(now, Event::TimerFired, &mut actions);
    }
    let now = now.after(Duration::from_secs(1));
    swarm.handle(now, Event::TimerFired, &mut actions);
    assert_eq!(swarm.status().late, 1);
    actions.clear();
    swarm.handle(now, want(of_tree(3), Class::Blocking), &mut actions);
    assert!(goes_to_origin(&actions), "the slow one is not asked: {actions:?}");
    assert_eq!(asks(&actions), []);
}

/// The story: the first of a third zone asked only the earliest of all, and when that was silent waited for two seconds.
#[test]
fn the_first_of_a_zone_asks_those_of_all_zones_before_it() {
    let member = |n: u64| Member {
        id: id(n),
        zone: ZoneId(n as u16 % 3),
        leaf: false,
    };
    let view = Arc::new(View::new((0..30).map(member).collect()));
    let tree = view.tree_of(&piece(1));
    let roots: Vec<PeerId> = view.roots(tree).iter().map(|root| root.1).collect();
    let mut swarm = Swarm::new(Config::default(), roots[2], 1);
    let mut actions = Vec::new();
    swarm.handle(Time(0), Event::MembersChanged(view), &mut actions);
    let begun = Time(0).after(LONG_AGO);
    swarm.handle(begun, want(1, Class::Blocking), &mut actions);
    let (first, request, _) = *asks(&actions).last().expect("one is asked");
    assert_eq!(first, roots[0]);
    let reason = Refusal::Unavailable;
    swarm.handle(begun, Event::Refused { request, reason }, &mut actions);
    let asked: Vec<PeerId> = asks(&actions).iter().map(|ask| ask.0).collect();
    assert_eq!(asked, roots[..2]);
}
