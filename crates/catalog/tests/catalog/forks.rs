//! An author that signed two different changes with one number is found out, whoever holds which.

use polymath_catalog::{CatalogLimits, Refusal, inspect};
use polymath_proto::v1::{SignedChange, Want, sync_frame::Frame};

use crate::driver::{
    Disk, MESH, Mesh, Node, changes, claim, frame, head, key, offers, stranger, wanted,
};

/// The changes of an author that is not there: `first`, then `then`.
pub(crate) fn written(first: &[&str], then: &[&[&str]]) -> Vec<SignedChange> {
    let mut author = Node::open(key(99), CatalogLimits::default(), Disk::new()).0;
    author.connect_to(key(98).peer_id());
    let mut all = changes(&author.offer(first));
    for names in then {
        all.extend(changes(&author.offer(names)));
    }
    all
}

/// A chain of nodes, the first of which was told one thing and all others another.
pub(crate) fn parted(one: Vec<SignedChange>, other: Vec<SignedChange>, nodes: u8) -> Mesh {
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
    for node in 0..2 {
        assert!(!mesh.index(node).peers().contains_key(&subject));
    }
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

#[test]
fn an_author_whose_disk_was_put_back_learns_of_it_from_the_first_answer() {
    let mut mesh = Mesh::of(2);
    let author = mesh.nodes[0].id();
    // The other one has the greater id, or the author tells it first: both ways the author brings a change.
    mesh.offer(0, &["chef"]);
    let backup = mesh.nodes[0].disk.clone();
    mesh.offer(0, &["coder"]);
    mesh.connect(0, 1);
    mesh.settle();
    mesh.isolate(0);
    mesh.nodes[0].disk = backup;
    mesh.nodes[0].restart(CatalogLimits::default());
    // The author is heard by a stream on which nothing of what others hold was said yet.
    let to = mesh.nodes[1].id();
    mesh.nodes[0].connect_to(to);
    let pushed = changes(&mesh.nodes[0].offer(&["poet"]));
    mesh.nodes[1].connect_to(author);
    let answer = mesh.nodes[1].receive(author, offers(pushed));
    let told = changes(&answer);
    assert!(
        !told.is_empty(),
        "it is told at once, not with the next comparison"
    );
    for change in told {
        mesh.nodes[0].receive(to, offers(vec![change]));
    }
    assert_eq!(mesh.index(0).peers()[&author].epoch, 2);
}

#[test]
fn nobody_uses_up_the_epochs_of_an_author_whose_key_he_once_had() {
    let scene = crate::scene::scene();
    let author = scene.hostile.peer_id();
    let far = |epoch: u64| {
        let bytes = crate::scene::crafted(crate::scene::actor(&author, epoch), |tx| {
            crate::scene::valid_root(tx);
        });
        scene.sign(epoch, 1, bytes)
    };
    for epoch in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut node = scene.victim();
        let from = key(97).peer_id();
        node.connect_to(from);
        for _ in 0..40 {
            node.receive(from, offers(vec![far(epoch)]));
        }
        assert_eq!(node.catalog.counters().refused(Refusal::Epoch), 40);
        assert_eq!(
            wanted(&node.receive(from, claim(vec![head(&author, epoch, 1)]))),
            []
        );
        node.receive(from, offers(vec![scene.first.clone(), far(2)]));
        assert_eq!(node.catalog.index().peers()[&author].epoch, 2);
    }
    // Nor is the author itself driven there.
    let mut owner = Node::open(scene.hostile.clone(), CatalogLimits::default(), Disk::new()).0;
    let from = key(97).peer_id();
    owner.connect_to(from);
    owner.offer(&["chef"]);
    owner.receive(from, offers(vec![far(u64::MAX)]));
    owner.offer(&["poet"]);
    assert!(owner.catalog.index().peers()[&author].epoch < 4);
}

#[test]
fn an_owner_goes_on_everywhere_a_second_after_a_thief_used_up_all_epochs_of_its_key() {
    let scene = crate::scene::scene();
    let author = scene.hostile.peer_id();
    let now = 1_900_000_000;
    let latest = now - 1_767_225_600 + (1 << 20);
    let chunk = |epoch: u64| {
        let bytes = crate::scene::crafted(crate::scene::actor(&author, epoch), |tx| {
            crate::scene::valid_root(tx);
        });
        scene.sign(epoch, 1, bytes)
    };
    let from = key(97).peer_id();
    let mut node = scene.victim();
    node.catalog.set_time(now);
    node.connect_to(from);
    node.receive(from, offers(vec![chunk(latest + 1), chunk(u64::MAX)]));
    assert_eq!(node.catalog.counters().refused(Refusal::Epoch), 2);
    node.receive(from, offers(vec![chunk(latest)]));
    assert_eq!(node.catalog.index().peers()[&author].epoch, latest);
    // The owner hears of it, and so does somebody who never heard of the owner.
    let mut owner = Node::open(scene.hostile.clone(), CatalogLimits::default(), Disk::new()).0;
    let mut newcomer = scene.victim();
    for node in [&mut owner, &mut newcomer] {
        node.catalog.set_time(now + 1);
        node.connect_to(from);
    }
    owner.receive(from, offers(vec![chunk(latest)]));
    owner.offer(&["poet"]);
    assert_eq!(owner.catalog.index().peers()[&author].epoch, latest + 1);
    for node in [&mut node, &mut newcomer] {
        node.catalog.set_time(now + 1);
        node.receive(from, offers(vec![chunk(latest + 1)]));
        assert_eq!(node.catalog.index().peers()[&author].epoch, latest + 1);
    }
}

