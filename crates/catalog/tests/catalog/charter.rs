//! The charter: what admins lay down is equal everywhere, and nobody else lays down anything.

use polymath_catalog::{CatalogLimits, CharterEdit, CharterError, Refusal};
use polymath_proto::v1::{Offers, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{Charter, Format, PeerId};
use proptest::prelude::*;

use crate::driver::{Disk, Mesh, Node, Packet, changes, key};

pub(crate) fn alias(name: &str, expert: &str) -> CharterEdit {
    CharterEdit::Alias {
        name: name.into(),
        expert: Some(expert.into()),
    }
}

pub(crate) fn dismiss(peer: PeerId) -> CharterEdit {
    CharterEdit::Dismiss { peer, void: false }
}

pub(crate) fn revoke(peer: PeerId) -> CharterEdit {
    CharterEdit::Revoke { peer, out: true }
}

impl Node {
    pub(crate) fn edit(
        &mut self,
        edit: CharterEdit,
    ) -> Result<Vec<(PeerId, SyncFrame)>, CharterError> {
        let actions = self.catalog.edit_charter(edit)?;
        Ok(self.perform(actions))
    }
}

impl Mesh {
    /// Nodes with keys 1 to `n`, founded by the first `founders` of them, not connected.
    pub(crate) fn founded(n: u8, founders: u8) -> Self {
        let all: Vec<PeerId> = (1..=founders).map(|k| key(k).peer_id()).collect();
        let open = |n| {
            let limits = CatalogLimits::default();
            Node::founded(key(n), limits, Disk::new(), all.clone()).0
        };
        Self {
            nodes: (1..=n).map(open).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn edit(&mut self, node: usize, edit: CharterEdit) -> Result<(), CharterError> {
        let sent = self.nodes[node].edit(edit)?;
        self.post(node, sent);
        Ok(())
    }

    /// Everybody's charter, which is one.
    pub(crate) fn charter(&self) -> Charter {
        let first = self.nodes[0].catalog.charter().clone();
        for node in &self.nodes {
            assert_eq!(*node.catalog.charter(), first, "{}", node.id());
            assert_eq!(**node.catalog.index().charter(), first);
        }
        first
    }

    pub(crate) fn chain(&mut self) {
        for node in 1..self.nodes.len() {
            self.connect(node - 1, node);
        }
        self.settle();
    }

    pub(crate) fn id(&self, node: usize) -> PeerId {
        self.nodes[node].id()
    }
}

pub(crate) fn charters(changes: Vec<SignedChange>) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 1,
        frame: Some(Frame::Offers(Offers {
            changes,
            short: Vec::new(),
        })),
    }
}

/// What a node that takes itself for a founder writes, valid in all else.
pub(crate) fn pretender(n: u8, edits: &[CharterEdit]) -> Vec<SignedChange> {
    let founders = vec![key(n).peer_id()];
    let mut node = Node::founded(key(n), CatalogLimits::default(), Disk::new(), founders).0;
    node.connect_to(key(250).peer_id());
    let sent = edits.iter().map(|e| node.edit(e.clone()).unwrap());
    changes(&sent.flatten().collect::<Vec<_>>())
}

#[test]
fn what_an_admin_lays_down_reaches_the_far_end_without_a_tick_and_outlives_restarts() {
    let mut mesh = Mesh::founded(4, 1);
    mesh.chain();
    mesh.edit(0, alias("default", "chef")).unwrap();
    let hints = CharterEdit::Category {
        name: "cooking".into(),
        experts: vec!["chef".into(), "baker".into()],
    };
    mesh.edit(0, hints).unwrap();
    let codebook = CharterEdit::Codebook {
        name: "clusters".into(),
        version: Some(3),
    };
    mesh.edit(0, codebook).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.resolve("default"), "chef");
    assert_eq!(charter.resolve("baker"), "baker");
    assert_eq!(charter.categories["cooking"].value, ["chef", "baker"]);
    assert_eq!(charter.codebooks["clusters"].value, 3);
    for node in 0..4 {
        mesh.isolate(node);
        let recovered = mesh.nodes[node].restart(CatalogLimits::default());
        assert_eq!((recovered.charters, recovered.problems.len()), (1, 0));
    }
    assert_eq!(mesh.charter(), charter);
    // Said again it is no change; taken back it is gone.
    assert!(
        mesh.nodes[0]
            .edit(alias("default", "chef"))
            .unwrap()
            .is_empty()
    );
    mesh.chain();
    let away = CharterEdit::Alias {
        name: "default".into(),
        expert: None,
    };
    mesh.edit(0, away.clone()).unwrap();
    mesh.settle();
    assert!(mesh.charter().aliases.is_empty());
    let error = mesh.edit(0, away).unwrap_err();
    assert!(matches!(error, CharterError::NotFound { .. }), "{error}");
}

