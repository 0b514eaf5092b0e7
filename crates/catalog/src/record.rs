//! What is kept on disk: one record an author, one a card.
//!
//! A record is `PMCT`, the version (u32, little endian), BLAKE3 of the payload (32 bytes), the
//! payload. An author's payload holds the signed changes *and* what they say, so that a catalog
//! opens without replaying anything; changes were verified before they were written, and the
//! checksum guards them since.

use std::str::FromStr;

use polymath_proto::v1::SignedChange;
use polymath_types::{CardError, ExpertCard, ExpertId, Format, MeshId, PeerId, VersionMismatch};
use prost::{Message as _, bytes::Bytes};

use crate::{
    document::{Head, View},
    envelope,
    log::Log,
    offers::Author,
};

const MAGIC: &[u8; 4] = b"PMCT";
const HEADER: usize = 4 + 4 + 32;
const OFFER: &str = "offer-";
const CARD: &str = "card-";

/// Why a stored record cannot be used. Nothing else is lost with it: offers and cards of others
/// come back from any peer, one's own from the next `set_offer`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file was cut short, altered, or is something else.
    #[error("the record is damaged: {0}; it is fetched again from peers")]
    Damaged(&'static str),
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// The card inside is not acceptable.
    #[error(transparent)]
    Card(#[from] CardError),
    /// It belongs to another mesh.
    #[error("the record belongs to another mesh; a home belongs to one mesh")]
    Mesh,
    /// Neither an offer nor a card.
    #[error("not a name of a catalog record: expected 'offer-<peer id>' or 'card-<expert id>'")]
    Name,
    /// More records than the catalog keeps.
    #[error("the catalog is full")]
    Full,
}

/// A record as it is read; it is written in parts, as the changes are bytes already.
#[derive(Clone, PartialEq, prost::Message)]
struct OfferRecord {
    #[prost(bytes = "bytes", tag = "1")]
    mesh: Bytes,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<SignedChange>,
    #[prost(bytes = "bytes", tag = "3")]
    last_hash: Bytes,
    #[prost(uint64, tag = "4")]
    last_op: u64,
    #[prost(string, tag = "5")]
    agent: String,
    #[prost(string, repeated, tag = "6")]
    addresses: Vec<String>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    experts: Vec<Bytes>,
    /// The tick in which the author was last seen, counted on from run to run; 0 is not known.
    #[prost(uint64, tag = "8")]
    seen: u64,
}

pub(crate) enum Record {
    Offer(PeerId, Author),
    Card(ExpertId, ExpertCard),
}

pub(crate) fn offer_name(author: &PeerId) -> String {
    format!("{OFFER}{author}")
}

pub(crate) fn card_name(id: &ExpertId) -> String {
    format!("{CARD}{id}")
}

fn seal(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&Format::CatalogStore.current().to_le_bytes());
    bytes.extend_from_slice(blake3::hash(payload).as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn unseal(bytes: &[u8]) -> Result<&[u8], RecordError> {
    let (header, payload) = bytes
        .split_at_checked(HEADER)
        .ok_or(RecordError::Damaged("cut short"))?;
    if &header[..4] != MAGIC {
        return Err(RecordError::Damaged("no catalog record"));
    }
    let version = header[4..8]
        .iter()
        .rev()
        .fold(0, |v, b| (v << 8) | u32::from(*b));
    Format::CatalogStore.check(version)?;
    if blake3::hash(payload).as_bytes() != &header[8..] {
        return Err(RecordError::Damaged("wrong checksum"));
    }
    Ok(payload)
}

pub(crate) fn seal_card(card: &ExpertCard) -> Vec<u8> {
    seal(&card.to_bytes())
}

pub(crate) fn seal_offer(mesh: &MeshId, author: &Author) -> Vec<u8> {
    let before = OfferRecord {
        mesh: Bytes::copy_from_slice(mesh.as_bytes()),
        ..OfferRecord::default()
    };
    let offer = author.offer();
    let experts = offer.experts.iter();
    let after = OfferRecord {
        last_hash: Bytes::copy_from_slice(&author.head().hash),
        last_op: author.head().last_op,
        agent: offer.agent.clone(),
        addresses: offer.addresses.clone(),
        experts: experts
            .map(|e| Bytes::copy_from_slice(e.as_bytes()))
            .collect(),
        seen: author.seen(),
        ..OfferRecord::default()
    };
    let parts = [
        &before.encode_to_vec(),
        &author.log().as_bytes()[..],
        &after.encode_to_vec(),
    ];
    seal(&parts.concat())
}

/// Reads the record stored under `name`.
pub(crate) fn open(name: &str, bytes: &[u8], mesh: &MeshId) -> Result<Record, RecordError> {
    if let Some(id) = name.strip_prefix(CARD) {
        let id: ExpertId = id.parse().map_err(|_| RecordError::Name)?;
        let card = ExpertCard::from_bytes(unseal(bytes)?)?;
        if card.id() != id {
            return Err(RecordError::Damaged("another card's name"));
        }
        return Ok(Record::Card(id, card));
    }
    let author = name
        .strip_prefix(OFFER)
        .and_then(|p| PeerId::from_str(p).ok())
        .ok_or(RecordError::Name)?;
    let record =
        OfferRecord::decode(unseal(bytes)?).map_err(|_| RecordError::Damaged("no offer inside"))?;
    if record.mesh != mesh.as_bytes().as_slice() {
        return Err(RecordError::Mesh);
    }
    offer(author, record)
        .map(|a| Record::Offer(author, a))
        .ok_or(RecordError::Damaged("no offer inside"))
}

fn offer(author: PeerId, record: OfferRecord) -> Option<Author> {
    let epoch = record.changes.first()?.epoch;
    let in_order = record.changes.iter().zip(1..).all(|(c, sequence)| {
        c.epoch == epoch && c.sequence == sequence && envelope::peer_id(&c.author) == Some(author)
    });
    let head = Head {
        hash: record.last_hash.as_ref().try_into().ok()?,
        last_op: record.last_op,
    };
    let view = View {
        agent: record.agent,
        addresses: record.addresses,
        experts: record
            .experts
            .iter()
            .map(|e| ExpertId::try_from(e.as_ref()).ok())
            .collect::<Option<_>>()?,
    };
    in_order
        .then(|| Author::new(epoch, Log::new(record.changes), head, view).last_seen(record.seen))
}
