//! Charter documents: what one admin lays down, in native maps `version`, `roles`, `revoked`, `aliases`,
//! `categories`, `codebooks`, each of key to a map with `at` (count) and `says` (list of texts); in `roles`
//! also `voided`, the epoch of the peer's own document up to which nothing of it counts, if there is one.
//!
//! An entry that says nothing takes back what others say under its key; so nothing is ever deleted, and
//! the documents of all admins merge entry by entry ([`merge`]). Root keys and keys of entries that a
//! later minor revision adds are ignored; an entry of a known section that does not fit makes the whole
//! change poison.

pub(crate) mod edit;
pub(crate) mod merge;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use automerge::{
    AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{Transactable, Transaction},
};
use polymath_proto::v1::SignedChange;
use polymath_types::{ADMIN, Format, PeerId};

use super::{Bounds, Category, Kind, offer::is_unseen};
use crate::{
    Catalog, CatalogLimits, Refusal,
    buckets::Position,
    catalog::Shelf,
    document::{Document, Head, MAP_KEYS, Reader, bounded, whole},
    limits::CHARTER,
    record::DocumentRecord,
};

/// What an admin lays down.
#[derive(Debug)]
pub(crate) struct CharterKind;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Roles,
    Revoked,
    Aliases,
    Categories,
    Codebooks,
}

impl Section {
    const ALL: [Self; 5] = [
        Self::Roles,
        Self::Revoked,
        Self::Aliases,
        Self::Categories,
        Self::Codebooks,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Roles => "roles",
            Self::Revoked => "revoked",
            Self::Aliases => "aliases",
            Self::Categories => "categories",
            Self::Codebooks => "codebooks",
        }
    }

    /// Whether its keys are peers.
    const fn names_peers(self) -> bool {
        matches!(self, Self::Roles | Self::Revoked)
    }

    /// Texts an entry has at most, and bytes of each.
    const fn says(self) -> (usize, usize) {
        match self {
            Self::Roles | Self::Revoked => (1, CHARTER.role_bytes),
            Self::Aliases => (1, CHARTER.expert_bytes),
            Self::Categories => (CHARTER.experts, CHARTER.expert_bytes),
            Self::Codebooks => (1, 20),
        }
    }

    /// Whether such an entry can be.
    fn fits(self, key: &str, says: &[String]) -> bool {
        let (most, bytes) = self.says();
        let keyed = match self {
            Self::Roles | Self::Revoked => peer_of(key).is_some(),
            _ => is_text(key, CHARTER.name_bytes),
        };
        let numbered = self != Self::Codebooks
            || says
                .iter()
                .all(|s| s.parse::<u64>().is_ok_and(|n| n.to_string() == *s));
        let distinct: BTreeSet<&String> = says.iter().collect();
        keyed
            && numbered
            && says.len() <= most
            && distinct.len() == says.len()
            && says.iter().all(|s| is_text(s, bytes))
    }
}

/// One to `limit` bytes that can be shown on a terminal.
pub(crate) fn is_text(text: &str, limit: usize) -> bool {
    !text.is_empty()
        && text.len() <= limit
        && text.trim() == text
        && !text.contains(|c: char| c.is_control() || is_unseen(c))
}

/// The peer in a key, in its one spelling.
pub(crate) fn peer_of(key: &str) -> Option<PeerId> {
    let peer: PeerId = key.parse().ok()?;
    (peer.to_string() == key).then_some(peer)
}

/// What an entry is about, and whom or what it names.
pub(crate) type Field = (Section, String);

/// What an author lays down of a field, and when on the admins' common count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) says: Vec<String>,
    /// Of a peer's role: nothing counts that the peer's own document said up to this epoch. Whoever removes
    /// an admin states it, since an appointment that follows must not bring back what was let go; a count
    /// would not do, as the removed one may have claimed any.
    pub(crate) voided: u64,
}

fn appoints(entry: &Entry) -> bool {
    entry.says.first().is_some_and(|role| role == ADMIN)
}

/// What a charter document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries(pub(crate) BTreeMap<Field, Entry>);

impl Entries {
    /// Of each field the entry of either that came later.
    pub(crate) fn joined(mut self, other: Self) -> Self {
        for (field, entry) in other.0 {
            let own = self.0.entry(field).or_default();
            let voided = own.voided.max(entry.voided);
            if (entry.at, &entry.says) > (own.at, &own.says) {
                *own = entry;
            }
            own.voided = voided;
        }
        self
    }
}

/// A charter document as the others are merged with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paper {
    pub(crate) epoch: u64,
    pub(crate) entries: Entries,
}

impl Paper {
    /// What counts of it, if nothing does up to an epoch; 0 is none.
    pub(crate) fn since(&self, voided: u64) -> Option<&Entries> {
        (voided == 0 || self.epoch > voided).then_some(&self.entries)
    }
}