#[test]
fn concurrent_edits_of_different_fields_both_survive() {
    let mut mesh = Mesh::founded(3, 2);
    mesh.edit(0, alias("a", "one")).unwrap();
    mesh.edit(1, alias("b", "two")).unwrap();
    mesh.edit(0, alias("c", "zero")).unwrap();
    mesh.edit(1, alias("c", "one")).unwrap();
    mesh.chain();
    let charter = mesh.charter();
    assert_eq!(charter.aliases.len(), 3);
    let later = charter.aliases["c"].by;
    // Whoever writes next has seen both.
    for admin in 0..2 {
        mesh.edit(admin, alias("c", &format!("of {admin}")))
            .unwrap();
        mesh.settle();
        assert_eq!(mesh.charter().aliases["c"].by, mesh.id(admin), "{later}");
    }
}

#[test]
fn an_appointed_admin_may_do_as_much_and_one_removed_nothing_more() {
    let mut mesh = Mesh::founded(4, 1);
    mesh.chain();
    let error = mesh.edit(2, alias("x", "y")).unwrap_err().to_string();
    assert!(error.contains("mesh admin add") && error.contains(&mesh.id(0).to_string()));
    let appoint = CharterEdit::Appoint(mesh.id(2));
    mesh.edit(0, appoint).unwrap();
    mesh.settle();
    mesh.edit(2, alias("x", "y")).unwrap();
    mesh.edit(2, CharterEdit::Appoint(mesh.id(3))).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.admins.len(), 3);
    assert_eq!(charter.aliases["x"].by, mesh.id(2));
    let outranked = mesh.edit(3, dismiss(mesh.id(0))).unwrap_err();
    assert!(
        matches!(outranked, CharterError::Outranked { .. }),
        "{outranked}"
    );
    let outranked = mesh.edit(3, revoke(mesh.id(2))).unwrap_err();
    assert!(
        matches!(outranked, CharterError::Outranked { .. }),
        "{outranked}"
    );
    // What was seen of it stays, and those it appointed.
    mesh.edit(0, dismiss(mesh.id(2))).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.aliases["x"].by, mesh.id(0));
    assert!(charter.is_admin(&mesh.id(3)) && !charter.is_admin(&mesh.id(2)));
    assert!(mesh.edit(2, alias("z", "y")).is_err());
    let name = format!("charter-{}", mesh.id(2));
    for node in [0, 1, 3] {
        assert!(!mesh.nodes[node].disk.contains_key(&name), "{node}");
    }
    // Or nothing does.
    mesh.edit(3, alias("mine", "y")).unwrap();
    let all = CharterEdit::Dismiss {
        peer: mesh.id(3),
        void: true,
    };
    mesh.settle();
    mesh.edit(0, all).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.aliases.keys().collect::<Vec<_>>(), ["x"]);
    assert_eq!(
        mesh.edit(0, dismiss(mesh.id(0))),
        Err(CharterError::LastAdmin)
    );
    assert_eq!(mesh.edit(0, revoke(mesh.id(0))), Err(CharterError::Oneself));
}

#[test]
fn a_document_that_came_before_its_author_was_appointed_counts_from_then_on() {
    let mut mesh = Mesh::founded(3, 1);
    mesh.connect(0, 2);
    mesh.settle();
    mesh.edit(0, CharterEdit::Appoint(mesh.id(2))).unwrap();
    mesh.settle();
    mesh.disconnect(0, 2);
    mesh.edit(2, alias("early", "bird")).unwrap();
    // The appointed meets somebody who has not heard of the appointment from its appointer.
    let early = pretender(3, &[alias("early", "bird")]);
    let founder = mesh.id(0);
    let from = mesh.id(2);
    mesh.nodes[1].connect_to(from);
    let sent = mesh.nodes[1].receive(from, charters(early));
    assert!(sent.is_empty());
    let counters = mesh.nodes[1].catalog.counters();
    assert_eq!(counters.refused(Refusal::Standing), 1);
    assert!(mesh.nodes[1].catalog.charter().aliases.is_empty());
    mesh.disconnect(1, 2);
    mesh.connect(1, 2);
    mesh.settle();
    let charter = mesh.nodes[1].catalog.charter();
    assert_eq!(charter.resolve("early"), "bird");
    assert_eq!(charter.admins[0].peer, founder);
}

