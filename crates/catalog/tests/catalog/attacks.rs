//! Those who do not stop: what becomes of them, and what they cannot fill meanwhile.

use automerge::{
    ActorId, Automerge, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use polymath_catalog::{CatalogLimits, FrameError, Refusal};
use polymath_proto::v1::{Cards, SignedChange, sync_frame::Frame};

use crate::{
    driver::{MESH, Node, card, claim, frame, head, key, offers, wanted},
    scene::{Scene, actor, scene, signed, valid_root},
};

/// Ticks after which faults are forgiven.
const FORGIVEN: usize = 120;

fn tick(node: &mut Node) {
    let actions = node.catalog.tick();
    node.perform(actions);
}

#[test]
fn a_new_connection_wipes_out_no_fault() {
    let scene = scene();
    let mut node = scene.victim();
    let from = scene.hostile.peer_id();
    let mut forged = scene.first.clone();
    forged.signature = vec![9; 64].into();
    for _ in 0..4 {
        node.receive(from, offers(vec![forged.clone(); 8]));
        node.catalog.peer_disconnected(from);
        node.connect_to(from);
    }
    assert!(node.connect_to(from).is_empty(), "it is not spoken to");
    let answer = node
        .catalog
        .receive(from, offers(vec![scene.first.clone()]));
    assert!(matches!(
        answer,
        Err(FrameError::Misbehaving { faults: 32, .. })
    ));
    assert_eq!(node.catalog.counters().changes, 0);
    for _ in 0..FORGIVEN {
        tick(&mut node);
    }
    node.connect_to(from);
    node.receive(from, offers(vec![scene.first.clone()]));
    assert_eq!(node.catalog.counters().changes, 1);
}

fn poison(scene: &Scene, n: u64) -> SignedChange {
    let actor = actor(&scene.hostile.peer_id(), 2);
    let bytes = crate::scene::crafted(actor, |tx| tx.put(ROOT, "agent", n).unwrap());
    scene.sign(2, 1, bytes)
}

#[test]
fn an_author_that_goes_on_signing_poison_is_dropped_whoever_brings_it() {
    let scene = scene();
    let mut node = scene.attack(vec![scene.first.clone()]);
    let author = scene.hostile.peer_id();
    let honest = scene.honest_entries(&node);
    // One mistake, repeated by somebody else: it is his fault, not the author's.
    let other = key(51).peer_id();
    node.connect_to(other);
    for _ in 0..20 {
        node.receive(other, offers(vec![poison(&scene, 0)]));
    }
    assert!(node.catalog.index().peers().contains_key(&author));
    for n in 1..8 {
        let bringer = key(60 + n as u8).peer_id();
        node.connect_to(bringer);
        node.receive(bringer, offers(vec![poison(&scene, n)]));
    }
    assert!(!node.catalog.index().peers().contains_key(&author));
    assert!(!node.disk.contains_key(&format!("offer-{author}")));
    assert_eq!(scene.honest_entries(&node), honest);

    // Nothing of it is taken or asked for, and whoever passes it on is not to blame.
    let bringer = key(70).peer_id();
    node.connect_to(bringer);
    for _ in 0..50 {
        node.receive(bringer, offers(vec![scene.first.clone()]));
    }
    assert!(wanted(&node.receive(bringer, claim(vec![head(&author, 5, 1)]))).is_empty());
    assert!(node.catalog.counters().refused(Refusal::Banned) >= 50);
    for _ in 0..FORGIVEN {
        tick(&mut node);
    }
    node.receive(bringer, offers(vec![scene.first.clone()]));
    assert!(node.catalog.index().peers().contains_key(&author));
    assert!(node.expert_names().contains("chef"));
}

#[test]
fn a_clock_far_off_moves_nothing() {
    let scene = scene();
    let author = scene.hostile.peer_id();
    let offer = |time: i64| {
        let mut doc = Automerge::new().with_actor(ActorId::from(actor(&author, 1)));
        let mut tx = doc.transaction();
        valid_root(&mut tx);
        let hash = tx.commit_with(CommitOptions::default().with_time(time)).0;
        let change = doc.get_change_by_hash(&hash.unwrap()).unwrap();
        let bytes = change.raw_bytes().to_vec();
        let node = scene.attack(vec![scene.sign(1, 1, bytes)]);
        assert_eq!(node.catalog.counters().changes, 1, "time {time}");
        node.catalog.index().peers()[&author].clone()
    };
    let now = offer(0);
    for time in [i64::MAX >> 1, i64::MIN >> 1, 1, -1] {
        assert_eq!(offer(time), now);
    }
}

#[test]
fn a_card_of_a_megabyte_does_not_come_in() {
    let scene = scene();
    let mut node = scene.attack(vec![scene.first.clone()]);
    let from = scene.hostile.peer_id();
    let cards = |bytes: usize| {
        let mut card = card("liar").as_ref().clone();
        card.description = "x".repeat(bytes);
        let cards = vec![card.to_bytes().into()];
        frame(Frame::Cards(Cards { cards }))
    };
    node.receive(from, cards(200_000));
    assert_eq!(node.catalog.counters().refused(Refusal::Card), 1);
    let answer = node.catalog.receive(from, cards(1 << 20));
    assert!(matches!(answer, Err(FrameError::TooLarge { .. })));
    assert!(!node.expert_names().contains("liar"));
}

/// A document that goes on for ever, each change after the other.
fn history(scene: &Scene, changes: usize, ballast: usize) -> Vec<SignedChange> {
    let author = scene.hostile.peer_id();
    let mut doc = Automerge::new().with_actor(ActorId::from(actor(&author, 1)));
    (0..changes)
        .map(|n| {
            let mut tx = doc.transaction();
            if n == 0 {
                valid_root(&mut tx);
            }
            tx.put(ROOT, "agent", "x".repeat(ballast)).unwrap();
            tx.put(ROOT, "agent", format!("version {n}")).unwrap();
            let hash = tx.commit_with(CommitOptions::default().with_time(0)).0;
            let change = doc.get_change_by_hash(&hash.unwrap()).unwrap();
            let bytes = change.raw_bytes().to_vec();
            signed(&scene.hostile, MESH.as_bytes(), 1, n as u64 + 1, bytes)
        })
        .collect()
}

/// What is kept of the hostile author after all of it was fed.
fn kept_of(scene: &Scene, history: &[SignedChange]) -> (Node, u64, usize) {
    let mut node = scene.victim();
    let honest = scene.honest_entries(&node);
    for (n, batch) in history.chunks(8).enumerate() {
        // Others bring it too, so that nobody is cut off before the end.
        let bringer = crate::driver::stranger(n as u16).peer_id();
        node.connect_to(bringer);
        node.receive(bringer, offers(batch.to_vec()));
        node.links.remove(&bringer);
        node.catalog.peer_disconnected(bringer);
        tick(&mut node);
    }
    assert_eq!(scene.honest_entries(&node), honest);
    let author = scene.hostile.peer_id();
    let sequence = node.catalog.index().peers()[&author].sequence;
    let bytes = node.disk[&format!("offer-{author}")].len();
    (node, sequence, bytes)
}

#[test]
fn ten_thousand_tiny_changes_are_as_many_as_an_epoch_may_have() {
    let scene = scene();
    let limits = CatalogLimits::default();
    let (node, sequence, bytes) = kept_of(&scene, &history(&scene, 10_000, 1));
    assert_eq!(sequence, limits.changes_per_epoch as u64);
    assert!(bytes < 2 * limits.document_bytes, "{bytes}");
    assert!(node.catalog.counters().refused(Refusal::TooMuch) > 0);
}

#[test]
fn a_history_that_swells_behind_a_small_offer_is_cut_off() {
    let scene = scene();
    let limits = CatalogLimits::default();
    let (node, sequence, bytes) = kept_of(&scene, &history(&scene, 60, 20_000));
    assert!(sequence < 10, "{sequence}");
    assert!(bytes < limits.document_bytes + 4096, "{bytes}");
    assert!(node.catalog.counters().refused(Refusal::TooMuch) > 0);
}

#[test]
fn whoever_holds_the_other_half_of_a_fork_is_not_blamed_for_its_size() {
    let scene = scene();
    let mut node = scene.victim();
    let (large, small) = (history(&scene, 6, 20_000), history(&scene, 7, 19_000));
    node.receive(scene.hostile.peer_id(), offers(large));
    let honest = key(60).peer_id();
    node.connect_to(honest);
    // Too much on top of what we hold, but not of what this peer holds.
    node.receive(honest, offers(vec![small[6].clone()]));
    let counters = node.catalog.counters();
    assert_eq!(counters.refused(Refusal::TooMuch), 0);
    assert_eq!(counters.refused(Refusal::Continuity), 1);
}
