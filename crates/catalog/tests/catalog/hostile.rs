//! Bytes of strangers: whatever they are, they harm no entry but their signer's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use automerge::{
    ObjType, ROOT,
    transaction::{Transactable as _, Transaction},
};
use polymath_catalog::{FrameError, Refusal};
use polymath_proto::v1::{
    Branch, Branches, Cards, Digest, Heads, OfferHead, SignedChange, SyncFrame, Want,
    sync_frame::Frame,
};

use crate::{
    driver::{MESH, card, changes, frame, key, key_of, offers},
    scene::{body, chunk, scene, signed, valid_root},
};

#[test]
fn the_scene_itself_is_accepted() {
    let scene = scene();
    let node = scene.attack(vec![scene.first.clone(), scene.second.clone()]);
    assert_eq!(node.catalog.counters().changes, 2);
    assert_eq!(scene.sign(1, 1, scene.first.change.to_vec()), scene.first);
    let small = scene.crafted(|tx| {
        valid_root(tx);
    });
    assert_eq!(scene.attack(vec![small]).catalog.counters().changes, 1);
    assert_eq!(chunk(1, body(&scene.first.change)), scene.first.change);
}

#[test]
fn a_document_of_another_is_refused_whoever_signs() {
    let scene = scene();
    let stranger = key(77);
    // Signed by a stranger in the author's name.
    let mut forged = signed(
        &stranger,
        MESH.as_bytes(),
        1,
        1,
        scene.first.change.to_vec(),
    );
    forged.author = scene.first.author.clone();
    assert_eq!(scene.refusals(forged), [(Refusal::Signature, 1)]);
    // Another author's change, signed by the stranger as his own: the actor is not his.
    let copied = signed(
        &stranger,
        MESH.as_bytes(),
        1,
        1,
        scene.first.change.to_vec(),
    );
    assert_eq!(scene.refusals(copied), [(Refusal::Continuity, 1)]);
    // A peer id without a key in it.
    let mut keyless = scene.first.clone();
    keyless.author = [vec![0x12, 0x20], vec![5; 32]].concat().into();
    assert_eq!(scene.refusals(keyless), [(Refusal::Author, 1)]);
}

#[test]
fn another_mesh_epoch_or_sequence_breaks_the_signature() {
    let scene = scene();
    let change = scene.first.change.to_vec();
    let elsewhere = signed(&scene.hostile, &[8; 32], 1, 1, change);
    assert_eq!(scene.refusals(elsewhere), [(Refusal::Signature, 1)]);
    for (epoch, sequence) in [(2, 1), (1, 2), (u64::MAX, 1)] {
        let replayed = SignedChange {
            epoch,
            sequence,
            ..scene.first.clone()
        };
        assert_eq!(scene.refusals(replayed), [(Refusal::Signature, 1)]);
    }
}

#[test]
fn two_changes_with_one_sequence_are_reported_and_neither_is_used() {
    let scene = scene();
    let other = scene.crafted(|tx| {
        valid_root(tx);
    });
    let node = scene.attack(vec![scene.first.clone(), other, scene.first.clone()]);
    assert_eq!(node.catalog.counters().refused(Refusal::Equivocation), 1);
    assert_eq!(node.catalog.counters().repeats, 1);
    let index = node.catalog.index();
    assert!(!index.peers().contains_key(&scene.hostile.peer_id()));
}

#[test]
fn an_author_that_contradicts_itself_again_and_again_fills_no_log() {
    let scene = scene();
    let other = |agent: &str| {
        scene.crafted(|tx| {
            valid_root(tx);
            tx.put(ROOT, "agent", agent).unwrap();
        })
    };
    let forged = (0..50).map(|n| other(&format!("version {n}"))).collect();
    let warnings = Arc::new(AtomicUsize::new(0));
    let node = tracing::subscriber::with_default(Warnings(warnings.clone()), || {
        scene.attack([vec![scene.first.clone()], forged].concat())
    });
    assert_eq!(node.catalog.counters().refused(Refusal::Equivocation), 50);
    assert_eq!(warnings.load(Ordering::Relaxed), 1);
}

