//! A charter document that is full still takes rights away, and what was taken back makes room.

use polymath_catalog::{CatalogLimits, CharterEdit, CharterError};
use polymath_proto::v1::SignedChange;
use polymath_types::PeerId;

use crate::{
    charter::{alias, charters, dismiss, revoke},
    charter_schema::{crafted_by, entry},
    driver::{Mesh, key, stranger},
};

const ROLES: usize = 0;
const REVOKED: usize = 1;
const ALIASES: usize = 2;
const CATEGORIES: usize = 3;
/// Roles.
const TAKEN_BACK: usize = 5;

fn name(n: usize) -> String {
    format!("n{n:061}")
}

fn experts() -> Vec<String> {
    (0..16).map(|n| format!("{n}")).collect()
}

fn no_alias(name: &str) -> CharterEdit {
    CharterEdit::Alias {
        name: name.into(),
        expert: None,
    }
}

fn peer(n: usize) -> PeerId {
    stranger(u16::try_from(n).unwrap()).peer_id()
}

fn role(n: usize, role: Option<&str>) -> CharterEdit {
    CharterEdit::Role {
        peer: peer(n),
        role: role.map(Into::into),
    }
}

/// Two founders, the first of which hears of what it laid down in an earlier life, and says it again: entries
/// of some sections, so many of each.
fn filled(sections: &[(usize, usize)]) -> Mesh {
    let mut mesh = Mesh::founded(2, 2);
    mesh.chain();
    let from = mesh.id(1);
    let sent = mesh.nodes[0].receive(from, charters(vec![earlier(1, sections)]));
    mesh.post(0, sent);
    mesh.settle();
    mesh.charter();
    mesh
}

fn earlier(author: u8, sections: &[(usize, usize)]) -> SignedChange {
    crafted_by(author, |tx, maps| {
        for (section, entries) in sections {
            for n in 0..*entries {
                let (key, says) = match *section {
                    ALIASES => (format!("{author} {}", name(n)), vec!["e".repeat(128)]),
                    CATEGORIES => (format!("category {n}"), experts()),
                    ROLES => (peer(n).to_string(), vec!["member".to_owned()]),
                    TAKEN_BACK => (peer(n).to_string(), Vec::new()),
                    _ => (peer(1000 + n).to_string(), vec!["out".to_owned()]),
                };
                let says: Vec<&str> = says.iter().map(String::as_str).collect();
                entry(tx, &maps[section % 5], &key, 1, &says);
            }
        }
    })
}

/// Lays down what `edit` makes until there is no room: how many, and what was said then.
fn fill(mesh: &mut Mesh, edit: impl Fn(usize) -> CharterEdit) -> (usize, CharterError) {
    for n in 0..200 {
        if let Err(error) = mesh.edit(0, edit(n)) {
            return (n, error);
        }
        mesh.settle();
    }
    panic!("it is never full");
}

#[test]
fn who_has_laid_down_all_it_may_still_takes_rights_away() {
    let mut mesh = filled(&[(ALIASES, 381), (ROLES, 62), (REVOKED, 60)]);
    let second = mesh.id(1);
    let error = mesh.edit(0, alias("one more", "chef")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, CharterError::Full { .. }), "{error}");
    assert!(text.contains("mesh alias remove") && text.contains("384"));
    let error = mesh.edit(0, CharterEdit::Appoint(key(9).peer_id()));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("mesh role remove"), "{error}");
    mesh.edit(0, dismiss(second)).unwrap();
    mesh.settle();
    let (revoked, error) = fill(&mut mesh, |n| revoke(peer(2000 + n)));
    assert_eq!(revoked, 8);
    assert!(error.to_string().contains("512"), "{error}");
    // What is there can still be changed.
    mesh.edit(0, role(0, Some("helper"))).unwrap();
    mesh.edit(0, alias("1 n0", "other")).unwrap_err();
    mesh.edit(0, alias(&format!("1 {}", name(0)), "other"))
        .unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!((charter.revoked.len(), charter.aliases.len()), (68, 381));
    assert!(!charter.is_admin(&second));
    assert_eq!(charter.roles[&peer(0)].value, "helper");
    let stored = &mesh.nodes[1].disk[&format!("charter-{}", mesh.id(0))];
    assert!(stored.len() < 512 * 1024, "{} bytes", stored.len());
}