#[test]
fn a_removed_admin_changes_nothing_more_whatever_it_writes_and_whoever_hears_it_first() {
    let mut mesh = Mesh::founded(4, 1);
    mesh.chain();
    mesh.edit(0, CharterEdit::Appoint(mesh.id(2))).unwrap();
    mesh.settle();
    mesh.edit(2, alias("kept", "yes")).unwrap();
    mesh.settle();
    // It is cut off with its neighbour and goes on, while the others remove it.
    mesh.disconnect(1, 2);
    mesh.edit(2, alias("late", "one")).unwrap();
    mesh.edit(2, CharterEdit::Appoint(mesh.id(3))).unwrap();
    mesh.settle();
    assert!(mesh.nodes[3].catalog.charter().is_admin(&mesh.id(3)));
    mesh.edit(3, alias("later", "two")).unwrap();
    mesh.edit(0, dismiss(mesh.id(2))).unwrap();
    mesh.settle();
    mesh.connect(1, 2);
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.aliases.keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(charter.admins.len(), 1);
    // A hostile build writes on, with counts from before its removal.
    let hostile = pretender(
        3,
        &[alias("backdated", "x"), CharterEdit::Appoint(mesh.id(1))],
    );
    let from = mesh.id(2);
    mesh.nodes[1].receive(from, charters(hostile));
    mesh.settle();
    assert_eq!(mesh.charter(), charter);
}

#[test]
fn of_two_admins_that_remove_each_other_apart_the_senior_stays_everywhere() {
    let mut mesh = Mesh::founded(4, 1);
    mesh.chain();
    for node in [1, 2] {
        mesh.edit(0, CharterEdit::Appoint(mesh.id(node))).unwrap();
        mesh.settle();
    }
    mesh.disconnect(1, 2);
    mesh.edit(1, dismiss(mesh.id(2))).unwrap();
    assert!(mesh.edit(2, dismiss(mesh.id(1))).is_err(), "the junior");
    // The same by a hostile build: one that does not ask who outranks whom.
    let removal = pretender(3, &[CharterEdit::Appoint(mesh.id(1)), dismiss(mesh.id(1))]);
    let (from, to) = (mesh.id(2), 3);
    mesh.nodes[to].receive(from, charters(removal));
    mesh.settle();
    mesh.connect(1, 2);
    mesh.settle();
    for _ in 0..4 {
        mesh.tick();
        mesh.settle();
    }
    let charter = mesh.nodes[0].catalog.charter();
    assert!(charter.is_admin(&mesh.id(1)) && !charter.is_admin(&mesh.id(2)));
    for node in [0, 1, 3] {
        assert_eq!(mesh.nodes[node].catalog.charter(), charter, "{node}");
    }
}

#[test]
fn a_revoked_peers_offer_leaves_the_index_and_comes_back_with_it() {
    let mut mesh = Mesh::founded(3, 1);
    mesh.chain();
    mesh.offer(2, &["chef"]);
    mesh.settle();
    assert!(mesh.nodes[0].expert_names().contains("chef"));
    mesh.edit(0, revoke(mesh.id(2))).unwrap();
    mesh.settle();
    for node in 0..2 {
        assert!(mesh.nodes[node].expert_names().is_empty(), "{node}");
        assert!(!mesh.index(node).peers().contains_key(&mesh.id(2)));
    }
    // What it says meanwhile, and a restart, change nothing.
    mesh.offer(2, &["chef", "coder"]);
    mesh.settle();
    mesh.isolate(1);
    mesh.nodes[1].restart(CatalogLimits::default());
    assert!(mesh.nodes[1].expert_names().is_empty());
    mesh.chain();
    let back = CharterEdit::Revoke {
        peer: mesh.id(2),
        out: false,
    };
    mesh.edit(0, back).unwrap();
    mesh.settle();
    assert_eq!(mesh.nodes[1].expert_names().len(), 2);
}

