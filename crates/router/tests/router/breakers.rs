use std::time::Duration;

use polymath_router::{Decision, Reason};
use polymath_types::{ErrorKind, PeerId};

use crate::scene::*;

fn shut(d: &Decision, peer: PeerId) -> bool {
    let listed = d
        .excluded
        .iter()
        .any(|e| e.peer == Some(peer) && e.reason == Reason::BreakerOpen);
    assert_ne!(listed, d.candidates.iter().any(|c| c.peer == peer));
    listed
}

#[test]
fn after_a_failure_the_next_replica_is_first() {
    for failing in [1, 2] {
        let (mut scene, chef, _) = Scene::kitchen();
        scene.failed(chef, failing, ErrorKind::Unavailable);
        let d = scene.ask();
        assert_eq!(d.candidates[0].peer, peer(3 - failing));
        assert_eq!(d.candidates[0].name, "chef");
        assert!(shut(&d, peer(failing)));
        let listed = d
            .excluded
            .iter()
            .find(|e| e.reason == Reason::BreakerOpen)
            .unwrap();
        assert_eq!(
            listed.detail,
            "failed lately (unavailable), next try in 1.0 s"
        );
    }
}

#[test]
fn one_probe_passes_and_its_success_closes() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.failed(chef, 1, ErrorKind::Internal);
    scene.now += Duration::from_millis(999);
    assert!(shut(&scene.ask(), peer(1)));
    scene.now += Duration::from_millis(1);
    assert!(!shut(&scene.ask(), peer(1)));
    scene.router.started(scene.now, chef, peer(1));
    assert!(shut(&scene.ask(), peer(1)), "a probe is under way");
    scene.served(chef, 1, 100);
    assert!(!shut(&scene.ask(), peer(1)));
    scene.router.started(scene.now, chef, peer(1));
    assert!(!shut(&scene.ask(), peer(1)), "closed lets any number pass");
}

#[test]
fn others_follow_a_probe_that_has_begun_to_answer_and_its_failure_shuts_for_twice_as_long() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.failed(chef, 1, ErrorKind::Unavailable);
    // What was on its way before it failed says nothing.
    scene.router.spoke(scene.now, chef, peer(1));
    scene.now += Duration::from_secs(1);
    scene.router.started(scene.now, chef, peer(1));
    assert!(shut(&scene.ask(), peer(1)), "a probe is under way");
    scene.router.spoke(scene.now, chef, peer(1));
    assert!(!shut(&scene.ask(), peer(1)), "it answers");
    scene.router.started(scene.now, chef, peer(1));
    assert!(!shut(&scene.ask(), peer(1)), "and so may others");
    scene.failed(chef, 1, ErrorKind::Unavailable);
    scene.now += Duration::from_millis(1999);
    assert!(shut(&scene.ask(), peer(1)));
    scene.now += Duration::from_millis(1);
    assert!(!shut(&scene.ask(), peer(1)));
    scene.router.started(scene.now, chef, peer(1));
    assert!(
        shut(&scene.ask(), peer(1)),
        "the next probe has to speak first"
    );
}

#[test]
fn a_probe_that_is_never_reported_does_not_shut_for_ever() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.failed(chef, 1, ErrorKind::Internal);
    scene.now += Duration::from_secs(2);
    scene.router.started(scene.now, chef, peer(1));
    assert!(shut(&scene.ask(), peer(1)));
    scene.now += Duration::from_secs(61);
    assert!(!shut(&scene.ask(), peer(1)));
}

#[test]
fn failed_probes_double_the_wait_up_to_a_minute() {
    let (mut scene, chef, _) = Scene::kitchen();
    for wait in [1u64, 2, 4, 8, 16, 32, 60, 60, 60] {
        scene.failed(chef, 1, ErrorKind::Internal);
        scene.now += Duration::from_millis(wait * 1000 - 1);
        assert!(shut(&scene.ask(), peer(1)), "{wait}");
        scene.now += Duration::from_millis(1);
        assert!(!shut(&scene.ask(), peer(1)), "{wait}");
    }
    scene.served(chef, 1, 100);
    scene.failed(chef, 1, ErrorKind::Internal);
    scene.now += Duration::from_secs(1);
    assert!(!shut(&scene.ask(), peer(1)), "success forgives");
}

#[test]
fn calls_that_fail_together_count_once() {
    let (mut scene, chef, _) = Scene::kitchen();
    for _ in 0..300 {
        scene.failed(chef, 1, ErrorKind::Unavailable);
    }
    scene.now += Duration::from_secs(1);
    assert!(!shut(&scene.ask(), peer(1)));
}

#[test]
fn a_peer_that_fails_for_one_expert_after_another_is_left_alone_whole() {
    let mut scene = Scene::new();
    let a = scene.host(&generator("a"), &[1, 2], Some(COOKING));
    let b = scene.host(&generator("b"), &[1, 2], Some(COOKING));
    scene.host(&generator("c"), &[1, 2], Some(COOKING));
    let open_for_c = |d: &Decision| {
        d.candidates
            .iter()
            .any(|c| c.name == "c" && c.peer == peer(1))
    };
    scene.failed(a, 1, ErrorKind::Unavailable);
    assert!(open_for_c(&scene.ask()));
    scene.failed(b, 1, ErrorKind::Unavailable);
    assert!(!open_for_c(&scene.ask()));
    // An expert's own fault says nothing of its peer.
    scene.failed(a, 2, ErrorKind::DataLoss);
    scene.failed(b, 2, ErrorKind::Internal);
    let d = scene.ask();
    assert!(
        d.candidates
            .iter()
            .all(|c| c.name == "c" && c.peer == peer(2)),
        "{:?}",
        order(&d)
    );
}

#[test]
fn one_timeout_is_forgiven_two_are_not_and_the_callers_faults_never_count() {
    let (mut scene, chef, _) = Scene::kitchen();
    for kind in [
        ErrorKind::InvalidInput,
        ErrorKind::Cancelled,
        ErrorKind::ContextOverflow,
        ErrorKind::Config,
        // A full queue is load, not a fault.
        ErrorKind::ResourceExhausted,
        ErrorKind::DeadlineExceeded,
    ] {
        scene.failed(chef, 1, kind);
        assert!(!shut(&scene.ask(), peer(1)), "{kind:?}");
    }
    scene.failed(chef, 1, ErrorKind::DeadlineExceeded);
    assert!(shut(&scene.ask(), peer(1)));
}
