//! Changes travel in a short form, which is rebuilt by whoever has what came before, and asked for whole by
//! whoever holds another history.

use std::collections::BTreeSet;

use polymath_catalog::{CatalogLimits, FrameError, Refusal};
use polymath_proto::v1::{Offers, ShortChange, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{NodeKey, PeerId};

use crate::driver::{
    Disk, Mesh, Node, changes, claim, frame, head, key, key_of, offers, stranger, wanted,
};

/// Short changes of one author in frames.
fn shorts(sent: &[(PeerId, SyncFrame)]) -> Vec<ShortChange> {
    let mut all = Vec::new();
    for (_, frame) in sent {
        if let Some(Frame::Offers(offers)) = &frame.frame {
            all.extend(offers.short.iter().cloned());
        }
    }
    all
}

fn brought(short: Vec<ShortChange>) -> SyncFrame {
    frame(Frame::Offers(Offers {
        changes: Vec::new(),
        short,
    }))
}

/// An author that is not there, and what it sends with each of these changes.
fn author(key: NodeKey, steps: &[&[&str]]) -> (Node, Vec<ShortChange>) {
    let mut node = Node::open(key, CatalogLimits::default(), Disk::new()).0;
    node.connect_to(crate::driver::key(98).peer_id());
    let sent = steps.iter().flat_map(|names| shorts(&node.offer(names)));
    let sent = sent.collect();
    (node, sent)
}

fn whole_of(steps: &[&[&str]]) -> Vec<SignedChange> {
    let mut node = Node::open(key(99), CatalogLimits::default(), Disk::new()).0;
    node.connect_to(key(98).peer_id());
    steps
        .iter()
        .flat_map(|names| changes(&node.offer(names)))
        .collect()
}

/// A node that was told this by a peer that is gone.
fn told(n: u8, known: Vec<SignedChange>) -> Node {
    let mut node = Node::fresh(n);
    let feeder = key(97).peer_id();
    node.connect_to(feeder);
    node.receive(feeder, offers(known));
    node.links.remove(&feeder);
    node.catalog.peer_disconnected(feeder);
    node
}

#[test]
fn what_was_rebuilt_is_kept_byte_for_byte_as_its_author_keeps_it() {
    let mut mesh = Mesh::of(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.settle();
    let steps: [&[&str]; 4] = [&["chef"], &["chef", "coder"], &[], &["poet", "chef"]];
    let mut sent = 0;
    for names in steps {
        mesh.offer(0, names);
        while let Some(packet) = mesh.wire.pop_front() {
            if let Some(Frame::Offers(offers)) = &packet.frame.frame {
                assert_eq!(offers.changes, []);
                sent += offers.short.len();
            }
            mesh.deliver(packet);
        }
    }
    assert!(sent >= 2 * steps.len(), "{sent}");
    let name = format!("offer-{}", mesh.nodes[0].id());
    let kept = |node: usize| {
        let inspected =
            polymath_catalog::inspect(&name, &mesh.nodes[node].disk[&name], &crate::driver::MESH);
        let Ok(polymath_catalog::Inspected::Offer(history)) = inspected else {
            panic!("{inspected:?}");
        };
        let steps = history.steps.into_iter();
        steps.map(|step| step.change).collect::<Vec<_>>()
    };
    assert_eq!(kept(0).len(), steps.len());
    assert_eq!((kept(1), kept(2)), (kept(0), kept(0)));
}

#[test]
fn a_change_whose_predecessor_is_not_here_is_asked_for_as_if_it_were_claimed() {
    let (author, sent) = author(key(99), &[&["chef"], &["coder"], &["poet"]]);
    let feeder = key(97).peer_id();
    for known in 0..2 {
        let mut node = Node::fresh(1);
        node.connect_to(feeder);
        node.receive(feeder, brought(sent[..known].to_vec()));
        let asked = wanted(&node.receive(feeder, brought(vec![sent[2].clone()])));
        assert_eq!(asked.len(), 1);
        let asked = &asked[0];
        let from = if known == 0 { (0, 0) } else { (1, 1) };
        assert_eq!(
            (asked.epoch, asked.sequence, asked.whole),
            (from.0, from.1, false)
        );
        assert_eq!(asked.author, key_of(&author.id()));
        // It is out to somebody; another one is not asked as well.
        let other = key(96).peer_id();
        node.connect_to(other);
        assert_eq!(
            wanted(&node.receive(other, brought(vec![sent[2].clone()]))),
            []
        );
        node.receive(feeder, brought(sent[known..].to_vec()));
        assert!(node.expert_names().is_empty(), "its card is on its way");
        assert_eq!(node.catalog.index().peers()[&author.id()].sequence, 3);
    }
}

#[test]
fn a_change_that_follows_another_history_than_ours_proves_the_fork_and_nobody_is_to_blame() {
    // Where the histories part, how long each is, and who pushes to whom.
    let histories: [[&[&[&str]]; 2]; 4] = [
        [&[&["chef"]], &[&["thief"], &["coder"]]],
        [
            &[&["chef"], &["coder"], &["poet"]],
            &[&["thief"], &["coder"], &["poet"], &["chef"]],
        ],
        [
            &[&["chef"], &["coder"], &["poet"], &["baker"]],
            &[&["chef"], &["thief"], &["poet"]],
        ],
        [
            &[&["chef"], &["coder"], &["poet"], &["baker"]],
            &[&["thief"], &["chef"], &["poet"], &["baker"], &["coder"]],
        ],
    ];
    for (case, [one, other]) in histories.into_iter().enumerate() {
        // The honest peer learns the last change while both are connected, and pushes it on.
        let mut mesh = Mesh::default();
        let theirs = whole_of(other);
        let (last, before) = theirs.split_last().unwrap();
        mesh.nodes = vec![told(1, whole_of(one)), told(2, before.to_vec())];
        // No comparison: what is pushed has to do.
        for (x, y) in [(0, 1), (1, 0)] {
            let peer = mesh.nodes[y].id();
            mesh.nodes[x].connect_to(peer);
        }
        let feeder = key(97).peer_id();
        mesh.nodes[1].connect_to(feeder);
        let sent = mesh.nodes[1].receive(feeder, offers(vec![last.clone()]));
        assert_eq!(shorts(&sent).len(), 1, "case {case}");
        mesh.post(1, sent);
        mesh.settle();
        let counters = mesh.nodes[0].catalog.counters();
        let found = counters.refused(Refusal::Equivocation);
        assert!(found > 0, "case {case}");
        for node in &mesh.nodes {
            let refusals: BTreeSet<Refusal> =
                node.catalog.counters().refusals().map(|(r, _)| r).collect();
            let harmless = [Refusal::Parted, Refusal::Equivocation];
            assert!(
                refusals.iter().all(|r| harmless.contains(r)),
                "{case}: {refusals:?}"
            );
        }
        mesh.tick();
        mesh.settle();
        let peers = mesh.nodes.iter().map(|n| n.catalog.index().peers().len());
        assert_eq!(peers.sum::<usize>(), 0, "case {case}");
    }
}

#[test]
fn honest_peers_on_the_two_sides_of_many_forks_go_on_hearing_each_other() {
    let mut mesh = Mesh::of(2);
    let feeder = key(97).peer_id();
    let forked = 0..100u16;
    for n in forked.clone() {
        let (_, one) = author(stranger(n), &[&["chef"], &["coder"]]);
        let (_, other) = author(stranger(n), &[&["thief"], &["coder"]]);
        for (node, sent) in mesh.nodes.iter_mut().zip([one, other]) {
            node.connect_to(feeder);
            node.receive(feeder, brought(sent));
        }
    }
    mesh.connect(0, 1);
    // A push of each, that follows the other side's history.
    for n in forked.clone() {
        let (_, sent) = author(stranger(n), &[&["thief"], &["coder"], &["poet"]]);
        let sent = mesh.nodes[1].receive(feeder, brought(vec![sent[2].clone()]));
        mesh.post(1, sent);
    }
    mesh.settle();
    for _ in 0..4 {
        mesh.tick();
        mesh.settle();
    }
    for node in &mesh.nodes {
        let counters = node.catalog.counters();
        assert!(counters.refused(Refusal::Equivocation) >= 100);
        let blamed = [
            Refusal::Signature,
            Refusal::Short,
            Refusal::Size,
            Refusal::Chunk,
        ];
        assert!(blamed.iter().all(|r| counters.refused(*r) == 0));
        assert_eq!(node.catalog.index().peers().len(), 0);
    }
    assert!(mesh.nodes[0].catalog.counters().refused(Refusal::Parted) > 0);
    mesh.offer(1, &["chef"]);
    mesh.settle();
    assert!(mesh.nodes[0].expert_names().contains("chef"));
}

#[test]
fn whoever_alters_a_short_change_is_asked_for_it_whole_once_and_blamed_for_that() {
    let (author, mut sent) = author(key(99), &[&["chef"], &["coder"]]);
    let whole = whole_of(&[&["chef"], &["coder"]]);
    let liar = key(97).peer_id();
    let mut node = told(1, whole[..1].to_vec());
    node.connect_to(liar);
    let mut altered = sent.remove(1);
    let mut columns = altered.columns.to_vec();
    *columns.last_mut().unwrap() ^= 1;
    altered.columns = columns.into();
    let asked = wanted(&node.receive(liar, brought(vec![altered.clone()])));
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].epoch, asked[0].sequence, asked[0].whole),
        (1, 0, true)
    );
    for _ in 0..100 {
        assert_eq!(
            wanted(&node.receive(liar, brought(vec![altered.clone()]))),
            []
        );
    }
    assert_eq!(node.catalog.counters().refused(Refusal::Signature), 0);
    let mut lie = whole[1].clone();
    let mut bytes = lie.change.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    lie.change = bytes.into();
    node.receive(liar, offers(vec![lie.clone()]));
    assert_eq!(node.catalog.counters().refused(Refusal::Signature), 1);
    // It keeps nobody from bringing the change, and is cut off in the end.
    let other = key(96).peer_id();
    node.connect_to(other);
    node.receive(other, offers(vec![whole[1].clone()]));
    assert_eq!(node.catalog.index().peers()[&author.id()].sequence, 2);
    for _ in 0..40 {
        let _ = node.catalog.receive(liar, offers(vec![lie.clone()]));
    }
    let answer = node
        .catalog
        .receive(liar, claim(vec![head(&author.id(), 2, 1)]));
    assert!(
        matches!(answer, Err(FrameError::Misbehaving { .. })),
        "{answer:?}"
    );
}