/// Counts what an operator would see.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn only_single_uncompressed_changes_reach_automerge() {
    let scene = scene();
    let change = scene.first.change.to_vec();
    for kind in [0, 2, 3, 4, 0xff] {
        let forged = scene.sign(1, 1, chunk(kind, body(&change)));
        assert_eq!(
            scene.refusals(forged),
            [(Refusal::Chunk, 1)],
            "chunk type {kind}"
        );
    }
    for bytes in [
        Vec::new(),
        change[..change.len() - 1].to_vec(),
        [change.clone(), change.clone()].concat(),
    ] {
        assert_eq!(
            scene.refusals(scene.sign(1, 1, bytes)),
            [(Refusal::Chunk, 1)]
        );
    }
    let huge = scene.crafted(|tx| {
        valid_root(tx);
        tx.put(ROOT, "agent", "x".repeat(40_000)).unwrap();
    });
    assert_eq!(scene.refusals(huge), [(Refusal::Size, 1)]);
    let many = scene.crafted(|tx| {
        valid_root(tx);
        for n in 0..1100u64 {
            tx.put(ROOT, "agent", n).unwrap();
        }
    });
    assert_eq!(scene.refusals(many), [(Refusal::Chunk, 1)]);
}

#[test]
fn a_well_made_document_that_is_no_offer_is_refused() {
    use Refusal::{Chunk, Schema, TooMuch, Version};
    type Tx<'a, 'b> = &'a mut Transaction<'b>;
    let scene = scene();
    let id = card("liar").id().to_string();
    let check = |expected: Refusal, edit: &dyn Fn(Tx<'_, '_>)| {
        assert_eq!(
            scene.refusals(scene.crafted(|tx| edit(tx))),
            [(expected, 1)]
        );
    };
    check(Schema, &|tx| tx.put(ROOT, "agent", "x").unwrap());
    check(Version, &|tx| {
        valid_root(tx);
        tx.put(ROOT, "version", 2u64).unwrap();
    });
    check(Schema, &|tx| {
        valid_root(tx);
        tx.put(ROOT, "agent", 5u64).unwrap();
    });
    check(Schema, &|tx| {
        valid_root(tx);
        tx.put(ROOT, "agent", "\u{1b}[2J").unwrap();
    });
    check(TooMuch, &|tx| {
        valid_root(tx);
        tx.put(ROOT, "agent", "x".repeat(129)).unwrap();
    });
    check(TooMuch, &|tx| {
        valid_root(tx);
        let list = tx.put_object(ROOT, "addresses", ObjType::List).unwrap();
        for at in 0..17 {
            tx.insert(&list, at, "/a").unwrap();
        }
    });
    check(Schema, &|tx| {
        let experts = valid_root(tx);
        tx.put(&experts, id.as_str(), true).unwrap();
    });
    check(Schema, &|tx| {
        let experts = valid_root(tx);
        let entry = tx
            .put_object(&experts, id.to_uppercase(), ObjType::Map)
            .unwrap();
        tx.put(&entry, "accepting", true).unwrap();
    });
    check(TooMuch, &|tx| {
        let experts = valid_root(tx);
        for n in 0..65 {
            let entry = tx
                .put_object(&experts, format!("{n:064x}"), ObjType::Map)
                .unwrap();
            tx.put(&entry, "accepting", true).unwrap();
        }
    });
    check(TooMuch, &|tx| {
        valid_root(tx);
        for n in 0..40 {
            tx.put(ROOT, format!("later field {n}"), true).unwrap();
        }
    });
    check(Chunk, &|tx| {
        valid_root(tx);
        tx.put(ROOT, "k".repeat(200), true).unwrap();
    });
    check(Chunk, &|tx| {
        valid_root(tx);
        tx.put_object(ROOT, "text", ObjType::Text).unwrap();
    });
}

