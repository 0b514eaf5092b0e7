//! A node that knows honest authors, and a hostile author with everything it takes to forge.

use std::panic;

use automerge::{
    ActorId, Automerge, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _, Transaction},
};
use polymath_catalog::{CatalogLimits, Refusal, in_sandbox};
use polymath_proto::v1::SignedChange;
use polymath_types::{NodeKey, PeerId};
use sha2::{Digest as _, Sha256};

use crate::driver::{Disk, MESH, Mesh, Node, changes, key, offers};

/// Caught panics are expected here; all others still print.
pub(crate) fn quiet_sandbox() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !in_sandbox() {
                hook(info);
            }
        }));
    });
}

/// Signs as the protocol says, independently of the crate.
pub(crate) fn signed(
    key: &NodeKey,
    mesh: &[u8; 32],
    epoch: u64,
    sequence: u64,
    change: Vec<u8>,
) -> SignedChange {
    let mut bytes = b"polymath offer change v1\0".to_vec();
    bytes.extend(mesh);
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(&change);
    SignedChange {
        version: 1,
        author: key.peer_id().to_bytes().into(),
        epoch,
        sequence,
        change: change.into(),
        signature: key.keypair().sign(&bytes).unwrap().into(),
    }
}

pub(crate) fn actor(author: &PeerId, epoch: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("polymath offer actor v1");
    hasher.update(&author.to_bytes());
    hasher.update(&epoch.to_be_bytes());
    hasher.finalize().as_bytes()[..16].try_into().unwrap()
}

/// An Automerge chunk of `kind` around `body`, its checksum right.
pub(crate) fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut rest = vec![kind];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        rest.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    rest.extend(body);
    let mut bytes = vec![0x85, 0x6f, 0x4a, 0x83];
    bytes.extend(&Sha256::digest(&rest)[..4]);
    bytes.extend(rest);
    bytes
}

pub(crate) fn body(change: &[u8]) -> &[u8] {
    let header = 9 + change[9..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    &change[header..]
}

/// A node that knows three honest authors, and the two changes a fourth author made.
pub(crate) struct Scene {
    pub(crate) disk: Disk,
    pub(crate) hostile: NodeKey,
    pub(crate) first: SignedChange,
    pub(crate) second: SignedChange,
}

pub(crate) fn scene() -> Scene {
    let mut mesh = Mesh::of(4);
    mesh.offer(1, &["chef", "coder"]);
    mesh.offer(2, &["poet"]);
    mesh.connect(0, 1);
    mesh.connect(0, 2);
    mesh.settle();
    let disk = mesh.nodes[0].disk.clone();
    mesh.connect(0, 3);
    mesh.settle();
    let first = changes(&mesh.nodes[3].offer(&["liar", "thief", "fraud"])).remove(0);
    let second = changes(&mesh.nodes[3].offer(&["liar", "cheat"])).remove(0);
    Scene {
        disk,
        hostile: mesh.nodes[3].key.clone(),
        first,
        second,
    }
}

impl Scene {
    /// The node, freshly opened, connected to whoever brings the bytes.
    pub(crate) fn victim(&self) -> Node {
        let mut node = Node::open(key(1), CatalogLimits::default(), self.disk.clone()).0;
        node.connect_to(self.hostile.peer_id());
        node
    }

    pub(crate) fn honest_entries(&self, node: &Node) -> Vec<String> {
        let me = self.hostile.peer_id();
        let index = node.catalog.index();
        let offers = index
            .peers()
            .iter()
            .filter(|(p, _)| **p != me)
            .map(|e| format!("{e:?}"));
        let experts = index.experts().map(|e| {
            format!(
                "{:?} {:?}",
                e.id,
                e.replicas
                    .iter()
                    .filter(|r| r.peer != me)
                    .collect::<Vec<_>>()
            )
        });
        offers.chain(experts).collect()
    }

    /// Feeds changes one after another; the honest entries must not move.
    pub(crate) fn attack(&self, forged: Vec<SignedChange>) -> Node {
        let mut node = self.victim();
        let before = self.honest_entries(&node);
        for change in forged {
            node.receive(self.hostile.peer_id(), offers(vec![change]));
        }
        assert_eq!(self.honest_entries(&node), before);
        node
    }

    pub(crate) fn sign(&self, epoch: u64, sequence: u64, change: Vec<u8>) -> SignedChange {
        signed(&self.hostile, MESH.as_bytes(), epoch, sequence, change)
    }

    /// One change by the hostile author, made with Automerge itself.
    pub(crate) fn crafted(&self, edit: impl FnOnce(&mut Transaction<'_>)) -> SignedChange {
        self.sign(1, 1, crafted(actor(&self.hostile.peer_id(), 1), edit))
    }

    pub(crate) fn refusals(&self, change: SignedChange) -> Vec<(Refusal, u64)> {
        self.attack(vec![change])
            .catalog
            .counters()
            .refusals()
            .collect()
    }
}

pub(crate) fn crafted(actor: [u8; 16], edit: impl FnOnce(&mut Transaction<'_>)) -> Vec<u8> {
    crafted_at(actor, 0, edit)
}

pub(crate) fn crafted_at(
    actor: [u8; 16],
    time: i64,
    edit: impl FnOnce(&mut Transaction<'_>),
) -> Vec<u8> {
    let mut doc = Automerge::new().with_actor(ActorId::from(actor));
    let mut tx = doc.transaction();
    edit(&mut tx);
    let hash = tx
        .commit_with(CommitOptions::default().with_time(time))
        .0
        .unwrap();
    doc.get_change_by_hash(&hash).unwrap().raw_bytes().to_vec()
}

pub(crate) fn valid_root(tx: &mut Transaction<'_>) -> automerge::ObjId {
    tx.put(ROOT, "version", 1u64).unwrap();
    tx.put(ROOT, "agent", "x").unwrap();
    tx.put_object(ROOT, "addresses", ObjType::List).unwrap();
    tx.put_object(ROOT, "experts", ObjType::Map).unwrap()
}
