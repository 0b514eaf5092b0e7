//! Observations documents that were not written by this crate.

use automerge::{
    ActorId, Automerge, ObjId, ObjType, ROOT, ReadDoc as _, ScalarValue,
    transaction::{CommitOptions, Transactable as _, Transaction},
};
use polymath_catalog::Refusal;
use polymath_proto::v1::SignedChange;

use crate::{
    driver::{MESH, Mesh, Node, key},
    observations::observations,
};

/// Signs as the protocol says, independently of the crate.
fn signed(change: Vec<u8>) -> SignedChange {
    let key = key(2);
    let mut bytes = b"polymath observations change v1\0".to_vec();
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

/// The first change of a document: its root, and what `write` does to the map of codebooks.
fn crafted(write: impl FnOnce(&mut Transaction<'_>, &ObjId)) -> SignedChange {
    let mut hasher = blake3::Hasher::new_derive_key("polymath observations actor v1");
    hasher.update(&key(2).peer_id().to_bytes());
    hasher.update(&1u64.to_be_bytes());
    let actor = ActorId::from(&hasher.finalize().as_bytes()[..16]);
    let mut document = Automerge::new().with_actor(actor);
    let mut tx = document.transaction();
    tx.put(ROOT, "version", 1u64).unwrap();
    let books = tx.put_object(ROOT, "codebooks", ObjType::Map).unwrap();
    write(&mut tx, &books);
    let hash = tx.commit_with(CommitOptions::default().with_time(0)).0;
    let change = document.get_change_by_hash(&hash.unwrap()).unwrap();
    signed(change.raw_bytes().to_vec())
}

fn hex(n: u32) -> String {
    format!("{n:064x}")
}

/// An expert's entry with these cells.
fn entry(
    tx: &mut Transaction<'_>,
    book: &ObjId,
    expert: &str,
    cells: &[(&str, ScalarValue, ScalarValue)],
) -> ObjId {
    let entry = tx.put_object(book, expert, ObjType::Map).unwrap();
    let counts = tx.put_object(&entry, "counts", ObjType::Map).unwrap();
    let rewards = tx.put_object(&entry, "rewards", ObjType::Map).unwrap();
    for (cluster, count, reward) in cells {
        tx.put(&counts, *cluster, count.clone()).unwrap();
        tx.put(&rewards, *cluster, reward.clone()).unwrap();
    }
    entry
}

fn one(cluster: &str, count: ScalarValue, reward: ScalarValue) -> SignedChange {
    crafted(|tx, books| {
        let book = tx.put_object(books, hex(1), ObjType::Map).unwrap();
        entry(tx, &book, &hex(2), &[(cluster, count, reward)]);
    })
}

fn told(change: SignedChange) -> Node {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.settle();
    let from = mesh.nodes[1].id();
    mesh.nodes[0].receive(from, observations(vec![change]));
    mesh.nodes.swap_remove(0)
}

fn refusals(change: SignedChange) -> Vec<(Refusal, u64)> {
    told(change).catalog.counters().refusals().collect()
}

const fn whole(n: u64) -> ScalarValue {
    ScalarValue::Uint(n)
}

#[test]
fn counts_and_rewards_are_whole_numbers_that_can_be() {
    assert_eq!(refusals(one("7", whole(5), whole(5000))), []);
    assert_eq!(
        refusals(one("1023", whole(1_000_000), whole(1_000_000_000))),
        []
    );
    let bad = [
        ("7", whole(0), whole(0)),
        ("7", whole(5), whole(5001)),
        ("7", whole(1_000_001), whole(0)),
        ("7", whole(u64::MAX), whole(1)),
        ("7", whole(1 << 32), whole(1)),
        ("7", whole(5), whole(u64::MAX)),
        ("7", ScalarValue::Int(5), whole(1)),
        ("7", ScalarValue::Int(-5), whole(1)),
        ("7", ScalarValue::F64(5.0), whole(1)),
        ("7", ScalarValue::counter(5), whole(1)),
        ("7", ScalarValue::Str("5".into()), whole(1)),
        ("1024", whole(5), whole(1)),
        ("65536", whole(5), whole(1)),
        ("07", whole(5), whole(1)),
        ("+7", whole(5), whole(1)),
        ("-7", whole(5), whole(1)),
        ("", whole(5), whole(1)),
    ];
    for (cluster, count, reward) in bad {
        let what = format!("{cluster}: {count:?} {reward:?}");
        let got = refusals(one(cluster, count, reward));
        assert_eq!(got, [(Refusal::Schema, 1)], "{what}");
    }
}

#[test]
fn what_has_a_count_has_a_reward_and_ids_have_one_spelling() {
    let with = |write: fn(&mut Transaction<'_>, &ObjId)| {
        refusals(crafted(|tx, books| {
            let book = tx.put_object(books, hex(1), ObjType::Map).unwrap();
            write(tx, &book);
        }))
    };
    let schema = [(Refusal::Schema, 1)];
    let uneven = with(|tx, book| {
        let entry = entry(tx, book, &hex(2), &[("1", whole(5), whole(1))]);
        let (_, counts) = tx.get(&entry, "counts").unwrap().unwrap();
        tx.put(&counts, "2", 5u64).unwrap();
    });
    assert_eq!(uneven, schema);
    let crossed = with(|tx, book| {
        let entry = entry(tx, book, &hex(2), &[("1", whole(5), whole(1))]);
        let (_, counts) = tx.get(&entry, "counts").unwrap().unwrap();
        tx.delete(&counts, "1").unwrap();
        tx.put(&counts, "2", 5u64).unwrap();
    });
    assert_eq!(crossed, schema);
    let empty = with(|tx, book| {
        entry(tx, book, &hex(2), &[]);
    });
    assert_eq!(empty, schema);
    let upper = with(|tx, book| {
        entry(tx, book, &"AB".repeat(32), &[("1", whole(5), whole(1))]);
    });
    assert_eq!(upper, schema);
    let short = with(|tx, book| {
        entry(tx, book, "ab", &[("1", whole(5), whole(1))]);
    });
    assert_eq!(short, schema);
    let text = with(|tx, book| tx.put(book, hex(2), "good").unwrap());
    assert_eq!(text, schema);
    let missing = crafted(|tx, _| tx.delete(ROOT, "codebooks").unwrap());
    assert_eq!(refusals(missing), schema);
    let other = crafted(|tx, _| tx.put(ROOT, "version", 2u64).unwrap());
    assert_eq!(refusals(other), [(Refusal::Version, 1)]);
}

#[test]
fn a_huge_document_is_refused_whole() {
    let cells = |experts: u32, clusters: u32| {
        refusals(crafted(|tx, books| {
            let book = tx.put_object(books, hex(1), ObjType::Map).unwrap();
            for expert in 0..experts {
                let names: Vec<String> = (0..clusters).map(|c| c.to_string()).collect();
                let all: Vec<_> = names
                    .iter()
                    .map(|c| (c.as_str(), whole(5), whole(1)))
                    .collect();
                entry(tx, &book, &hex(expert), &all);
            }
        }))
    };
    assert_eq!(cells(2, 1024), []);
    assert_eq!(cells(256, 8), []);
    assert_eq!(cells(257, 1), [(Refusal::TooMuch, 1)]);
    assert_eq!(cells(3, 683), [(Refusal::TooMuch, 1)]);
    let books = |n: u32| {
        refusals(crafted(|tx, books| {
            for book in 0..n {
                let book = tx.put_object(books, hex(book), ObjType::Map).unwrap();
                entry(tx, &book, &hex(2), &[("1", whole(5), whole(1))]);
            }
        }))
    };
    assert_eq!((books(8), books(9)), (vec![], vec![(Refusal::TooMuch, 1)]));
    let blob = crafted(|tx, _| tx.put(ROOT, "x", "y".repeat(96 * 1024)).unwrap());
    assert_eq!(refusals(blob), [(Refusal::Size, 1)]);
    let operations = crafted(|tx, books| {
        for n in 0..8192u64 {
            tx.put(books, "x", n).unwrap();
        }
    });
    assert_eq!(refusals(operations), [(Refusal::Chunk, 1)]);
}

#[test]
fn what_a_later_revision_adds_is_let_be() {
    let later = crafted(|tx, books| {
        let book = tx.put_object(books, hex(1), ObjType::Map).unwrap();
        let entry = entry(tx, &book, &hex(2), &[("1", whole(5), whole(1))]);
        tx.put_object(&entry, "squares", ObjType::Map).unwrap();
        tx.put(ROOT, "noise", "laplace").unwrap();
    });
    let node = told(later);
    assert_eq!(node.catalog.counters().refusals().count(), 0);
    assert_eq!(node.observed()[0].1.len(), 1);
}
