//! Answers, made when there is room for them on the way.
//!
//! A question of a few kilobytes may be worth megabytes of answer. What is owed is kept as names and
//! positions, and a frame of it is made only when the caller can send one: a peer that asks much and
//! reads nothing costs a few bytes a question, and one that reads slowly loses nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polymath_proto::v1::{SyncFrame, Want};
use polymath_types::{ExpertId, PeerId};
use prost::Message as _;

use super::{Batch, Catalog};
use crate::{
    buckets::{Known, Position},
    envelope, frames,
    kind::{Category, Kind, charter::CharterKind, observations::ObservationKind, offer::OfferKind},
    limits::{ANSWER_BYTES, FRAME_BYTES, OWED_SHARES},
    short::Parcel,
};

/// What one peer is owed of one kind.
#[derive(Debug, Default)]
struct OwedDocuments {
    leaves: BTreeSet<usize>,
    /// After which position, and whether all of it whole.
    changes: BTreeMap<PeerId, (Position, bool)>,
}

/// What one peer is owed.
#[derive(Debug, Default)]
struct Owed {
    /// Of a thing too large for one frame: the others.
    ready: VecDeque<SyncFrame>,
    /// By [`Category`].
    documents: [OwedDocuments; Category::ALL.len()],
    cards: BTreeSet<ExpertId>,
    /// Bytes sent in this tick.
    sent: usize,
}

impl Owed {
    fn len(&self) -> usize {
        let documents = self.documents.iter().map(|d| d.changes.len());
        documents.sum::<usize>() + self.cards.len()
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty()
            && self.documents.iter().all(|d| d.leaves.is_empty())
            && self.len() == 0
    }
}

/// What all peers are owed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    of: BTreeMap<PeerId, Owed>,
}

impl Answers {
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.of.remove(peer);
    }

    /// Time has passed; to whom there is more to be said now.
    pub(super) fn begin_tick(&mut self) -> Vec<PeerId> {
        self.of.values_mut().for_each(|owed| owed.sent = 0);
        self.of.retain(|_, owed| !owed.is_empty());
        self.of.keys().copied().collect()
    }
}

impl Catalog {
    /// The next frame of what `peer` asked for. To be called when there is room for it on the
    /// `Sync` stream, again and again until there is none; [`Action::Answer`](super::Action::Answer)
    /// says when there are more.
    pub fn next_answer(&mut self, peer: &PeerId) -> Option<SyncFrame> {
        if self.is_out(peer) {
            self.answers.forget(peer);
        }
        let mut owed = self.answers.of.remove(peer)?;
        let frame = (owed.sent < ANSWER_BYTES)
            .then(|| {
                owed.ready
                    .pop_front()
                    .or_else(|| self.tell_leaves::<CharterKind>(&mut owed))
                    .or_else(|| self.tell_changes::<CharterKind>(peer, &mut owed))
                    .or_else(|| self.tell_leaves::<OfferKind>(&mut owed))
                    .or_else(|| self.tell_changes::<OfferKind>(peer, &mut owed))
                    .or_else(|| self.tell_cards(&mut owed))
                    .or_else(|| self.tell_leaves::<ObservationKind>(&mut owed))
                    .or_else(|| self.tell_changes::<ObservationKind>(peer, &mut owed))
            })
            .flatten();
        owed.sent += frame.as_ref().map_or(0, SyncFrame::encoded_len);
        if owed.sent > 0 || !owed.is_empty() {
            self.answers.of.insert(*peer, owed);
        }
        frame
    }

    fn tell_leaves<K: Kind>(&self, owed: &mut Owed) -> Option<SyncFrame> {
        let buckets = K::shelf(self).documents.buckets();
        let leaves = std::mem::take(&mut owed.documents[K::CATEGORY as usize].leaves);
        let (now, later) = frames::first_page(buckets, &leaves);
        owed.documents[K::CATEGORY as usize].leaves = later;
        owed.ready
            .extend(frames::leaves(K::CATEGORY, buckets, &now));
        owed.ready.pop_front()
    }

