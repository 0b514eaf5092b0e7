//! An admin that was removed and is appointed again: what it said before stays void.

use automerge::transaction::Transactable as _;
use polymath_catalog::{CatalogLimits, CharterEdit};
use polymath_types::PeerId;

use crate::{
    charter::{alias, charters, dismiss, revoke},
    charter_schema::{crafted_by, entry},
    driver::{Mesh, key},
};

fn void(peer: PeerId) -> CharterEdit {
    CharterEdit::Dismiss { peer, void: true }
}

fn no_alias(name: &str) -> CharterEdit {
    CharterEdit::Alias {
        name: name.into(),
        expert: None,
    }
}

/// Five nodes in a chain; the second one is an admin that has laid down an alias, an appointment and a
/// revocation.
fn with_an_appointed_admin() -> (Mesh, PeerId) {
    let mut mesh = Mesh::founded(5, 1);
    mesh.chain();
    let second = mesh.id(1);
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    mesh.settle();
    mesh.edit(1, alias("old", "theirs")).unwrap();
    mesh.edit(1, CharterEdit::Appoint(mesh.id(3))).unwrap();
    mesh.edit(1, revoke(key(99).peer_id())).unwrap();
    mesh.settle();
    (mesh, second)
}

fn rest(mesh: &mut Mesh) {
    for _ in 0..4 {
        mesh.tick();
        mesh.settle();
    }
}

#[test]
fn what_was_voided_stays_void_when_its_author_is_appointed_again() {
    for restarts in [false, true] {
        let (mut mesh, second) = with_an_appointed_admin();
        mesh.edit(0, void(second)).unwrap();
        mesh.settle();
        mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
        mesh.settle();
        if restarts {
            for node in 0..5 {
                mesh.isolate(node);
                mesh.nodes[node].restart(CatalogLimits::default());
            }
            // Before anybody is met.
            mesh.edit(1, alias("new", "mine")).unwrap();
            mesh.chain();
        } else {
            mesh.edit(1, alias("new", "mine")).unwrap();
        }
        rest(&mut mesh);
        let charter = mesh.charter();
        assert_eq!(charter.admins.len(), 2, "{charter:?}");
        assert!(charter.is_admin(&second) && charter.revoked.is_empty());
        assert_eq!(charter.aliases.keys().collect::<Vec<_>>(), ["new"]);
        // It may say the same again.
        mesh.edit(1, alias("old", "again")).unwrap();
        rest(&mut mesh);
        assert_eq!(mesh.charter().aliases["old"].value, "again");
    }
}

#[test]
fn a_founder_that_comes_back_begins_with_nothing_too() {
    let mut mesh = Mesh::founded(3, 2);
    mesh.chain();
    let second = mesh.id(1);
    mesh.edit(1, alias("old", "theirs")).unwrap();
    mesh.settle();
    mesh.edit(0, void(second)).unwrap();
    mesh.settle();
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&second) && charter.aliases.is_empty());
    mesh.edit(1, alias("new", "mine")).unwrap();
    mesh.settle();
    assert_eq!(mesh.charter().resolve("new"), "mine");
}

#[test]
fn it_stays_void_whoever_appoints_its_author_again_and_whoever_removed_it_goes() {
    let (mut mesh, second) = with_an_appointed_admin();
    // A founder, the removed one, and an admin that removes it and is gone itself later.
    let third = mesh.id(3);
    mesh.edit(0, void(second)).unwrap();
    mesh.edit(0, CharterEdit::Appoint(third)).unwrap();
    mesh.settle();
    mesh.edit(3, CharterEdit::Appoint(second)).unwrap();
    rest(&mut mesh);
    assert!(mesh.charter().is_admin(&second));
    assert!(mesh.charter().aliases.is_empty());
    mesh.edit(1, alias("new", "mine")).unwrap();
    mesh.settle();
    // What the appointer laid down is repeated, and with it from when the appointed counts.
    mesh.edit(0, dismiss(third)).unwrap();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&second) && !charter.is_admin(&third));
    assert_eq!(charter.aliases.keys().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn what_was_taken_back_since_a_removal_does_not_return_with_the_removed() {
    let (mut mesh, second) = with_an_appointed_admin();
    mesh.edit(0, dismiss(second)).unwrap();
    mesh.settle();
    assert_eq!(mesh.charter().aliases["old"].by, mesh.id(0));
    mesh.edit(0, no_alias("old")).unwrap();
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&second) && charter.aliases.is_empty());
    assert!(charter.is_admin(&mesh.id(3)), "what was repeated stays");
}

