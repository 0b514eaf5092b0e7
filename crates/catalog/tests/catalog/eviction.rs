//! A full table: who gives way to whom, and what is then forgotten everywhere.

use polymath_catalog::{CatalogLimits, CharterEdit, Refusal};
use polymath_proto::v1::{Cards, sync_frame::Frame};
use polymath_types::PeerId;

use crate::driver::{
    Disk, Node, card, changes, claim, frame, head, introduced, key, offers, stranger, wanted,
};

const AUTHORS: usize = 64;
/// What one peer may bring of a full table.
const SHARE: usize = AUTHORS / 16;

fn limits() -> CatalogLimits {
    CatalogLimits {
        authors: AUTHORS,
        ..CatalogLimits::default()
    }
}

/// A node and two peers that bring what others say.
fn node(limits: CatalogLimits) -> (Node, PeerId, PeerId) {
    let mut node = Node::open(key(1), limits, Disk::new()).0;
    let (flooder, honest) = (key(66).peer_id(), key(2).peer_id());
    node.connect_to(flooder);
    node.connect_to(honest);
    (node, flooder, honest)
}

fn tick(node: &mut Node) {
    let actions = node.catalog.tick();
    node.perform(actions);
}

fn bring(node: &mut Node, from: PeerId, strangers: std::ops::Range<u16>) {
    for n in strangers {
        node.receive(from, offers(vec![introduced(n)]));
    }
}

fn known(node: &Node, strangers: std::ops::Range<u16>) -> usize {
    let index = node.catalog.index();
    strangers
        .filter(|n| index.peers().contains_key(&stranger(*n).peer_id()))
        .count()
}

#[test]
fn a_table_that_one_connection_filled_has_room_for_newcomers() {
    let (mut node, flooder, honest) = node(limits());
    bring(&mut node, flooder, 0..100);
    assert_eq!(known(&node, 0..100), AUTHORS);
    tick(&mut node);
    bring(&mut node, honest, 1000..1003);
    assert_eq!(known(&node, 1000..1003), 3);
    assert_eq!(known(&node, 0..100), AUTHORS - 3);
    assert_eq!(node.catalog.counters().evicted, 3);
    // The records went with them, or a restart would bring them back.
    assert_eq!(node.disk.len(), AUTHORS);
    let recovered = node.restart(limits());
    assert_eq!((recovered.offers, recovered.problems.len()), (AUTHORS, 0));
    assert_eq!(known(&node, 1000..1003), 3);
}

#[test]
fn a_flood_replaces_itself_and_not_what_others_brought() {
    let (mut node, flooder, honest) = node(limits());
    bring(&mut node, honest, 1000..1000 + SHARE as u16);
    bring(&mut node, flooder, 0..60);
    for round in 1..20 {
        tick(&mut node);
        bring(&mut node, flooder, round * 100..round * 100 + 20);
    }
    assert_eq!(known(&node, 1000..1000 + SHARE as u16), SHARE);
    let evicted = node.catalog.counters().evicted;
    assert!(
        evicted <= 19 * 8,
        "{evicted} records were written for one flood"
    );
    assert!(node.catalog.counters().refused(Refusal::Full) > 0);
}

#[test]
fn what_an_earlier_run_knew_gives_way_to_a_peers_share_only() {
    let (mut node, flooder, _) = node(limits());
    bring(&mut node, flooder, 0..64);
    node.restart(limits());
    node.connect_to(flooder);
    for round in 1..20 {
        tick(&mut node);
        bring(&mut node, flooder, round * 100..round * 100 + 20);
    }
    assert_eq!(known(&node, 0..64), AUTHORS - SHARE);
}

#[test]
fn the_connected_and_the_node_itself_stay_and_the_longest_unseen_goes_first() {
    let (mut node, flooder, honest) = node(limits());
    node.offer(&["chef"]);
    bring(&mut node, flooder, 0..1);
    node.connect_to(stranger(0).peer_id());
    bring(&mut node, flooder, 1..30);
    tick(&mut node);
    bring(&mut node, flooder, 30..63);
    tick(&mut node);
    bring(&mut node, honest, 1000..1004);
    assert_eq!(known(&node, 0..1), 1);
    assert_eq!(known(&node, 1..30), 29 - 4);
    assert_eq!(known(&node, 30..63), 33);
    assert!(node.expert_names().contains("chef"));
}

