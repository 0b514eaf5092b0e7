//! What is known after the process, or the disk, was lost.

use polymath_catalog::{CatalogLimits, RecordError, Refusal};

use crate::driver::{Disk, Mesh, Node, introduced, key, offers};

fn settled() -> Mesh {
    let mut mesh = Mesh::of(4);
    mesh.offer(0, &["chef"]);
    mesh.offer(1, &["coder", "poet"]);
    mesh.offer(2, &["chef"]);
    for node in 1..4 {
        mesh.connect(0, node);
    }
    mesh.settle();
    mesh
}

#[test]
fn a_restarted_node_has_its_catalog_before_it_meets_anyone() {
    let mut mesh = settled();
    for node in 0..4 {
        let before = mesh.index(node);
        let recovered = mesh.nodes[node].restart(CatalogLimits::default());
        assert_eq!((recovered.offers, recovered.problems.len()), (3, 0));
        assert_eq!(mesh.index(node), before);
        assert!(!before.is_empty());
    }
}

#[test]
fn a_restarted_author_goes_on_with_the_next_sequence() {
    let mut mesh = settled();
    mesh.isolate(1);
    mesh.nodes[1].restart(CatalogLimits::default());
    assert!(
        mesh.nodes[1].offer(&["coder", "poet"]).is_empty(),
        "the same offer makes no change"
    );
    mesh.offer(1, &["coder"]);
    mesh.connect(1, 3);
    mesh.connect(0, 3);
    mesh.settle();
    let author = mesh.nodes[1].id();
    let offer = mesh.index(0).peers()[&author].clone();
    assert_eq!(
        (offer.epoch, offer.sequence, offer.experts.len()),
        (1, 2, 1)
    );
    for node in &mesh.nodes {
        assert_eq!(node.catalog.counters().refused(Refusal::Equivocation), 0);
        assert_eq!(node.catalog.counters().own_forks, 0);
    }
}

#[test]
fn a_damaged_record_costs_nothing_but_itself() {
    let mesh = settled();
    let whole = &mesh.nodes[3].disk;
    assert_eq!(whole.len(), 6);
    for name in whole.keys() {
        let bytes = &whole[name];
        let cuts = (0..bytes.len()).step_by(7).map(|n| bytes[..n].to_vec());
        let flips = (0..bytes.len()).step_by(5).map(|at| {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            altered
        });
        for damaged in cuts.chain(flips) {
            let mut disk = whole.clone();
            disk.insert(name.clone(), damaged);
            let (node, recovered) = Node::open(key(4), CatalogLimits::default(), disk);
            assert_eq!(recovered.problems.len(), 1);
            assert_eq!(&recovered.problems[0].0, name);
            assert_eq!(recovered.offers + recovered.cards, 5);
            assert_eq!(node.catalog.index().peers().len(), recovered.offers);
        }
    }
}

#[test]
fn what_was_damaged_comes_back_from_peers() {
    let mut mesh = settled();
    let before = mesh.index(3);
    mesh.isolate(3);
    for bytes in mesh.nodes[3].disk.values_mut() {
        bytes.truncate(bytes.len() / 2);
    }
    let recovered = mesh.nodes[3].restart(CatalogLimits::default());
    assert_eq!(recovered.problems.len(), 6);
    assert!(
        recovered
            .problems
            .iter()
            .all(|(_, e)| matches!(e, RecordError::Damaged(_)))
    );
    mesh.connect(3, 0);
    mesh.settle();
    assert_eq!(mesh.index(3), before);
}

#[test]
fn records_under_wrong_names_or_of_another_mesh_are_left_alone() {
    let mesh = settled();
    let whole = &mesh.nodes[3].disk;
    let offers: Vec<&String> = whole.keys().filter(|n| n.starts_with("offer-")).collect();
    let swapped = Disk::from([
        (offers[0].clone(), whole[offers[1]].clone()),
        ("offer-nobody".into(), whole[offers[0]].clone()),
        ("lost+found".into(), Vec::new()),
    ]);
    let (node, recovered) = Node::open(key(4), CatalogLimits::default(), swapped);
    assert_eq!((recovered.offers, recovered.problems.len()), (0, 3));
    assert!(node.catalog.index().is_empty());

    let config = polymath_catalog::CatalogConfig {
        unix: 0,
        key: key(4),
        mesh: polymath_types::MeshId::from_bytes([9; 32]),
        founders: Vec::new(),
        observations: true,
        limits: CatalogLimits::default(),
    };
    let (_, recovered) = polymath_catalog::Catalog::open(config, whole.clone());
    assert_eq!(recovered.offers, 0);
    assert_eq!(
        recovered
            .problems
            .iter()
            .filter(|(_, e)| *e == RecordError::Mesh)
            .count(),
        3
    );
}

#[test]
fn an_author_that_lost_its_disk_is_heard_again_under_a_new_epoch() {
    let mut mesh = settled();
    mesh.offer(1, &["coder"]);
    mesh.offer(1, &["coder", "poet"]);
    mesh.settle();
    mesh.isolate(1);
    // Empty disk; it makes an offer before it meets anyone, under a sequence it used before.
    mesh.nodes[1].disk.clear();
    mesh.nodes[1].restart(CatalogLimits::default());
    mesh.offer(1, &["judge"]);
    mesh.connect(1, 3);
    mesh.connect(0, 3);
    mesh.settle();
    let author = mesh.nodes[1].id();
    for node in 0..4 {
        assert!(
            mesh.nodes[node].expert_names().contains("judge"),
            "node {node}"
        );
        assert_eq!(mesh.index(node).peers()[&author].epoch, 2);
        assert_eq!(mesh.index(node), mesh.index(0));
    }
    // And it goes on from there.
    mesh.offer(1, &["baker"]);
    mesh.settle();
    assert!(mesh.nodes[2].expert_names().contains("baker"));
}

