//! What is kept for the documents of one kind: the table, and what is under way about it.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::PeerId;

use super::{Batch, Catalog, pushed::Pushed};
use crate::{
    Refusal,
    asks::Asks,
    documents::Documents,
    frames,
    kind::{Category, Kind},
    limits::{ASK_TICKS, OBSERVED_TICKS},
};

/// Versions of our own document that others hold and we do not know.
#[derive(Debug)]
pub(crate) struct Forks<K: Kind> {
    /// The highest epoch seen in one; our next document is above it.
    pub(super) epoch: u64,
    /// A new epoch was begun since the last tick; another waits for the next one, so that two
    /// nodes with one key cannot drive each other on without end.
    pub(super) rolled: bool,
    pub(super) due: bool,
    /// What theirs say, as far as that could be read.
    pub(super) theirs: Option<K::View>,
    /// Who was last asked for all of its version, since a part could not be read, and when.
    pub(super) asked: Option<(PeerId, u64)>,
    /// It has not answered yet, and the new epoch is to say what the lost one said.
    pub(super) waits: bool,
}

impl<K: Kind> Forks<K> {
    /// Whether the last question was answered, or will not be.
    pub(super) fn may_ask(&self, tick: u64) -> bool {
        self.asked
            .is_none_or(|(_, since)| tick.saturating_sub(since) >= ASK_TICKS)
    }
}

/// The documents of one kind.
#[derive(Debug)]
pub(crate) struct Shelf<K: Kind> {
    pub(super) documents: Documents<K>,
    pub(super) asked: Asks<PeerId>,
    /// Authors of whom something came in answers that other peers were not told yet, and which peers
    /// know it.
    pub(super) unannounced: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Which peers said that they have what another one was asked for, by author.
    pub(super) claimants: BTreeMap<PeerId, BTreeSet<PeerId>>,
    pub(super) pushed: Pushed,
    pub(super) forks: Forks<K>,
}

impl<K: Kind> Shelf<K> {
    pub(super) fn new(authors: usize) -> Self {
        Self {
            documents: Documents::default(),
            asked: Asks::new(authors),
            unannounced: BTreeMap::new(),
            claimants: BTreeMap::new(),
            pushed: Pushed::default(),
            forks: Forks {
                epoch: 0,
                rolled: false,
                due: false,
                theirs: None,
                asked: None,
                waits: false,
            },
        }
    }

    /// What an author's document says.
    pub(crate) fn said(&self, author: &PeerId) -> Option<&K::Said> {
        self.documents.get(author).map(|log| log.said().as_ref())
    }

    /// The epoch of an author's document.
    pub(crate) fn epoch(&self, author: &PeerId) -> Option<u64> {
        self.documents.get(author).map(|log| log.position().0)
    }
}

impl Catalog {
    /// Time has passed, for one kind.
    pub(super) fn begin_tick<K: Kind>(&mut self) {
        let ticks = self.ticks;
        let shelf = K::shelf_mut(self);
        shelf.documents.begin_tick(ticks);
        shelf.claimants.clear();
        shelf.pushed.begin_tick(ticks);
        shelf.asked.expire(ticks);
    }

    /// What a tick says and does, for one kind.
    pub(super) fn tick_kind<K: Kind>(&mut self, batch: &mut Batch) {
        let ticks = self.ticks;
        let forks = &mut K::shelf_mut(self).forks;
        forks.rolled = false;
        forks.waits &= !forks.may_ask(ticks);
        if forks.due && !forks.waits {
            self.resolve_fork::<K>(batch);
        }
        self.announce::<K>(batch);
        let slow = K::CATEGORY == Category::Observations;
        if !slow || self.ticks.is_multiple_of(OBSERVED_TICKS) {
            let peers: Vec<PeerId> = self.peers.iter().copied().collect();
            for peer in peers {
                self.compare_with::<K>(peer, batch);
            }
        }
        let noted = K::shelf_mut(self).documents.note_seen();
        let noted = noted.into_iter().map(|author| (K::CATEGORY, author));
        batch.noted.extend(noted);
    }

    /// What is said first to a new peer, of one kind.
    pub(super) fn greet<K: Kind>(&mut self, peer: PeerId, batch: &mut Batch) {
        K::shelf_mut(self).documents.met(peer);
        self.compare_with::<K>(peer, batch);
        // Our own last change, too: if the peer holds another one, our storage was lost or put
        // back, and equal digests would hide it.
        if self.writes::<K>() {
            let (epoch, sequence) = K::shelf(self).documents.position(&self.me);
            let own = frames::question(&self.me, (epoch, sequence.saturating_sub(1)));
            batch.send(peer, frames::want(K::CATEGORY, vec![own], &[]));
        }
    }

    pub(super) fn parted<K: Kind>(&mut self, peer: &PeerId) {
        let ticks = self.ticks;
        let shelf = K::shelf_mut(self);
        shelf.documents.parted(peer);
        shelf.asked.disconnected(peer, ticks);
    }

    /// Whether this node has, or may have had, a document of that kind.
    fn writes<K: Kind>(&self) -> bool {
        match K::CATEGORY {
            Category::Offers => true,
            Category::Charter => {
                self.merged.counted.contains(&self.me)
                    || K::shelf(self).documents.get(&self.me).is_some()
            }
            Category::Observations => self.observing,
        }
    }

    /// Writes this node's document of one kind, or begins a fresh one where that must be.
    pub(crate) fn write_or_roll<K: Kind>(
        &mut self,
        view: K::View,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let shelf = K::shelf(self);
        let own = shelf.documents.get(&self.me);
        if own.is_some_and(|own| own.view() == view) {
            return Ok(());
        }
        let (epoch, sequence) = shelf.documents.position(&self.me);
        let bounds = K::bounds(&self.limits);
        let grown = sequence >= bounds.roll_after as u64
            || shelf.documents.document_bytes(&self.me) + bounds.change_bytes
                > bounds.document_bytes;
        let behind = epoch <= shelf.forks.epoch;
        let written = if grown || behind {
            None
        } else {
            self.write_own::<K>(epoch, view.clone(), batch).ok()
        };
        match written {
            Some(()) => Ok(()),
            // Also the way out of a document that cannot be continued.
            None => self.begin_epoch::<K>(view, batch),
        }
    }

    /// Starts a fresh document above every epoch of ours that anyone has seen.
    pub(super) fn begin_epoch<K: Kind>(
        &mut self,
        view: K::View,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let shelf = K::shelf(self);
        let last = shelf.documents.position(&self.me).0.max(shelf.forks.epoch);
        let next = last.checked_add(1).ok_or(Refusal::Epoch)?;
        if next > self.latest_epoch {
            tracing::warn!(
                epoch = next,
                "this node's next epoch is ahead of its clock: others take it when theirs are that far"
            );
        }
        self.write_own::<K>(next, view, batch)
    }

    fn write_own<K: Kind>(
        &mut self,
        epoch: u64,
        view: K::View,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let (me, mesh, limits) = (self.me, self.mesh, self.limits.clone());
        let key = self.key.clone();
        let documents = &mut K::shelf_mut(self).documents;
        let before = documents.position(&me);
        let Some(said) = documents.write(&key, &mesh, epoch, view, &limits)? else {
            return Ok(());
        };
        if let Some(own) = documents.get(&me) {
            let (now, changes) = (own.said().clone(), own.after(before, true));
            K::became(self, &said, &now);
            let news = frames::news::<K>(changes);
            for peer in &self.peers {
                batch.send(*peer, news.clone());
            }
        }
        batch.touched.insert((K::CATEGORY, me));
        Ok(())
    }
}
