//! The charter: a pure function of the documents of all admins and of who founded the mesh.
//!
//! Who counts is found by rank. The founders come first, in the order of the genesis; then, level by
//! level, those whom admins appointed, the earlier appointed first. One is admitted if the last word on
//! its role, among those admitted before it, is an appointment; so an admin is removed by whom it does
//! not outrank, never the other way round, and of two that remove each other the senior stays. Between
//! keys that accuse each other no rule can tell the thief: whatever a time or a count decided, a thief
//! could write. Rank cannot be forged, since it comes from the genesis.
//!
//! Nothing of a document counts whose author is not admitted, whatever counts or positions it claims:
//! whoever removes an admin repeats, in its own document, what of the removed one's is to stay, and states
//! the epoch of that document up to which nothing counts, should its author be admitted once more. Of what
//! its seniors state the highest holds of those that can have been begun by now: else a junior of theirs
//! could be silenced for good.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::{ADMIN, Admin, Charter, PeerId, Stated};

use super::{Entries, Entry, Field, Paper, Section, appoints, peer_of};
use crate::limits::CHARTER;

/// The charter and how it came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) charter: Charter,
    /// Whose documents count, by rank: the admins, and those who resigned.
    pub(crate) counted: Vec<PeerId>,
    /// Of those, up to which epoch nothing counts that their documents said, where there is one.
    voided: BTreeMap<PeerId, u64>,
    /// The lowest epoch stated so that cannot have been begun yet.
    pub(crate) not_yet: Option<u64>,
    /// The highest count in any of them.
    pub(crate) last: u64,
}

impl Merged {
    /// Place among those who count; 0 is the most senior.
    pub(crate) fn place(&self, peer: &PeerId) -> Option<usize> {
        self.counted.iter().position(|counted| counted == peer)
    }

    /// Up to which epoch nothing counts that an author's document said; 0 is none.
    pub(crate) fn voided(&self, author: &PeerId) -> u64 {
        self.voided.get(author).copied().unwrap_or(0)
    }
}

/// Somebody who may be an admin; the smallest comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    level: usize,
    /// When it was appointed; of founders, which one it is.
    at: u64,
    peer: PeerId,
    by: Option<PeerId>,
}

/// The documents, by author.
trait Documents<'a>: Fn(&PeerId) -> Option<&'a Entries> {}
impl<'a, F: Fn(&PeerId) -> Option<&'a Entries>> Documents<'a> for F {}

/// Those whose documents count, the most senior first, and what of these is void.
#[derive(Debug, Default)]
struct Admitted {
    candidates: Vec<Candidate>,
    voided: BTreeMap<PeerId, u64>,
    not_yet: Option<u64>,
}

/// Merges `documents`, of which none has begun an epoch above the latest; those of others than admins do no harm.
pub(crate) fn merge<'a>(
    founders: &[PeerId],
    latest_epoch: u64,
    documents: impl Fn(&PeerId) -> Option<&'a Paper>,
) -> Merged {
    let Admitted {
        candidates: admitted,
        voided,
        not_yet,
    } = admit(founders, latest_epoch, &documents);
    let documents = |peer: &PeerId| {
        let voided = voided.get(peer).copied().unwrap_or(0);
        documents(peer)?.since(voided)
    };
    let counted: Vec<PeerId> = admitted.iter().map(|c| c.peer).collect();
    let last = last_words(&counted, &documents);
    let mut charter = Charter {
        admins: active(admitted, &documents),
        ..Charter::default()
    };
    for (field, (by, entry)) in &last {
        lay_down(&mut charter, &counted, field, *by, entry);
    }
    // Who resigned may have said what it is from now on.
    for peer in counted
        .iter()
        .filter(|peer| !charter.is_admin(peer))
        .copied()
        .collect::<Vec<_>>()
    {
        let field = (Section::Roles, peer.to_string());
        if let Some(own) = documents(&peer).and_then(|d| d.0.get(&field)) {
            lay_down(&mut charter, &counted, &field, peer, own);
        }
    }
    let all = counted.iter().filter_map(&documents);
    let highest = all.flat_map(|d| d.0.values()).map(|entry| entry.at).max();
    Merged {
        charter,
        counted,
        last: highest.unwrap_or(0),
        voided,
        not_yet,
    }
}

/// Of each field the entry that holds, and whose it is. On those who count only their seniors have a say.
pub(crate) fn last_words<'a>(
    counted: &[PeerId],
    documents: &impl Fn(&PeerId) -> Option<&'a Entries>,
) -> BTreeMap<&'a Field, (PeerId, &'a Entry)> {
    let places: BTreeMap<String, usize> = counted.iter().map(PeerId::to_string).zip(0..).collect();
    let mut last: BTreeMap<&Field, (PeerId, &Entry)> = BTreeMap::new();
    for (place, author) in counted.iter().enumerate() {
        for (field, entry) in documents(author).into_iter().flat_map(|d| &d.0) {
            let about = places.get(&field.1).filter(|_| field.0.names_peers());
            if about.is_some_and(|about| *about <= place) {
                continue;
            }
            let before = last.get(field);
            if before.is_none_or(|(by, e)| weight(field.0, entry, author) > weight(field.0, e, by))
            {
                last.insert(field, (*author, entry));
            }
        }
    }
    last
}

