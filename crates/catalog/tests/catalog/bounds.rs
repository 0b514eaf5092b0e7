//! Every table has a bound; what goes over it is refused, counted, and harms no one inside.

use std::collections::BTreeMap;

use polymath_catalog::{CatalogLimits, Offer, OfferError, Refusal};
use polymath_proto::v1::{Cards, SyncFrame, Want, sync_frame::Frame};
use polymath_types::PeerId;

use crate::driver::{
    Disk, Mesh, Node, card, changes, expert_id, frame, introduced, key, offers, wanted,
};

fn with_limits(limits: CatalogLimits) -> Mesh {
    let mut mesh = Mesh::of(4);
    mesh.nodes[0] = Node::open(key(1), limits, Disk::new()).0;
    mesh.offer(0, &[]);
    mesh.offer(1, &["chef"]);
    mesh.offer(2, &["coder"]);
    mesh.offer(3, &["poet"]);
    for node in 1..4 {
        mesh.connect(0, node);
        mesh.settle();
    }
    mesh
}

#[test]
fn authors_over_the_bound_are_not_taken_and_those_inside_go_on() {
    let mut mesh = with_limits(CatalogLimits {
        authors: 3,
        ..CatalogLimits::default()
    });
    assert_eq!(mesh.index(0).peers().len(), 3);
    mesh.offer(3, &["late"]);
    mesh.offer(1, &["chef", "baker"]);
    mesh.settle();
    assert!(!mesh.nodes[0].expert_names().contains("late"));
    assert!(mesh.nodes[0].expert_names().contains("baker"));
    assert_eq!(mesh.index(0).peers().len(), 3);
}

#[test]
fn bytes_over_the_bound_are_not_taken() {
    let mesh = with_limits(CatalogLimits {
        offer_bytes: 700,
        ..CatalogLimits::default()
    });
    assert!(mesh.index(0).peers().len() < 4);
    assert!(mesh.nodes[0].catalog.counters().refused(Refusal::Full) > 0);
}

#[test]
fn cards_over_the_bound_are_not_kept() {
    let mesh = with_limits(CatalogLimits {
        cards: 2,
        ..CatalogLimits::default()
    });
    assert_eq!(mesh.nodes[0].expert_names().len(), 2);
    assert_eq!(
        mesh.nodes[0].catalog.counters().refused(Refusal::CardsFull),
        1
    );
    assert_eq!(mesh.index(0).peers().len(), 4);
}

#[test]
fn peers_over_the_bound_are_not_spoken_to() {
    let mut node = Node::open(
        key(1),
        CatalogLimits {
            peers: 2,
            ..CatalogLimits::default()
        },
        Disk::new(),
    )
    .0;
    for n in 2..5 {
        let greeted = !node.connect_to(key(n).peer_id()).is_empty();
        assert_eq!(greeted, n < 4);
    }
    assert_eq!(node.catalog.counters().refused(Refusal::PeersFull), 1);
}

#[test]
fn cards_no_one_offers_any_more_are_forgotten() {
    let mut mesh = with_limits(CatalogLimits::default());
    let name = format!("card-{}", expert_id("coder"));
    assert!(mesh.nodes[0].disk.contains_key(&name));
    mesh.offer(2, &["judge"]);
    mesh.settle();
    mesh.tick();
    mesh.settle();
    assert!(!mesh.nodes[0].disk.contains_key(&name));
    assert!(mesh.nodes[0].catalog.card(&expert_id("coder")).is_none());
    assert!(mesh.nodes[0].expert_names().contains("judge"));
}

