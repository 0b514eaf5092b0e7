//! Who is suspended, by whom, and for how long.

use std::time::Duration;

use polymath_catalog::live::Standing::{Alive, Leaving, Suspended};
use polymath_types::LoadReport;

use crate::scene::Scene;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn everybody_hears_of_everybody_and_of_a_load_that_changes() {
    let mut scene = Scene::new(60);
    scene.run(SECOND * 2);
    for of in 0..60 {
        assert_eq!(scene.agreed(of), Some(Alive), "{of}");
    }
    scene.nodes[7].load = LoadReport {
        queue_depth: 9,
        active: 4,
        service_ms: 120,
        resident_experts: 2,
        ..LoadReport::default()
    };
    // Twice, as one status may miss some.
    scene.run(SECOND * 75);
    let (seventh, load) = (scene.nodes[7].id, scene.nodes[7].load);
    let know = scene
        .nodes
        .iter()
        .filter(|n| n.views.get(&seventh).is_some_and(|v| v.load == load));
    assert!(know.count() >= 58, "but for what chance left out");
}

#[test]
fn a_dead_peer_is_suspended_everywhere_as_soon_as_two_have_lost_it() {
    let mut scene = Scene::new(60);
    scene.down.insert(3);
    scene.lose(0, 3);
    scene.run(SECOND * 3);
    assert_eq!(scene.agreed(3), Some(Alive), "one witness is not enough");
    scene.lose(1, 3);
    scene.run(SECOND * 3);
    assert_eq!(scene.agreed(3), Some(Suspended));
    scene.run(Duration::from_secs(601));
    assert_eq!(
        scene.agreed(3),
        Some(Alive),
        "a suspicion runs out; the status has too"
    );
    let (third, now) = (scene.nodes[3].id, scene.now);
    assert!(scene.nodes[9].views[&third].fresh_until < now);
}

#[test]
fn whoever_lives_refutes_at_once_and_false_witnesses_lose_their_voice() {
    let mut scene = Scene::new(20);
    let mut suspended = 0;
    for _ in 0..20 {
        scene.lose(0, 3);
        scene.lose(1, 3);
        scene.run(SECOND / 2);
        suspended += u32::from(scene.standing(9, 3) == Some(Suspended));
        scene.run(SECOND * 3);
        assert_eq!(scene.agreed(3), Some(Alive));
        scene.connect(0, 3);
        scene.connect(1, 3);
        scene.run(SECOND / 2);
    }
    assert!(suspended <= 4, "{suspended}");
    assert_eq!(scene.standing(9, 3), Some(Alive));
}

#[test]
fn a_peer_that_comes_back_is_asked_again_and_its_witnesses_were_right() {
    let mut scene = Scene::new(12);
    for run in 0..8 {
        scene.down.insert(3);
        scene.lose(0, 3);
        scene.lose(1, 3);
        scene.run(SECOND * 3);
        assert_eq!(scene.agreed(3), Some(Suspended), "{run}");
        scene.restart(3, 100 + run);
        scene.run(SECOND * 3);
        assert_eq!(scene.agreed(3), Some(Alive), "{run}");
    }
}

#[test]
fn whoever_leaves_is_gone_at_once_and_comes_back_with_its_next_run() {
    let mut scene = Scene::new(30);
    let now = scene.now;
    let actions = scene.nodes[4].live.leave(now);
    scene.obey(4, actions);
    scene.step();
    assert_eq!(scene.agreed(4), Some(Leaving));
    scene.down.insert(4);
    scene.lose(0, 4);
    scene.lose(1, 4);
    scene.run(SECOND * 3);
    assert_eq!(scene.agreed(4), Some(Leaving));
    assert_eq!(
        scene.nodes[0].live.counters().suspected,
        0,
        "it has said so itself"
    );
    scene.restart(4, 99);
    scene.run(SECOND * 3);
    assert_eq!(scene.agreed(4), Some(Alive));
}