/// The object under a key.
fn under(value: Option<(Value<'_>, ObjId)>) -> Result<ObjId, AutomergeError> {
    value.map(|(_, id)| id).ok_or(AutomergeError::NotAnObject)
}

impl Kind for CharterKind {
    type View = Entries;
    type Said = Paper;

    const CATEGORY: Category = Category::Charter;
    const FORMAT: Format = Format::Charter;
    const DOMAIN: &'static [u8] = b"polymath charter change v1\0";
    const ACTOR: &'static str = "polymath charter actor v1";
    const RECORD: &'static str = "charter-";

    fn bounds(_: &CatalogLimits) -> Bounds {
        Bounds {
            // This node's own, which may not count.
            authors: CHARTER.admins + 1,
            bytes: (CHARTER.admins + 1) * CHARTER.document_bytes,
            roll_after: 64,
            changes_per_epoch: 256,
            document_bytes: CHARTER.document_bytes,
            change_bytes: CHARTER.change_bytes,
            operations: CHARTER.operations,
            epoch_operations: CHARTER.operations * 4,
            burst: CHARTER.burst,
            changes_a_tick: CHARTER.changes_a_tick,
            change_cost: 1,
        }
    }

    fn said(entries: Entries, (epoch, _): Position) -> Paper {
        Paper { epoch, entries }
    }

    /// Admins are few.
    fn weight(_: &Paper) -> usize {
        0
    }

    fn view(said: &Paper) -> Entries {
        said.entries.clone()
    }

    fn write(
        tx: &mut Transaction<'_>,
        from: Option<&Entries>,
        to: &Entries,
    ) -> Result<(), AutomergeError> {
        let begun = from.is_some();
        if !begun {
            tx.put(ROOT, "version", u64::from(Format::Charter.current()))?;
        }
        let empty = Entries::default();
        let from = from.unwrap_or(&empty);
        for section in Section::ALL {
            let map = if begun {
                under(tx.get(ROOT, section.name())?)?
            } else {
                tx.put_object(ROOT, section.name(), ObjType::Map)?
            };
            let of = |field: &Field| field.0 == section;
            for (_, key) in from.0.keys().filter(|f| of(f) && !to.0.contains_key(*f)) {
                tx.delete(&map, key.as_str())?;
            }
            for (field, entry) in to.0.iter().filter(|(f, _)| of(f)) {
                let before = from.0.get(field);
                if before == Some(entry) {
                    continue;
                }
                let key = field.1.as_str();
                let object = match before {
                    Some(_) => under(tx.get(&map, key)?)?,
                    None => tx.put_object(&map, key, ObjType::Map)?,
                };
                tx.put(&object, "at", entry.at)?;
                if before.map_or(0, |b| b.voided) != entry.voided {
                    tx.put(&object, "voided", entry.voided)?;
                }
                if before.is_none_or(|b| b.says != entry.says) {
                    let list = tx.put_object(&object, "says", ObjType::List)?;
                    for (at, text) in entry.says.iter().enumerate() {
                        tx.insert(&list, at, text.as_str())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(document: &Reader<'_>, _: &CatalogLimits) -> Result<Entries, Refusal> {
        let doc = document.0;
        document.check_root(Format::Charter)?;
        let mut entries = BTreeMap::new();
        for section in Section::ALL {
            let map = document.object(&ROOT, section.name(), ObjType::Map)?;
            bounded(entries.len() + doc.length(&map), CHARTER.entries)?;
            let (most, bytes) = section.says();
            for key in doc.keys(&map) {
                let object = document.object(&map, &key, ObjType::Map)?;
                bounded(doc.length(&object), MAP_KEYS)?;
                let at = document.scalar(&object, "at")?.as_u64();
                let at = at.filter(|at| (1..=CHARTER.last_count).contains(at));
                let list = document.object(&object, "says", ObjType::List)?;
                let voided = match doc.get(&object, "voided") {
                    Ok(Some((voided, _))) if section == Section::Roles => whole(&voided),
                    _ => Some(0),
                };
                let entry = Entry {
                    at: at.ok_or(Refusal::Schema)?,
                    says: document.texts(&list, most, bytes)?,
                    voided: voided.ok_or(Refusal::Schema)?,
                };
                if !section.fits(&key, &entry.says) {
                    return Err(Refusal::Schema);
                }
                entries.insert((section, key), entry);
            }
        }
        Ok(Entries(entries))
    }

    fn keep(_: &Paper, _: &mut DocumentRecord) {}

    fn kept(author: &PeerId, epoch: u64, head: Head, record: &DocumentRecord) -> Option<Entries> {
        let document = Document::replay::<Self>(author, epoch, &record.changes, head).ok()?;
        document.view::<Self>(&CatalogLimits::default()).ok()
    }

    fn undisputed(
        author: &PeerId,
        epoch: u64,
        changes: &[SignedChange],
        head: Head,
    ) -> Option<Entries> {
        if changes.is_empty() {
            return None;
        }
        let document = Document::replay::<Self>(author, epoch, changes, head).ok()?;
        document.view::<Self>(&CatalogLimits::default()).ok()
    }

    fn shelf(catalog: &Catalog) -> &Shelf<Self> {
        &catalog.charters
    }

    fn shelf_mut(catalog: &mut Catalog) -> &mut Shelf<Self> {
        &mut catalog.charters
    }

    /// Documents of those who are no admins are kept out: should one be appointed later, its document
    /// is asked for then.
    fn admits(catalog: &Catalog, author: &PeerId) -> bool {
        catalog.merged.counted.contains(author) || *author == catalog.me
    }

    fn became(catalog: &mut Catalog, _: &Arc<Paper>, _: &Arc<Paper>) {
        catalog.merge_due = true;
    }

    fn is_void(catalog: &Catalog, epoch: u64) -> bool {
        epoch <= catalog.merged.voided(&catalog.me)
    }

    /// What was laid down before a disk was lost or put back still holds.
    fn after_fork(own: Option<Entries>, theirs: Option<Entries>) -> Option<Entries> {
        match (own, theirs) {
            (Some(own), Some(theirs)) => Some(own.joined(theirs)),
            (own, theirs) => own.or(theirs),
        }
    }
}
