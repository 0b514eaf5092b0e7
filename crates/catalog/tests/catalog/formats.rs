//! Bytes kept in files: what a record on disk (version 1) and a frame on the wire (version 4) are.
//!
//! `POLYMATH_WRITE_GOLDEN=1` writes the files anew; that is right only together with a new version.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_catalog::{CatalogLimits, CharterEdit, RecordError};
use polymath_proto::v1::{Offers, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{Keypair, NodeKey, Terms};
use prost::Message as _;

use crate::{
    charter::{alias, charters},
    driver::{Disk, Node, card, changes, expert_id, introduced, key, offers, wanted},
    observations::{cell, observations, outcomes},
    terms::{offer, terms},
};

pub(crate) fn key_from_seed(seed: [u8; 32]) -> NodeKey {
    let pair = Keypair::ed25519_from_bytes(seed).unwrap();
    let text = STANDARD.encode(pair.to_protobuf_encoding().unwrap());
    NodeKey::from_text(&format!("polymath-identity 1\n{text}\n")).unwrap()
}

fn golden_path(name: &str) -> PathBuf {
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_folder.join("tests/golden").join(name)
}

fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = golden_path(name);
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// A node with a fixed key after two changes of its offer, and the frame that carries both.
fn author() -> (Node, SyncFrame) {
    let mut node = Node::fresh(42);
    let peer = key(43).peer_id();
    node.connect_to(peer);
    let mut all = crate::driver::changes(&node.offer(&["chef"]));
    all.extend(crate::driver::changes(&node.offer(&["chef", "coder"])));
    (node, offers(all))
}

#[test]
fn the_record_is_what_version_1_wrote() {
    let (node, _) = author();
    let name = format!("offer-{}", node.id());
    let now = golden("offer_record_v1_minor_2.bin", &node.disk[&name]);
    assert_eq!(node.disk[&name], now);
    let kept = std::fs::read(golden_path("offer_record_v1.bin")).unwrap();
    let (reader, recovered) =
        Node::open(key(1), CatalogLimits::default(), Disk::from([(name, kept)]));
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let offer = reader.catalog.index().peers()[&node.id()].clone();
    assert_eq!(
        (offer.epoch, offer.sequence, offer.agent.as_str()),
        (1, 2, "polymath/test")
    );
    let mut experts = vec![expert_id("chef"), expert_id("coder")];
    experts.sort();
    assert_eq!(offer.experts, experts);
}

#[test]
fn the_frame_is_what_version_4_sent() {
    let (node, frame) = author();
    let kept = golden("sync_frame_v4.bin", &frame.encode_to_vec());
    assert_eq!(frame.encode_to_vec(), kept);
    let mut reader = Node::fresh(1);
    reader.connect_to(node.id());
    reader.receive(node.id(), SyncFrame::decode(kept.as_slice()).unwrap());
    assert_eq!(reader.catalog.index().peers(), node.catalog.index().peers());
}

#[test]
fn the_short_form_is_what_version_4_sent() {
    let mut node = Node::fresh(42);
    node.connect_to(key(43).peer_id());
    let mut both = Offers::default();
    for names in [&["chef"][..], &["chef", "coder"]] {
        let sent = node.offer(names).into_iter().map(|(_, frame)| frame.frame);
        for frame in sent {
            let Some(Frame::Offers(offers)) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(offers.changes, []);
            both.short.extend(offers.short);
        }
    }
    let sent = crate::driver::frame(Frame::Offers(both)).encode_to_vec();
    let kept = golden("short_frame_v4.bin", &sent);
    assert_eq!(sent, kept);
    let mut reader = Node::fresh(1);
    reader.connect_to(node.id());
    reader.receive(node.id(), SyncFrame::decode(kept.as_slice()).unwrap());
    assert_eq!(reader.catalog.index().peers(), node.catalog.index().peers());
}

/// An author with a fixed key that asks prices and has labels, and the frame of its only change.
fn merchant() -> (Node, SyncFrame) {
    let mut node = Node::fresh(42);
    node.connect_to(key(43).peer_id());
    let asked = [("chef", terms(500, 1500)), ("poet", Terms::default())];
    let cards = node.catalog.set_cards(asked.map(|(name, _)| card(name)));
    node.perform(cards.unwrap());
    let labelled = [("office", "berlin"), ("rack", "3")];
    let actions = node.catalog.set_offer(offer(&asked, &labelled)).unwrap();
    let sent = changes(&node.perform(actions));
    (node, offers(sent))
}

#[test]
fn a_record_and_a_frame_with_terms_and_labels_are_what_their_second_minor_revision_wrote() {
    let (node, frame) = merchant();
    let name = format!("offer-{}", node.id());
    let record = golden("terms_record_v1.bin", &node.disk[&name]);
    assert_eq!(node.disk[&name], record);
    let sent = golden("terms_frame_v4.bin", &frame.encode_to_vec());
    assert_eq!(frame.encode_to_vec(), sent);

    let disk = Disk::from([(name, record)]);
    let (reader, recovered) = Node::open(key(1), CatalogLimits::default(), disk);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let mut hearer = Node::fresh(2);
    hearer.connect_to(node.id());
    hearer.receive(node.id(), SyncFrame::decode(sent.as_slice()).unwrap());
    for index in [reader.catalog.index(), hearer.catalog.index()] {
        let said = &index.peers()[&node.id()];
        assert_eq!(said.terms_of(&expert_id("chef")), terms(500, 1500));
        assert_eq!(said.terms_of(&expert_id("poet")), Terms::default());
        assert_eq!(said.labels["office"], "berlin");
        assert_eq!(said.labels.len(), 2);
    }
}

/// What builds knew of a record that read offers by their first minor revision.
#[derive(Clone, PartialEq, prost::Message)]
struct FirstRevision {
    #[prost(bytes = "vec", tag = "1")]
    mesh: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<SignedChange>,
    #[prost(bytes = "vec", tag = "3")]
    last_hash: Vec<u8>,
    #[prost(uint64, tag = "4")]
    last_op: u64,
    #[prost(string, tag = "5")]
    agent: String,
    #[prost(string, repeated, tag = "6")]
    addresses: Vec<String>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    experts: Vec<Vec<u8>>,
    #[prost(uint64, tag = "8")]
    seen: u64,
}

#[test]
fn what_an_earlier_build_passed_over_when_it_stored_an_offer_is_read_from_its_changes() {
    let (node, _) = merchant();
    let name = format!("offer-{}", node.id());
    let (header, payload) = node.disk[&name].split_at(40);
    let payload = FirstRevision::decode(payload).unwrap().encode_to_vec();
    let mut record = header[..8].to_vec();
    record.extend(blake3::hash(&payload).as_bytes());
    record.extend(payload);
    let disk = Disk::from([(name, record)]);
    let (reader, recovered) = Node::open(key(1), CatalogLimits::default(), disk);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let said = node.catalog.index().peers()[&node.id()].clone();
    assert_eq!(reader.catalog.index().peers()[&node.id()], said);
    assert_eq!(said.terms_of(&expert_id("chef")), terms(500, 1500));
}

/// What a node with these offers says of them to a peer it begins a comparison with; and the node.
fn greeting(known: Vec<Vec<SignedChange>>) -> (Node, Frame) {
    let mut keys = [key(42), key(43)];
    keys.sort_by_key(NodeKey::peer_id);
    let [listener, speaker] = keys;
    let mut node = Node::open(speaker, CatalogLimits::default(), Disk::new()).0;
    let feeder = key(99).peer_id();
    node.connect_to(feeder);
    for changes in known {
        node.receive(feeder, offers(changes));
    }
    let sent = node.connect_to(listener.peer_id()).into_iter();
    let mut frames = sent.filter(|(_, f)| f.category == 0).map(|(_, f)| f);
    let frame = frames.next().unwrap().frame.unwrap();
    (node, frame)
}

#[test]
fn the_heads_frame_is_what_version_4_sent() {
    let author = || {
        let mut node = Node::fresh(44);
        node.connect_to(key(43).peer_id());
        node
    };
    let mut known: Vec<SignedChange> = (0..3).map(introduced).collect();
    known.extend(changes(&author().offer(&["chef"])));
    let parted = changes(&author().offer(&["thief"]));
    let (node, heads) = greeting(vec![known, parted]);
    assert!(matches!(heads, Frame::Heads(_)), "{heads:?}");
    let sent = crate::driver::frame(heads).encode_to_vec();
    let kept = golden("heads_frame_v4.bin", &sent);
    assert_eq!(sent, kept);
    let frame = SyncFrame::decode(kept.as_slice()).unwrap();
    let Some(Frame::Heads(heads)) = frame.frame.clone() else {
        panic!("{frame:?}");
    };
    let marks: Vec<usize> = heads.heads.iter().map(|h| h.mark.len()).collect();
    assert_eq!(marks.iter().filter(|bytes| **bytes == 16).count(), 3);
    assert_eq!(marks.iter().filter(|bytes| **bytes == 17).count(), 1);
    let mut reader = Node::fresh(1);
    reader.connect_to(node.id());
    assert_eq!(wanted(&reader.receive(node.id(), frame)).len(), 4);
}

#[test]
fn the_digest_frame_is_what_version_4_sent() {
    let known: Vec<SignedChange> = (0..40).map(introduced).collect();
    let (node, digest) = greeting(vec![known.clone()]);
    assert!(matches!(digest, Frame::Digest(_)), "{digest:?}");
    let sent = crate::driver::frame(digest).encode_to_vec();
    let kept = golden("digest_frame_v4.bin", &sent);
    assert_eq!(sent, kept);
    let frame = SyncFrame::decode(kept.as_slice()).unwrap();
    let mut reader = Node::fresh(1);
    reader.connect_to(node.id());
    let asks = |sent: &[(_, SyncFrame)]| {
        let branches = |f: &SyncFrame| matches!(f.frame, Some(Frame::Branches(_)));
        sent.iter().any(|(_, f)| branches(f))
    };
    assert!(asks(&reader.receive(node.id(), frame.clone())));
    reader.receive(node.id(), offers(known));
    assert!(!asks(&reader.receive(node.id(), frame)), "it is the same");
}

/// A founder with a fixed key after four changes of its charter document, and the frame with them.
fn founder() -> (Node, SyncFrame) {
    let founders = vec![key(42).peer_id()];
    let limits = CatalogLimits::default();
    let mut node = Node::founded(key(42), limits, Disk::new(), founders).0;
    node.connect_to(key(43).peer_id());
    let edits = [
        CharterEdit::Appoint(key(7).peer_id()),
        CharterEdit::Revoke {
            peer: key(8).peer_id(),
            out: true,
        },
        alias("default", "chef"),
        CharterEdit::Category {
            name: "cooking".into(),
            experts: vec!["chef".into(), "baker".into()],
        },
    ];
    let sent = edits.map(|edit| changes(&node.edit(edit).unwrap()));
    (node, charters(sent.concat()))
}

#[test]
fn the_charter_record_and_frame_are_what_version_1_wrote() {
    let (node, frame) = founder();
    let name = format!("charter-{}", node.id());
    let record = golden("charter_record_v1.bin", &node.disk[&name]);
    assert_eq!(node.disk[&name], record);
    let sent = golden("charter_frame_v4.bin", &frame.encode_to_vec());
    assert_eq!(frame.encode_to_vec(), sent);

    let founders = vec![node.id()];
    let disk = Disk::from([(name, record)]);
    let limits = CatalogLimits::default();
    let (reader, recovered) = Node::founded(key(1), limits, disk, founders.clone());
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let mut hearer = Node::founded(key(2), CatalogLimits::default(), Disk::new(), founders).0;
    hearer.connect_to(node.id());
    hearer.receive(node.id(), SyncFrame::decode(sent.as_slice()).unwrap());
    for charter in [reader.catalog.charter(), hearer.catalog.charter()] {
        assert_eq!(charter, node.catalog.charter());
        assert!(charter.is_admin(&key(7).peer_id()) && charter.is_revoked(&key(8).peer_id()));
        assert_eq!(charter.resolve("default"), "chef");
        assert_eq!(charter.categories["cooking"].value.len(), 2);
    }
}

/// An observer with a fixed key after two changes of its document, and the frame with them.
fn observer() -> (Node, SyncFrame) {
    let mut node = Node::fresh(42);
    node.connect_to(key(43).peer_id());
    let (first, second) = (cell("chef", 7), cell("coder", 31));
    let mut sent = changes(&node.observe(&[(first, outcomes(40, 750))]));
    let both = [(first, outcomes(55, 700)), (second, outcomes(9, 0))];
    sent.extend(changes(&node.observe(&both)));
    (node, observations(sent))
}

#[test]
fn the_observations_record_and_frame_are_what_version_1_wrote() {
    let (node, frame) = observer();
    let name = format!("observations-{}", node.id());
    let record = golden("observations_record_v1.bin", &node.disk[&name]);
    assert_eq!(node.disk[&name], record);
    let sent = golden("observations_frame_v4.bin", &frame.encode_to_vec());
    assert_eq!(frame.encode_to_vec(), sent);

    let disk = Disk::from([(name, record)]);
    let (reader, recovered) = Node::open(key(1), CatalogLimits::default(), disk);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let mut hearer = Node::fresh(2);
    hearer.connect_to(node.id());
    hearer.receive(node.id(), SyncFrame::decode(sent.as_slice()).unwrap());
    for seen in [reader.observed(), hearer.observed()] {
        assert_eq!(seen, node.observed());
        assert_eq!(seen[0].1.get(&cell("chef", 7)), Some(outcomes(55, 700)));
        assert_eq!(seen[0].1.len(), 2);
    }
}

#[test]
fn a_record_of_version_2_is_refused_with_both_versions_named() {
    let (node, _) = author();
    for (name, bytes) in &node.disk {
        let mut later = bytes.clone();
        later[4] = 2;
        let disk = Disk::from([(name.clone(), later)]);
        let (_, recovered) = Node::open(key(1), CatalogLimits::default(), disk);
        let (refused, error) = &recovered.problems[0];
        assert_eq!(refused, name);
        assert!(matches!(error, RecordError::Version(_)));
        let line = error.to_string();
        assert!(
            line.contains("version 2") && line.contains("version 1"),
            "{line}"
        );
    }
}

#[test]
fn a_card_record_round_trips() {
    let (node, _) = author();
    let name = format!("card-{}", expert_id("chef"));
    let disk = Disk::from([(name.clone(), node.disk[&name].clone())]);
    let (reader, recovered) = Node::open(key(1), CatalogLimits::default(), disk);
    assert_eq!(recovered.cards, 1);
    assert_eq!(
        reader.catalog.card(&expert_id("chef")).unwrap(),
        card("chef")
    );
}