#[test]
fn fields_of_a_later_revision_are_ignored() {
    let scene = scene();
    let change = scene.crafted(|tx| {
        let experts = valid_root(tx);
        let entry = tx
            .put_object(&experts, card("liar").id().to_string(), ObjType::Map)
            .unwrap();
        tx.put(&entry, "accepting", true).unwrap();
        tx.put(&entry, "price", 3u64).unwrap();
        tx.put(ROOT, "region", "eu").unwrap();
    });
    let node = scene.attack(vec![change]);
    assert_eq!(
        node.catalog.index().peers()[&scene.hostile.peer_id()].experts,
        [card("liar").id()]
    );
}

#[test]
fn a_peer_that_goes_on_sending_forgeries_is_cut_off_with_a_reason() {
    let scene = scene();
    let mut node = scene.victim();
    let mut forged = scene.first.clone();
    forged.signature = vec![9; 64].into();
    node.receive(scene.hostile.peer_id(), offers(vec![forged.clone(); 500]));
    let counted = node.catalog.counters().refused(Refusal::Signature);
    assert!(counted < 100, "{counted} verified of one bad frame");
    let error = node
        .catalog
        .receive(scene.hostile.peer_id(), offers(vec![forged]))
        .unwrap_err();
    assert!(
        matches!(
            error,
            FrameError::Misbehaving {
                last: Refusal::Signature,
                ..
            }
        ),
        "{error}"
    );
    // The author itself is not to blame for what someone else forged in its name.
    node.connect_to(key(50).peer_id());
    node.receive(key(50).peer_id(), offers(vec![scene.first.clone()]));
    assert_eq!(node.catalog.counters().changes, 1);
}

#[test]
fn a_refused_change_is_not_asked_for_again_and_again() {
    let scene = scene();
    let mut node = scene.victim();
    let from = scene.hostile.peer_id();
    let nonsense = scene.crafted(|tx| tx.put(ROOT, "agent", "x").unwrap());
    let answer = offers(vec![nonsense, scene.second.clone()]);
    // The second change looks like the end of a gap, which this peer could never fill.
    for _ in 0..3 {
        assert!(node.receive(from, answer.clone()).is_empty());
    }
    // Without the refusal the gap is asked for.
    let mut other = scene.victim();
    assert_eq!(
        other
            .receive(from, offers(vec![scene.second.clone()]))
            .len(),
        1
    );
}

#[test]
fn cards_are_taken_only_whole_and_only_if_an_offer_names_them() {
    let scene = scene();
    let mut node = scene.attack(vec![scene.first.clone()]);
    let from = scene.hostile.peer_id();
    let frame = |cards: Vec<Vec<u8>>| {
        frame(Frame::Cards(Cards {
            cards: cards.into_iter().map(Into::into).collect(),
        }))
    };
    let mut longer = card("liar").as_ref().clone();
    longer.description = "x".repeat(100_000);
    let mut altered = card("liar").to_bytes();
    altered[40] ^= 1;
    node.receive(
        from,
        frame(vec![
            card("nobody offers this").to_bytes(),
            card("gatecrasher").to_bytes(),
        ]),
    );
    node.receive(
        from,
        frame(vec![longer.to_bytes(), altered, b"{}".to_vec(), Vec::new()]),
    );
    let counters = node.catalog.counters();
    assert_eq!(counters.cards, 0);
    assert_eq!(counters.refused(Refusal::CardUnwanted), 1);
    assert!(counters.refused(Refusal::Card) >= 4);
    node.receive(from, frame(vec![card("liar").to_bytes()]));
    assert!(node.expert_names().contains("liar"));
}