#[test]
fn whoever_loses_most_of_its_peers_accuses_nobody() {
    let mut scene = Scene::new(10);
    for other in 1..10 {
        scene.lose(0, other);
    }
    let suspected = scene.nodes[0].live.counters().suspected;
    assert!(suspected <= 5, "{suspected}");
    for other in 1..10 {
        scene.connect(0, other);
    }
    scene.run(SECOND * 3);
    for of in 1..10 {
        assert_eq!(scene.agreed(of), Some(Alive));
    }
}

#[test]
fn a_status_that_was_on_its_way_when_its_author_was_lost_makes_a_witness_look_again() {
    let mut scene = Scene::new(5);
    scene.lose(0, 3);
    scene.run(SECOND * 2);
    let third = scene.nodes[3].id;
    let probes = scene.nodes[0].probes.clone();
    assert!(
        !probes.is_empty() && probes.iter().all(|p| *p == third),
        "it has refuted"
    );
    scene.run(SECOND);
    let probes = scene.nodes[0].probes.len();
    scene.run(SECOND * 30);
    assert_eq!(
        scene.nodes[0].probes.len(),
        probes,
        "what came later shows that it lives"
    );
}

#[test]
fn an_idle_mesh_sends_little_whatever_its_size() {
    let mut rates = Vec::new();
    for nodes in [10, 60, 120] {
        let mut scene = Scene::new(nodes);
        // Past the first statuses, which say that they are good for twenty seconds.
        scene.run(SECOND * 30);
        let before = scene.bytes;
        scene.run(SECOND * 240);
        rates.push((scene.bytes - before) / 240 / nodes as u64);
    }
    // What is received is as much again: together what is reckoned, with statuses that say little.
    // In larger meshes an allowance holds it, which gives its burst once.
    assert!(rates[..2].iter().all(|r| *r <= 1100), "{rates:?}");
    assert!(rates[2] <= 1300, "{rates:?}");
    assert!(rates[1..].iter().all(|r| *r >= 600), "{rates:?}");
    println!("bytes a second sent by each of 10, 60 and 120 idle nodes: {rates:?}");
}

#[test]
fn behind_a_relay_one_status_a_minute_is_sent() {
    let mut scene = Scene::new(3);
    let now = scene.now;
    for (a, b) in [(0, 1), (0, 2)] {
        let peer = scene.nodes[b].id;
        // A stream of its own follows a change of path; its first frame may be lost as any other.
        let _ = scene.nodes[a].live.peer_connected(now, peer, true);
    }
    let before = scene.nodes[0].live.counters().sent_relayed;
    scene.run(SECOND * 600);
    assert!(scene.now > now);
    let sent = scene.nodes[0].live.counters().sent_relayed - before;
    println!("bytes a minute on one circuit, one way: {}", sent / 2 / 10);
    assert!(sent / 2 / 10 <= 256, "{sent}");
}

#[test]
fn a_hundred_thousand_heartbeats_leave_nothing() {
    let mut scene = Scene::new(2);
    let keys: Vec<_> = (0..100)
        .map(|_| polymath_types::NodeKey::generate())
        .collect();
    let from = scene.nodes[1].id;
    let mut now = scene.now;
    let mut sizes = Vec::new();
    let mut refused = 0;
    for sequence in 1..=1000 {
        // As fast as one peer may bring them.
        now += SECOND * 2;
        let frame = crate::scene::frame(keys.iter().map(|k| crate::scene::status(k, 1, sequence)));
        let live = &mut scene.nodes[0].live;
        let _ = live.receive(now, from, frame).unwrap();
        let _ = live.tick(now, LoadReport::default());
        refused = live
            .counters()
            .refused(polymath_catalog::live::LiveRefusal::Rate);
        sizes.push((live.authors(), live.waiting()));
    }
    let taken = scene.nodes[0].live.counters().statuses;
    assert!(taken + refused >= 100_000, "{taken} and {refused}");
    assert!(taken > 99_000, "{taken}");
    assert_eq!(
        sizes[0].0, sizes[999].0,
        "as many entries as there are authors"
    );
    assert!(sizes[999].1 <= sizes[0].1.max(101), "{:?}", sizes[999]);
}
