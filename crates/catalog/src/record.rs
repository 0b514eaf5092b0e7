//! What is kept on disk: one record a document, one a card.
//!
//! A record is `PMCT`, the version (u32, little endian), BLAKE3 of the payload (32 bytes), the
//! payload. The payload of offers and observations holds the signed changes *and* what they say, so that a
//! catalog of thousands opens without replaying anything; charter documents are few, and are replayed. Changes were
//! verified before they were written, and the checksum guards them since.

use std::{collections::BTreeMap, str::FromStr};

use polymath_proto::v1::SignedChange;
use polymath_types::{CardError, ExpertCard, ExpertId, Format, MeshId, PeerId, VersionMismatch};
use prost::{Message as _, bytes::Bytes};

use crate::{
    document::Head,
    documents::Author,
    envelope,
    kind::{Category, Kind, charter::CharterKind, observations::ObservationKind, offer::OfferKind},
    log::Log,
};

const MAGIC: &[u8; 4] = b"PMCT";
const HEADER: usize = 4 + 4 + 32;
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
    /// Neither a document nor a card.
    #[error(
        "not a name of a catalog record: expected 'offer-<peer id>', 'charter-<peer id>', 'observations-<peer id>' or 'card-<expert id>'"
    )]
    Name,
    /// More records than the catalog keeps.
    #[error("the catalog is full")]
    Full,
}

/// A record as it is read; it is written in parts, as the changes are bytes already.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DocumentRecord {
    #[prost(bytes = "bytes", tag = "1")]
    mesh: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub(crate) changes: Vec<SignedChange>,
    #[prost(bytes = "bytes", tag = "3")]
    last_hash: Bytes,
    #[prost(uint64, tag = "4")]
    last_op: u64,
    /// Offers only, as what follows.
    #[prost(string, tag = "5")]
    pub(crate) agent: String,
    #[prost(string, repeated, tag = "6")]
    pub(crate) addresses: Vec<String>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(crate) experts: Vec<Bytes>,
    /// The tick in which the author was last seen, counted on from run to run; 0 is not known.
    #[prost(uint64, tag = "8")]
    seen: u64,
    /// Observations only.
    #[prost(message, repeated, tag = "9")]
    pub(crate) seen_of: Vec<SeenRecord>,
    /// Offers only, as what follows.
    #[prost(message, repeated, tag = "10")]
    pub(crate) terms: Vec<TermsRecord>,
    #[prost(btree_map = "string, string", tag = "11")]
    pub(crate) labels: BTreeMap<String, String>,
    /// What the author signed in the place of one of the changes.
    #[prost(message, optional, tag = "12")]
    other: Option<SignedChange>,
    /// The schema's minor revision by which what an offer says was read.
    #[prost(uint32, tag = "13")]
    pub(crate) minor: u32,
}

/// On which terms an author serves an expert.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TermsRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) expert: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) price_in: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) price_out: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) context: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) concurrency: u32,
}

/// What an observer has seen of one expert under one codebook.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SeenRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) codebook: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) expert: Bytes,
    /// One a cell, as what follows.
    #[prost(uint32, repeated, tag = "3")]
    pub(crate) clusters: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) counts: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub(crate) rewards: Vec<u32>,
}

pub(crate) enum Record {
    Offer(PeerId, Author<OfferKind>),
    Charter(PeerId, Author<CharterKind>),
    Observations(PeerId, Author<ObservationKind>),
    Card(ExpertId, ExpertCard),
}

pub(crate) fn name(category: Category, author: &PeerId) -> String {
    let prefix = match category {
        Category::Offers => OfferKind::RECORD,
        Category::Charter => CharterKind::RECORD,
        Category::Observations => ObservationKind::RECORD,
    };
    format!("{prefix}{author}")
}

pub(crate) fn card_name(id: &ExpertId) -> String {
    format!("{CARD}{id}")
}

fn sealed(payload: &[u8]) -> Vec<u8> {
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
    sealed(&card.to_bytes())
}

pub(crate) fn seal<K: Kind>(mesh: &MeshId, author: &Author<K>) -> Vec<u8> {
    let before = DocumentRecord {
        mesh: Bytes::copy_from_slice(mesh.as_bytes()),
        ..DocumentRecord::default()
    };
    let mut after = DocumentRecord {
        last_hash: Bytes::copy_from_slice(&author.head().hash),
        last_op: author.head().last_op,
        seen: author.seen(),
        other: author.other().cloned(),
        ..DocumentRecord::default()
    };
    K::keep(author.said(), &mut after);
    let parts = [
        &before.encode_to_vec(),
        &author.log().as_bytes()[..],
        &after.encode_to_vec(),
    ];
    sealed(&parts.concat())
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
    if let Some(author) = name.strip_prefix(CharterKind::RECORD) {
        let (author, log) = document(author, bytes, mesh)?;
        return Ok(Record::Charter(author, log));
    }
    if let Some(author) = name.strip_prefix(ObservationKind::RECORD) {
        let (author, log) = document(author, bytes, mesh)?;
        return Ok(Record::Observations(author, log));
    }
    let author = name.strip_prefix(OfferKind::RECORD);
    let (author, log) = document(author.ok_or(RecordError::Name)?, bytes, mesh)?;
    Ok(Record::Offer(author, log))
}

fn document<K: Kind>(
    author: &str,
    bytes: &[u8],
    mesh: &MeshId,
) -> Result<(PeerId, Author<K>), RecordError> {
    let author = PeerId::from_str(author).map_err(|_| RecordError::Name)?;
    let damaged = RecordError::Damaged("no document inside");
    let record = DocumentRecord::decode(unseal(bytes)?).map_err(|_| damaged.clone())?;
    if record.mesh != mesh.as_bytes().as_slice() {
        return Err(RecordError::Mesh);
    }
    let log = read(&author, record).ok_or(damaged)?;
    Ok((author, log))
}

fn read<K: Kind>(author: &PeerId, record: DocumentRecord) -> Option<Author<K>> {
    let epoch = record.changes.first()?.epoch;
    let in_order = record.changes.iter().zip(1..).all(|(c, sequence)| {
        c.epoch == epoch && c.sequence == sequence && envelope::peer_id(&c.author) == Some(*author)
    });
    let head = Head {
        hash: record.last_hash.as_ref().try_into().ok()?,
        last_op: record.last_op,
    };
    let view = in_order
        .then(|| K::kept(author, epoch, head, &record))
        .flatten()?;
    let parts = |other: &SignedChange| {
        let kept = other.sequence.checked_sub(1).map(usize::try_from);
        let kept = kept.and_then(|at| record.changes.get(at.ok()?));
        other.epoch == epoch && kept.is_some_and(|kept| kept.change != other.change)
    };
    if !record.other.as_ref().is_none_or(parts) {
        return None;
    }
    let log = Log::new(record.changes);
    let author_id = author;
    let mut author = Author::new(epoch, log, head, view).last_seen(record.seen);
    if let Some(other) = record.other {
        author.contradict(author_id, other);
    }
    Some(author)
}
