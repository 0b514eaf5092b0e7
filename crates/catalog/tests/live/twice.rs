//! One identity that runs twice, and homes that forgot.

use std::time::Duration;

use polymath_catalog::live::{LiveAction, LiveConfig, Standing};
use polymath_types::{LoadReport, NodeKey};

use crate::scene::{Scene, config, frame, status};

const SECOND: Duration = Duration::from_secs(1);

/// Five nodes, of which the first and the second have one key, started at these times.
fn twins(started: [u64; 2], incarnations: [u64; 2]) -> Scene {
    let key = NodeKey::generate();
    let twin = |n: usize| LiveConfig {
        started: started[n],
        incarnation: incarnations[n],
        ..config(&key, n as u64 + 1)
    };
    let others = (3..6).map(|n| config(&NodeKey::generate(), n));
    Scene::of([twin(0), twin(1)].into_iter().chain(others))
}

#[test]
fn of_two_runs_of_one_identity_the_later_stops_and_the_earlier_goes_on() {
    for incarnations in [[1, 1], [1, 9], [9, 1], [u64::MAX, 0]] {
        for (started, later) in [([100, 200], 1), ([200, 100], 0), ([100, 100], 1)] {
            let mut scene = twins(started, incarnations);
            for _ in 0..120 {
                if scene.nodes[later].ended {
                    scene.down.insert(later);
                }
                scene.step();
            }
            assert!(scene.nodes[later].ended, "{started:?} {incarnations:?}");
            assert!(
                !scene.nodes[1 - later].ended,
                "{started:?} {incarnations:?}"
            );
            scene.run(SECOND * 10);
            for other in 2..5 {
                let twin = scene.nodes[0].id;
                assert_eq!(scene.nodes[other].views[&twin].standing, Standing::Alive);
            }
        }
    }
}

#[test]
fn whoever_has_forgotten_its_incarnation_steps_over_what_others_hold_and_goes_on() {
    let mut scene = Scene::new(5);
    scene.run(SECOND * 10);
    scene.down.insert(2);
    scene.lose(0, 2);
    scene.lose(1, 2);
    scene.run(SECOND * 3);
    assert_eq!(scene.agreed(2), Some(Standing::Suspended));
    scene.restart_at(2, 77, 0);
    scene.run(SECOND * 5);
    assert_eq!(scene.agreed(2), Some(Standing::Alive));
    assert!(!scene.nodes[2].ended);
    assert_eq!(scene.nodes[2].incarnations.last(), Some(&2), "to be stored");
}

#[test]
fn old_statuses_of_ones_own_stop_nobody() {
    let key = NodeKey::generate();
    let mut live = polymath_catalog::live::Live::new(config(&key, 50));
    let peer = NodeKey::generate().peer_id();
    let mut now = SECOND;
    let _ = live.peer_connected(now, peer, false);
    // A hostile peer has kept what earlier runs of a home said that was put back since.
    for incarnation in 2..20 {
        now += SECOND * 2;
        let heard = live
            .receive(now, peer, frame([status(&key, incarnation, 3)]))
            .unwrap();
        assert!(!heard.contains(&LiveAction::RunsTwice));
        let said = live.tick(now, LoadReport::default());
        assert!(
            said.iter().any(|a| matches!(a, LiveAction::Send { .. })),
            "it answers"
        );
    }
}

#[test]
fn the_incarnation_is_stored_before_it_is_told() {
    let key = NodeKey::generate();
    let mut live = polymath_catalog::live::Live::new(config(&key, 50));
    let peer = NodeKey::generate().peer_id();
    let _ = live.peer_connected(SECOND, peer, false);
    let heard = live
        .receive(SECOND, peer, frame([status(&key, 8, 3)]))
        .unwrap();
    assert_eq!(heard, [LiveAction::Incarnation(9)]);
}