#[test]
fn what_a_removed_admin_said_on_its_own_before_it_heard_of_that_is_void_too() {
    let (mut mesh, second) = with_an_appointed_admin();
    mesh.isolate(1);
    // So much that its document is started anew meanwhile.
    for n in 0..100 {
        mesh.edit(1, alias(&format!("alone {}", n % 7), &format!("{n}")))
            .unwrap();
    }
    mesh.edit(0, void(second)).unwrap();
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    mesh.chain();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&second) && charter.aliases.is_empty());
    assert!(charter.revoked.is_empty());
    mesh.edit(1, alias("new", "mine")).unwrap();
    rest(&mut mesh);
    assert_eq!(mesh.charter().resolve("new"), "mine");
}

#[test]
fn who_resigned_and_is_appointed_again_goes_on_where_it_was() {
    let (mut mesh, second) = with_an_appointed_admin();
    mesh.edit(1, dismiss(second)).unwrap();
    mesh.settle();
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&second));
    assert_eq!(charter.aliases["old"].by, second);
}

#[test]
fn whatever_a_junior_says_of_its_epochs_nobody_is_silenced() {
    let mut mesh = Mesh::founded(4, 2);
    mesh.chain();
    let (second, hostile) = (mesh.id(1), key(9).peer_id());
    mesh.edit(1, alias("kept", "yes")).unwrap();
    mesh.edit(0, CharterEdit::Appoint(hostile)).unwrap();
    mesh.settle();
    // Anything above what can have been begun by now.
    let last = (1u64 << 20) + 1;
    let told = crafted_by(9, |tx, maps| {
        for peer in [second, mesh.id(3)] {
            let entry = entry(tx, &maps[0], &peer.to_string(), 90, &[]);
            tx.put(&entry, "voided", last).unwrap();
        }
    });
    mesh.nodes[0].connect_to(hostile);
    mesh.nodes[0].receive(hostile, charters(vec![told]));
    mesh.nodes[0].links.remove(&hostile);
    mesh.nodes[0].catalog.peer_disconnected(hostile);
    rest(&mut mesh);
    assert_eq!(mesh.charter().aliases["kept"].by, second);
    // Not even those whom it does not outrank.
    for node in [1, 3] {
        let peer = mesh.id(node);
        if node == 1 {
            mesh.edit(0, void(peer)).unwrap();
        }
        mesh.edit(0, CharterEdit::Appoint(peer)).unwrap();
        rest(&mut mesh);
        mesh.edit(node, alias("new", &node.to_string())).unwrap();
        rest(&mut mesh);
        assert_eq!(mesh.charter().aliases["new"].by, peer);
    }
    // Once there can be such epochs it holds, as whatever a senior says, and whom it hits goes on behind them.
    for node in &mut mesh.nodes {
        node.catalog.set_time(1_767_225_600 + 60);
    }
    rest(&mut mesh);
    assert_eq!(mesh.charter().resolve("new"), "1");
    mesh.edit(3, alias("new", "again")).unwrap();
    rest(&mut mesh);
    assert_eq!(mesh.charter().resolve("new"), "again");
}

#[test]
fn a_removal_that_is_itself_let_go_takes_nothing_away() {
    let mut mesh = Mesh::founded(4, 2);
    mesh.chain();
    let (second, third) = (mesh.id(1), mesh.id(2));
    mesh.edit(0, CharterEdit::Appoint(third)).unwrap();
    mesh.settle();
    mesh.edit(2, alias("theirs", "x")).unwrap();
    mesh.settle();
    mesh.edit(1, void(third)).unwrap();
    mesh.settle();
    assert!(mesh.charter().aliases.is_empty());
    mesh.edit(0, void(second)).unwrap();
    rest(&mut mesh);
    let charter = mesh.charter();
    assert!(charter.is_admin(&third) && !charter.is_admin(&second));
    assert_eq!(charter.aliases["theirs"].by, third);
}