fn lay_down(
    charter: &mut Charter,
    counted: &[PeerId],
    (section, key): &Field,
    by: PeerId,
    entry: &Entry,
) {
    let Entry { at, says, .. } = entry;
    let (at, Some(first)) = (*at, says.first()) else {
        return;
    };
    let value = first.clone();
    match section {
        Section::Roles => {
            if let Some(peer) = peer_of(key).filter(|p| first != ADMIN && !charter.is_admin(p)) {
                charter.roles.insert(peer, Stated { value, by, at });
            }
        }
        // Those who count are revoked by their seniors only, and then they do not count.
        Section::Revoked => {
            if let Some(peer) = peer_of(key).filter(|p| !counted.contains(p)) {
                let value = ();
                charter.revoked.insert(peer, Stated { value, by, at });
            }
        }
        Section::Aliases => {
            let alias = Stated { value, by, at };
            charter.aliases.insert(key.clone(), alias);
        }
        Section::Categories => {
            let value = says.clone();
            let hints = Stated { value, by, at };
            charter.categories.insert(key.clone(), hints);
        }
        Section::Codebooks => {
            if let Ok(value) = first.parse() {
                let version = Stated { value, by, at };
                charter.codebooks.insert(key.clone(), version);
            }
        }
    }
}

/// What wins: the later one; of two at the same count the one that takes rights away, then that of the
/// greater author.
fn weight(section: Section, entry: &Entry, author: &PeerId) -> (u64, bool, PeerId) {
    let strict = match section {
        Section::Roles => !appoints(entry),
        Section::Revoked => !entry.says.is_empty(),
        _ => false,
    };
    (entry.at, strict, *author)
}

/// What was said last of peers: an author with hundreds of appointees that nobody admits must not have
/// everybody's words looked through for each of them.
#[derive(Debug, Default)]
struct Words<'a> {
    last: BTreeMap<(PeerId, Section), (PeerId, &'a Entry)>,
    /// The highest epoch up to which somebody said that nothing of a peer's document counts.
    voided: BTreeMap<PeerId, u64>,
    /// What is above it is not believed yet.
    latest_epoch: u64,
    not_yet: Option<u64>,
}

impl<'a> Words<'a> {
    fn add(&mut self, section: Section, about: PeerId, author: PeerId, entry: &'a Entry) {
        if entry.voided > self.latest_epoch {
            let lowest = self.not_yet.get_or_insert(entry.voided);
            *lowest = entry.voided.min(*lowest);
        } else if entry.voided > 0 {
            let voided = self.voided.entry(about).or_default();
            *voided = entry.voided.max(*voided);
        }
        let last = self.last.entry((about, section)).or_insert((author, entry));
        if weight(section, entry, &author) > weight(section, last.1, &last.0) {
            *last = (author, entry);
        }
    }

    fn last(&self, section: Section, about: PeerId) -> Option<&'a Entry> {
        self.last.get(&(about, section)).map(|(_, entry)| *entry)
    }
}

fn admit<'a>(
    founders: &[PeerId],
    latest_epoch: u64,
    documents: &impl Fn(&PeerId) -> Option<&'a Paper>,
) -> Admitted {
    let founders = founders.iter().zip(0..).map(|(peer, at)| Candidate {
        level: 0,
        at,
        peer: *peer,
        by: None,
    });
    let mut queue: BTreeSet<Candidate> = founders.collect();
    let mut admitted: Vec<Candidate> = Vec::new();
    let mut void = BTreeMap::new();
    let mut words = Words {
        latest_epoch,
        ..Words::default()
    };
    while let Some(next) = queue.pop_first() {
        if admitted.len() == CHARTER.admins {
            break;
        }
        let removed = match words.last(Section::Roles, next.peer) {
            Some(role) => !appoints(role),
            None => next.by.is_some(),
        };
        let revoked = words.last(Section::Revoked, next.peer);
        let revoked = revoked.is_some_and(|entry| !entry.says.is_empty());
        if removed || revoked || admitted.iter().any(|c| c.peer == next.peer) {
            continue;
        }
        let voided = words.voided.get(&next.peer).copied();
        void.extend(voided.map(|epoch| (next.peer, epoch)));
        let said = documents(&next.peer).and_then(|paper| paper.since(voided.unwrap_or(0)));
        for ((section, key), entry) in said.into_iter().flat_map(|d| &d.0) {
            let named = section.names_peers().then(|| key.parse().ok());
            let Some(peer) = named.flatten() else {
                continue;
            };
            words.add(*section, peer, next.peer, entry);
            if *section == Section::Roles && appoints(entry) {
                queue.insert(Candidate {
                    level: next.level + 1,
                    at: entry.at,
                    peer,
                    by: Some(next.peer),
                });
            }
        }
        admitted.push(next);
    }
    Admitted {
        candidates: admitted,
        voided: void,
        not_yet: words.not_yet,
    }
}

/// The admitted without those who resigned: who say anything of themselves, and were not appointed by
/// another one since. If all did, the most senior stays.
fn active<'a>(admitted: Vec<Candidate>, documents: &impl Documents<'a>) -> Vec<Admin> {
    let authors: Vec<PeerId> = admitted.iter().map(|c| c.peer).collect();
    let stays = |peer: &PeerId| {
        let field = (Section::Roles, peer.to_string());
        let say = |author: &PeerId| documents(author)?.0.get(&field);
        say(peer).is_none_or(|own| {
            let others = authors.iter().filter(|author| *author != peer);
            let mut others = others.filter_map(say);
            others.any(|e| appoints(e) && e.at > own.at)
        })
    };
    let nobody = !authors.iter().any(stays);
    let ranked = admitted.into_iter().enumerate();
    let staying = ranked.filter(|(rank, c)| stays(&c.peer) || nobody && *rank == 0);
    staying
        .map(|(_, c)| Admin {
            peer: c.peer,
            by: c.by,
            at: if c.by.is_some() { c.at } else { 0 },
        })
        .collect()
}

#[cfg(test)]
mod tests;
