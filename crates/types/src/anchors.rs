//! A mesh's anchors: addresses of members that can always be reached, vouched for by a founder.
//!
//! Canonical form: compact JSON, fields in declared order, as of cards. In a DNS TXT record it is
//! [`AnchorList::to_txt`]. Of two lists of one mesh the one with the higher serial counts.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::{Format, Genesis, MeshId, NodeKey, VersionMismatch, address, signed};

const DOMAIN: &str = "polymath anchors v1";
const TXT: &str = "polymath-anchors1=";

/// The members of a mesh that newcomers and nodes that lost everybody turn to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorList {
    version: u32,
    /// [`MeshId`], hexadecimal.
    mesh: String,
    serial: u64,
    /// Unix seconds.
    issued: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    addresses: Vec<String>,
    signer: String,
    signature: String,
}

/// Why a list of anchors is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorsError {
    /// Not a list, or one that breaks its limits.
    #[error("the list of anchors is malformed: {0}; ask for it again")]
    Malformed(String),
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// It is of another mesh.
    #[error("the list of anchors is of mesh {theirs}, this home is in mesh {ours}")]
    Foreign {
        /// First digits of the list's mesh.
        theirs: String,
        /// First digits of ours.
        ours: String,
    },
    /// No founder has signed it.
    #[error("no founder of mesh {0} has signed this list of anchors: it is not used")]
    Signature(String),
    /// Its time is over.
    #[error("the list of anchors has expired: ask a founder of the mesh for a newer one")]
    Expired,
}

impl AnchorList {
    /// Largest canonical form, bytes.
    pub const MAX_BYTES: usize = 8192;
    /// Most anchors.
    pub const MAX_ADDRESSES: usize = 16;

    /// A list signed by `founder`. Times are Unix seconds.
    pub fn sign(
        genesis: &Genesis,
        founder: &NodeKey,
        serial: u64,
        issued: u64,
        expires: Option<u64>,
        addresses: Vec<String>,
    ) -> Result<Self, AnchorsError> {
        let mut list = Self {
            version: Format::Anchors.current(),
            mesh: genesis.id().to_string(),
            serial,
            issued,
            expires,
            addresses,
            signer: founder.peer_id().to_string(),
            signature: String::new(),
        };
        list.check_form()?;
        list.signature = signed::sign(founder, DOMAIN, &list.signed_bytes()).unwrap_or_default();
        list.verify(genesis, issued)?;
        Ok(list)
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads canonical bytes; white space around them is no fault. Whether to believe them is
    /// [`AnchorList::verify`]'s question.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AnchorsError> {
        let bytes = bytes.trim_ascii();
        if bytes.len() > Self::MAX_BYTES {
            return Err(AnchorsError::Malformed(format!(
                "longer than {} bytes",
                Self::MAX_BYTES
            )));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |e: serde_json::Error| AnchorsError::Malformed(e.to_string());
        let found: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
        Format::Anchors.check(found.version)?;
        let list: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        list.check_form()?;
        if list.to_bytes() != bytes {
            return Err(AnchorsError::Malformed("not in canonical form".into()));
        }
        Ok(list)
    }

    /// The text of a DNS TXT record; its character strings are cut anywhere.
    pub fn to_txt(&self) -> String {
        format!("{TXT}{}", URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }

    /// Reads a TXT record, its character strings put together again; `None` if it is about
    /// something else.
    pub fn from_txt(text: &str) -> Option<Result<Self, AnchorsError>> {
        let encoded = text.trim().strip_prefix(TXT)?;
        if encoded.len() > Self::MAX_BYTES * 4 / 3 + 4 {
            return Some(Err(AnchorsError::Malformed("too long".into())));
        }
        Some(match URL_SAFE_NO_PAD.decode(encoded) {
            Ok(bytes) => Self::from_bytes(&bytes),
            Err(e) => Err(AnchorsError::Malformed(e.to_string())),
        })
    }

    /// Whether a founder of this mesh vouches for the list at `now`, Unix seconds.
    pub fn verify(&self, genesis: &Genesis, now: u64) -> Result<(), AnchorsError> {
        let ours = genesis.id();
        if self.mesh != ours.to_string() {
            let theirs = self.mesh.parse::<MeshId>().map(|m| m.short());
            return Err(AnchorsError::Foreign {
                theirs: theirs.unwrap_or_else(|_| "?".into()),
                ours: ours.short(),
            });
        }
        let vouched = self.signer().is_some_and(|signer| {
            genesis.admins().contains(&signer)
                && signed::verify(&signer, DOMAIN, &self.signed_bytes(), &self.signature)
        });
        if !vouched {
            return Err(AnchorsError::Signature(ours.short()));
        }
        if self.expires.is_some_and(|end| end <= now) {
            return Err(AnchorsError::Expired);
        }
        Ok(())
    }

    /// Where the anchors are, each address with `/p2p/PEER` at its end.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The founder that signed it; none of a list that no peer can have signed.
    pub fn signer(&self) -> Option<PeerId> {
        self.signer.parse().ok()
    }

    /// Grows with every list the founder signs.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// When it was signed, Unix seconds, as its signer says.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Until when it is good, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let unsigned = Self {
            signature: String::new(),
            ..self.clone()
        };
        unsigned.to_bytes()
    }