#[test]
fn who_gave_way_is_not_asked_for_until_it_says_something_new() {
    let (mut node, flooder, honest) = node(limits());
    bring(&mut node, flooder, 0..64);
    tick(&mut node);
    bring(&mut node, honest, 1000..1001);
    let index = node.catalog.index();
    let gone = (0..64)
        .map(|n| stranger(n).peer_id())
        .find(|p| !index.peers().contains_key(p))
        .unwrap();
    let asked = |node: &mut Node, sequence| {
        wanted(&node.receive(honest, claim(vec![head(&gone, 1, sequence)]))).len()
    };
    assert_eq!(
        asked(&mut node, 1),
        0,
        "the table would turn over without end"
    );
    assert_eq!(asked(&mut node, 2), 1);
}

#[test]
fn bytes_that_one_connection_filled_are_given_back_too() {
    let each = introduced(0).change.len();
    let (mut node, flooder, honest) = node(CatalogLimits {
        offer_bytes: each * 40 + each / 2,
        ..limits()
    });
    bring(&mut node, flooder, 0..60);
    assert!(known(&node, 0..60) < 50);
    tick(&mut node);
    bring(&mut node, honest, 1000..1002);
    assert_eq!(known(&node, 1000..1002), 2);
}

#[test]
fn eight_identities_do_not_use_up_what_gives_way_in_a_tick() {
    let (mut node, _, honest) = node(limits());
    let flooders: Vec<PeerId> = (70..78).map(|n| key(n).peer_id()).collect();
    for (n, flooder) in (0..).zip(&flooders) {
        node.connect_to(*flooder);
        bring(&mut node, *flooder, n * 8..n * 8 + 8);
    }
    assert_eq!(known(&node, 0..64), AUTHORS);
    for round in 1..4 {
        tick(&mut node);
        for (n, flooder) in (0..).zip(&flooders) {
            let first = round * 1000 + n * 20;
            bring(&mut node, *flooder, first..first + 20);
        }
    }
    bring(&mut node, honest, 9000..9002);
    assert_eq!(known(&node, 9000..9002), 2);
    let newcomer = stranger(9500).peer_id();
    node.connect_to(newcomer);
    bring(&mut node, newcomer, 9500..9501);
    assert_eq!(known(&node, 9500..9501), 1);
}

#[test]
fn who_was_there_all_along_is_not_the_first_to_go_after_a_restart() {
    let (mut node, flooder, honest) = node(limits());
    bring(&mut node, flooder, 0..64);
    // Among equals the one with the smallest id would go first.
    let steady = (0..64).min_by_key(|n| stranger(*n).peer_id()).unwrap();
    node.connect_to(stranger(steady).peer_id());
    for _ in 0..130 {
        tick(&mut node);
    }
    for _ in 0..2 {
        // What is known of it outlasts a second restart too.
        node.restart(limits());
    }
    node.connect_to(honest);
    bring(&mut node, honest, 1000..1003);
    assert_eq!(known(&node, 1000..1003), 3);
    assert_eq!(known(&node, steady..steady + 1), 1);
}

/// An author with experts of these names, as `from` brings it: its change, then the cards.
fn bring_experts(node: &mut Node, from: PeerId, author: u16, names: &[String]) {
    let mut writer = Node::open(stranger(author), CatalogLimits::default(), Disk::new()).0;
    writer.connect_to(key(250).peer_id());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let change = changes(&writer.offer(&names)).remove(0);
    node.receive(from, offers(vec![change]));
    let cards = names.iter().map(|n| card(n).to_bytes().into()).collect();
    node.receive(from, frame(Frame::Cards(Cards { cards })));
}

fn names(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{of}-{n}")).collect()
}

