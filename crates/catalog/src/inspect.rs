//! Stored records judged from their bytes alone, and the file in which they travel.
//!
//! A catalog opens without replaying anything; whoever doubts the disk, or wants to see how an offer
//! came about, has all of it verified here: each signature, the chain, and what it says. The file is
//! `PMCX`, its version (u32, little endian), the mesh (32 bytes), then frames as on a `Sync` stream,
//! each after its length (u32, little endian). Who reads it believes none of it.

use std::sync::Arc;

use polymath_proto::v1::{SignedChange, SyncFrame};
use polymath_types::{
    ExpertCard, ExpertId, Format, MeshId, Observations, PeerId, PeerOffer, VersionMismatch,
};
use prost::Message as _;

use crate::{
    CatalogLimits, FRAME_BYTES, RecordError, Refusal, chunk,
    document::{Document, check_continuity},
    documents::Author,
    envelope, frames,
    kind::{Category, Kind, offer::OfferKind},
    record::{self, Record},
};

const MAGIC: &[u8; 4] = b"PMCX";
const HEADER: usize = 4 + 4 + 32;

/// A record that is what it says.
#[derive(Debug, Clone)]
pub enum Inspected {
    /// An author's offer.
    Offer(History),
    /// An admin's charter document: its changes of the present epoch, from the first one on, and behind them
    /// what it signed in the place of one of them if it contradicts itself.
    Charter(PeerId, Vec<SignedChange>),
    /// A peer's observations, and its changes in the same way.
    Observations(PeerId, Observations, Vec<SignedChange>),
    /// A card.
    Card(ExpertId, Arc<ExpertCard>),
}

/// How an offer came about.
#[derive(Debug, Clone)]
pub struct History {
    /// Whose.
    pub author: PeerId,
    /// The changes of the present epoch, from the first one on.
    pub steps: Vec<Step>,
    /// What the author signed in the place of one of them. Of one that so contradicts itself nothing is used
    /// before its next epoch.
    pub contradiction: Option<SignedChange>,
}

impl History {
    /// What it says now; nothing of an author that contradicts itself.
    pub fn offer(&self) -> Option<&PeerOffer> {
        let last = self.steps.last().filter(|_| self.contradiction.is_none());
        last.map(|step| &step.offer)
    }
}

/// One change of an offer.
#[derive(Debug, Clone)]
pub struct Step {
    /// What the offer said from then on.
    pub offer: PeerOffer,
    /// Automerge operations in it.
    pub operations: u64,
    /// As its author signed it.
    pub change: SignedChange,
}

/// Why a record is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// One of its changes would not be taken from a peer.
    #[error("change {sequence} of epoch {epoch} does not hold: {refusal}")]
    Change {
        /// Its epoch.
        epoch: u64,
        /// Its number.
        sequence: u64,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// Its changes come to something else.
    #[error("its signed changes do not say what the record says")]
    Said,
}

/// Verifies the record stored under `name`, for this mesh, within the usual limits.
pub fn inspect(name: &str, bytes: &[u8], mesh: &MeshId) -> Result<Inspected, Damage> {
    match record::open(name, bytes, mesh)? {
        Record::Card(id, card) => Ok(Inspected::Card(id, Arc::new(card))),
        Record::Offer(author, log) => {
            let (epoch, _) = log.position();
            let steps = verified(&author, &log, mesh)?.into_iter();
            let steps = steps.map(|(view, operations, change)| Step {
                offer: OfferKind::said(view, (epoch, change.sequence)),
                operations,
                change,
            });
            Ok(Inspected::Offer(History {
                author,
                steps: steps.collect(),
                contradiction: log.other().cloned(),
            }))
        }
        Record::Charter(author, log) => {
            let steps = verified(&author, &log, mesh)?.into_iter();
            let changes = steps.map(|(_, _, change)| change);
            let changes = changes.chain(log.other().cloned()).collect();
            Ok(Inspected::Charter(author, changes))
        }
        Record::Observations(author, log) => {
            let steps = verified(&author, &log, mesh)?.into_iter();
            let changes = steps.map(|(_, _, change)| change);
            let changes = changes.chain(log.other().cloned()).collect();
            Ok(Inspected::Observations(author, log.view(), changes))
        }
    }
}

/// The changes of a document, each with what the document said from then on and its operations.
type Verified<K> = Vec<(<K as Kind>::View, u64, SignedChange)>;