#[test]
fn a_grown_charter_document_starts_anew_and_loses_nothing() {
    let mut mesh = Mesh::founded(3, 1);
    mesh.connect(0, 1);
    mesh.settle();
    for n in 0..200 {
        mesh.edit(
            0,
            alias(&format!("alias {}", n % 90), &format!("expert {n}")),
        )
        .unwrap();
        mesh.settle();
    }
    mesh.connect(1, 2);
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!(charter.aliases.len(), 90);
    assert_eq!(charter.resolve("alias 19"), "expert 199");
    let taken = mesh.nodes[2].catalog.counters().changes;
    assert!(taken < 65, "only the last epoch comes: {taken}");
}

#[test]
fn an_admin_whose_disk_was_put_back_or_lost_lays_down_again_what_others_kept() {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    mesh.edit(0, alias("first", "a")).unwrap();
    mesh.settle();
    let backup = mesh.nodes[0].disk.clone();
    mesh.edit(0, alias("second", "b")).unwrap();
    mesh.edit(0, revoke(key(9).peer_id())).unwrap();
    mesh.settle();
    for disk in [backup, Disk::new()] {
        let before = mesh.charter();
        mesh.isolate(0);
        mesh.nodes[0].disk = disk;
        mesh.nodes[0].restart(CatalogLimits::default());
        mesh.edit(0, alias("meanwhile", "c")).unwrap();
        mesh.chain();
        for _ in 0..3 {
            mesh.tick();
            mesh.settle();
        }
        let after = mesh.charter();
        assert_eq!(after.resolve("meanwhile"), "c");
        for (name, alias) in &before.aliases {
            assert_eq!(after.resolve(name), alias.value);
        }
        assert!(after.is_revoked(&key(9).peer_id()));
        assert_eq!(
            mesh.nodes[1]
                .catalog
                .counters()
                .refused(Refusal::Continuity),
            0
        );
    }
}

#[test]
fn a_signature_is_good_for_one_kind_of_document_only() {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    let from = mesh.id(0);
    let offer = changes(&mesh.nodes[0].offer(&["chef"]));
    let charter = changes(&mesh.nodes[0].edit(alias("a", "b")).unwrap());
    let refused = |mesh: &Mesh| mesh.nodes[1].catalog.counters().refused(Refusal::Signature);
    mesh.nodes[1].receive(from, charters(offer));
    assert_eq!(refused(&mesh), 1);
    mesh.nodes[1].receive(from, crate::driver::offers(charter.clone()));
    assert_eq!(refused(&mesh), 2);
    mesh.nodes[1].receive(from, charters(charter));
    assert_eq!(mesh.nodes[1].catalog.charter().resolve("a"), "b");
}

#[test]
fn the_documents_of_thousands_who_are_no_admins_are_not_kept() {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    let from = mesh.id(0);
    let before = mesh.nodes[1].disk.len();
    for n in 10..110 {
        let theirs = pretender(n, &[alias("mine", "now")]);
        mesh.nodes[1].receive(from, charters(theirs));
    }
    let node = &mesh.nodes[1];
    assert_eq!(node.catalog.counters().refused(Refusal::Standing), 100);
    assert_eq!(node.disk.len(), before);
    assert!(node.catalog.charter().aliases.is_empty());
}

#[test]
fn a_document_has_bounds_and_its_author_is_told() {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    let long = "x".repeat(65);
    for name in ["", " a", "a\n", long.as_str()] {
        let error = mesh.edit(0, alias(name, "y")).unwrap_err();
        assert!(matches!(error, CharterError::Text { .. }), "{error}");
    }
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    let category = |experts: Vec<String>| CharterEdit::Category {
        name: "all".into(),
        experts,
    };
    let error = mesh.edit(0, category(many)).unwrap_err();
    assert!(
        matches!(error, CharterError::Experts { limit: 16 }),
        "{error}"
    );
    let twice = vec!["a".to_owned(), "a".to_owned()];
    assert!(mesh.edit(0, category(twice)).is_err());
    for n in 0..512 {
        mesh.edit(0, alias(&format!("n{n:063}"), &"e".repeat(128)))
            .unwrap();
        mesh.settle();
    }
    let error = mesh.edit(0, alias("one more", "y")).unwrap_err();
    assert!(
        matches!(error, CharterError::Full { limit: 512 }),
        "{error}"
    );
    let stored = &mesh.nodes[1].disk[&format!("charter-{}", mesh.id(0))];
    assert!(stored.len() < 512 * 1024, "{} bytes", stored.len());
    assert_eq!(mesh.charter().aliases.len(), 512);
}

