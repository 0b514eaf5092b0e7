//! Signatures over canonical JSON, by peers whose id is their key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libp2p_identity::{PeerId, PublicKey};

use crate::NodeKey;

/// The Ed25519 key inlined in a peer id (identity multihash: code 0, one length byte, the key).
pub(crate) fn inlined_key(peer: &PeerId) -> Option<PublicKey> {
    let bytes = peer.to_bytes();
    let [0, _, protobuf @ ..] = bytes.as_slice() else {
        return None;
    };
    let key = PublicKey::try_decode_protobuf(protobuf).ok()?;
    (key.clone().try_into_ed25519().is_ok() && key.to_peer_id() == *peer).then_some(key)
}

/// `key`'s signature over `bytes`, in `domain`; none if the key cannot sign.
pub(crate) fn sign(key: &NodeKey, domain: &str, bytes: &[u8]) -> Option<String> {
    let signature = key.keypair().sign(&message(domain, bytes)).ok()?;
    Some(URL_SAFE_NO_PAD.encode(signature))
}

/// Whether `signature` is `signer`'s over `bytes`, in `domain`.
pub(crate) fn verify(signer: &PeerId, domain: &str, bytes: &[u8], signature: &str) -> bool {
    let Some(key) = inlined_key(signer) else {
        return false;
    };
    // An Ed25519 signature has 64 bytes: 86 characters.
    signature.len() == 86
        && URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|s| key.verify(&message(domain, bytes), &s))
}

fn message(domain: &str, bytes: &[u8]) -> Vec<u8> {
    [domain.as_bytes(), b"\0", bytes].concat()
}