fn verified<K: Kind>(
    author: &PeerId,
    log: &Author<K>,
    mesh: &MeshId,
) -> Result<Verified<K>, Damage> {
    let limits = CatalogLimits::default();
    let (epoch, _) = log.position();
    let mut document = Document::new::<K>(author, epoch);
    let mut head = None;
    let mut steps: Verified<K> = Vec::new();
    for change in log.log().changes() {
        let sequence = change.sequence;
        let step = (|| {
            if envelope::check_form::<K>(&change, &limits)? != *author {
                return Err(Refusal::Author);
            }
            envelope::check_signature::<K>(&change, author, mesh)?;
            let bytes = &change.change;
            let expected = check_continuity::<K>(bytes, author, epoch, sequence, head, &limits)?;
            let operations = chunk::read(bytes, K::bounds(&limits).operations)?.operations;
            let (changed, view, at) = document.with_change::<K>(bytes, expected, &limits)?;
            Ok((changed, view, at, operations))
        })();
        let (changed, view, at, operations) = step.map_err(|refusal| Damage::Change {
            epoch,
            sequence,
            refusal,
        })?;
        (document, head) = (changed, Some(at));
        steps.push((view, operations, change));
    }
    if let Some(other) = log.other() {
        // That it stands in the place of another one was seen when the record was read.
        let signed = envelope::check_form::<K>(other, &limits)
            .and_then(|by| {
                if by == *author {
                    Ok(())
                } else {
                    Err(Refusal::Author)
                }
            })
            .and_then(|()| envelope::check_signature::<K>(other, author, mesh));
        signed.map_err(|refusal| Damage::Change {
            epoch,
            sequence: other.sequence,
            refusal,
        })?;
    }
    // Kinds may leave out what a document may not say to others.
    let position = log.position();
    let said = steps.last();
    let said = said.map(|(view, ..)| K::view(&K::said(view.clone(), position)));
    // Of one that contradicts itself nothing is used.
    let used = log.other().is_none();
    if used && said != Some(log.view()) || head != Some(log.head()) {
        return Err(Damage::Said);
    }
    Ok(steps)
}

/// Of a document's changes what others take: of one that contradicts itself those up to where its versions
/// part, and both, which is the proof.
fn provable(changes: &[SignedChange]) -> impl Iterator<Item = SignedChange> + '_ {
    let last = changes.last().map_or(0, |change| change.sequence);
    let changes = changes.iter().filter(move |change| change.sequence <= last);
    changes.cloned()
}

/// Puts records that were verified into one file.
pub fn to_file<'a>(mesh: &MeshId, records: impl IntoIterator<Item = &'a Inspected>) -> Vec<u8> {
    let (mut changes, mut charters, mut cards) = (Vec::new(), Vec::new(), Vec::new());
    let mut observations = Vec::new();
    for record in records {
        match record {
            Inspected::Offer(history) => {
                let steps = history.steps.iter().map(|step| &step.change);
                let all: Vec<_> = steps.chain(&history.contradiction).cloned().collect();
                changes.extend(provable(&all));
            }
            Inspected::Charter(_, steps) => charters.extend(provable(steps)),
            Inspected::Observations(_, _, steps) => observations.extend(provable(steps)),
            Inspected::Card(_, card) => cards.push(card.to_bytes().into()),
        }
    }
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&Format::CatalogFile.current().to_le_bytes());
    file.extend_from_slice(mesh.as_bytes());
    // Cards last: only those that an offer names are taken.
    for frame in frames::changes(Category::Charter, charters)
        .into_iter()
        .chain(frames::changes(Category::Offers, changes))
        .chain(frames::changes(Category::Observations, observations))
        .chain(frames::cards(cards))
    {
        let bytes = frame.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&bytes);
    }
    file
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Something else, or cut short.
    #[error(
        "it is no exported catalog, or was cut short; write it anew with `polymath catalog export`"
    )]
    Malformed,
    /// Another version.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// Its offers are signed for another mesh.
    #[error("it is of another mesh, whose offers nobody here would take")]
    Mesh,
}

/// The frames in a file; what they hold is to be judged by whoever takes them.
pub fn from_file(bytes: &[u8], mesh: &MeshId) -> Result<Vec<SyncFrame>, FileError> {
    let (header, mut rest) = bytes.split_at_checked(HEADER).ok_or(FileError::Malformed)?;
    let version = number(&header[4..8]).filter(|_| &header[..4] == MAGIC);
    Format::CatalogFile.check(version.ok_or(FileError::Malformed)?)?;
    if &header[8..] != mesh.as_bytes() {
        return Err(FileError::Mesh);
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_at_checked(4).ok_or(FileError::Malformed)?;
        let length = number(length).and_then(|n| usize::try_from(n).ok());
        let length = length.filter(|n| *n <= FRAME_BYTES);
        let (frame, behind) = length
            .and_then(|n| behind.split_at_checked(n))
            .ok_or(FileError::Malformed)?;
        let frame = SyncFrame::decode(frame).map_err(|_| FileError::Malformed)?;
        Format::Sync.check(frame.version)?;
        frames.push(frame);
        rest = behind;
    }
    Ok(frames)
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
