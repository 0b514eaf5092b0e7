//! What a peer only claims to have: it keeps no one from asking those who have it.

use polymath_catalog::{CatalogLimits, Refusal};

use crate::driver::{Disk, Mesh, Node, claim, head, key, stranger, wanted};

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
    let lie = || claim(authors.iter().map(|a| head(a, u64::MAX, 1)).collect());
    assert_eq!(wanted(&mesh.nodes[0].receive(liar, lie())).len(), 2);
    mesh.connect(0, 1);
    mesh.settle();
    for _ in 0..3 {
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
    let lie = claim(vec![head(&author, u64::MAX, 1)]);
    assert_eq!(wanted(&mesh.nodes[0].receive(liar, lie.clone())).len(), 1);
    mesh.nodes[0].receive(liar, crate::driver::offers(known));
    assert!(wanted(&mesh.nodes[0].receive(liar, lie)).is_empty());
}

#[test]
fn an_author_that_could_sign_nothing_is_its_claimants_fault() {
    let (mut mesh, liar) = scene(CatalogLimits::default());
    let keyless = polymath_proto::v1::OfferHead {
        author: [vec![0x12, 0x20], vec![5; 32]].concat().into(),
        epoch: 1,
        sequence: 1,
    };
    let node = &mut mesh.nodes[0];
    assert!(wanted(&node.receive(liar, claim(vec![keyless.clone(); 200]))).is_empty());
    let refused = node.catalog.counters().refused(Refusal::Author);
    assert!((1..100).contains(&refused), "{refused}");
    assert!(node.catalog.receive(liar, claim(vec![keyless])).is_err());
}
