use std::time::Duration;

use polymath_router::{HedgeCounts, Outcome};
use polymath_types::{ErrorKind, ExpertId};

use crate::scene::*;

const SECOND: Duration = Duration::from_secs(1);

/// Calls that took 1 to `count` times 10 ms, all to one replica.
fn measured(scene: &mut Scene, expert: ExpertId, n: u8, count: u64) {
    for ms in 1..=count {
        scene.served(expert, n, ms * 10);
    }
}

/// A call to `slow` is overdue: is it doubled?
fn hedged(scene: &mut Scene, expert: ExpertId, slow: u8, other: u8) -> bool {
    let made = scene
        .router
        .may_hedge(scene.now, expert, peer(slow), peer(other));
    if made {
        scene.router.started(scene.now, expert, peer(other));
    }
    made
}

fn cancelled(scene: &mut Scene, expert: ExpertId, n: u8) {
    scene.router.observe(
        scene.now,
        &Outcome {
            expert,
            peer: peer(n),
            result: Err(ErrorKind::Cancelled),
        },
    );
}

#[test]
fn a_second_call_is_due_after_the_p95_of_own_calls_to_that_expert() {
    let (mut scene, chef, coder) = Scene::kitchen();
    measured(&mut scene, chef, 1, 19);
    assert_eq!(scene.router.hedge_after(scene.now, chef), None, "too few");
    scene.served(chef, 2, 200);
    let after = scene.router.hedge_after(scene.now, chef).unwrap();
    assert!(after.abs_diff(Duration::from_millis(190)) < Duration::from_micros(1));
    assert_eq!(scene.router.hedge_after(scene.now, coder), None);
    // Later times take the place of the earliest.
    for _ in 0..128 {
        scene.served(chef, 2, 1000);
    }
    assert_eq!(scene.router.hedge_after(scene.now, chef), Some(SECOND));
    // What was measured long ago says nothing of now.
    scene.now += 3600 * SECOND;
    assert_eq!(scene.router.hedge_after(scene.now, chef), None);
}

#[test]
fn what_is_quick_anyway_is_not_doubled_within_the_machines_own_noise() {
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..30 {
        scene.served(chef, 1, 1);
    }
    let after = scene.router.hedge_after(scene.now, chef);
    assert_eq!(after, Some(Duration::from_millis(20)));
}

#[test]
fn one_call_in_twenty_is_doubled_at_most_and_few_at_once() {
    let (mut scene, chef, _) = Scene::kitchen();
    let calls = 10_000;
    let mut made = 0;
    for _ in 0..calls {
        scene.served(chef, 2, 100);
        scene.router.started(scene.now, chef, peer(1));
        if hedged(&mut scene, chef, 1, 2) {
            made += 1;
            scene.router.outrun(scene.now, chef, peer(1), SECOND / 10);
            cancelled(&mut scene, chef, 2);
        }
        cancelled(&mut scene, chef, 1);
    }
    // Two calls a round.
    assert!(
        (2 * calls / 20 - 1..=2 * calls / 20 + 4).contains(&made),
        "{made}"
    );
    // After a long time without any, a few at once.
    for _ in 0..1000 {
        scene.served(chef, 2, 100);
    }
    let burst = (0..100).filter(|_| hedged(&mut scene, chef, 1, 2)).count();
    assert_eq!(burst, 4);
    let counts = scene.router.hedges();
    assert_eq!(counts.made, made + 4);
    assert_eq!(counts.won, made);
    assert!(counts.over_budget > 0);
}

#[test]
fn where_all_replicas_are_slow_none_is_doubled() {
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..100 {
        scene.served(chef, 1, 100);
        scene.served(chef, 2, 100);
    }
    assert!(
        hedged(&mut scene, chef, 1, 2),
        "nothing is known of the other"
    );
    for _ in 0..50 {
        assert!(!hedged(&mut scene, chef, 2, 1));
        assert!(!hedged(&mut scene, chef, 1, 2));
    }
    assert_eq!(
        scene.router.hedges(),
        HedgeCounts {
            made: 1,
            won: 0,
            over_budget: 0,
            pointless: 100
        }
    );
    // An answer of the other shows that it is well; that the first one is not stays.
    scene.served(chef, 2, 100);
    assert!(hedged(&mut scene, chef, 1, 2));
}

#[test]
fn neither_a_replica_known_to_be_slow_nor_one_left_alone_gets_a_second_call() {
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..100 {
        scene.served(chef, 1, 100);
    }
    scene.served(chef, 2, 1000);
    assert!(!hedged(&mut scene, chef, 1, 2));
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..100 {
        scene.served(chef, 1, 100);
    }
    scene.failed(chef, 2, ErrorKind::Unavailable);
    assert!(!hedged(&mut scene, chef, 1, 2));
}

#[test]
fn a_replica_that_was_outrun_is_expected_to_be_slow() {
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..30 {
        scene.served(chef, 1, 100);
        scene.served(chef, 2, 100);
    }
    scene.router.started(scene.now, chef, peer(1));
    assert!(hedged(&mut scene, chef, 1, 2));
    scene.router.outrun(scene.now, chef, peer(1), 3 * SECOND);
    cancelled(&mut scene, chef, 1);
    scene.served(chef, 2, 100);
    cancelled(&mut scene, chef, 2);
    let d = scene.ask();
    assert_eq!(d.candidates[0].peer, peer(2));
    assert!(d.candidates[1].cost > 3.0);
    // What it was waited for counts among the times, or the p95 would sink by hedging.
    for _ in 0..6 {
        scene.router.outrun(scene.now, chef, peer(1), 3 * SECOND);
    }
    let after = scene.router.hedge_after(scene.now, chef);
    assert_eq!(after, Some(3 * SECOND));
}