    fn check_form(&self) -> Result<(), AnchorsError> {
        if self.addresses.len() > Self::MAX_ADDRESSES {
            return Err(AnchorsError::Malformed(format!(
                "more than {} addresses",
                Self::MAX_ADDRESSES
            )));
        }
        match self.addresses.iter().find(|a| !address::names_a_peer(a)) {
            Some(bad) => Err(AnchorsError::Malformed(format!(
                "'{}' is no address with /p2p/PEER at its end",
                bad.escape_debug()
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(key: &NodeKey) -> String {
        format!("/ip4/192.0.2.1/tcp/4040/p2p/{}", key.peer_id())
    }

    #[test]
    fn only_a_founder_of_the_same_mesh_is_believed_and_only_in_time() {
        let (founder, member) = (NodeKey::generate(), NodeKey::generate());
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let other = Genesis::new("other", &founder.keypair().public()).unwrap();
        let list = AnchorList::sign(
            &genesis,
            &founder,
            3,
            100,
            Some(200),
            vec![address(&member)],
        )
        .unwrap();
        let read = AnchorList::from_bytes(&list.to_bytes()).unwrap();
        assert_eq!(read, list);
        assert_eq!(read.verify(&genesis, 199), Ok(()));
        assert_eq!(read.verify(&genesis, 200), Err(AnchorsError::Expired));
        assert!(matches!(
            read.verify(&other, 150),
            Err(AnchorsError::Foreign { .. })
        ));
        assert!(matches!(
            AnchorList::sign(&genesis, &member, 4, 100, None, vec![address(&member)]),
            Err(AnchorsError::Signature(_))
        ));
        let altered = String::from_utf8(list.to_bytes())
            .unwrap()
            .replace("\"serial\":3", "\"serial\":9");
        let altered = AnchorList::from_bytes(altered.as_bytes()).unwrap();
        assert!(matches!(
            altered.verify(&genesis, 150),
            Err(AnchorsError::Signature(_))
        ));
    }

    #[test]
    fn a_txt_record_carries_the_list_and_others_are_not_ours() {
        let founder = NodeKey::generate();
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let list =
            AnchorList::sign(&genesis, &founder, 1, 1, None, vec![address(&founder)]).unwrap();
        assert_eq!(AnchorList::from_txt(&list.to_txt()), Some(Ok(list.clone())));
        assert_eq!(AnchorList::from_txt("v=spf1 -all"), None);
        let cut = &list.to_txt()[..100];
        assert!(matches!(AnchorList::from_txt(cut), Some(Err(_))));
    }

    #[test]
    fn lists_without_measure_are_refused() {
        let founder = NodeKey::generate();
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let sign = |addresses| AnchorList::sign(&genesis, &founder, 1, 1, None, addresses);
        assert!(sign(vec![address(&founder); 17]).is_err());
        for bad in ["/ip4/192.0.2.1/tcp/1", "localhost", "/x y/p2p/z"] {
            assert!(sign(vec![bad.into()]).is_err(), "{bad}");
        }
        assert!(AnchorList::from_bytes(&vec![b'['; 9000]).is_err());
    }
}
