//! Charter documents that were not written by this crate, signed by a founder.

use automerge::{
    ActorId, Automerge, ObjId, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _, Transaction},
};
use polymath_catalog::{CharterEdit, Refusal};
use polymath_proto::v1::SignedChange;
use polymath_types::NodeKey;

use crate::{
    charter::charters,
    driver::{MESH, Mesh, key},
};

const SECTIONS: [&str; 5] = ["roles", "revoked", "aliases", "categories", "codebooks"];

/// Signs as the protocol says, independently of the crate.
fn signed(key: &NodeKey, change: Vec<u8>) -> SignedChange {
    let mut bytes = b"polymath charter change v1\0".to_vec();
    bytes.extend(MESH.as_bytes());
    bytes.extend([1u64.to_be_bytes(), 1u64.to_be_bytes()].concat());
    bytes.extend(&change);
    SignedChange {
        version: 1,
        author: key.peer_id().to_bytes().into(),
        epoch: 1,
        sequence: 1,
        change: change.into(),
        signature: key.keypair().sign(&bytes).unwrap().into(),
    }
}

/// The first change of the founder's document: an empty charter, and what `write` does to it.
fn crafted(write: impl FnOnce(&mut Transaction<'_>, &[ObjId])) -> SignedChange {
    crafted_by(1, write)
}

/// The same by another admin.
pub(crate) fn crafted_by(
    author: u8,
    write: impl FnOnce(&mut Transaction<'_>, &[ObjId]),
) -> SignedChange {
    let founder = key(author);
    let mut hasher = blake3::Hasher::new_derive_key("polymath charter actor v1");
    hasher.update(&founder.peer_id().to_bytes());
    hasher.update(&1u64.to_be_bytes());
    let actor = ActorId::from(&hasher.finalize().as_bytes()[..16]);
    let mut document = Automerge::new().with_actor(actor);
    let mut tx = document.transaction();
    tx.put(ROOT, "version", 1u64).unwrap();
    let maps = SECTIONS.map(|name| tx.put_object(ROOT, name, ObjType::Map).unwrap());
    write(&mut tx, &maps);
    let hash = tx.commit_with(CommitOptions::default().with_time(0)).0;
    let change = document.get_change_by_hash(&hash.unwrap()).unwrap();
    signed(&founder, change.raw_bytes().to_vec())
}

pub(crate) fn entry(
    tx: &mut Transaction<'_>,
    map: &ObjId,
    key: &str,
    at: u64,
    says: &[&str],
) -> ObjId {
    let entry = tx.put_object(map, key, ObjType::Map).unwrap();
    tx.put(&entry, "at", at).unwrap();
    let list = tx.put_object(&entry, "says", ObjType::List).unwrap();
    for (n, text) in says.iter().enumerate() {
        tx.insert(&list, n, *text).unwrap();
    }
    entry
}

/// What a member refuses of it.
fn refusals(change: SignedChange) -> Vec<(Refusal, u64)> {
    let mut mesh = Mesh::founded(2, 1);
    mesh.chain();
    let from = mesh.id(0);
    mesh.nodes[1].receive(from, charters(vec![change]));
    mesh.nodes[1].catalog.counters().refusals().collect()
}

#[test]
fn what_a_later_revision_adds_is_let_be_and_stays_in_the_document() {
    let change = crafted(|tx, maps| {
        let later = entry(tx, &maps[2], "default", 1, &["chef"]);
        tx.put(&later, "because", "of its taste").unwrap();
        let map = tx.put_object(ROOT, "budgets", ObjType::Map).unwrap();
        tx.put(&map, "tokens", 7u64).unwrap();
    });
    let mut mesh = Mesh::founded(3, 1);
    mesh.chain();
    let from = mesh.id(0);
    mesh.nodes[1].receive(from, charters(vec![change.clone()]));
    assert_eq!(mesh.nodes[1].catalog.charter().resolve("default"), "chef");
    let name = format!("charter-{from}");
    let stored = &mesh.nodes[1].disk[&name];
    let whole = stored.windows(change.change.len());
    assert!(whole.into_iter().any(|w| w == change.change.as_ref()));
}

#[test]
fn an_entry_that_does_not_fit_makes_the_whole_change_poison() {
    assert_eq!(refusals(crafted(|_, _| {})), []);
    let peer = key(5).peer_id().to_string();
    let long = "x".repeat(129);
    type Case<'a> = (usize, &'a str, u64, Vec<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        (0, "no peer", 1, vec!["admin"]),
        (0, &peer, 1, vec!["admin", "member"]),
        (0, &peer, 0, vec!["admin"]),
        (0, &peer, 1 << 53, vec!["admin"]),
        (1, "", 1, vec!["out"]),
        (2, "two\nlines", 1, vec!["chef"]),
        (2, "empty", 1, vec![""]),
        (2, "both", 1, vec!["chef", "baker"]),
        (3, "twice", 1, vec!["chef", "chef"]),
        (4, "book", 1, vec!["three"]),
        (4, "book", 1, vec!["03"]),
    ];
    for (section, name, at, says) in cases {
        let change = crafted(|tx, maps| {
            entry(tx, &maps[section], name, at, &says);
        });
        let got = refusals(change);
        assert!(
            got == [(Refusal::Schema, 1)] || got == [(Refusal::TooMuch, 1)],
            "{name}: {got:?}"
        );
    }
    let longer = crafted(|tx, maps| {
        entry(tx, &maps[2], "long", 1, &[&long]);
    });
    assert_eq!(refusals(longer), [(Refusal::TooMuch, 1)]);
    let misshapen = crafted(|tx, maps| tx.put(&maps[2], "default", "chef").unwrap());
    assert_eq!(refusals(misshapen), [(Refusal::Schema, 1)]);
    let missing = crafted(|tx, _| tx.delete(ROOT, "roles").unwrap());
    assert_eq!(refusals(missing), [(Refusal::Schema, 1)]);
    let other = crafted(|tx, _| tx.put(ROOT, "version", 2u64).unwrap());
    assert_eq!(refusals(other), [(Refusal::Version, 1)]);
}

#[test]
fn a_huge_charter_is_refused_whole() {
    let crowd = crafted(|tx, maps| {
        for n in 0..513 {
            entry(tx, &maps[2], &n.to_string(), 1, &["x"]);
        }
    });
    assert_eq!(refusals(crowd), [(Refusal::TooMuch, 1)]);
    let crowd = crafted(|tx, maps| {
        for n in 0..512 {
            entry(tx, &maps[2], &n.to_string(), 1, &["x"]);
        }
    });
    assert_eq!(refusals(crowd), []);
    let blob = crafted(|tx, _| tx.put(ROOT, "x", "y".repeat(128 * 1024)).unwrap());
    assert_eq!(refusals(blob), [(Refusal::Size, 1)]);
    let operations = crafted(|tx, maps| {
        for n in 0..4096u64 {
            tx.put(&maps[2], "x", n).unwrap();
        }
    });
    assert_eq!(refusals(operations), [(Refusal::Chunk, 1)]);
}

#[test]
fn a_count_that_was_used_up_is_named_with_the_way_out() {
    let mut mesh = Mesh::founded(3, 2);
    mesh.chain();
    // The second founder's build writes the highest count there is.
    let last = crafted(|tx, maps| {
        entry(tx, &maps[2], "default", (1 << 53) - 1, &["mine"]);
    });
    let from = mesh.id(0);
    mesh.nodes[1].receive(from, charters(vec![last]));
    let error = mesh.nodes[1].edit(CharterEdit::Appoint(key(9).peer_id()));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("--void") && error.contains(&from.to_string()),
        "{error}"
    );
}
