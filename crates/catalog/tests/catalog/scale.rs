//! A large mesh: what it costs to find out that nothing is new, or what is.

use std::{collections::VecDeque, sync::Arc};

use polymath_catalog::{CatalogLimits, Offer};
use polymath_proto::v1::{SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{ExpertCard, PeerId};
use prost::Message;

use crate::{
    driver::{Disk, Node, card, changes, key, offers, stranger},
    observations::{BOOK, cell, observations, outcomes},
};

const AUTHORS: u16 = 10_000;

/// The first change of every author's offer: four experts, three addresses.
fn all_offers(authors: u16) -> Vec<SignedChange> {
    (0..authors).map(|n| offered(n, &[])).collect()
}

fn offered(n: u16, more: &[Offer]) -> SignedChange {
    let mut node = Node::open(stranger(n), CatalogLimits::default(), Disk::new()).0;
    node.catalog.set_cards(cards_of(n)).unwrap();
    let mut last = change_of(&mut node, first_offer(n));
    for offer in more {
        last = change_of(&mut node, offer.clone());
    }
    last
}

fn first_offer(n: u16) -> Offer {
    let [a, b] = n.to_be_bytes();
    Offer {
        agent: "polymath/0.1.0".into(),
        addresses: vec![
            format!("/ip4/10.7.{a}.{b}/tcp/4001"),
            format!("/ip4/10.7.{a}.{b}/udp/4001/quic-v1"),
            format!("/ip6/2001:db8:7:{n:x}::1/udp/4001/quic-v1"),
        ],
        experts: cards_of(n).iter().map(|c| c.id()).collect(),
        ..Offer::default()
    }
}

fn cards_of(n: u16) -> [Arc<ExpertCard>; 4] {
    std::array::from_fn(|i| card(&format!("expert-{}", n % 100 + 100 * i as u16)))
}

fn change_of(node: &mut Node, offer: Offer) -> SignedChange {
    node.links.insert(key(250).peer_id());
    node.catalog.peer_connected(key(250).peer_id());
    let actions = node.catalog.set_offer(offer).unwrap();
    changes(&node.perform(actions)).remove(0)
}

/// A node that was told all of this.
fn told(n: u8, all: &[SignedChange]) -> Node {
    let mut node = Node::fresh(n);
    let feeder = key(251).peer_id();
    node.connect_to(feeder);
    for batch in all.chunks(300) {
        node.receive(feeder, offers(batch.to_vec()));
    }
    node.links.remove(&feeder);
    node.catalog.peer_disconnected(feeder);
    node
}

/// Bytes that two nodes exchange from the moment they meet until they fall silent: all, and those
/// of documents.
fn meet(a: &mut Node, b: &mut Node) -> (usize, usize) {
    let (ida, idb) = (a.id(), b.id());
    let mut wire: VecDeque<(PeerId, SyncFrame)> = a.connect_to(idb).into();
    wire.extend(b.connect_to(ida));
    let (mut all, mut documents) = (0, 0);
    while let Some((to, frame)) = wire.pop_front() {
        all += frame.encoded_len();
        if matches!(frame.frame, Some(Frame::Offers(_))) {
            documents += frame.encoded_len();
        }
        wire.extend(if to == idb {
            b.receive(ida, frame)
        } else {
            a.receive(idb, frame)
        });
    }
    for (x, y) in [(&mut *a, idb), (b, ida)] {
        x.links.remove(&y);
        x.catalog.peer_disconnected(y);
    }
    (all, documents)
}

#[test]
fn replicas_of_ten_thousand_authors_find_out_cheaply_where_they_differ() {
    let all = all_offers(AUTHORS);
    let (mut a, mut b) = (told(1, &all), told(2, &all));
    let (bytes, _) = meet(&mut a, &mut b);
    println!("equal: {bytes} bytes");
    assert!(bytes <= 8 << 10, "equal replicas exchanged {bytes} bytes");

    let newer = |n: u16| {
        let mut offer = first_offer(n);
        offer.addresses.pop();
        offered(n, &[offer])
    };
    let mut next = 0;
    for (differing, limit) in [(1, 16 << 10), (100, 64 << 10)] {
        let news: Vec<_> = (next..next + differing).map(newer).collect();
        next += differing;
        let update: usize = news.iter().map(Message::encoded_len).sum();
        let feeder = key(251).peer_id();
        a.connect_to(feeder);
        a.receive(feeder, offers(news));
        a.links.remove(&feeder);
        a.catalog.peer_disconnected(feeder);
        let (bytes, documents) = meet(&mut a, &mut b);
        println!(
            "{differing} differ: {bytes} bytes, {documents} of them documents ({update} of changes)"
        );
        assert!(
            bytes - documents <= limit,
            "{differing} differ: {bytes} bytes"
        );
        assert_eq!(a.catalog.index(), b.catalog.index());
    }

    let mut newcomer = Node::fresh(3);
    let (bytes, documents) = meet(&mut newcomer, &mut a);
    println!("cold: {bytes} bytes, {documents} of them documents");
    assert!(bytes <= 8 << 20, "a newcomer exchanged {bytes} bytes");
    assert_eq!(newcomer.catalog.index(), a.catalog.index());
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.map_or(0.0, |kb| kb / 1e3)
}

#[test]
#[allow(clippy::disallowed_methods)] // it prints what it takes
fn ten_thousand_observers_are_kept_weighed_and_compared_cheaply() {
    let cells = |n: u16| {
        let experts = (0..8).map(move |e| format!("expert-{}", (n % 997) * 8 + e));
        let cells = experts.flat_map(|e| (0..8).map(move |cluster| cell(&e, cluster)));
        let count = 20 + u32::from(n % 17);
        cells.map(move |cell| (cell, outcomes(count, 300 + 50 * u32::from(cell.cluster))))
    };
    // Everybody offers what others have seen.
    let offering: Vec<SignedChange> = (0..AUTHORS)
        .map(|n| {
            let mut node = Node::open(stranger(n), CatalogLimits::default(), Disk::new()).0;
            let cards: Vec<_> = (0..8)
                .map(|e| card(&format!("expert-{}", ((n + 1) % 997) * 8 + e)))
                .collect();
            let offer = Offer {
                experts: cards.iter().map(|c| c.id()).collect(),
                ..first_offer(n)
            };
            node.catalog.set_cards(cards).unwrap();
            change_of(&mut node, offer)
        })
        .collect();
    let all: Vec<SignedChange> = (0..AUTHORS)
        .map(|n| {
            let mut node = Node::open(stranger(n), CatalogLimits::default(), Disk::new()).0;
            node.connect_to(key(250).peer_id());
            changes(&node.observe(&cells(n).collect::<Vec<_>>())).remove(0)
        })
        .collect();
    let bytes: usize = all.iter().map(|c| c.change.len()).sum();
    let told = |n: u8| {
        let mut node = Node::fresh(n);
        let _ = node.catalog.use_codebooks([BOOK]);
        let feeder = key(251).peer_id();
        node.connect_to(feeder);
        for batch in offering.chunks(150) {
            node.receive(feeder, offers(batch.to_vec()));
        }
        for batch in all.chunks(60) {
            node.receive(feeder, observations(batch.to_vec()));
            let actions = node.catalog.tick();
            node.perform(actions);
        }
        node.links.remove(&feeder);
        node.catalog.peer_disconnected(feeder);
        node
    };
    let (before, begun) = (resident(), std::time::Instant::now());
    let mut a = told(1);
    let disk: usize = std::mem::take(&mut a.disk).values().map(Vec::len).sum();
    let took = begun.elapsed();
    println!(
        "a document {} bytes, records {disk}; {:.0} MB more resident; taken and weighed in {took:.1?}",
        bytes / usize::from(AUTHORS),
        resident() - before
    );
    assert_eq!(a.catalog.observations().count(), usize::from(AUTHORS));
    let mut b = told(2);
    let (bytes, _) = meet(&mut a, &mut b);
    println!("equal, offers and observations: {bytes} bytes");
    assert!(bytes <= 8 << 10, "equal replicas exchanged {bytes} bytes");
    let begun = std::time::Instant::now();
    let _ = a.catalog.tick();
    println!("a tick: {:.1?}", begun.elapsed());
    let index = a.catalog.index();
    let wanted: Vec<_> = cells(7).map(|(cell, _)| cell).collect();
    let begun = std::time::Instant::now();
    for n in 0..100_000 {
        std::hint::black_box(index.observed(&wanted[n % wanted.len()]));
    }
    println!("a look-up: {:.0?}", begun.elapsed() / 100_000);
    assert!(index.observed(&wanted[0]).is_some());
}
