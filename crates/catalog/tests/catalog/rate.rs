//! An author that changes its offer without end costs others little, and loses nothing by it.

use polymath_catalog::{CatalogLimits, Refusal};

use crate::driver::{Disk, Mesh, Node, changes, key, offers};

#[test]
fn epochs_without_end_are_taken_at_a_bounded_rate_and_the_last_one_arrives() {
    let limits = CatalogLimits {
        roll_after: 1,
        ..CatalogLimits::default()
    };
    let mut mesh = Mesh::of(3);
    mesh.nodes[0] = Node::open(key(1), limits, Disk::new()).0;
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.settle();
    for round in 0..200 {
        mesh.offer(0, if round % 2 == 0 { &["a"] } else { &["b"] });
        mesh.settle();
    }
    let counters = mesh.nodes[1].catalog.counters();
    assert!(counters.changes <= 32, "{} were written", counters.changes);
    assert_eq!(counters.refused(Refusal::Rate), 200 - counters.changes);
    // No one is cut off for it, and nothing is lost.
    for _ in 0..6 {
        mesh.tick();
        mesh.settle();
    }
    for node in 1..3 {
        assert_eq!(mesh.index(node), mesh.index(0), "node {node}");
    }
}

#[test]
fn however_many_changes_a_frame_holds_an_author_has_few_of_them_applied_a_tick() {
    let limits = CatalogLimits {
        roll_after: 120,
        ..CatalogLimits::default()
    };
    let mut author = Node::open(key(1), limits, Disk::new()).0;
    let mut node = Node::fresh(2);
    let feeder = key(97).peer_id();
    author.connect_to(feeder);
    node.connect_to(feeder);
    let mut taken = Vec::new();
    for round in 0..16 {
        let mut all = Vec::new();
        for turn in 0..40 {
            let names: &[&str] = if turn % 2 == 0 { &["a"] } else { &["b"] };
            all.extend(changes(&author.offer(names)));
        }
        // One record is written for all of them.
        node.receive(feeder, offers(all));
        taken.push(node.catalog.counters().changes);
        if round >= 8 {
            let actions = node.catalog.tick();
            node.perform(actions);
        }
    }
    assert_eq!(taken[5], 240, "a document and more come at once");
    assert!(taken[7] <= 256 && taken[15] <= 256 + 8 * 8, "{taken:?}");
    assert!(node.catalog.counters().refused(Refusal::Rate) > 0);
}

#[test]
fn a_long_history_that_arrives_at_once_is_one_write() {
    let mut mesh = Mesh::of(2);
    for round in 0..60 {
        mesh.offer(0, if round % 2 == 0 { &["a"] } else { &["b"] });
    }
    mesh.connect(0, 1);
    mesh.settle();
    assert_eq!(mesh.index(1), mesh.index(0));
    assert_eq!(mesh.nodes[1].catalog.counters().changes, 60);
}
