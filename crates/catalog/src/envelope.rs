//! The signed envelope around an Automerge change: who may have written it.
//!
//! Signed are a domain tag of the document's kind, the mesh, the epoch, the sequence and the change's
//! bytes. The key is taken out of the author's peer id, so that documents of authors who are offline
//! verify too.

use polymath_proto::v1::SignedChange;
use polymath_types::{MeshId, NodeKey, PeerId, PublicKey};
use prost::bytes::Bytes;

use crate::{CatalogLimits, Refusal, kind::Kind};

fn signed_bytes<K: Kind>(mesh: &MeshId, epoch: u64, sequence: u64, change: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(K::DOMAIN.len() + 48 + change.len());
    bytes.extend_from_slice(K::DOMAIN);
    bytes.extend_from_slice(mesh.as_bytes());
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(change);
    bytes
}

/// The Ed25519 key inlined in a peer id (identity multihash: code 0, one length byte, the key).
pub(crate) fn inlined_key(peer: &PeerId) -> Option<PublicKey> {
    let bytes = peer.to_bytes();
    let [0, _, protobuf @ ..] = bytes.as_slice() else {
        return None;
    };
    let key = PublicKey::try_decode_protobuf(protobuf).ok()?;
    (key.clone().try_into_ed25519().is_ok() && key.to_peer_id() == *peer).then_some(key)
}

/// Whether `peer` can sign documents at all.
pub(crate) fn can_sign(peer: &PeerId) -> bool {
    inlined_key(peer).is_some()
}

/// The peer id in a message, in its one canonical form.
pub(crate) fn peer_id(bytes: &[u8]) -> Option<PeerId> {
    // An Ed25519 peer id has 38 bytes; none has more than 64 and its multihash header.
    let peer = (bytes.len() <= 80).then(|| PeerId::from_bytes(bytes).ok())??;
    (peer.to_bytes() == bytes).then_some(peer)
}

/// What the peer id of an Ed25519 key begins with: the identity multihash and its length, then protobuf's
/// tags of the key's type and of its 32 bytes.
const BEFORE_KEY: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The author whose Ed25519 key these 32 bytes are; whether they are one is left to the signature.
pub(crate) fn author(key: &[u8]) -> Option<PeerId> {
    let right = key.len() == 32;
    right
        .then(|| PeerId::from_bytes(&[&BEFORE_KEY, key].concat()).ok())
        .flatten()
}

/// The Ed25519 key in an author's peer id; nothing in that of a peer that cannot sign documents.
pub(crate) fn key_bytes(author: &PeerId) -> Bytes {
    let id = author.to_bytes();
    let key = id.strip_prefix(&BEFORE_KEY);
    key.map_or_else(Bytes::new, Bytes::copy_from_slice)
}

/// Signs `change` as change `sequence` of `epoch` of the key's own document.
pub(crate) fn sign<K: Kind>(
    key: &NodeKey,
    mesh: &MeshId,
    epoch: u64,
    sequence: u64,
    change: Vec<u8>,
) -> Result<SignedChange, Refusal> {
    let signature = key
        .keypair()
        .sign(&signed_bytes::<K>(mesh, epoch, sequence, &change))
        .map_err(|_| Refusal::Signature)?;
    Ok(SignedChange {
        version: K::FORMAT.current(),
        author: key.peer_id().to_bytes().into(),
        epoch,
        sequence,
        change: change.into(),
        signature: signature.into(),
    })
}

/// Version, size and author: everything that costs nothing to check.
pub(crate) fn check_form<K: Kind>(
    change: &SignedChange,
    limits: &CatalogLimits,
) -> Result<PeerId, Refusal> {
    K::FORMAT
        .check(change.version)
        .map_err(|_| Refusal::Version)?;
    if change.change.len() > K::bounds(limits).change_bytes || change.signature.len() != 64 {
        return Err(Refusal::Size);
    }
    // Both count from 1; no author signs a zero.
    if change.epoch == 0 || change.sequence == 0 {
        return Err(Refusal::Signature);
    }
    peer_id(&change.author).ok_or(Refusal::Author)
}

/// Whether `author` signed it for `mesh`.
pub(crate) fn check_signature<K: Kind>(
    change: &SignedChange,
    author: &PeerId,
    mesh: &MeshId,
) -> Result<(), Refusal> {
    let key = inlined_key(author).ok_or(Refusal::Author)?;
    let bytes = signed_bytes::<K>(mesh, change.epoch, change.sequence, &change.change);
    if key.verify(&bytes, &change.signature) {
        Ok(())
    } else {
        Err(Refusal::Signature)
    }
}
