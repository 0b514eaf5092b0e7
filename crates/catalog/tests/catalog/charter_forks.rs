//! An admin that contradicts itself, in bad faith or since its disk was put back, parts nobody.

use polymath_catalog::{CatalogLimits, CharterEdit};
use polymath_proto::v1::SignedChange;
use polymath_types::PeerId;
use proptest::prelude::*;

use crate::{
    charter::{alias, charters, revoke},
    driver::{Disk, Mesh, Node, changes, key},
};

const NODES: usize = 4;
/// A founder who is only heard of.
const ABSENT: u8 = 77;
/// Whom it has shut out.
const OUT: u8 = 88;

/// Two histories of one epoch that part after their second change, a third that parted from both before it, and
/// the first change of the next epoch, which its author begins when it hears of the second.
struct Forked {
    histories: [Vec<SignedChange>; 3],
    next: Vec<SignedChange>,
}

fn forked() -> Forked {
    let founders: Vec<PeerId> = [ABSENT, 1].map(|n| key(n).peer_id()).into();
    let open = || {
        let limits = CatalogLimits::default();
        let mut node = Node::founded(key(ABSENT), limits, Disk::new(), founders.clone()).0;
        node.connect_to(key(250).peer_id());
        node
    };
    let write = |node: &mut Node, edits: &[CharterEdit]| -> Vec<SignedChange> {
        let sent = edits.iter().map(|e| node.edit(e.clone()).unwrap());
        changes(&sent.flatten().collect::<Vec<_>>())
    };
    let appoint = |n: u8| CharterEdit::Appoint(key(n).peer_id());
    let first = alias("default", "chef");
    let out = revoke(key(OUT).peer_id());
    let (mut one, mut other, mut third) = (open(), open(), open());
    let edits = [first.clone(), out.clone(), appoint(2), alias("a", "one")];
    let history = write(&mut one, &edits);
    let edits = [
        first.clone(),
        out,
        revoke(key(2).peer_id()),
        appoint(3),
        alias("a", "other"),
    ];
    let version = write(&mut other, &edits);
    assert_eq!(history[..2], version[..2]);
    let edits = [first, appoint(4), alias("a", "third"), alias("b", "third")];
    let early = write(&mut third, &edits);
    assert!(history[0] == early[0] && history[1] != early[1]);
    let sent = one.receive(key(250).peer_id(), charters(version.clone()));
    let next = changes(&sent);
    assert_eq!((next.len(), next[0].epoch), (1, 2));
    Forked {
        histories: [history, version, early],
        next,
    }
}

impl Mesh {
    /// A chain of nodes, the absent founder being the most senior and the first node the other.
    fn of_absent() -> Self {
        let founders: Vec<PeerId> = [ABSENT, 1].map(|n| key(n).peer_id()).into();
        let open = |n: usize| {
            let key = key(u8::try_from(n).unwrap());
            Node::founded(key, CatalogLimits::default(), Disk::new(), founders.clone()).0
        };
        let mut mesh = Self {
            nodes: (1..=NODES).map(open).collect(),
            ..Self::default()
        };
        mesh.chain();
        mesh
    }

    fn feed(&mut self, node: usize, changes: &[SignedChange]) {
        let from = key(ABSENT).peer_id();
        self.nodes[node].connect_to(from);
        let sent = self.nodes[node].receive(from, charters(changes.to_vec()));
        self.nodes[node].links.remove(&from);
        self.nodes[node].catalog.peer_disconnected(from);
        self.post(node, sent);
    }

    fn settle_all(&mut self) {
        for node in 1..NODES {
            self.connect(node - 1, node);
        }
        for _ in 0..16 {
            self.tick();
            self.settle();
        }
    }
}

#[test]
fn of_an_admin_that_contradicts_itself_what_it_said_before_counts_until_its_next_epoch() {
    let Forked { histories, next } = forked();
    let mut mesh = Mesh::of_absent();
    mesh.disconnect(1, 2);
    mesh.feed(0, &histories[0]);
    mesh.feed(3, &histories[1]);
    mesh.settle();
    assert_eq!(mesh.nodes[1].catalog.charter().resolve("a"), "one");
    assert_eq!(mesh.nodes[2].catalog.charter().resolve("a"), "other");
    mesh.settle_all();
    let charter = mesh.charter();
    let (out, two) = (key(OUT).peer_id(), key(2).peer_id());
    assert!(charter.is_revoked(&out) && !charter.is_revoked(&two));
    assert_eq!(charter.aliases.len(), 1);
    assert_eq!(charter.resolve("default"), "chef");
    // Nor does a restart forget it.
    mesh.isolate(3);
    mesh.nodes[3].restart(CatalogLimits::default());
    assert_eq!(mesh.nodes[3].catalog.charter(), &charter);
    let admins: Vec<PeerId> = charter.admins.iter().map(|a| a.peer).collect();
    assert_eq!(admins, [key(ABSENT).peer_id(), key(1).peer_id()]);
    // The other founder goes on meanwhile.
    mesh.edit(0, alias("b", "mine")).unwrap();
    mesh.feed(2, &next);
    mesh.settle_all();
    let charter = mesh.charter();
    assert_eq!(charter.resolve("b"), "mine");
    assert_eq!(charter.resolve("default"), "chef");
    assert!(
        charter.is_revoked(&key(2).peer_id()),
        "both versions are joined"
    );
}

