//! An invite: everything a stranger needs to enter a mesh, as one word of text.
//!
//! The text is `polymath-invite1.` and base64url (RFC 4648, section 5, no padding) of eight bytes
//! of checksum and the canonical JSON. The checksum is over the version in front and the JSON, and
//! comes first in every version of the format: a slip of the pen is told from all else.
//!
//! An invite into a closed mesh does not hold the mesh's secret, but a key derived from it and
//! from the invite's [`InviteClaims`]. So any member can work that key out from the claims alone,
//! and altered claims lead to another key. What a claim says is enforced by whoever hands out the
//! secret; see `polymath_net`'s door.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::{
    Access, AnchorList, AnchorsError, ErrorKind, Format, Genesis, GenesisError, MeshId, MeshSecret,
    NodeKey, VersionMismatch, address,
    mesh::{hex, unhex},
    signed,
};

const PREFIX: &str = "polymath-invite";
const DOMAIN: &str = "polymath invite v1";
const CHECKSUM: usize = 8;

/// What an invite promises, and all of it that is told at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteClaims {
    /// Tells it from every other invite.
    pub id: [u8; 16],
    /// Who wrote it. One whose uses are counted is good at its issuer only.
    pub issuer: PeerId,
    /// Unix seconds from which on it is no longer good.
    pub expires: Option<u64>,
    /// How many peers may come by it; without a number, any.
    pub uses: Option<u32>,
}

impl InviteClaims {
    /// Longest encoding, bytes.
    pub const MAX_BYTES: usize = 16 + 8 + 4 + 64;

    /// For the door: id, expiry (0: none), uses (0: any), issuer; integers big-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_vec();
        bytes.extend(self.expires.unwrap_or(0).to_be_bytes());
        bytes.extend(self.uses.unwrap_or(0).to_be_bytes());
        bytes.extend(self.issuer.to_bytes());
        bytes
    }

    /// Reads what [`InviteClaims::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::MAX_BYTES {
            return None;
        }
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (uses, issuer) = rest.split_first_chunk::<4>()?;
        let (expires, uses) = (u64::from_be_bytes(*expires), u32::from_be_bytes(*uses));
        let claims = Self {
            id: *id,
            issuer: PeerId::from_bytes(issuer).ok()?,
            expires: (expires != 0).then_some(expires),
            uses: (uses != 0).then_some(uses),
        };
        (claims.to_bytes() == bytes).then_some(claims)
    }

    /// Whether its time is over at `now`, Unix seconds.
    pub fn expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// The key an invite with these claims carries: keyed BLAKE3, the key derived from the secret.
    pub fn key(&self, mesh: MeshId, secret: &MeshSecret) -> InviteKey {
        let key = blake3::derive_key("polymath invite key v1", secret.as_bytes());
        let claims = self.to_bytes();
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(mesh.as_bytes()).update(&claims);
        InviteKey(*hasher.finalize().as_bytes())
    }
}

/// What an invite into a closed mesh proves itself by.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteKey([u8; 32]);

impl InviteKey {
    /// Raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteKey(..)")
    }
}

/// An invite whose checksum, form and signature are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    genesis: Genesis,
    claims: InviteClaims,
    addresses: Vec<String>,
    anchors: Option<AnchorList>,
    key: Option<InviteKey>,
    signature: String,
}

/// The JSON in the text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    genesis: Genesis,
    id: String,
    issuer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses: Option<u32>,
    addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchors: Option<AnchorList>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    signature: String,
}

/// Why an invite leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Something else.
    #[error("this is no invite: one begins with '{PREFIX}{}.'", Format::Invite.current())]
    NotAnInvite,
    /// The checksum is wrong.
    #[error("the invite is damaged, a character is missing or wrong: copy it again, whole")]
    Damaged,
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// Its checksum is right and its content is not.
    #[error("the invite is malformed: {0}; ask for another")]
    Malformed(String),
    /// Its issuer has not signed it so.
    #[error("the invite was altered: its issuer has not signed it so; ask for another")]
    Signature,
    /// Its time is over.
    #[error("the invite has expired: ask for another")]
    Expired,
    /// It leads into another mesh.
    #[error("the invite is into mesh '{name}' ({theirs}), not into mesh {ours}")]
    Foreign {
        /// The other mesh's name.
        name: String,
        /// First digits of its id.
        theirs: String,
        /// First digits of the id expected.
        ours: String,
    },
}