#[derive(Debug, Clone)]
enum Step {
    Edit(usize, CharterEdit),
    Offer(usize),
    Deliver(usize),
    Repeat(usize),
    Drop(usize),
    Link(usize, usize),
    Cut(usize, usize),
    Restart(usize),
    Tick,
}

const NODES: u8 = 5;

fn edit() -> impl Strategy<Value = CharterEdit> {
    let peer = || (1..=NODES).prop_map(|n| key(n).peer_id());
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        4 => peer().prop_map(CharterEdit::Appoint),
        2 => (peer(), any::<bool>()).prop_map(|(peer, void)| CharterEdit::Dismiss { peer, void }),
        1 => (peer(), any::<bool>()).prop_map(|(peer, out)| CharterEdit::Revoke { peer, out }),
        1 => peer().prop_map(|peer| CharterEdit::Role { peer, role: Some("member".into()) }),
        3 => (name(), 0..9u8).prop_map(|(name, n)| alias(name, &n.to_string())),
        1 => name().prop_map(|name| CharterEdit::Alias { name: name.into(), expert: None }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..usize::from(NODES);
    prop_oneof![
        6 => (node(), edit()).prop_map(|(n, edit)| Step::Edit(n, edit)),
        1 => node().prop_map(Step::Offer),
        14 => any::<usize>().prop_map(Step::Deliver),
        3 => any::<usize>().prop_map(Step::Repeat),
        3 => any::<usize>().prop_map(Step::Drop),
        3 => (node(), node()).prop_map(|(a, b)| Step::Link(a, b)),
        2 => (node(), node()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => node().prop_map(Step::Restart),
        1 => Just(Step::Tick),
    ]
}

fn converges(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut mesh = Mesh::founded(NODES, 2);
    for node in 1..usize::from(NODES) {
        mesh.connect(node - 1, node);
    }
    for step in steps {
        match step {
            // Most are refused: that is for the node's own charter to say.
            Step::Edit(node, edit) => {
                let _ = mesh.edit(node, edit);
            }
            Step::Offer(node) => mesh.offer(node, &["chef"]),
            Step::Deliver(at) if !mesh.wire.is_empty() => {
                let packet = mesh.wire.remove(at % mesh.wire.len()).unwrap();
                mesh.deliver(packet);
            }
            Step::Repeat(at) if !mesh.wire.is_empty() => {
                let packet = &mesh.wire[at % mesh.wire.len()];
                let (from, to, frame) = (packet.from, packet.to, packet.frame.clone());
                mesh.deliver(Packet { from, to, frame });
            }
            Step::Drop(at) if !mesh.wire.is_empty() => {
                mesh.wire.remove(at % mesh.wire.len());
            }
            Step::Link(a, b) if a != b => mesh.connect(a, b),
            Step::Cut(a, b) if a != b => mesh.disconnect(a, b),
            Step::Restart(node) => {
                mesh.isolate(node);
                let before = mesh.nodes[node].catalog.charter().clone();
                let recovered = mesh.nodes[node].restart(CatalogLimits::default());
                prop_assert!(recovered.problems.is_empty());
                prop_assert_eq!(mesh.nodes[node].catalog.charter(), &before);
            }
            Step::Tick => mesh.tick(),
            _ => {}
        }
    }
    for node in 1..usize::from(NODES) {
        mesh.connect(node - 1, node);
    }
    for _ in 0..32 {
        mesh.tick();
        mesh.settle();
    }
    let charter = mesh.nodes[0].catalog.charter();
    let founders = [key(1).peer_id(), key(2).peer_id()];
    prop_assert!(
        charter
            .admins
            .iter()
            .all(|a| a.by.is_some() || founders.contains(&a.peer))
    );
    prop_assert!(!charter.admins.is_empty());
    for node in &mesh.nodes {
        prop_assert_eq!(node.catalog.charter(), charter, "{}", node.id());
        let counters = node.catalog.counters();
        for blame in [
            Refusal::Signature,
            Refusal::Continuity,
            Refusal::Equivocation,
            Refusal::Chunk,
            Refusal::Schema,
        ] {
            prop_assert_eq!(counters.refused(blame), 0, "{}", blame);
        }
        prop_assert_eq!(counters.own_forks, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Edits by everybody, frames reordered, repeated and lost, partitions, restarts.
    #[test]
    fn any_history_converges_to_equal_charters(steps in prop::collection::vec(step(), 1..150)) {
        converges(steps)?;
    }
}
