//! A few bytes that stand for much: run lengths, numbers of leaves, names of cards.

use automerge::{
    ActorId, Automerge, ObjType, ROOT, ReadDoc as _, ScalarValue,
    transaction::{CommitOptions, Transactable as _},
};
use polymath_catalog::{CatalogLimits, Refusal};
use polymath_proto::v1::{Heads, SignedChange, sync_frame::Frame};

use crate::{
    driver::{Disk, MESH, Mesh, Node, frame, introduced, key, offers, stranger},
    scene::{actor, signed, valid_root},
};

/// Changes of a thousand operations each, in some hundred bytes.
fn bombs(changes: u64) -> Vec<SignedChange> {
    let key = stranger(7);
    let mut document = Automerge::new().with_actor(ActorId::from(actor(&key.peer_id(), 1)));
    let one = |sequence: u64| {
        let mut tx = document.transaction();
        if sequence == 1 {
            valid_root(&mut tx);
        }
        for _ in 0..1000 {
            tx.put_object(ROOT, "zz", ObjType::Map).unwrap();
        }
        tx.put(ROOT, "zz", ScalarValue::Null).unwrap();
        tx.put(ROOT, "agent", format!("x{sequence}")).unwrap();
        let hash = tx.commit_with(CommitOptions::default().with_time(0)).0;
        let change = document.get_change_by_hash(&hash.unwrap()).unwrap();
        let bytes = change.raw_bytes().to_vec();
        signed(&key, MESH.as_bytes(), 1, sequence, bytes)
    };
    (1..=changes).map(one).collect()
}

#[test]
fn operations_of_a_history_are_bounded_however_few_bytes_they_take() {
    let bombs = bombs(20);
    let bytes: usize = bombs.iter().map(|change| change.change.len()).sum();
    assert!(bytes < 8000, "{bytes}");
    let mut node = Node::open(key(1), CatalogLimits::default(), Disk::new()).0;
    let from = key(9).peer_id();
    node.connect_to(from);
    node.receive(from, offers(bombs));
    let counters = node.catalog.counters();
    assert_eq!(counters.changes, 8, "8,192 operations");
    assert_eq!(counters.refused(Refusal::TooMuch), 1);
}

#[test]
fn whoever_writes_so_much_itself_begins_anew_before_others_refuse_it() {
    let limits = CatalogLimits {
        operations: 16,
        ..CatalogLimits::default()
    };
    let mut mesh = Mesh::of(2);
    mesh.nodes[0] = Node::open(key(1), limits.clone(), Disk::new()).0;
    mesh.nodes[1] = Node::open(key(2), limits, Disk::new()).0;
    mesh.connect(0, 1);
    mesh.settle();
    // Three operations each time, of 128 in an epoch.
    for n in 0..120 {
        let name = ["chef", "poet", "coder"][n % 3];
        mesh.offer(0, &[name]);
        mesh.settle();
        mesh.tick();
        mesh.settle();
    }
    let offer = mesh.index(1).peers()[&mesh.nodes[0].id()].clone();
    assert!(offer.epoch > 2 && offer.sequence < 45, "{offer:?}");
    assert_eq!(
        mesh.nodes[1].catalog.counters().refused(Refusal::TooMuch),
        0
    );
    assert!(mesh.nodes[1].expert_names().contains("coder"));
}

#[test]
fn a_leaf_that_is_named_a_thousand_times_is_told_once() {
    let mut node = Node::open(key(1), CatalogLimits::default(), Disk::new()).0;
    let from = key(9).peer_id();
    node.connect_to(from);
    node.receive(from, offers((0..50).map(introduced).collect()));
    for (leaves, all) in [
        ((0..4096).chain(0..4096).collect(), false),
        (Vec::new(), true),
    ] {
        let heads = Vec::new();
        let told = node.receive(from, frame(Frame::Heads(Heads { heads, leaves, all })));
        let heads = told.iter().filter_map(|(_, told)| match &told.frame {
            Some(Frame::Heads(heads)) => Some(heads.heads.len()),
            _ => None,
        });
        assert_eq!(heads.sum::<usize>(), 50);
    }
}