impl InviteError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnInvite => ErrorKind::InvalidInput,
            Self::Damaged | Self::Malformed(_) | Self::Signature => ErrorKind::DataLoss,
            Self::Version(_) => ErrorKind::VersionMismatch,
            Self::Expired => ErrorKind::PermissionDenied,
            Self::Foreign { .. } => ErrorKind::FailedPrecondition,
        }
    }
}

impl From<GenesisError> for InviteError {
    fn from(error: GenesisError) -> Self {
        match error {
            GenesisError::Version(mismatch) => Self::Version(mismatch),
            GenesisError::Malformed(_) => Self::Malformed(error.to_string()),
        }
    }
}

impl From<AnchorsError> for InviteError {
    fn from(error: AnchorsError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl Invite {
    /// Longest text, bytes.
    pub const MAX_BYTES: usize = 32 * 1024;
    /// Most addresses beside the anchors.
    pub const MAX_ADDRESSES: usize = 8;
    /// Most uses that are counted.
    pub const MAX_USES: u32 = 100;

    /// An invite signed by its issuer's key. A closed mesh's needs the secret. The addresses, each
    /// with `/p2p/PEER` at its end, lead to members.
    pub fn issue(
        genesis: &Genesis,
        issuer: &NodeKey,
        claims: InviteClaims,
        addresses: Vec<String>,
        anchors: Option<AnchorList>,
        secret: Option<&MeshSecret>,
    ) -> Result<Self, InviteError> {
        let mut invite = Self {
            key: secret.map(|s| claims.key(genesis.id(), s)),
            genesis: genesis.clone(),
            claims,
            addresses,
            anchors,
            signature: String::new(),
        };
        invite.signature = signed::sign(issuer, DOMAIN, &invite.signed_bytes()).unwrap_or_default();
        invite.check()?;
        Ok(invite)
    }

    /// What the mesh is founded on.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// What it promises.
    pub fn claims(&self) -> &InviteClaims {
        &self.claims
    }

    /// Where members are, each address with `/p2p/PEER` at its end.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The mesh's list of anchors, as its issuer had it. Its signature may be good and its time
    /// over.
    pub fn anchors(&self) -> Option<&AnchorList> {
        self.anchors.as_ref()
    }

    /// What it proves itself by at the door of a closed mesh.
    pub fn key(&self) -> Option<&InviteKey> {
        self.key.as_ref()
    }

    /// Whether it can still be used at `now`, Unix seconds.
    pub fn verify(&self, now: u64) -> Result<(), InviteError> {
        if self.claims.expired(now) {
            return Err(InviteError::Expired);
        }
        Ok(())
    }

    /// Whether it leads into `mesh`.
    pub fn leads_into(&self, mesh: MeshId) -> Result<(), InviteError> {
        let theirs = self.genesis.id();
        if theirs == mesh {
            return Ok(());
        }
        Err(InviteError::Foreign {
            name: self.genesis.name().to_owned(),
            theirs: theirs.short(),
            ours: mesh.short(),
        })
    }

    fn written(&self) -> Written {
        Written {
            genesis: self.genesis.clone(),
            id: hex(&self.claims.id),
            issuer: self.claims.issuer.to_string(),
            expires: self.claims.expires,
            uses: self.claims.uses,
            addresses: self.addresses.clone(),
            anchors: self.anchors.clone(),
            key: self.key.as_ref().map(|k| hex(&k.0)),
            signature: self.signature.clone(),
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let unsigned = Written {
            signature: String::new(),
            ..self.written()
        };
        serde_json::to_vec(&unsigned).unwrap_or_default()
    }

    fn check(&self) -> Result<(), InviteError> {
        let wrong = |what: &str| Err(InviteError::Malformed(what.to_owned()));
        if self.addresses.len() > Self::MAX_ADDRESSES
            || !self.addresses.iter().all(|a| address::names_a_peer(a))
        {
            return wrong("it has at most 8 addresses, each with /p2p/PEER at its end");
        }
        if self
            .claims
            .uses
            .is_some_and(|n| n == 0 || n > Self::MAX_USES)
            || self.claims.expires == Some(0)
        {
            return wrong("its uses are 1 to 100, its end is no zero");
        }
        if (self.genesis.access() == Access::Closed) != self.key.is_some() {
            return wrong("an invite has a key if, and only if, its mesh is closed");
        }
        if let Some(anchors) = &self.anchors {
            // A list whose time is over is no fault of the invite.
            anchors
                .verify(&self.genesis, anchors.issued())
                .or_else(|e| match e {
                    AnchorsError::Expired => Ok(()),
                    e => Err(e),
                })?;
        }
        if !signed::verify(
            &self.claims.issuer,
            DOMAIN,
            &self.signed_bytes(),
            &self.signature,
        ) {
            return Err(InviteError::Signature);
        }
        Ok(())
    }
}

fn checksum(version: u32, json: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new_derive_key("polymath invite checksum");
    hasher.update(&version.to_be_bytes()).update(json);
    let mut sum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = Format::Invite.current();
        let json = serde_json::to_vec(&self.written()).unwrap_or_default();
        let bytes = [&checksum(version, &json)[..], &json].concat();
        write!(f, "{PREFIX}{version}.{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Reads an invite; line breaks and blanks that mail or chat put into it are no fault.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        if text.len() > Self::MAX_BYTES {
            return Err(InviteError::Malformed(format!(
                "longer than {} bytes",
                Self::MAX_BYTES
            )));
        }
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let rest = text.strip_prefix(PREFIX).ok_or(InviteError::NotAnInvite)?;
        let (version, body) = rest.split_once('.').ok_or(InviteError::Damaged)?;
        // One way to write each number: no signs, no zeros in front.
        let version = version
            .parse::<u32>()
            .ok()
            .filter(|v| v.to_string() == version)
            .ok_or(InviteError::Damaged)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| InviteError::Damaged)?;
        let (sum, json) = bytes
            .split_first_chunk::<CHECKSUM>()
            .ok_or(InviteError::Damaged)?;
        if *sum != checksum(version, json) {
            return Err(InviteError::Damaged);
        }
        Format::Invite.check(version)?;
        Self::from_json(json)
    }
}

impl Invite {
    fn from_json(json: &[u8]) -> Result<Self, InviteError> {
        let malformed = |what: &str| InviteError::Malformed(what.to_owned());
        let written: Written =
            serde_json::from_slice(json).map_err(|e| malformed(&e.to_string()))?;
        let bytes = |text: &str| unhex(text).ok_or_else(|| malformed("not hexadecimal"));
        let invite = Self {
            genesis: Genesis::from_bytes(&written.genesis.to_bytes())?,
            claims: InviteClaims {
                id: bytes(&written.id)?
                    .try_into()
                    .map_err(|_| malformed("its id has not 16 bytes"))?,
                issuer: written
                    .issuer
                    .parse()
                    .map_err(|_| malformed("its issuer is no peer id"))?,
                expires: written.expires,
                uses: written.uses,
            },
            addresses: written.addresses,
            anchors: written.anchors,
            key: match &written.key {
                Some(key) => Some(InviteKey(
                    bytes(key)?
                        .try_into()
                        .map_err(|_| malformed("its key has not 32 bytes"))?,
                )),
                None => None,
            },
            signature: written.signature,
        };
        if serde_json::to_vec(&invite.written()).unwrap_or_default() != json {
            return Err(malformed("not in canonical form"));
        }
        invite.check()?;
        Ok(invite)
    }

