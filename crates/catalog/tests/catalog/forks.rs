//! An author that signed two different changes with one number is found out, whoever holds which.

use polymath_catalog::{CatalogLimits, Refusal};
use polymath_proto::v1::{SignedChange, sync_frame::Frame};

use crate::driver::{Disk, Mesh, Node, changes, key, offers};

/// The changes of an author that is not there: `first`, then `then`.
fn written(first: &[&str], then: &[&[&str]]) -> Vec<SignedChange> {
    let mut author = Node::open(key(99), CatalogLimits::default(), Disk::new()).0;
    author.connect_to(key(98).peer_id());
    let mut all = changes(&author.offer(first));
    for names in then {
        all.extend(changes(&author.offer(names)));
    }
    all
}

/// A chain of nodes, the first of which was told one thing and all others another.
fn parted(one: Vec<SignedChange>, other: Vec<SignedChange>, nodes: u8) -> Mesh {
    let mut mesh = Mesh::of(nodes);
    // More authors than are compared one by one.
    let many: Vec<SignedChange> = (0..60).map(crate::driver::introduced).collect();
    let feeder = key(97).peer_id();
    for (at, node) in mesh.nodes.iter_mut().enumerate() {
        let told = if at == 0 { &one } else { &other };
        node.connect_to(feeder);
        for changes in [&many, told] {
            node.receive(feeder, offers(changes.clone()));
        }
        node.links.remove(&feeder);
        node.catalog.peer_disconnected(feeder);
    }
    for at in 1..mesh.nodes.len() {
        mesh.connect(at - 1, at);
    }
    mesh.settle();
    for _ in 0..2 * nodes {
        mesh.tick();
        mesh.settle();
    }
    mesh
}

/// All know that the author contradicts itself, and have nothing more to say to each other.
fn assert_found_out(mesh: &mut Mesh) {
    for node in &mesh.nodes {
        let counters = node.catalog.counters();
        assert!(counters.refused(Refusal::Equivocation) > 0, "{}", node.id());
        assert_eq!(counters.refused(Refusal::Signature), 0);
    }
    mesh.tick();
    for packet in &mesh.wire {
        assert!(
            matches!(packet.frame.frame, Some(Frame::Digest(_))),
            "{packet:?}"
        );
    }
    assert!(!mesh.wire.is_empty());
    let carried = mesh.carried;
    mesh.settle();
    assert_eq!(mesh.carried, carried, "nothing is sent again");
}

#[test]
fn two_histories_of_one_length_are_told_apart_and_both_sides_get_the_proof() {
    let mut mesh = parted(written(&["chef"], &[]), written(&["thief"], &[]), 2);
    assert_found_out(&mut mesh);
}

#[test]
fn a_history_that_parts_below_the_end_of_a_longer_one_is_found_too() {
    let long = written(&["chef"], &[&["chef", "coder"], &["coder"], &["poet"]]);
    let short = written(&["chef"], &[&["thief"]]);
    assert_found_out(&mut parted(long.clone(), short.clone(), 2));
    assert_found_out(&mut parted(short, long, 2));
}

#[test]
fn the_proof_goes_on_to_those_who_hold_one_version_only() {
    let mut mesh = parted(written(&["chef"], &[]), written(&["thief"], &[]), 5);
    assert_found_out(&mut mesh);
}

#[test]
fn of_an_epoch_in_which_its_author_contradicts_itself_nothing_more_is_taken_but_the_next_is() {
    let mut author = Node::open(key(99), CatalogLimits::default(), Disk::new()).0;
    author.connect_to(key(98).peer_id());
    let first = changes(&author.offer(&["chef"]));
    let next = changes(&author.offer(&["coder"]));
    let mut mesh = parted(first, written(&["thief"], &[]), 2);
    let feeder = key(97).peer_id();
    mesh.nodes[0].connect_to(feeder);
    mesh.nodes[0].receive(feeder, offers(next));
    let subject = author.id();
    let position = |mesh: &Mesh, node: usize| {
        let offer = mesh.index(node).peers()[&subject].clone();
        (offer.epoch, offer.sequence)
    };
    assert_eq!(position(&mesh, 0), (1, 1));
    // The author meets one that knows: it steps over all of it.
    let mut node = mesh.nodes.remove(0);
    let mut to_node = author.connect_to(node.id());
    let mut to_author = node.connect_to(author.id());
    for _ in 0..10 {
        for (_, frame) in std::mem::take(&mut to_node) {
            let sent = node.receive(author.id(), frame);
            to_author.extend(sent.into_iter().filter(|(to, _)| *to == author.id()));
        }
        for (_, frame) in std::mem::take(&mut to_author) {
            to_node.extend(author.receive(node.id(), frame));
        }
        to_node.retain(|(to, _)| *to == node.id());
    }
    assert!(author.catalog.counters().own_forks > 0);
    assert_eq!(
        node.catalog.index().peers()[&author.id()],
        author.catalog.index().peers()[&author.id()]
    );
    mesh.nodes.insert(0, node);
    mesh.tick();
    mesh.settle();
    assert_eq!(position(&mesh, 1), (2, 1));
    assert_eq!(mesh.index(0).peers(), mesh.index(1).peers());
}
