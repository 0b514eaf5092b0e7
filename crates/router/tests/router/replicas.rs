use std::time::Duration;

use polymath_router::{Outcome, Reach, Served};
use polymath_types::{ErrorKind, ExpertKind, LoadReport, Message, PathKind, Query, Role};

use crate::scene::*;

#[test]
fn the_replica_seen_to_be_faster_comes_first() {
    let (mut scene, chef, _) = Scene::kitchen();
    for (slow, fast) in [(1, 2), (2, 1)] {
        scene.now += Duration::from_secs(300);
        for _ in 0..3 {
            scene.served(chef, slow, 3400);
            scene.served(chef, fast, 210);
            scene.now += Duration::from_secs(60);
        }
        let d = scene.ask();
        assert_eq!(d.candidates[0].peer, peer(fast), "{}", d.reason);
        assert!(
            d.reason.contains("2 replicas") && d.reason.contains("is faster (TTFT"),
            "{}",
            d.reason
        );
    }
}

#[test]
fn a_slow_replica_is_tried_again_in_time() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.served(chef, 1, 300);
    scene.served(chef, 2, 20_000);
    assert_eq!(scene.ask().candidates[0].peer, peer(1));
    scene.now += Duration::from_secs(24 * 3600);
    scene.served(chef, 1, 300);
    assert_eq!(scene.ask().candidates[0].peer, peer(2));
}

#[test]
fn calls_in_flight_send_the_next_one_elsewhere() {
    let (mut scene, chef, _) = Scene::kitchen();
    let mut taken = [0; 2];
    for _ in 0..10 {
        let first = scene.ask().candidates[0].peer;
        taken[usize::from(first == peer(2))] += 1;
        scene.router.started(scene.now, chef, first);
    }
    assert_eq!(taken, [5, 5]);
    // They end, one way or another; the peers are equal again, and nothing underflows.
    for n in [1, 2] {
        for _ in 0..6 {
            let outcome = Outcome {
                expert: chef,
                peer: peer(n),
                result: Err(ErrorKind::Cancelled),
            };
            scene.router.observe(scene.now, &outcome);
        }
    }
    let d = scene.ask();
    assert_eq!(d.candidates[0].cost, d.candidates[1].cost);
}

#[test]
fn between_equals_this_node_then_less_load_then_the_better_path() {
    let (mut scene, _, _) = Scene::kitchen();
    for n in [1, 2] {
        scene.reach(n, Reach::Here);
        scene.reach(
            3 - n,
            Reach::Connected {
                path: PathKind::Direct,
            },
        );
        let d = scene.ask();
        assert_eq!(d.candidates[0].peer, peer(n));
        assert!(
            d.reason.ends_with("one of them on this node"),
            "{}",
            d.reason
        );
    }
    scene.reach(
        1,
        Reach::Connected {
            path: PathKind::Direct,
        },
    );
    scene.reach(
        2,
        Reach::Connected {
            path: PathKind::Direct,
        },
    );
    for n in [1, 2] {
        let busy = LoadReport {
            queue_depth: 3,
            active: 4,
            free_slots: 0,
            ..LoadReport::default()
        };
        let idle = LoadReport {
            queue_depth: 0,
            active: 0,
            free_slots: 4,
            ..LoadReport::default()
        };
        scene.peers.get_mut(&peer(n)).unwrap().load = Some(idle);
        scene.peers.get_mut(&peer(3 - n)).unwrap().load = Some(busy);
        let d = scene.ask();
        assert_eq!(d.candidates[0].peer, peer(n));
        assert!(d.reason.ends_with("reports less load"), "{}", d.reason);
    }
    for n in [1, 2] {
        scene.reach(
            n,
            Reach::Connected {
                path: PathKind::HolePunched,
            },
        );
        scene.reach(
            3 - n,
            Reach::Connected {
                path: PathKind::Relayed,
            },
        );
        assert_eq!(scene.ask().candidates[0].peer, peer(n));
        scene.reach(3 - n, Reach::Known);
        assert_eq!(scene.ask().candidates[0].peer, peer(n));
    }
}