#[test]
fn an_offer_that_others_would_refuse_is_not_made() {
    let mut node = Node::fresh(1);
    let offer = |addresses: Vec<String>, experts| Offer {
        agent: "a".into(),
        addresses,
        experts,
        ..Offer::default()
    };
    let many = (0..17).map(|n| format!("/{n}")).collect();
    let error = node.catalog.set_offer(offer(many, Vec::new())).unwrap_err();
    assert_eq!(
        error,
        OfferError::TooMany {
            what: "addresses",
            found: 17,
            limit: 16
        }
    );
    let error = node
        .catalog
        .set_offer(offer(vec!["/a".repeat(200)], Vec::new()))
        .unwrap_err();
    assert!(matches!(
        error,
        OfferError::Text {
            what: "address",
            limit: 256,
            ..
        }
    ));
    let error = node
        .catalog
        .set_offer(offer(Vec::new(), vec![expert_id("chef")]))
        .unwrap_err();
    assert_eq!(error, OfferError::NoCard(expert_id("chef")));
    assert!(node.catalog.index().peers().is_empty());

    // The largest that may be made is taken by others.
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    let cards: Vec<_> = (0..64).map(|n| card(&format!("expert-{n}"))).collect();
    let experts = cards.iter().map(|c| c.id()).collect();
    let largest = Offer {
        agent: "a".repeat(128),
        addresses: (0..16).map(|n| format!("{n:0256}")).collect(),
        experts,
        ..Offer::default()
    };
    let stored = mesh.nodes[0].catalog.set_cards(cards).unwrap();
    mesh.nodes[0].perform(stored);
    let actions = mesh.nodes[0].catalog.set_offer(largest).unwrap();
    let sent = mesh.nodes[0].perform(actions);
    mesh.post(0, sent);
    mesh.settle();
    assert_eq!(mesh.nodes[1].expert_names().len(), 64);
    assert_eq!(mesh.index(0), mesh.index(1));
}

#[test]
fn one_document_is_asked_of_one_peer_at_a_time() {
    let mut mesh = Mesh::of(5);
    mesh.offer(0, &["chef"]);
    for node in 1..4 {
        mesh.connect(0, node);
    }
    mesh.settle();
    mesh.carried = 0;
    // The joiner hears of the document from four peers at once.
    for node in 0..4 {
        mesh.connect(4, node);
    }
    mesh.settle();
    assert_eq!(mesh.index(4), mesh.index(0));
    assert_eq!(mesh.nodes[4].catalog.counters().changes, 1);
    assert_eq!(mesh.nodes[4].catalog.counters().repeats, 0);
}

/// Frames for the peer that gets most of them.
fn most_for_one(sent: &[(PeerId, SyncFrame)]) -> usize {
    let mut frames: BTreeMap<&PeerId, usize> = BTreeMap::new();
    for (peer, _) in sent {
        *frames.entry(peer).or_default() += 1;
    }
    frames.into_values().max().unwrap_or(0)
}

#[test]
fn of_a_frame_full_of_repeats_others_are_told_in_a_frame_each() {
    let mut node = Node::fresh(1);
    let peers: Vec<PeerId> = (100..112).map(|n| key(n).peer_id()).collect();
    for peer in &peers {
        node.connect_to(*peer);
    }
    let all: Vec<_> = (0..800).map(introduced).collect();
    assert!(most_for_one(&node.receive(peers[0], offers(all.clone()))) <= 2);
    let sent = node.receive(peers[1], offers(all));
    let told = |f: &SyncFrame| match &f.frame {
        Some(Frame::Heads(heads)) => heads.heads.len(),
        _ => 0,
    };
    let told: usize = sent.iter().map(|(_, f)| told(f)).sum();
    assert_eq!(told, 3 * 800);
    let most = most_for_one(&sent);
    assert!(most <= 2, "{most} frames for one peer");
}

#[test]
fn cards_that_came_in_one_frame_go_to_who_waits_in_one() {
    let (mut node, mut author) = (Node::fresh(1), Node::fresh(2));
    let (waiter, author_id) = (key(3).peer_id(), author.id());
    node.connect_to(waiter);
    node.connect_to(author_id);
    author.connect_to(node.id());
    let names: Vec<String> = (0..64).map(|n| format!("expert-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.receive(author_id, offers(changes(&author.offer(&names))));
    let want = Want {
        offers: Vec::new(),
        cards: names
            .iter()
            .map(|n| expert_id(n).as_bytes().to_vec().into())
            .collect(),
    };
    assert_eq!(wanted(&node.receive(waiter, frame(Frame::Want(want)))), []);
    let cards = names.iter().map(|n| card(n).to_bytes().into()).collect();
    let sent = node.receive(author_id, frame(Frame::Cards(Cards { cards })));
    let for_waiter = sent.iter().filter(|(peer, _)| *peer == waiter);
    let carried = for_waiter.map(|(_, f)| match &f.frame {
        Some(Frame::Cards(cards)) => cards.cards.len(),
        _ => 0,
    });
    assert_eq!(carried.collect::<Vec<_>>(), [64]);
}