#[test]
fn frames_out_of_bounds_are_refused_with_both_versions_named() {
    let scene = scene();
    let mut node = scene.victim();
    let from = scene.hostile.peer_id();
    let error = node
        .catalog
        .receive(
            from,
            SyncFrame {
                version: 5,
                ..SyncFrame::default()
            },
        )
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("version 5") && error.contains("version 4"),
        "{error}"
    );
    let error = node
        .catalog
        .receive(
            from,
            SyncFrame {
                version: 4,
                ..SyncFrame::default()
            },
        )
        .unwrap_err();
    assert_eq!(error, FrameError::Empty);
    let heads = vec![
        OfferHead {
            author: vec![1; 60].into(),
            epoch: 1,
            sequence: 1,
            mark: vec![1; 16].into(),
            whole: false,
        };
        5000
    ];
    let frame = frame(Frame::Heads(Heads {
        heads,
        ..Heads::default()
    }));
    assert!(matches!(
        node.catalog.receive(from, frame.clone()),
        Err(FrameError::TooLarge { .. })
    ));
    assert!(matches!(
        node.catalog.receive(key(60).peer_id(), frame),
        Err(FrameError::NotConnected)
    ));
}

#[test]
fn claims_without_proof_move_nothing() {
    let scene = scene();
    let mut node = scene.victim();
    let from = scene.hostile.peer_id();
    let me = node.id();
    let before = (node.catalog.index(), node.disk.clone());
    // Our own document far ahead, an unknown author, and repeated questions for one document.
    let heads = [me, key(44).peer_id()]
        .map(|p| OfferHead {
            author: key_of(&p),
            epoch: u64::MAX,
            sequence: u64::MAX,
            ..OfferHead::default()
        })
        .to_vec();
    node.receive(
        from,
        frame(Frame::Heads(Heads {
            heads,
            leaves: vec![0, 4095, 4096, u32::MAX],
            all: true,
        })),
    );
    let known = OfferHead {
        author: key_of(&key(2).peer_id()),
        epoch: 0,
        ..OfferHead::default()
    };
    let want = Want {
        offers: vec![known; 3000],
        cards: Vec::new(),
    };
    let sent = node.receive(from, frame(Frame::Want(want)));
    assert_eq!(changes(&sent).len(), 1);
    assert_eq!((node.catalog.index(), node.disk.clone()), before);
    assert_eq!(node.catalog.counters().own_forks, 0);
}

#[test]
fn sums_that_are_no_digest_are_their_senders_fault_and_those_of_later_kinds_are_not() {
    let scene = scene();
    let mut node = scene.victim();
    let from = scene.hostile.peer_id();
    let branch = |number, bytes: usize| Branch {
        number,
        sums: vec![1; bytes].into(),
    };
    let branches = |branches| frame(Frame::Branches(Branches { branches }));
    let digest = |bytes: usize| {
        let sums = vec![1; bytes].into();
        frame(Frame::Digest(Digest { sums }))
    };
    for bad in [
        digest(0),
        digest(2047),
        digest(200_000),
        branches(vec![branch(256, 128)]),
        branches(vec![branch(u32::MAX, 0)]),
        branches(vec![branch(0, 127)]),
    ] {
        let before = node.catalog.counters().refused(Refusal::Digest);
        assert!(node.receive(from, bad.clone()).is_empty());
        let after = node.catalog.counters().refused(Refusal::Digest);
        assert_eq!(after, before + 1, "{bad:?}");
        let later = SyncFrame { category: 9, ..bad };
        assert!(node.receive(from, later).is_empty());
        assert_eq!(node.catalog.counters().refused(Refusal::Digest), after);
    }
    // However often a branch is named, its leaves are told once.
    let sent = node.receive(from, branches(vec![branch(0, 0); 256]));
    assert!(sent.len() <= 1);
    let all = (0..256).map(|n| branch(n, 0)).collect();
    let sent = node.receive(from, branches(all));
    let heads = sent.iter().map(|(_, f)| match &f.frame {
        Some(Frame::Heads(h)) => h.heads.len(),
        _ => 0,
    });
    assert_eq!(heads.sum::<usize>(), 2, "two authors made an offer");
}