#[test]
fn what_is_no_short_form_of_a_change_is_its_senders_fault() {
    let (_, sent) = author(key(99), &[&["chef"]]);
    let first = &sent[0];
    let with = |columns: Vec<u8>| ShortChange {
        columns: columns.into(),
        ..first.clone()
    };
    let many = vec![0; CatalogLimits::default().change_bytes + 1];
    let short_key = ShortChange {
        author: first.author.slice(1..),
        ..first.clone()
    };
    let mut elsewhere = first.columns.to_vec();
    *elsewhere.last_mut().unwrap() ^= 1;
    for (change, refusal) in [
        (with(Vec::new()), Refusal::Short),
        (with(vec![0, 0xff]), Refusal::Short),
        (with(vec![1, 0, 0x80]), Refusal::Short),
        (with(many), Refusal::Size),
        (short_key, Refusal::Author),
        // The first of an epoch follows nothing, so it cannot be that this node has something else.
        (with(elsewhere), Refusal::Signature),
    ] {
        let mut node = Node::fresh(1);
        let liar = key(97).peer_id();
        node.connect_to(liar);
        node.receive(liar, brought(vec![change.clone()]));
        assert_eq!(
            node.catalog.counters().refusals().collect::<Vec<_>>(),
            [(refusal, 1)]
        );
        for _ in 0..40 {
            let _ = node.catalog.receive(liar, brought(vec![change.clone()]));
        }
        let answer = node.catalog.receive(liar, brought(vec![first.clone()]));
        assert!(
            matches!(answer, Err(FrameError::Misbehaving { .. })),
            "{answer:?}"
        );
        assert!(node.catalog.index().peers().is_empty());
    }
}