#[test]
fn cards_that_a_few_authors_fill_the_table_with_give_way_to_those_of_others() {
    let limits = CatalogLimits {
        cards: 64,
        ..CatalogLimits::default()
    };
    let (mut node, flooder, honest) = node(limits.clone());
    bring_experts(&mut node, honest, 1000, &names("first", 2));
    bring_experts(&mut node, flooder, 0, &names("flood", 60));
    bring_experts(&mut node, flooder, 1, &names("more", 60));
    tick(&mut node);
    assert_eq!(node.expert_names().len(), 64);
    bring_experts(&mut node, honest, 1001, &names("second", 2));
    let known = node.expert_names();
    for name in names("first", 2).iter().chain(&names("second", 2)) {
        assert!(known.contains(name), "{name}");
    }
    assert_eq!(known.len(), 64);
    // The records went with them, and what is gone is not asked of whoever brought too much.
    let cards = |node: &Node| node.disk.keys().filter(|n| n.starts_with("card-")).count();
    assert_eq!(cards(&node), 64);
    for _ in 0..10 {
        tick(&mut node);
        bring_experts(&mut node, flooder, 2, &names("again", 60));
    }
    let known = node.expert_names();
    assert!(names("second", 2).iter().all(|n| known.contains(n)));
    let recovered = node.restart(limits);
    assert_eq!((recovered.cards, recovered.problems.len()), (64, 0));
}

/// The same as [`node`], by a founder that has given these strangers a role.
fn founder(limits: CatalogLimits, members: std::ops::Range<u16>) -> (Node, PeerId, PeerId) {
    let founders = vec![key(1).peer_id()];
    let mut node = Node::founded(key(1), limits, Disk::new(), founders).0;
    for n in members {
        let peer = stranger(n).peer_id();
        let role = Some("member".to_owned());
        node.edit(CharterEdit::Role { peer, role }).unwrap();
    }
    let (flooder, honest) = (key(66).peer_id(), key(2).peer_id());
    node.connect_to(flooder);
    node.connect_to(honest);
    (node, flooder, honest)
}

#[test]
fn members_stay_while_strangers_give_way_whoever_brought_them_and_however_long_ago() {
    let (mut node, flooder, _) = founder(limits(), 0..20);
    bring(&mut node, flooder, 0..20);
    tick(&mut node);
    bring(&mut node, flooder, 100..144);
    assert_eq!(known(&node, 0..20) + known(&node, 100..144), AUTHORS);
    // All others bring what they can, before and after a restart.
    for round in 0..16u16 {
        if round == 8 {
            let recovered = node.restart(limits());
            assert!(recovered.problems.is_empty());
        }
        tick(&mut node);
        let by = key(u8::try_from(100 + round).unwrap()).peer_id();
        node.connect_to(by);
        bring(&mut node, by, 1000 + round * 20..1020 + round * 20);
    }
    assert_eq!(known(&node, 0..20), 20);
    assert!(known(&node, 1000..2000) >= 40, "strangers change places");
}

#[test]
fn a_member_comes_in_even_by_a_peer_that_brought_too_much_and_no_stranger_in_its_place() {
    let (mut node, flooder, honest) = founder(limits(), 500..564);
    bring(&mut node, honest, 0..4);
    bring(&mut node, flooder, 100..160);
    for round in 0..10u16 {
        tick(&mut node);
        bring(&mut node, flooder, 500 + round * 8..508 + round * 8);
    }
    assert_eq!(known(&node, 500..564), 64);
    tick(&mut node);
    bring(&mut node, honest, 2000..2010);
    assert_eq!(known(&node, 2000..2010), 0);
    assert!(node.catalog.counters().refused(Refusal::Full) > 0);
    // Who has no role any more is a stranger like others.
    let (peer, role) = (stranger(500).peer_id(), None);
    node.edit(CharterEdit::Role { peer, role }).unwrap();
    bring(&mut node, honest, 2010..2011);
    assert_eq!((known(&node, 2010..2011), known(&node, 500..501)), (1, 0));
}

#[test]
fn the_cards_of_members_stay_while_those_of_strangers_give_way() {
    let limits = CatalogLimits {
        cards: 64,
        ..CatalogLimits::default()
    };
    let (mut node, flooder, _) = founder(limits, 0..1);
    bring_experts(&mut node, flooder, 0, &names("member", 8));
    tick(&mut node);
    bring_experts(&mut node, flooder, 100, &names("flood", 56));
    assert_eq!(node.expert_names().len(), 64);
    for round in 0..16u16 {
        tick(&mut node);
        let by = key(u8::try_from(100 + round).unwrap()).peer_id();
        node.connect_to(by);
        bring_experts(
            &mut node,
            by,
            200 + round,
            &names(&format!("of-{round}"), 8),
        );
    }
    let known = node.expert_names();
    assert!(names("member", 8).iter().all(|n| known.contains(n)));
    assert_eq!(known.len(), 64);
    assert!(known.iter().any(|n| n.starts_with("of")));
}