    fn tell_changes<K: Kind>(&self, peer: &PeerId, owed: &mut Owed) -> Option<SyncFrame> {
        let mut changes: Vec<Parcel> = Vec::new();
        let mut bytes = 0;
        let documents = &K::shelf(self).documents;
        let changes_owed = &mut owed.documents[K::CATEGORY as usize].changes;
        while let Some((author, (position, whole))) = changes_owed.pop_first() {
            // Versions that contradict each other do not follow one another, and an author that has lost its
            // own has nothing to rebuild it from.
            let whole = whole || author == *peer || documents.contradicts_itself(&author);
            let more = documents.after(&author, position, peer).into_iter();
            let parcel = if whole {
                Parcel::Whole
            } else {
                Parcel::short::<K>
            };
            let more: Vec<Parcel> = more.map(parcel).collect();
            let size: usize = more.iter().map(frames::change_room).sum();
            if bytes + size > FRAME_BYTES && !changes.is_empty() {
                changes_owed.insert(author, (position, whole));
                break;
            }
            bytes += size;
            changes.extend(more);
        }
        owed.ready.extend(frames::parcels(K::CATEGORY, changes));
        owed.ready.pop_front()
    }

    fn tell_cards(&self, owed: &mut Owed) -> Option<SyncFrame> {
        let (mut cards, mut room) = (Vec::new(), FRAME_BYTES);
        while let Some(id) = owed.cards.pop_first() {
            let Some(bytes) = self.cards.bytes(&id) else {
                continue;
            };
            match room.checked_sub(frames::card_room(&bytes)) {
                None if !cards.is_empty() => {
                    owed.cards.insert(id);
                    break;
                }
                left => room = left.unwrap_or(0),
            }
            cards.push(bytes);
        }
        owed.ready.extend(frames::cards(cards));
        owed.ready.pop_front()
    }

    /// `peer` is to be told all that is in these leaves.
    pub(super) fn owe_leaves(
        &mut self,
        category: Category,
        peer: PeerId,
        leaves: Vec<usize>,
        batch: &mut Batch,
    ) {
        if !leaves.is_empty() {
            self.answers.of.entry(peer).or_default().documents[category as usize]
                .leaves
                .extend(leaves);
            batch.answers.insert(peer);
        }
    }

    pub(super) fn on_want<K: Kind>(&mut self, peer: PeerId, want: Want, batch: &mut Batch) {
        let all: usize = self.answers.of.values().map(Owed::len).sum();
        // Places for all of the table, to each of a few; of more, each has its part.
        let all_documents = self.limits.authors + self.limits.observers;
        let most = (all_documents + self.limits.cards) * OWED_SHARES;
        let part = most / self.peers.len().max(OWED_SHARES);
        let own = self.answers.of.get(&peer).map_or(0, Owed::len);
        let mut room = most.saturating_sub(all).max(part.saturating_sub(own));
        let mut owed = self.answers.of.remove(&peer).unwrap_or_default();
        for head in want.offers {
            let author = envelope::author(&head.author);
            let known = author.and_then(|a| Some((a, K::shelf(self).documents.known(&a)?)));
            let position = (head.epoch, head.sequence);
            // Of one that contradicts itself both versions are owed, however long the asker's is.
            let has_more = |known: &Known| {
                known.position > position || known.parted && known.position.0 == head.epoch
            };
            if let Some((author, known)) = known
                && has_more(&known)
                && room > 0
            {
                let changes = &mut owed.documents[K::CATEGORY as usize].changes;
                let new = changes.insert(author, (position, head.whole)).is_none();
                room -= usize::from(new);
            }
        }
        let cards = want.cards.into_iter();
        for id in cards.filter(|_| K::CATEGORY == Category::Offers) {
            match ExpertId::try_from(id.as_ref()) {
                Ok(id) if self.cards.get(&id).is_none() => self.cards.wait(id, peer),
                Ok(id) if room > 0 => room -= usize::from(owed.cards.insert(id)),
                _ => {}
            }
        }
        if !owed.is_empty() {
            batch.answers.insert(peer);
        }
        if owed.sent > 0 || !owed.is_empty() {
            self.answers.of.insert(peer, owed);
        }
    }
}
