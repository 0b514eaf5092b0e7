//! Bytes kept in files: what a record on disk (version 1) and a frame on the wire (version 3) are.
//!
//! `POLYMATH_WRITE_GOLDEN=1` writes the files anew; that is right only together with a new version.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_catalog::{CatalogLimits, CharterEdit, RecordError};
use polymath_proto::v1::SyncFrame;
use polymath_types::{Keypair, NodeKey};
use prost::Message as _;

use crate::{
    charter::{alias, charters},
    driver::{Disk, Node, card, changes, expert_id, key, offers},
    observations::{cell, observations, outcomes},
};

pub(crate) fn key_from_seed(seed: [u8; 32]) -> NodeKey {
    let pair = Keypair::ed25519_from_bytes(seed).unwrap();
    let text = STANDARD.encode(pair.to_protobuf_encoding().unwrap());
    NodeKey::from_text(&format!("polymath-identity 1\n{text}\n")).unwrap()
}

fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
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
    let kept = golden("offer_record_v1.bin", &node.disk[&name]);
    assert_eq!(node.disk[&name], kept);
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
fn the_frame_is_what_version_3_sent() {
    let (node, frame) = author();
    let kept = golden("sync_frame_v3.bin", &frame.encode_to_vec());
    assert_eq!(frame.encode_to_vec(), kept);
    let mut reader = Node::fresh(1);
    reader.connect_to(node.id());
    reader.receive(node.id(), SyncFrame::decode(kept.as_slice()).unwrap());
    assert_eq!(reader.catalog.index().peers(), node.catalog.index().peers());
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
    let sent = golden("charter_frame_v3.bin", &frame.encode_to_vec());
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
    let sent = golden("observations_frame_v3.bin", &frame.encode_to_vec());
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