#[test]
fn names_and_roles_each_have_their_part() {
    let mut mesh = filled(&[(ALIASES, 382)]);
    let (names, _) = fill(&mut mesh, |n| alias(&n.to_string(), "chef"));
    assert_eq!(names, 2);
    let mut mesh = filled(&[(ALIASES, 384), (ROLES, 62)]);
    let (roles, _) = fill(&mut mesh, |n| role(100 + n, Some("member")));
    assert_eq!(roles, 2);
}

#[test]
fn large_entries_are_no_more_in_the_way_of_a_revocation_than_many() {
    let mut mesh = filled(&[(CATEGORIES, 179)]);
    let (told, error) = fill(&mut mesh, |n| CharterEdit::Category {
        name: format!("more {n}"),
        experts: experts(),
    });
    assert!(matches!(error, CharterError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("mesh category remove"));
    // A fresh document can hold that and its part of roles and revocations; others take it.
    let mut mesh = filled(&[(CATEGORIES, 179 + told), (ROLES, 64), (REVOKED, 62)]);
    let (revoked, _) = fill(&mut mesh, |n| revoke(peer(2000 + n)));
    assert!(revoked >= 2, "{revoked}");
    let name = "category 7".to_owned();
    let experts = vec!["chef".to_owned()];
    mesh.edit(0, CharterEdit::Category { name, experts })
        .unwrap();
    mesh.settle();
    assert_eq!(mesh.charter().categories["category 7"].value, ["chef"]);
    assert_eq!(mesh.nodes[1].catalog.counters().refusals().count(), 0);
}

#[test]
fn what_was_taken_back_makes_room_and_stays_taken_back() {
    let mut mesh = filled(&[(ALIASES, 383)]);
    mesh.edit(1, alias("both", "theirs")).unwrap();
    mesh.settle();
    mesh.edit(0, alias("both", "mine")).unwrap();
    mesh.edit(0, no_alias("both")).unwrap();
    mesh.settle();
    assert!(mesh.edit(0, alias("more", "x")).is_err());
    for n in 0..10 {
        mesh.edit(0, no_alias(&format!("1 {}", name(n)))).unwrap();
    }
    let (more, _) = fill(&mut mesh, |n| alias(&format!("more {n}"), "y"));
    assert_eq!(more, 10);
    let charter = mesh.charter();
    assert_eq!(charter.aliases.len(), 383);
    assert!(!charter.aliases.contains_key("both"), "the other's word");
    mesh.isolate(0);
    mesh.nodes[0].restart(CatalogLimits::default());
    assert_eq!(mesh.charter(), charter);
}

#[test]
fn roles_and_revocations_that_were_taken_back_fill_nothing_for_good() {
    let mut mesh = filled(&[(TAKEN_BACK, 444)]);
    let second = mesh.id(1);
    mesh.edit(0, dismiss(second)).unwrap();
    for n in 500..508 {
        mesh.edit(0, revoke(peer(n))).unwrap();
        let (peer, out) = (peer(n), false);
        mesh.edit(0, CharterEdit::Revoke { peer, out }).unwrap();
        mesh.edit(0, role(n, Some("member"))).unwrap();
    }
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!((charter.roles.len(), charter.revoked.len()), (8, 0));
    assert!(!charter.is_admin(&second), "what matters is remembered");
}

#[test]
fn a_full_document_with_a_long_history_starts_anew_and_revokes() {
    let mut mesh = filled(&[(ALIASES, 384)]);
    for n in 0..70 {
        mesh.edit(0, alias(&format!("1 {}", name(0)), &n.to_string()))
            .unwrap();
    }
    mesh.edit(0, revoke(peer(1))).unwrap();
    mesh.settle();
    let charter = mesh.charter();
    assert_eq!((charter.aliases.len(), charter.revoked.len()), (384, 1));
    assert_eq!(mesh.nodes[1].catalog.counters().refusals().count(), 0);
}

#[test]
fn what_is_too_much_to_be_repeated_is_said_with_the_way_out() {
    let mut mesh = filled(&[(ALIASES, 300)]);
    let (from, second) = (mesh.id(0), mesh.id(1));
    let sent = mesh.nodes[1].receive(from, charters(vec![earlier(2, &[(ALIASES, 160)])]));
    mesh.post(1, sent);
    mesh.settle();
    assert_eq!(mesh.charter().aliases.len(), 460);
    let error = mesh.edit(0, dismiss(second)).unwrap_err();
    assert_eq!(error, CharterError::Adoption { peer: second });
    assert!(error.to_string().contains("--void"));
    let (peer, void) = (second, true);
    mesh.edit(0, CharterEdit::Dismiss { peer, void }).unwrap();
    mesh.settle();
    assert_eq!(mesh.charter().aliases.len(), 300);
}