#[test]
fn a_change_with_a_clock_in_it_has_no_short_form_and_is_passed_on_whole() {
    let scene = crate::scene::scene();
    let author = scene.hostile.peer_id();
    let bytes = crate::scene::crafted_at(crate::scene::actor(&author, 1), 1_700_000_000, |tx| {
        crate::scene::valid_root(tx);
    });
    let mut node = Node::fresh(1);
    let (feeder, other) = (key(97).peer_id(), key(96).peer_id());
    node.connect_to(feeder);
    node.connect_to(other);
    let change = scene.sign(1, 1, bytes);
    let sent = node.receive(feeder, offers(vec![change.clone()]));
    assert_eq!(shorts(&sent), []);
    assert_eq!(changes(&sent), [change]);
}

#[test]
fn a_home_whose_disk_was_lost_is_given_its_history_whole() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.settle();
    for names in [&["chef"][..], &["coder"], &["chef", "poet"]] {
        mesh.offer(0, names);
        mesh.settle();
    }
    mesh.disconnect(0, 1);
    mesh.nodes[0] = Node::fresh(1);
    mesh.offer(0, &["baker"]);
    mesh.connect(0, 1);
    mesh.settle();
    mesh.tick();
    mesh.settle();
    let me = mesh.nodes[0].id();
    let counters = mesh.nodes[0].catalog.counters();
    assert!(counters.own_forks > 0);
    assert_eq!(counters.refused(Refusal::Signature), 0);
    let offer = mesh.index(1).peers()[&me].clone();
    assert_eq!((offer.epoch, offer.sequence), (2, 1));
    assert_eq!(mesh.index(0).peers()[&me], offer);
}
