//! The mesh a node belongs to: its genesis and the id derived from it.

use std::{fmt, str::FromStr};

use libp2p_identity::{PeerId, PublicKey};
use serde::{Deserialize, Serialize};

use crate::{Format, VersionMismatch};

/// Longest mesh name, bytes.
const MAX_NAME: usize = 64;
/// Most founding admins.
const MAX_ADMINS: usize = 16;

/// BLAKE3 of the canonical genesis. Protocol names, DHT keys, topics and local discovery carry
/// it, so that neighbouring meshes never merge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeshId([u8; 32]);

impl MeshId {
    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hexadecimal digits: what protocol names carry.
    pub fn short(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex()[..16].to_owned()
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({})", self.short())
    }
}

impl FromStr for MeshId {
    type Err = GenesisError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(s)
            .map_err(|_| GenesisError::Malformed("not a mesh id: 64 hexadecimal digits".into()))?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Who may enter a mesh. It is founded so and stays so: the [`MeshId`] depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Anybody who finds a member.
    Open,
    /// Whoever knows the [`MeshSecret`], or has an invite.
    Closed,
}

impl Access {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shared secret of a closed mesh. Never shown, logged or sent but to a peer let in by it.
#[derive(Clone)]
pub struct MeshSecret([u8; 32]);

/// In constant time.
impl PartialEq for MeshSecret {
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for MeshSecret {}

impl MeshSecret {
    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MeshSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshSecret(..)")
    }
}

/// What a mesh is founded on. Immutable; its hash is the [`MeshId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    version: u32,
    name: String,
    /// Protobuf-encoded public keys, hexadecimal, sorted.
    admins: Vec<String>,
    /// Absent in an open mesh, so that those founded before there were closed ones keep their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Access>,
}

/// Why a genesis is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// Not a genesis, or one that breaks its limits.
    #[error("the mesh's genesis is malformed: {0}")]
    Malformed(String),
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
}

impl Genesis {
    /// Largest canonical form, bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Founds an open mesh named `name` with one admin.
    pub fn new(name: &str, admin: &PublicKey) -> Result<Self, GenesisError> {
        Self::found(name, admin, Access::Open)
    }

    /// Founds a mesh named `name` with one admin.
    pub fn found(name: &str, admin: &PublicKey, access: Access) -> Result<Self, GenesisError> {
        let genesis = Self {
            version: Format::Genesis.current(),
            name: name.to_owned(),
            admins: vec![hex(&admin.encode_protobuf())],
            access: (access == Access::Closed).then_some(access),
        };
        genesis.check()?;
        Ok(genesis)
    }

    /// The mesh's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who may enter.
    pub fn access(&self) -> Access {
        self.access.unwrap_or(Access::Open)
    }

    /// Peer ids of the founding admins.
    pub fn admins(&self) -> Vec<PeerId> {
        self.admins
            .iter()
            .filter_map(|a| public_key(a))
            .map(|k| k.to_peer_id())
            .collect()
    }

    /// Canonical bytes: compact JSON, fields in declared order.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GenesisError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(GenesisError::Malformed(format!(
                "longer than {} bytes",
                Self::MAX_BYTES
            )));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |e: serde_json::Error| GenesisError::Malformed(e.to_string());
        Format::Genesis.check(
            serde_json::from_slice::<Versioned>(bytes)
                .map_err(malformed)?
                .version,
        )?;
        let genesis: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        genesis.check()?;
        if genesis.to_bytes() != bytes {
            return Err(GenesisError::Malformed("not in canonical form".into()));
        }
        Ok(genesis)
    }

    /// The id of the mesh founded on this genesis.
    pub fn id(&self) -> MeshId {
        MeshId(blake3::derive_key(
            "polymath mesh genesis v1",
            &self.to_bytes(),
        ))
    }

    fn check(&self) -> Result<(), GenesisError> {
        if self.name.is_empty()
            || self.name.len() > MAX_NAME
            || self.name.chars().any(char::is_control)
        {
            return Err(GenesisError::Malformed(format!(
                "a mesh's name has 1 to {MAX_NAME} printable bytes"
            )));
        }
        if self.admins.is_empty() || self.admins.len() > MAX_ADMINS {
            return Err(GenesisError::Malformed(format!(
                "a mesh has 1 to {MAX_ADMINS} founding admins"
            )));
        }
        if !self.admins.is_sorted() || self.admins.iter().any(|a| public_key(a).is_none()) {
            return Err(GenesisError::Malformed(
                "founding admins are not sorted public keys".into(),
            ));
        }
        if self.access == Some(Access::Open) {
            return Err(GenesisError::Malformed(
                "an open mesh does not say so: it says nothing".into(),
            ));
        }
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn public_key(text: &str) -> Option<PublicKey> {
    PublicKey::try_decode_protobuf(&unhex(text)?).ok()
}

/// The bytes of at most 256 hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 256 || !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::NodeKey;

    #[test]
    fn id_depends_on_admin_and_name_only() {
        let (a, b) = (NodeKey::generate(), NodeKey::generate());
        let genesis = |k: &NodeKey, n: &str| Genesis::new(n, &k.keypair().public()).unwrap();
        assert_eq!(genesis(&a, "home").id(), genesis(&a, "home").id());
        assert_ne!(genesis(&a, "home").id(), genesis(&b, "home").id());
        assert_ne!(genesis(&a, "home").id(), genesis(&a, "work").id());
        let round = Genesis::from_bytes(&genesis(&a, "home").to_bytes()).unwrap();
        assert_eq!(round.admins(), vec![a.peer_id()]);
        assert_eq!(
            round.id().to_string().parse::<MeshId>().unwrap(),
            round.id()
        );
    }

    #[test]
    fn a_closed_mesh_is_another_mesh_and_cannot_be_opened() {
        let key = NodeKey::generate().keypair().public();
        let open = Genesis::new("home", &key).unwrap();
        let closed = Genesis::found("home", &key, Access::Closed).unwrap();
        assert_eq!(
            (open.access(), closed.access()),
            (Access::Open, Access::Closed)
        );
        assert_ne!(open.id(), closed.id());
        assert!(!open.to_bytes().windows(6).any(|w| w == b"access"));
        let text = String::from_utf8(closed.to_bytes()).unwrap();
        assert_eq!(Genesis::from_bytes(text.as_bytes()).unwrap(), closed);
        for other in ["\"open\"", "null", "\"ajar\""] {
            let changed = text.replace("\"closed\"", other);
            assert!(
                Genesis::from_bytes(changed.as_bytes()).is_err(),
                "{changed}"
            );
        }
    }

    #[test]
    fn hostile_genesis_is_refused() {
        assert!(Genesis::from_bytes(b"{}").is_err());
        assert!(Genesis::from_bytes(br#"{"version":1,"name":"x","admins":["zz"]}"#).is_err());
        let err = Genesis::from_bytes(br#"{"version":7,"name":"x","admins":[]}"#).unwrap_err();
        assert!(err.to_string().contains('7') && err.to_string().contains('1'));
        assert!(Genesis::from_bytes(&vec![b' '; 5000]).is_err());
    }
}