    /// Whether `text` means to be an invite.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> NodeKey {
        NodeKey::from_text(&format!(
            "polymath-identity 1\n{}\n",
            base64::engine::general_purpose::STANDARD.encode(
                libp2p_identity::Keypair::ed25519_from_bytes([7; 32])
                    .unwrap()
                    .to_protobuf_encoding()
                    .unwrap()
            )
        ))
        .unwrap()
    }

    fn invite(access: Access) -> Invite {
        let key = key();
        let genesis = Genesis::found("home", &key.keypair().public(), access).unwrap();
        let claims = InviteClaims {
            id: [9; 16],
            issuer: key.peer_id(),
            expires: Some(2_000_000_000),
            uses: Some(3),
        };
        let address = format!("/ip4/192.0.2.7/tcp/4040/p2p/{}", key.peer_id());
        let secret = MeshSecret::from_bytes([5; 32]);
        let secret = (access == Access::Closed).then_some(&secret);
        Invite::issue(&genesis, &key, claims, vec![address], None, secret).unwrap()
    }

    #[test]
    fn the_text_holds_all_of_it_and_not_the_secret() {
        for access in [Access::Open, Access::Closed] {
            let invite = invite(access);
            let text = invite.to_string();
            assert_eq!(text.parse::<Invite>().unwrap(), invite);
            let wrapped = text.replace("polymath", " \r\n poly\nmath");
            assert_eq!(wrapped.parse::<Invite>().unwrap(), invite);
            assert!(!format!("{invite:?}").contains("0505"));
            let json = URL_SAFE_NO_PAD
                .decode(text.split_once('.').unwrap().1)
                .unwrap();
            assert!(!String::from_utf8_lossy(&json).contains(&hex(&[5; 32])));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let text = invite(Access::Closed).to_string();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                // A bit above ASCII leaves no text at all: the command line cannot even pass it on.
                let damaged = String::from_utf8_lossy(&bytes);
                let error = damaged.parse::<Invite>().unwrap_err();
                let expected = if at < PREFIX.len() {
                    InviteError::NotAnInvite
                } else {
                    InviteError::Damaged
                };
                assert_eq!(error, expected, "byte {at}, bit {bit}");
            }
        }
        for end in 0..text.len() {
            assert!(text[..end].parse::<Invite>().is_err(), "cut at {end}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let json = br#"{"whatever":"comes"}"#;
        let bytes = [&checksum(2, json)[..], json].concat();
        let newer = format!("{PREFIX}2.{}", URL_SAFE_NO_PAD.encode(bytes));
        let error = newer.parse::<Invite>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch);
        assert!(
            error.to_string().contains("version 2") && error.to_string().contains("version 1"),
            "{error}"
        );
    }