#[test]
fn a_nearer_peer_is_expected_to_answer_sooner() {
    let (mut scene, _, _) = Scene::kitchen();
    scene.peers.get_mut(&peer(1)).unwrap().rtt = Some(Duration::from_millis(2));
    scene.peers.get_mut(&peer(2)).unwrap().rtt = Some(Duration::from_millis(400));
    assert_eq!(scene.ask().candidates[0].peer, peer(1));
}

#[test]
fn equals_are_drawn_by_lot_and_equal_seeds_draw_alike() {
    let run = |seed| {
        let mut scene = Scene::with(Default::default(), seed);
        scene.host(&generator("chef"), &[1, 2, 3, 4], Some(COOKING));
        (0..40)
            .map(|_| scene.ask().candidates[0].peer)
            .collect::<Vec<_>>()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    for n in 1..=4 {
        assert!(first.contains(&peer(n)), "everyone gets a share");
    }
}

/// A conversation that begins with these words and has gone on for so many turns.
fn turn(begins: &str, turns: usize) -> Query {
    let mut query = query(ExpertKind::Generate);
    query.messages = vec![Message::user(begins)];
    for n in 0..turns {
        let answer = Message {
            role: Role::Assistant,
            content: format!("Answer {n}"),
        };
        query.messages.push(answer);
        query.messages.push(Message::user(&format!("And {n}?")));
    }
    query
}

#[test]
fn a_conversations_later_turns_go_to_one_replica_and_conversations_to_all() {
    let mut scene = Scene::new();
    scene.host(&generator("chef"), &[1, 2, 3, 4], Some(COOKING));
    let mut taken = std::collections::BTreeMap::new();
    for n in 0..100 {
        let begins = format!("Conversation {n}");
        let first = scene.decide(&turn(&begins, 1)).candidates[0].peer;
        for turns in 2..5 {
            let d = scene.decide(&turn(&begins, turns));
            assert_eq!(d.candidates[0].peer, first);
        }
        *taken.entry(first).or_insert(0) += 1;
    }
    assert!(
        taken.len() == 4 && taken.values().all(|n| *n > 10),
        "{taken:?}"
    );
}

#[test]
fn a_conversation_leaves_its_replica_where_that_is_busier_or_slower_than_a_quarter_more() {
    let (mut scene, chef, _) = Scene::kitchen();
    let talk = turn("Once upon a time", 1);
    let home = scene.decide(&talk).candidates[0].peer;
    let (home, other) = if home == peer(1) { (1, 2) } else { (2, 1) };
    // Others' questions go in turns; the conversation comes to its place among equals.
    scene.router.started(scene.now, chef, peer(other));
    assert_eq!(scene.decide(&talk).candidates[0].peer, peer(home));
    scene.router.started(scene.now, chef, peer(home));
    scene.router.started(scene.now, chef, peer(home));
    assert_eq!(scene.decide(&talk).candidates[0].peer, peer(other));
    let (mut scene, chef, _) = Scene::kitchen();
    scene.served(chef, home, 3000);
    scene.served(chef, other, 100);
    let d = scene.decide(&talk);
    assert_eq!(d.candidates[0].peer, peer(other), "{}", d.reason);
}

#[test]
fn absurd_measurements_do_no_harm() {
    let (mut scene, chef, _) = Scene::kitchen();
    let absurd = Served {
        ttft: Duration::MAX,
        tokens: 2,
        decode: Duration::MAX,
    };
    for result in [Ok(absurd), Ok(Served::default()), Ok(absurd)] {
        scene.router.observe(
            Duration::MAX,
            &Outcome {
                expert: chef,
                peer: peer(1),
                result,
            },
        );
    }
    let d = scene.ask();
    assert_eq!(d.candidates[0].peer, peer(2));
    assert!(
        d.candidates
            .iter()
            .all(|c| c.score.is_finite() && c.cost.is_finite())
    );
}