#[test]
fn the_own_offer_comes_back_whatever_else_the_disk_holds() {
    let limits = CatalogLimits {
        authors: 3,
        ..CatalogLimits::default()
    };
    // Whichever name the folder lists first.
    for own in 10..18 {
        let mut node = Node::open(key(own), limits.clone(), Disk::new()).0;
        let feeder = key(99).peer_id();
        node.connect_to(feeder);
        node.receive(feeder, offers((0..3).map(introduced).collect()));
        node.offer(&["chef"]);
        node.restart(limits.clone());
        let me = node.id();
        assert!(node.catalog.index().peers().contains_key(&me), "key {own}");
    }
}

#[test]
fn equal_counts_do_not_hide_a_lost_disk() {
    // One change before, one change after: the digests are equal, the documents are not.
    let mut mesh = settled();
    mesh.isolate(1);
    mesh.nodes[1].disk.clear();
    mesh.nodes[1].restart(CatalogLimits::default());
    mesh.offer(1, &["judge"]);
    mesh.connect(1, 0);
    mesh.settle();
    assert!(mesh.nodes[0].expert_names().contains("judge"));
    assert!(mesh.nodes[1].catalog.counters().own_forks > 0);
}

#[test]
fn an_author_that_lost_its_disk_and_first_listens_steps_over_its_past() {
    let mut mesh = settled();
    mesh.isolate(1);
    mesh.nodes[1].disk.clear();
    mesh.nodes[1].restart(CatalogLimits::default());
    mesh.connect(1, 0);
    mesh.settle();
    mesh.offer(1, &["judge"]);
    mesh.settle();
    let author = mesh.nodes[1].id();
    for node in 0..3 {
        assert!(mesh.nodes[node].expert_names().contains("judge"));
        assert_eq!(mesh.index(node).peers()[&author].epoch, 2);
        assert_eq!(
            mesh.nodes[node]
                .catalog
                .counters()
                .refused(Refusal::Equivocation),
            0
        );
    }
}

#[test]
fn a_restored_backup_steps_over_what_it_forgot() {
    let mut mesh = settled();
    let backup = mesh.nodes[1].disk.clone();
    mesh.offer(1, &["coder"]);
    mesh.settle();
    mesh.isolate(1);
    mesh.nodes[1].disk = backup;
    mesh.nodes[1].restart(CatalogLimits::default());
    mesh.offer(1, &["judge", "poet"]);
    mesh.connect(1, 0);
    mesh.settle();
    assert_eq!(mesh.index(1), mesh.index(0));
    assert!(mesh.nodes[0].expert_names().contains("judge"));
}

#[test]
fn two_nodes_with_one_key_do_not_drive_each_other_on() {
    let mut mesh = Mesh::of(2);
    mesh.nodes.push(Node::fresh(3));
    mesh.offer(0, &["chef"]);
    mesh.connect(0, 1);
    mesh.settle();
    // The twin is told apart by its place only, so it is driven by hand.
    let mut twin = Node::fresh(1);
    twin.offer(&["thief"]);
    let hub = mesh.nodes[1].id();
    let mut to_hub = twin.connect_to(hub);
    for _ in 0..100 {
        let answers: Vec<_> = std::mem::take(&mut to_hub)
            .into_iter()
            .flat_map(|(_, frame)| mesh.nodes[1].receive(twin.id(), frame))
            .collect();
        // The hub's one stream with this peer id reaches both.
        for (_, frame) in answers {
            to_hub.extend(twin.receive(hub, frame.clone()));
            let sent = mesh.nodes[0].receive(hub, frame);
            to_hub.extend(sent);
        }
        if to_hub.is_empty() {
            break;
        }
    }
    assert!(
        to_hub.is_empty(),
        "each step over the other's epoch called for the next"
    );
    for node in [&twin, &mesh.nodes[0]] {
        let epoch = node.catalog.index().peers()[&twin.id()].epoch;
        assert!(epoch <= 4, "epoch {epoch}");
    }
}

#[test]
fn what_cannot_be_replayed_here_is_fetched_anew_and_not_its_authors_fault() {
    let scene = crate::scene::scene();
    let mut node = scene.attack(vec![scene.first.clone()]);
    let author = scene.hostile.peer_id();
    let name = format!("offer-{author}");
    // A change that was altered and a checksum that is right: a fault of this machine.
    let record = node.disk.get_mut(&name).unwrap();
    let change = &scene.first.change;
    let at = record
        .windows(change.len())
        .position(|w| w == change.as_ref());
    record[at.unwrap() + change.len() / 2] ^= 1;
    let sum = *blake3::hash(&record[40..]).as_bytes();
    record[8..40].copy_from_slice(&sum);
    let recovered = node.restart(CatalogLimits::default());
    assert!(recovered.problems.is_empty());
    for _ in 0..20 {
        node.connect_to(author);
        node.receive(author, offers(vec![scene.second.clone()]));
    }
    assert_eq!(node.catalog.counters().refused(Refusal::Replay), 1);
    assert!(!node.catalog.index().peers().contains_key(&author));
    node.receive(
        author,
        offers(vec![scene.first.clone(), scene.second.clone()]),
    );
    assert_eq!(node.catalog.index().peers()[&author].sequence, 2);
}

#[test]
fn a_store_that_was_lost_can_be_written_anew_from_what_is_known() {
    let mesh = settled();
    for node in &mesh.nodes {
        let records: Disk = node.catalog.records().collect();
        assert_eq!(records, node.disk);
    }
}