/// The first changes of authors that are not there, all of whom serve `name`.
fn serving(authors: std::ops::Range<u16>, name: &str) -> Vec<SignedChange> {
    let first = |author| {
        let mut author = Node::open(stranger(author), CatalogLimits::default(), Disk::new()).0;
        author.connect_to(key(98).peer_id());
        changes(&author.offer(&[name])).remove(0)
    };
    authors.map(first).collect()
}

#[test]
fn however_many_authors_contradict_themselves_all_come_to_rest() {
    let (one, other) = (serving(1000..1080, "chef"), serving(1000..1080, "thief"));
    let mut mesh = parted(one, other, 3);
    for node in &mesh.nodes {
        let refused = node.catalog.counters().refused(Refusal::Equivocation);
        assert_eq!(refused, 80);
        assert_eq!(node.catalog.index().peers().len(), 60);
    }
    assert_found_out(&mut mesh);
}

#[test]
fn an_author_is_dropped_when_there_is_no_room_for_the_proof_and_not_asked_for_in_that_epoch() {
    // Experts count for more than the bytes that name them, but not of whom nothing is used.
    let (one, other) = (written(&[], &[]), written(&["thief"], &[]));
    let author = key(99).peer_id();
    let name = format!("offer-{author}");
    let both = one[0].change.len() + other[0].change.len();
    for (room, kept) in [(both, true), (both - 1, false)] {
        let limits = CatalogLimits {
            offer_bytes: room,
            ..CatalogLimits::default()
        };
        let mut node = Node::open(key(1), limits, Disk::new()).0;
        let feeder = key(97).peer_id();
        node.connect_to(feeder);
        node.receive(feeder, offers(one.clone()));
        assert!(node.catalog.index().peers().contains_key(&author));
        node.receive(feeder, offers(other.clone()));
        assert!(!node.catalog.index().peers().contains_key(&author));
        assert_eq!(node.disk.contains_key(&name), kept);
        let sent = node.receive(feeder, claim(vec![head(&author, 1, 7)]));
        assert_eq!(wanted(&sent), []);
        let sent = node.receive(feeder, claim(vec![head(&author, 2, 1)]));
        assert_eq!(wanted(&sent).len(), 1);
    }
}

#[test]
fn what_is_proven_is_not_forgotten_with_a_restart() {
    let (one, other) = (written(&["chef"], &[]), written(&["thief"], &[]));
    let mut mesh = parted(one.clone(), other, 2);
    mesh.isolate(0);
    let recovered = mesh.nodes[0].restart(CatalogLimits::default());
    assert!(recovered.problems.is_empty());
    let author = key(99).peer_id();
    assert!(!mesh.index(0).peers().contains_key(&author));
    let name = format!("offer-{author}");
    inspect(&name, &mesh.nodes[0].disk[&name], &MESH).unwrap();
    mesh.connect(0, 1);
    mesh.settle();
    assert_eq!(mesh.nodes[0].catalog.counters().changes, 0);
    let feeder = key(97).peer_id();
    mesh.nodes[0].connect_to(feeder);
    mesh.nodes[0].receive(feeder, offers(one));
    assert_eq!(mesh.nodes[0].catalog.counters().repeats, 1);
}

/// Two histories of an author that part at the first change: a long one, and one change.
fn long_and_short(author: u16) -> (Vec<SignedChange>, Vec<SignedChange>) {
    let limits = CatalogLimits {
        roll_after: 256,
        ..CatalogLimits::default()
    };
    let mut node = Node::open(stranger(author), limits, Disk::new()).0;
    node.connect_to(key(98).peer_id());
    let turns = [&["chef"][..], &["coder"]].into_iter().cycle().take(256);
    let long: Vec<SignedChange> = turns
        .flat_map(|names| changes(&node.offer(names)))
        .collect();
    assert_eq!((long.len(), long[255].epoch), (256, 1));
    (long, serving(author..author + 1, "thief"))
}

#[test]
fn who_brings_long_histories_that_contradict_each_other_is_heard_after_that() {
    let mut mesh = Mesh::of(2);
    let feeder = key(97).peer_id();
    mesh.nodes[0].connect_to(feeder);
    for author in 2000..2008 {
        let (long, short) = long_and_short(author);
        for changes in [long, short] {
            mesh.nodes[0].receive(feeder, offers(changes));
        }
    }
    mesh.nodes[0].links.remove(&feeder);
    mesh.nodes[0].catalog.peer_disconnected(feeder);
    mesh.connect(0, 1);
    mesh.settle();
    let counters = mesh.nodes[1].catalog.counters();
    assert_eq!(counters.refused(Refusal::Equivocation), 8);
    assert_eq!(counters.changes, 8, "one version, up to where they part");
    mesh.offer(0, &["chef"]);
    mesh.settle();
    assert!(mesh.nodes[1].expert_names().contains("chef"));
    assert_eq!(mesh.nodes[1].catalog.counters().refused(Refusal::Flood), 0);
}

#[test]
fn an_author_itself_is_given_all_of_its_histories_and_others_what_proves_that_there_are_two() {
    let (long, short) = long_and_short(2100);
    let mut node = Node::fresh(1);
    let (author, other) = (stranger(2100).peer_id(), key(97).peer_id());
    node.connect_to(author);
    node.connect_to(other);
    node.receive(other, offers(long.clone()));
    node.receive(other, offers(short.clone()));
    let want = Want {
        offers: vec![head(&author, 1, 0)],
        cards: Vec::new(),
    };
    let mut told = |asker| changes(&node.receive(asker, frame(Frame::Want(want.clone()))));
    assert_eq!(told(other), [long[0].clone(), short[0].clone()]);
    assert_eq!(told(author), [long, short].concat());
}
