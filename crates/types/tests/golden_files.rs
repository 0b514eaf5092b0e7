//! Files written by a version are read for as long as this build says it reads that version, byte for
//! byte. The golden files are committed; `POLYMATH_WRITE_GOLDEN=1` writes them anew, which is a
//! new format version unless the file is new.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_types::{
    Access, AnchorList, ExpertCard, ExpertKind, FileRef, FileRole, Genesis, Invite, InviteClaims,
    Keypair, LabelSet, MeshSecret, Model, NodeKey, Runtime, Sampling,
};

fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() && !now.is_empty() {
        fs::write(&path, now).unwrap();
    }
    fs::read(&path).unwrap()
}

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([7; 32]).unwrap()
}

fn card() -> ExpertCard {
    ExpertCard {
        version: 1,
        name: "chef".into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "tiny".into(),
            runtime: Runtime::GgufLlama,
            files: vec![FileRef {
                role: FileRole::Weights,
                name: "tiny.gguf".into(),
                size: 10,
                sha256: "0a".repeat(32),
                blake3: "1b".repeat(32),
            }],
            adapter: None,
            context_length: 128,
            dimensions: 0,
            licence: "Apache-2.0".into(),
        },
        system: Some("You cook.".into()),
        sampling: Sampling {
            temperature: 0.7,
            stop: vec!["\n\n".into()],
            ..Sampling::default()
        },
        description: "Cooking and baking".into(),
        examples: vec![
            "How long do I boil an egg?".into(),
            "Wie lange kocht ein Ei?".into(),
        ],
        languages: vec!["en".into(), "de".into()],
        labels: LabelSet::None,
        capabilities: Vec::new(),
    }
}

#[test]
fn a_card_keeps_its_bytes_and_its_id() {
    let bytes = golden("card_v1.json", &card().to_bytes());
    let read = ExpertCard::from_bytes(&bytes).unwrap();
    assert_eq!(read, card());
    assert_eq!(read.to_bytes(), bytes);
    let id = golden("card_v1.id", read.id().to_string().as_bytes());
    assert_eq!(read.id().to_string().as_bytes(), id);
}

#[test]
fn a_card_with_capabilities_keeps_its_bytes_and_its_id() {
    let mut able = card();
    able.capabilities = vec!["json".into(), "tools".into(), "zither".into()];
    able.version = 2;
    let bytes = golden("card_v2.json", &able.to_bytes());
    let read = ExpertCard::from_bytes(&bytes).unwrap();
    assert_eq!(read, able);
    assert_eq!(read.to_bytes(), bytes);
    let id = golden("card_v2.id", read.id().to_string().as_bytes());
    assert_eq!(read.id().to_string().as_bytes(), id);
}

#[test]
fn a_genesis_keeps_its_bytes_and_its_mesh_id() {
    let genesis = Genesis::new("home", &key().public()).unwrap();
    let bytes = golden("genesis_v1.json", &genesis.to_bytes());
    let read = Genesis::from_bytes(&bytes).unwrap();
    assert_eq!(read, genesis);
    let id = golden("genesis_v1.id", read.id().to_string().as_bytes());
    assert_eq!(read.id().to_string().as_bytes(), id);
}

#[test]
fn an_identity_file_is_still_the_same_node() {
    // libp2p's protobuf encoding of the key: key type 1 (Ed25519), 64 bytes of secret and public.
    let protobuf = key().to_protobuf_encoding().unwrap();
    let written = format!("polymath-identity 1\n{}\n", STANDARD.encode(protobuf));
    let text = golden("identity_v1.key", written.as_bytes());
    let read = NodeKey::from_text(std::str::from_utf8(&text).unwrap()).unwrap();
    assert_eq!(read.peer_id(), key().public().to_peer_id());
    assert_eq!(read.to_text().unwrap().as_bytes(), text);
}

/// The same key as the node that the golden identity file is.
fn node() -> NodeKey {
    let protobuf = key().to_protobuf_encoding().unwrap();
    let text = format!("polymath-identity 1\n{}\n", STANDARD.encode(protobuf));
    NodeKey::from_text(&text).unwrap()
}

fn closed() -> Genesis {
    Genesis::found("home", &key().public(), Access::Closed).unwrap()
}

fn anchors() -> AnchorList {
    let address = format!("/dns4/anchor.invalid/tcp/4040/p2p/{}", node().peer_id());
    AnchorList::sign(&closed(), &node(), 7, 1_000, Some(9_000), vec![address]).unwrap()
}

#[test]
fn a_closed_genesis_keeps_its_bytes_and_its_mesh_id() {
    let bytes = golden("genesis_closed_v1.json", &closed().to_bytes());
    let read = Genesis::from_bytes(&bytes).unwrap();
    assert_eq!((read.access(), &read), (Access::Closed, &closed()));
    let id = golden("genesis_closed_v1.id", read.id().to_string().as_bytes());
    assert_eq!(read.id().to_string().as_bytes(), id);
}

#[test]
fn a_list_of_anchors_keeps_its_bytes_and_its_signature() {
    let bytes = golden("anchors_v1.json", &anchors().to_bytes());
    let read = AnchorList::from_bytes(&bytes).unwrap();
    assert_eq!(read, anchors());
    assert_eq!(read.to_bytes(), bytes);
    read.verify(&closed(), 8_999).unwrap();
}

#[test]
fn an_invite_keeps_its_text_and_its_key() {
    let claims = InviteClaims {
        id: [3; 16],
        issuer: node().peer_id(),
        expires: Some(9_000),
        uses: Some(2),
    };
    let secret = MeshSecret::from_bytes([5; 32]);
    let address = anchors().addresses().to_vec();
    let key = claims.key(closed().id(), &secret);
    let invite = Invite::issue(
        &closed(),
        &node(),
        claims,
        address,
        Some(anchors()),
        Some(&secret),
    )
    .unwrap();
    let text = golden("invite_v1.txt", invite.to_string().as_bytes());
    let read: Invite = std::str::from_utf8(&text).unwrap().parse().unwrap();
    assert_eq!(read, invite);
    assert_eq!(read.key(), Some(&key));
}

#[test]
fn another_version_is_refused_with_both_versions() {
    let newer = |name: &str| {
        let text = String::from_utf8(golden(name, b"")).unwrap();
        text.replace("\"version\":1", "\"version\":2")
            .replace("polymath-identity 1", "polymath-identity 2")
    };
    let newest = String::from_utf8(golden("card_v2.json", b"")).unwrap();
    let newest = newest.replace("\"version\":2", "\"version\":3");
    let error = ExpertCard::from_bytes(newest.as_bytes()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("version 3") && error.contains("version 2"),
        "{error}"
    );
    let errors = [
        Genesis::from_bytes(newer("genesis_v1.json").as_bytes())
            .unwrap_err()
            .to_string(),
        NodeKey::from_text(&newer("identity_v1.key"))
            .unwrap_err()
            .to_string(),
        AnchorList::from_bytes(newer("anchors_v1.json").as_bytes())
            .unwrap_err()
            .to_string(),
    ];
    for error in errors {
        assert!(
            error.contains("version 2") && error.contains("version 1"),
            "{error}"
        );
    }
}
