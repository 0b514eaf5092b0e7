//! What a peer only claims to have: it keeps no one from asking those who have it.

use polymath_catalog::{CatalogLimits, Refusal};

use crate::driver::{Disk, Mesh, Node, claim, head, key, stranger, wanted};

/// As high an epoch as anybody is asked for.
const FAR: u64 = 1 << 20;

/// A node, an honest peer that knows itself and one more author, and a stranger, all connected to
/// the node; nothing was delivered yet.
fn scene(limits: CatalogLimits) -> (Mesh, polymath_types::PeerId) {
    let mut mesh = Mesh::of(3);
    mesh.nodes[0] = Node::open(key(1), limits, Disk::new()).0;
    mesh.offer(1, &["chef"]);
    mesh.offer(2, &["poet"]);
    mesh.connect(1, 2);
    mesh.settle();
    mesh.disconnect(1, 2);
    let liar = key(66).peer_id();
    mesh.nodes[0].connect_to(liar);
    (mesh, liar)
}

#[test]
fn invented_authors_do_not_use_up_all_questions() {
    let limits = CatalogLimits {
        authors: 64,
        ..CatalogLimits::default()
    };
    let (mut mesh, liar) = scene(limits);
    let invented = (0..500)
        .map(|n| head(&stranger(n).peer_id(), 1, 1))
        .collect();
    let asked = wanted(&mesh.nodes[0].receive(liar, claim(invented)));
    assert_eq!(asked.len(), 64, "nothing else is wanted yet");
    mesh.connect(0, 1);
    mesh.settle();
    assert_eq!(mesh.nodes[0].expert_names().len(), 2);
}

#[test]
fn whoever_claims_first_again_and_again_and_delivers_nothing_is_passed_over() {
    let (mut mesh, liar) = scene(CatalogLimits::default());
    let authors = [mesh.nodes[1].id(), mesh.nodes[2].id()];
    let lie = || claim(authors.iter().map(|a| head(a, FAR, 1)).collect());
    assert_eq!(wanted(&mesh.nodes[0].receive(liar, lie())).len(), 2);
    mesh.connect(0, 1);
    mesh.settle();
    // Paths change: a stream that ends is passed over a few times.
    for _ in 0..6 {
        for node in 0..2 {
            let actions = mesh.nodes[node].catalog.tick();
            let mut sent = mesh.nodes[node].perform(actions);
            sent.retain(|(to, _)| *to != liar);
            mesh.post(node, sent);
            if node == 0 {
                // In time, and over a new connection.
                mesh.nodes[0].links.remove(&liar);
                mesh.nodes[0].catalog.peer_disconnected(liar);
                mesh.nodes[0].connect_to(liar);
                mesh.nodes[0].receive(liar, lie());
            }
        }
        mesh.settle();
    }
    assert_eq!(mesh.nodes[0].expert_names().len(), 2);
}

#[test]
fn an_answer_of_old_changes_does_not_renew_a_claim() {
    let (mut mesh, liar) = scene(CatalogLimits::default());
    mesh.connect(0, 1);
    mesh.settle();
    mesh.disconnect(0, 1);
    let author = mesh.nodes[2].id();
    mesh.nodes[0].connect_to(key(67).peer_id());
    let known = crate::driver::changes(&mesh.nodes[0].receive(
        key(67).peer_id(),
        crate::driver::frame(polymath_proto::v1::sync_frame::Frame::Want(
            polymath_proto::v1::Want {
                offers: vec![head(&author, 0, 0)],
                cards: Vec::new(),
            },
        )),
    ));
    assert_eq!(known.len(), 1);
    let lie = claim(vec![head(&author, FAR, 1)]);
    assert_eq!(wanted(&mesh.nodes[0].receive(liar, lie.clone())).len(), 1);
    mesh.nodes[0].receive(liar, crate::driver::offers(known));
    assert!(wanted(&mesh.nodes[0].receive(liar, lie)).is_empty());
}

#[test]
fn an_author_that_could_sign_nothing_is_its_claimants_fault() {
    let (mut mesh, liar) = scene(CatalogLimits::default());
    let keyless = polymath_proto::v1::OfferHead {
        author: vec![5; 31].into(),
        ..crate::driver::head(&liar, 1, 1)
    };
    let node = &mut mesh.nodes[0];
    assert!(wanted(&node.receive(liar, claim(vec![keyless.clone(); 200]))).is_empty());
    let refused = node.catalog.counters().refused(Refusal::Author);
    assert!((1..100).contains(&refused), "{refused}");
    assert!(node.catalog.receive(liar, claim(vec![keyless])).is_err());
}

#[test]
fn what_was_asked_for_is_told_only_to_those_who_did_not_claim_it_and_not_to_all_of_them() {
    let mut node = Node::fresh(1);
    let change = crate::driver::introduced(7);
    let author = stranger(7).peer_id();
    let peers: Vec<_> = (20..60).map(|n| key(n).peer_id()).collect();
    for peer in &peers {
        node.connect_to(*peer);
    }
    let claim = || claim(vec![head(&author, 1, 1)]);
    // All but the last twenty have it.
    let (knowing, others) = peers.split_at(20);
    let asked: usize = knowing
        .iter()
        .map(|p| wanted(&node.receive(*p, claim())).len())
        .sum();
    assert_eq!(asked, 1);
    let sent = node.receive(knowing[0], crate::driver::offers(vec![change]));
    assert!(node.catalog.index().peers().contains_key(&author));
    assert!((1..=5).contains(&sent.len()), "{} were told", sent.len());
    assert!(sent.iter().all(|(to, _)| others.contains(to)));
}

#[test]
fn what_costs_its_sender_nothing_is_done_only_so_often() {
    use polymath_proto::v1::{Digest, Heads, sync_frame::Frame};
    let mut mesh = Mesh::of(2);
    mesh.offer(0, &["chef"]);
    mesh.offer(1, &["poet"]);
    mesh.connect(0, 1);
    mesh.settle();
    let node = &mut mesh.nodes[0];
    let (flooder, author) = (key(66).peer_id(), key(2).peer_id());
    node.connect_to(flooder);
    let known = node.receive(
        flooder,
        crate::driver::frame(Frame::Want(polymath_proto::v1::Want {
            offers: vec![head(&author, 0, 0)],
            cards: Vec::new(),
        })),
    );
    let repeat = crate::driver::offers(crate::driver::changes(&known));
    let sums = vec![0; 2048].into();
    let digest = crate::driver::frame(Frame::Digest(Digest { sums }));
    let all = crate::driver::frame(Frame::Heads(Heads {
        all: true,
        ..Heads::default()
    }));
    for flood in [digest, all, repeat] {
        let mut answered = 0;
        for _ in 0..100_000 {
            let before = node.catalog.counters().refused(Refusal::Flood);
            node.receive(flooder, flood.clone());
            if node.catalog.counters().refused(Refusal::Flood) > before {
                break;
            }
            answered += 1;
        }
        assert!(answered < 100_000, "all were looked at");
        for _ in 0..10 {
            // It is no fault, and over after a while.
            let actions = node.catalog.tick();
            node.perform(actions);
        }
    }
    mesh.offer(1, &["baker"]);
    mesh.settle();
    assert!(mesh.nodes[0].expert_names().contains("baker"));
}