    #[test]
    fn a_forged_or_inconsistent_invite_is_refused() {
        let honest = invite(Access::Closed);
        let retold = |change: fn(&mut Written)| {
            let mut written = honest.written();
            change(&mut written);
            let json = serde_json::to_vec(&written).unwrap();
            let bytes = [&checksum(1, &json)[..], &json].concat();
            format!("{PREFIX}1.{}", URL_SAFE_NO_PAD.encode(bytes)).parse::<Invite>()
        };
        assert!(retold(|_| ()).is_ok());
        assert_eq!(retold(|w| w.uses = Some(99)), Err(InviteError::Signature));
        assert_eq!(retold(|w| w.expires = None), Err(InviteError::Signature));
        assert!(matches!(
            retold(|w| w.key = None),
            Err(InviteError::Malformed(_))
        ));
        assert!(matches!(
            retold(|w| w.addresses = vec!["/ip4/192.0.2.1/tcp/1".into()]),
            Err(InviteError::Malformed(_))
        ));
    }

    #[test]
    fn time_and_mesh_are_checked() {
        let invite = invite(Access::Open);
        assert_eq!(invite.verify(1_999_999_999), Ok(()));
        assert_eq!(invite.verify(2_000_000_000), Err(InviteError::Expired));
        assert_eq!(invite.leads_into(invite.genesis().id()), Ok(()));
        let foreign = invite.leads_into(MeshId::from_bytes([1; 32])).unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::FailedPrecondition);
        assert!(foreign.to_string().contains("home"), "{foreign}");
    }

    #[test]
    fn altered_claims_lead_to_another_key() {
        let (mesh, secret) = (MeshId::from_bytes([1; 32]), MeshSecret::from_bytes([2; 32]));
        let claims = invite(Access::Closed).claims().clone();
        assert_eq!(
            InviteClaims::from_bytes(&claims.to_bytes()),
            Some(claims.clone())
        );
        let longer = InviteClaims {
            expires: None,
            ..claims.clone()
        };
        let more = InviteClaims {
            uses: None,
            ..claims.clone()
        };
        assert_ne!(claims.key(mesh, &secret), longer.key(mesh, &secret));
        assert_ne!(claims.key(mesh, &secret), more.key(mesh, &secret));
        assert_eq!(InviteClaims::from_bytes(&[0; 200]), None);
        assert_eq!(InviteClaims::from_bytes(b""), None);
    }
}
