//! Who removes an admin, and what then holds of its words, whatever it has written.

use automerge::{ObjId, transaction::Transaction};
use polymath_catalog::{CharterEdit, CharterError, Refusal};
use polymath_types::{Charter, PeerId};

use crate::{
    charter::{alias, charters, dismiss, pretender, revoke},
    charter_schema::{crafted_by, entry},
    driver::{Mesh, changes, key},
};

const ROLES: usize = 0;
const REVOKED: usize = 1;
const ALIASES: usize = 2;

fn void(peer: PeerId) -> CharterEdit {
    CharterEdit::Dismiss { peer, void: true }
}

fn member(peer: PeerId) -> CharterEdit {
    let role = Some("member".to_owned());
    CharterEdit::Role { peer, role }
}

fn id(n: u8) -> String {
    key(n).peer_id().to_string()
}

impl Mesh {
    fn charter_of(&self, node: usize) -> &Charter {
        self.nodes[node].catalog.charter()
    }

    /// The node with key `author`, which is not linked, is heard through node 0.
    fn hear(&mut self, author: u8, write: impl FnOnce(&mut Transaction<'_>, &[ObjId])) {
        let from = key(author).peer_id();
        self.nodes[0].connect_to(from);
        let sent = self.nodes[0].receive(from, charters(vec![crafted_by(author, write)]));
        self.nodes[0].links.remove(&from);
        self.nodes[0].catalog.peer_disconnected(from);
        let sent = sent.into_iter().filter(|(to, _)| *to != from).collect();
        self.post(0, sent);
        self.settle();
    }
}

/// Two founders, the second of which is only heard, and a member.
fn with_another_founder() -> Mesh {
    let mut mesh = Mesh::founded(3, 2);
    mesh.connect(0, 2);
    mesh.settle();
    mesh
}

#[test]
fn a_count_that_was_used_up_goes_with_who_used_it_up() {
    let hostile = key(2).peer_id();
    for way_out in [
        dismiss(hostile),
        void(hostile),
        revoke(hostile),
        member(hostile),
    ] {
        let mut mesh = with_another_founder();
        mesh.edit(0, alias("before", "chef")).unwrap();
        mesh.hear(2, |tx, maps| {
            entry(tx, &maps[ALIASES], "default", (1 << 53) - 1, &["mine"]);
        });
        let error = mesh.edit(0, alias("after", "baker")).unwrap_err();
        assert_eq!(error, CharterError::Count { by: hostile });
        mesh.edit(0, way_out.clone()).unwrap();
        mesh.edit(0, alias("after", "baker")).unwrap();
        mesh.settle();
        for node in [0, 2] {
            let charter = mesh.nodes[node].catalog.charter();
            assert!(!charter.is_admin(&hostile), "{way_out:?}");
            assert_eq!(charter.resolve("after"), "baker");
            let all_gone = way_out == void(hostile);
            assert_eq!(charter.aliases.contains_key("default"), !all_gone);
            assert!(charter.aliases.values().all(|a| a.at < 9), "{charter:?}");
        }
    }
}

#[test]
fn of_two_who_used_the_count_up_each_can_be_removed() {
    let mut mesh = Mesh::founded(4, 3);
    mesh.connect(0, 3);
    mesh.settle();
    for n in [2, 3] {
        mesh.hear(n, |tx, maps| {
            entry(
                tx,
                &maps[ALIASES],
                &format!("of {n}"),
                (1 << 53) - 1,
                &["x"],
            );
        });
    }
    let (one, other) = (key(2).peer_id(), key(3).peer_id());
    // What the first one laid down would have to come after what the other did.
    let error = mesh.edit(0, dismiss(one)).unwrap_err();
    assert_eq!(error, CharterError::Count { by: other });
    mesh.edit(0, void(one)).unwrap();
    mesh.edit(0, void(other)).unwrap();
    mesh.edit(0, alias("after", "baker")).unwrap();
    mesh.settle();
    let charter = mesh.nodes[3].catalog.charter();
    assert_eq!((charter.admins.len(), charter.aliases.len()), (1, 1));
}

#[test]
fn who_removes_an_admin_repeats_only_what_had_an_effect() {
    let mut mesh = Mesh::founded(3, 2);
    mesh.connect(0, 2);
    mesh.settle();
    let (founder, senior, hostile) = (mesh.id(0), mesh.id(1), key(5).peer_id());
    mesh.edit(0, CharterEdit::Appoint(hostile)).unwrap();
    mesh.edit(0, revoke(key(9).peer_id())).unwrap();
    mesh.hear(5, |tx, maps| {
        entry(tx, &maps[ROLES], &id(2), 51, &[]);
        entry(tx, &maps[ROLES], &id(1), 52, &["member"]);
        entry(tx, &maps[ROLES], &id(9), 2, &["admin"]);
        entry(tx, &maps[ROLES], &id(8), 53, &["admin"]);
        entry(tx, &maps[ROLES], &id(7), 54, &["helper"]);
        entry(tx, &maps[REVOKED], &id(2), 55, &["out"]);
        entry(tx, &maps[REVOKED], &id(6), 56, &["out"]);
        entry(tx, &maps[ALIASES], "kept", 1 << 40, &["yes"]);
    });
    let before = mesh.nodes[0].catalog.charter().clone();
    mesh.edit(0, dismiss(hostile)).unwrap();
    mesh.settle();
    for node in [0, 2] {
        let charter = mesh.nodes[node].catalog.charter();
        let admins: Vec<PeerId> = charter.admins.iter().map(|a| a.peer).collect();
        assert_eq!(admins, [founder, senior, key(8).peer_id()]);
        assert!(charter.revoked.keys().eq(before.revoked.keys()));
        assert_eq!(charter.revoked.len(), 2);
        assert_eq!(charter.resolve("kept"), "yes");
        assert_eq!(charter.roles[&key(7).peer_id()].by, founder);
        assert!(charter.aliases["kept"].at < 100, "a count of its own");
    }
    // Nor did it lay down what only waits for another's removal.
    mesh.edit(0, void(senior)).unwrap();
    mesh.edit(0, CharterEdit::Appoint(senior)).unwrap();
    mesh.settle();
    assert!(mesh.nodes[2].catalog.charter().is_admin(&senior));
}

#[test]
fn a_junior_that_says_in_vain_what_its_senior_means_is_not_in_the_way() {
    let mut mesh = Mesh::founded(3, 2);
    mesh.connect(0, 2);
    mesh.settle();
    mesh.edit(0, CharterEdit::Appoint(key(5).peer_id()))
        .unwrap();
    mesh.hear(5, |tx, maps| {
        entry(tx, &maps[ROLES], &id(2), 51, &[]);
    });
    let second = mesh.id(1);
    assert!(mesh.nodes[0].catalog.charter().is_admin(&second));
    mesh.edit(0, void(second)).unwrap();
    mesh.settle();
    assert!(!mesh.nodes[2].catalog.charter().is_admin(&second));
}

#[test]
fn who_resigned_can_be_removed_and_what_it_laid_down_stays() {
    let taken = |mesh: &mut Mesh, edit: CharterEdit| {
        mesh.edit(0, edit).unwrap();
        mesh.settle();
        mesh.charter()
    };
    for way in [dismiss as fn(PeerId) -> CharterEdit, revoke, member] {
        let mut mesh = Mesh::founded(3, 1);
        mesh.chain();
        let (founder, second) = (mesh.id(0), mesh.id(1));
        taken(&mut mesh, CharterEdit::Appoint(second));
        mesh.edit(1, alias("kept", "yes")).unwrap();
        mesh.edit(1, CharterEdit::Appoint(key(9).peer_id()))
            .unwrap();
        mesh.edit(1, dismiss(second)).unwrap();
        mesh.settle();
        assert!(!mesh.charter().is_admin(&second));
        // Appointed again it is one again.
        assert!(taken(&mut mesh, CharterEdit::Appoint(second)).is_admin(&second));
        mesh.edit(1, dismiss(second)).unwrap();
        mesh.settle();
        let charter = taken(&mut mesh, way(second));
        assert_eq!(charter.aliases["kept"].by, founder);
        assert!(charter.is_admin(&key(9).peer_id()));
        let error = mesh.edit(0, dismiss(second)).unwrap_err();
        assert!(matches!(error, CharterError::NotFound { .. }), "{error}");
        let name = format!("charter-{second}");
        assert!(!mesh.nodes[2].disk.contains_key(&name), "it does not count");
    }
}

#[test]
fn a_name_that_has_a_meaning_of_its_own_is_no_alias() {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    for name in ["auto", "0123abcd", "DEADBEEF99"] {
        let error = mesh.edit(0, alias(name, "chef")).unwrap_err();
        assert!(matches!(error, CharterError::Reserved { .. }), "{error}");
    }
    for name in ["automatic", "0123abc", "0123abcx"] {
        mesh.edit(0, alias(name, "chef")).unwrap();
    }
    // A hostile build says it nevertheless.
    let mut mesh = Mesh::founded(2, 1);
    mesh.connect(0, 1);
    mesh.edit(0, CharterEdit::Appoint(key(5).peer_id()))
        .unwrap();
    mesh.hear(5, |tx, maps| {
        entry(tx, &maps[ALIASES], "0123abcd", 9, &["thief"]);
    });
    let charter = mesh.nodes[1].catalog.charter();
    assert_eq!(charter.resolve("0123abcd"), "0123abcd");
    let none = CharterEdit::Alias {
        name: "0123abcd".into(),
        expert: None,
    };
    mesh.edit(0, none).unwrap();
    mesh.settle();
    assert!(mesh.charter().aliases.is_empty());
}

#[test]
fn hundreds_of_appointees_whom_nobody_admits_are_looked_up_once() {
    // 60 admins who each appoint the same 400, and a founder who takes all of them back.
    let mut mesh = Mesh::founded(2, 1);
    let strangers: Vec<String> = (0..400)
        .map(|n| crate::driver::stranger(n).peer_id().to_string())
        .collect();
    let founder = crafted_by(1, |tx, maps| {
        for n in 100..160 {
            entry(tx, &maps[ROLES], &id(n), 1, &["admin"]);
        }
        for peer in &strangers {
            entry(tx, &maps[ROLES], peer, 99, &[]);
        }
    });
    let theirs = (100..160u8).map(|n| {
        crafted_by(n, |tx, maps| {
            for peer in &strangers {
                entry(tx, &maps[ROLES], peer, 2, &["admin"]);
            }
        })
    });
    let from = mesh.id(0);
    mesh.nodes[1].connect_to(from);
    mesh.nodes[1].receive(from, charters(vec![founder]));
    for change in theirs {
        mesh.nodes[1].receive(from, charters(vec![change]));
    }
    let charter = mesh.nodes[1].catalog.charter();
    assert_eq!((charter.admins.len(), charter.roles.len()), (61, 0));
    assert_eq!(mesh.nodes[1].catalog.counters().refusals().count(), 0);
}

#[test]
fn a_file_may_name_the_appointed_before_who_appointed_them() {
    let mut author = Mesh::founded(1, 1);
    author.nodes[0].connect_to(key(250).peer_id());
    let sent = author.nodes[0].edit(CharterEdit::Appoint(key(5).peer_id()));
    let founder = changes(&sent.unwrap());
    let second = pretender(
        5,
        &[CharterEdit::Appoint(key(6).peer_id()), alias("a", "five")],
    );
    let third = pretender(6, &[alias("b", "six")]);
    let nobody = pretender(7, &[alias("c", "seven"), alias("d", "seven")]);
    let mut mesh = Mesh::founded(2, 1);
    let reader = &mut mesh.nodes[1];
    let frames = [nobody, third, second, founder].map(charters);
    let actions = reader.catalog.import(frames);
    reader.perform(actions);
    let charter = reader.catalog.charter();
    assert_eq!(charter.admins.len(), 3);
    assert_eq!(
        (charter.resolve("a"), charter.resolve("b")),
        ("five", "six")
    );
    let counters = reader.catalog.counters();
    assert_eq!(counters.refused(Refusal::Flood), 0);
    // Each change once, however often the others had to be looked at.
    assert_eq!(counters.refused(Refusal::Standing), 2);
    assert_eq!(counters.repeats, 0);
}

#[test]
fn what_is_repeated_of_a_removed_admin_still_comes_after_what_its_appointees_said() {
    let mut mesh = Mesh::founded(3, 1);
    mesh.chain();
    let (founder, second) = (mesh.id(0), mesh.id(1));
    mesh.edit(0, CharterEdit::Appoint(second)).unwrap();
    mesh.settle();
    mesh.edit(1, CharterEdit::Appoint(mesh.id(2))).unwrap();
    mesh.settle();
    for n in 0..9 {
        mesh.edit(2, alias("both", &format!("old {n}"))).unwrap();
        mesh.settle();
    }
    mesh.edit(1, alias("both", "last word")).unwrap();
    mesh.settle();
    mesh.edit(0, dismiss(second)).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    let both = &charter.aliases["both"];
    assert_eq!((both.value.as_str(), both.by), ("last word", founder));
    assert!(charter.is_admin(&mesh.id(2)));
}

#[test]
fn an_admin_that_cannot_be_heard_is_removed_knowingly_only() {
    let mut mesh = with_another_founder();
    let second = key(2).peer_id();
    for expert in ["one", "other"] {
        mesh.hear(2, |tx, maps| {
            entry(tx, &maps[ALIASES], "default", 5, &[expert]);
        });
    }
    assert!(
        mesh.charter_of(0).aliases.is_empty(),
        "it contradicts itself"
    );
    let error = mesh.edit(0, dismiss(second)).unwrap_err();
    assert_eq!(error, CharterError::Unheard { peer: second });
    assert!(error.to_string().contains("--void"));
    // To shut it out cannot wait.
    mesh.edit(0, revoke(second)).unwrap();
    mesh.settle();
    assert!(mesh.charter_of(2).is_revoked(&second));
}