#[test]
fn all_come_to_know_where_an_admin_contradicted_itself_first_whichever_two_versions_they_met() {
    let Forked { histories, .. } = forked();
    for fed in [[(0, 1), (0, 2)], [(0, 2), (1, 2)], [(1, 2), (0, 1)]] {
        let mut mesh = Mesh::of_absent();
        mesh.disconnect(1, 2);
        for (half, (one, other)) in fed.into_iter().enumerate() {
            mesh.feed(3 * half, &histories[one]);
            mesh.feed(3 * half, &histories[other]);
        }
        mesh.settle();
        mesh.settle_all();
        let charter = mesh.charter();
        assert_eq!(charter.resolve("default"), "chef");
        assert!(charter.revoked.is_empty(), "they part before that");
    }
}

#[test]
fn a_backup_put_back_forgets_nothing_however_much_is_said_before_anyone_is_met() {
    for (forgotten, edits) in [(1, 1), (1, 3), (2, 2), (2, 3), (3, 2), (4, 1)] {
        let mut mesh = Mesh::founded(3, 1);
        mesh.chain();
        mesh.edit(0, alias("first", "a")).unwrap();
        mesh.settle();
        let backup = mesh.nodes[0].disk.clone();
        for n in 0..forgotten {
            mesh.edit(0, revoke(key(100 + n).peer_id())).unwrap();
            mesh.settle();
        }
        mesh.isolate(0);
        mesh.nodes[0].disk = backup;
        mesh.nodes[0].restart(CatalogLimits::default());
        for n in 0..edits {
            mesh.edit(0, alias(&format!("meanwhile {n}"), "b")).unwrap();
        }
        mesh.chain();
        for _ in 0..6 {
            mesh.tick();
            mesh.settle();
        }
        let charter = mesh.charter();
        let found = (charter.revoked.len(), charter.aliases.len());
        assert_eq!(
            found,
            (usize::from(forgotten), 1 + edits),
            "{forgotten} {edits}"
        );
        assert_eq!(charter.resolve("first"), "a");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Feed(usize, usize, usize),
    Next(usize),
    Edit(usize, u8),
    Appoint(usize, u8),
    Deliver(usize),
    Drop(usize),
    Link(usize, usize),
    Cut(usize, usize),
    Restart(usize),
    /// The disk of a node is put back to what it was at the last such step.
    PutBack(usize),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        4 => (node(), 0..3usize, 1..5usize).prop_map(|(n, of, to)| Step::Feed(n, of, to)),
        1 => node().prop_map(Step::Next),
        3 => (node(), 0..4u8).prop_map(|(n, name)| Step::Edit(n, name)),
        2 => (node(), 1..5u8).prop_map(|(n, peer)| Step::Appoint(n, peer)),
        14 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => (node(), node()).prop_map(|(a, b)| Step::Link(a, b)),
        2 => (node(), node()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => node().prop_map(Step::Restart),
        1 => node().prop_map(Step::PutBack),
        1 => Just(Step::Tick),
    ]
}

fn converges(steps: Vec<Step>, forked: &Forked) -> Result<(), TestCaseError> {
    let mut mesh = Mesh::of_absent();
    let mut disks: Vec<Disk> = vec![Disk::new(); NODES];
    for step in steps {
        match step {
            Step::Feed(node, of, to) => mesh.feed(node, &forked.histories[of][..to]),
            Step::Next(node) => mesh.feed(node, &forked.next),
            Step::Edit(node, name) => {
                let _ = mesh.edit(node, alias(&format!("of {name}"), &format!("{node}")));
            }
            Step::Appoint(node, peer) => {
                let _ = mesh.edit(node, CharterEdit::Appoint(key(peer).peer_id()));
            }
            Step::Deliver(at) if !mesh.wire.is_empty() => {
                let packet = mesh.wire.remove(at % mesh.wire.len()).unwrap();
                mesh.deliver(packet);
            }
            Step::Drop(at) if !mesh.wire.is_empty() => {
                mesh.wire.remove(at % mesh.wire.len());
            }
            Step::Link(a, b) if a != b => mesh.connect(a, b),
            Step::Cut(a, b) if a != b => mesh.disconnect(a, b),
            Step::Restart(node) => {
                mesh.isolate(node);
                let recovered = mesh.nodes[node].restart(CatalogLimits::default());
                prop_assert!(recovered.problems.is_empty());
            }
            Step::PutBack(node) => {
                mesh.isolate(node);
                let now = mesh.nodes[node].disk.clone();
                mesh.nodes[node].disk = std::mem::replace(&mut disks[node], now);
                mesh.nodes[node].restart(CatalogLimits::default());
            }
            Step::Tick => mesh.tick(),
            _ => {}
        }
    }
    mesh.settle_all();
    mesh.settle_all();
    let charter = mesh.nodes[0].catalog.charter();
    prop_assert!(!charter.admins.is_empty());
    for node in &mesh.nodes {
        prop_assert_eq!(node.catalog.charter(), charter, "{}", node.id());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// One who contradicts itself, disks put back, edits by everybody, frames reordered and lost.
    #[test]
    fn any_history_with_contradictions_converges_to_equal_charters(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        converges(steps, &forked())?;
    }
}
