//! A node's own key pair and its text form.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libp2p_identity::{Keypair, PeerId};

use crate::{Format, VersionMismatch};

const HEADER: &str = "polymath-identity";

/// A node's Ed25519 key pair; its public half is the node's [`PeerId`].
#[derive(Clone)]
pub struct NodeKey(Keypair);

/// Why an identity file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file is not an identity file at all.
    #[error("not a polymath identity file: expected a first line '{HEADER} 1'")]
    Header,
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// The key is damaged.
    #[error("the key in the identity file is damaged: {0}; restore it from a backup")]
    Key(String),
}

impl NodeKey {
    /// A fresh random key.
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The id under which other peers know this node.
    pub fn peer_id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// The key pair itself, for the transports and for signatures.
    pub fn keypair(&self) -> &Keypair {
        &self.0
    }

    /// Text form: a header line `polymath-identity <version>`, then base64 of libp2p's protobuf
    /// encoding of the private key.
    pub fn to_text(&self) -> Result<String, IdentityError> {
        let bytes = self
            .0
            .to_protobuf_encoding()
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(format!(
            "{HEADER} {}\n{}\n",
            Format::Identity.current(),
            STANDARD.encode(bytes)
        ))
    }

    /// Reads what [`NodeKey::to_text`] wrote.
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let mut lines = text.lines();
        let version = lines
            .next()
            .and_then(|l| l.strip_prefix(HEADER))
            .and_then(|v| v.trim().parse::<u32>().ok())
            .ok_or(IdentityError::Header)?;
        Format::Identity.check(version)?;
        let bytes = STANDARD
            .decode(lines.next().unwrap_or_default().trim())
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        let pair = Keypair::from_protobuf_encoding(&bytes)
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(Self(pair))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.peer_id()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_form_round_trips_and_names_both_versions() {
        let key = NodeKey::generate();
        let text = key.to_text().unwrap();
        assert_eq!(NodeKey::from_text(&text).unwrap().peer_id(), key.peer_id());
        let err = NodeKey::from_text(&text.replace("identity 1", "identity 9")).unwrap_err();
        assert!(
            err.to_string().contains("version 9") && err.to_string().contains("version 1"),
            "{err}"
        );
        assert!(matches!(
            NodeKey::from_text("hello"),
            Err(IdentityError::Header)
        ));
    }
}
