//! Names that carry the mesh: protocols, DHT keys, and what a peer's own name says of it.

use libp2p::{StreamProtocol, kad::RecordKey};
use polymath_types::{Format, MeshId, VersionMismatch};

use crate::{shut_out, whereabouts};

/// The protocol that asks a peer which mesh it belongs to; the same in every mesh and version.
pub(crate) const HELLO: StreamProtocol = StreamProtocol::new("/polymath/hello/1");

/// The DHT's stream.
const KAD: &str = "kad";

/// Length of every DHT key, bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// Longest name of a stream protocol, bytes.
const MAX_NAME: usize = 64;

/// The names one mesh uses.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    mesh: MeshId,
    short: String,
}

/// What a peer's identify message says of its mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// To ours.
    Here,
    /// To the mesh whose id begins so.
    Elsewhere(String),
    /// It speaks another version of the wire protocol.
    OtherVersion(VersionMismatch),
    /// It is no Polymath node.
    Nowhere,
}

/// Whether a stream of this name serves the network alone: a connection with no other is idle.
pub(crate) fn is_upkeep(protocol: &StreamProtocol) -> bool {
    let name = protocol.as_ref().split('/').nth(3);
    matches!(name, Some(whereabouts::NAME | shut_out::NAME))
}

/// Whether a negotiated protocol is a mesh stream that rooms above have opened or accepted.
pub(crate) fn is_mesh_stream(protocol: &[u8]) -> bool {
    let mut parts = protocol.split(|b| *b == b'/');
    let (Some(b""), Some(b"polymath"), Some(_), Some(name), Some(_), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return false;
    };
    ![KAD, whereabouts::NAME, shut_out::NAME]
        .iter()
        .any(|upkeep| name == upkeep.as_bytes())
}

impl Names {
    pub(crate) fn new(mesh: MeshId) -> Self {
        Self {
            short: mesh.short(),
            mesh,
        }
    }

    pub(crate) fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// The first digits of the mesh's id.
    pub(crate) fn short(&self) -> &str {
        &self.short
    }

    /// What identify tells of us.
    pub(crate) fn identify(&self) -> String {
        format!("/polymath/{}/{}", self.short, Format::Wire.current())
    }

    pub(crate) fn kad(&self) -> Option<StreamProtocol> {
        self.stream(KAD)
    }

    /// The full name of the stream protocol `name`; `None` unless `name` has 1 to 64 lower-case
    /// letters, digits, `.`, `_` or `-`.
    pub(crate) fn stream(&self, name: &str) -> Option<StreamProtocol> {
        let fits = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let version = Format::Wire.current();
        fits.then(|| format!("/polymath/{}/{name}/{version}", self.short))
            .and_then(|full| StreamProtocol::try_from_owned(full).ok())
    }

    /// The DHT key that stands for `key` in this mesh.
    pub(crate) fn dht_key(&self, key: &[u8]) -> RecordKey {
        let mut hasher = blake3::Hasher::new_derive_key("polymath dht key v1");
        hasher.update(self.mesh.as_bytes());
        hasher.update(key);
        RecordKey::new(hasher.finalize().as_bytes())
    }

    /// Reads the protocol version of an identify message.
    pub(crate) fn classify(&self, protocol_version: &str) -> Belongs {
        let mut parts = protocol_version.split('/');
        let (Some(""), Some("polymath"), Some(mesh), Some(version), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Belongs::Nowhere;
        };
        let Ok(version) = version.parse::<u32>() else {
            return Belongs::Nowhere;
        };
        if mesh.len() != self.short.len() || !mesh.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Belongs::Nowhere;
        }
        match Format::Wire.check(version) {
            Err(mismatch) => Belongs::OtherVersion(mismatch),
            Ok(()) if mesh == self.short => Belongs::Here,
            Ok(()) => Belongs::Elsewhere(mesh.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(byte: u8) -> Names {
        Names::new(MeshId::from_bytes([byte; 32]))
    }

    #[test]
    fn every_name_carries_the_mesh() {
        let (a, b) = (names(0xaa), names(0xbb));
        assert_eq!(
            a.kad().unwrap().as_ref(),
            "/polymath/aaaaaaaaaaaaaaaa/kad/1"
        );
        assert_eq!(
            a.stream("calls").unwrap().as_ref(),
            "/polymath/aaaaaaaaaaaaaaaa/calls/1"
        );
        assert_ne!(a.dht_key(b"chef"), b.dht_key(b"chef"));
        assert_ne!(a.dht_key(b"chef"), a.dht_key(b"poet"));
    }

    #[test]
    fn odd_protocol_names_are_refused() {
        for name in ["", "a/b", "Grpc", "a b", "ü", &"x".repeat(65)] {
            assert!(names(1).stream(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn identify_tells_mesh_and_version_apart() {
        let ours = names(0xaa);
        assert_eq!(ours.classify(&ours.identify()), Belongs::Here);
        assert_eq!(
            ours.classify(&names(0xbb).identify()),
            Belongs::Elsewhere("bbbbbbbbbbbbbbbb".into())
        );
        let Belongs::OtherVersion(mismatch) = ours.classify("/polymath/aaaaaaaaaaaaaaaa/7") else {
            panic!("version 7 must be told apart");
        };
        assert!(mismatch.to_string().contains('7') && mismatch.to_string().contains('1'));
        for stranger in [
            "",
            "ipfs/1.0.0",
            "/polymath/aaaaaaaaaaaaaaaa",
            "/polymath/zz/1",
            "/polymath/aaaaaaaaaaaaaaaa/1/2",
        ] {
            assert_eq!(ours.classify(stranger), Belongs::Nowhere, "{stranger}");
        }
    }
}
