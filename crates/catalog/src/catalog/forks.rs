//! What becomes of an author that said two things under one number: another, which is not used until its
//! next epoch; or this node itself, whose disk was lost or put back, which steps over both versions.

use std::sync::Arc;

use polymath_proto::v1::{OfferHead, SignedChange};
use polymath_types::PeerId;

use super::{Batch, Catalog, Shelf};
use crate::{
    Refusal,
    documents::Author,
    frames,
    kind::{Category, Kind},
};

impl Catalog {
    /// `peer` brought the proof that an author contradicts itself, a change beside one that is kept: nothing of
    /// it is used until its next epoch, and others are to have the proof too. The author itself brings one
    /// version, knows nothing of the other and cannot begin that epoch: it is told at once. It costs whoever
    /// brings it no more than a repeat.
    pub(super) fn contradicted<K: Kind>(
        &mut self,
        peer: PeerId,
        author: PeerId,
        before: &Arc<K::Said>,
        batch: &mut Batch,
    ) {
        self.counters.refuse(Refusal::Equivocation);
        if peer == author {
            let documents = &K::shelf(self).documents;
            let (epoch, _) = documents.position(&author);
            let parts = documents.get(&author).and_then(Author::other);
            let below = parts.map_or(0, |other| other.sequence.saturating_sub(1));
            let proof = documents.after(&author, (epoch, below), &peer);
            batch.send(peer, frames::changes(K::CATEGORY, proof));
        }
        self.efforts.spend(peer, 1);
        let shelf = K::shelf_mut(self);
        shelf.asked.close(&author);
        let now = shelf.documents.get(&author).map(|log| log.said().clone());
        if now.is_some() {
            let knowing = shelf.unannounced.entry(author).or_default();
            knowing.insert(peer);
            batch.touched.insert((K::CATEGORY, author));
        } else {
            shelf.unannounced.remove(&author);
            batch.evicted.insert((K::CATEGORY, author));
        }
        K::became(self, before, &now.unwrap_or_default());
    }

    /// What to ask of `peer`, which brought a change of `author` that does not follow ours: what it has in
    /// the place of our last one. If that is another, the author contradicts itself.
    pub(super) fn before_parting<K: Kind>(
        &self,
        peer: PeerId,
        author: PeerId,
    ) -> Option<OfferHead> {
        let shelf = K::shelf(self);
        // Asked once; while the author rests it would be for the same again.
        let rests = shelf.asked.is_open(&author) && !shelf.asked.is_asked(&author, &peer);
        let (epoch, sequence) = shelf.documents.position(&author);
        let before = sequence.checked_sub(1).filter(|_| !rests)?;
        Some(OfferHead {
            whole: true,
            ..frames::question(&author, (epoch, before))
        })
    }

    /// What the version of our own document says that these changes belong to: they continue ours up
    /// to where they part, or are another epoch's from the first one on. If they begin behind that place,
    /// `peer`, which brought them, is asked for all of it.
    pub(super) fn read_fork<K: Kind>(
        &mut self,
        peer: PeerId,
        forked: &[SignedChange],
        batch: &mut Batch,
    ) {
        let Some(epoch) = forked.iter().map(|change| change.epoch).max() else {
            return;
        };
        let (me, limits, ticks) = (self.me, self.limits.clone(), self.ticks);
        let void = K::is_void(self, epoch);
        let changes = forked.iter().filter(|change| change.epoch == epoch);
        let Shelf {
            documents, forks, ..
        } = K::shelf_mut(self);
        let read = documents.branch(&me, epoch, changes, &limits);
        // Other kinds make nothing of what theirs says.
        let matters =
            K::CATEGORY == Category::Charter && documents.position(&me).0 == epoch && !void;
        if read.is_some() && !void {
            forks.theirs = K::after_fork(forks.theirs.take(), read);
            forks.waits &= forks.asked.is_none_or(|(asked, _)| asked != peer);
        } else if matters && forks.may_ask(ticks) {
            forks.asked = Some((peer, ticks));
            forks.waits = true;
            let all = frames::question(&me, (epoch, 0));
            batch.send(peer, frames::want(K::CATEGORY, vec![all], &[]));
        }
    }

    /// Steps over every version of our document that others hold, with what it is to say.
    pub(super) fn resolve_fork<K: Kind>(&mut self, batch: &mut Batch) {
        let shelf = K::shelf_mut(self);
        shelf.forks.due = false;
        let theirs = shelf.forks.theirs.take();
        let me = self.me;
        let shelf = K::shelf(self);
        let own = shelf.documents.get(&me);
        let above = own.is_some_and(|own| own.position().0 > shelf.forks.epoch);
        let said = own.filter(|own| !K::is_void(self, own.position().0));
        let said = said.map(|own| own.view());
        let Some(view) = K::after_fork(said.clone(), theirs) else {
            return;
        };
        let written = if above {
            // An edit has begun the new epoch, without what theirs says.
            self.write_or_roll::<K>(view, batch)
        } else {
            let forks = &mut K::shelf_mut(self).forks;
            forks.rolled = true;
            tracing::warn!(
                kind = ?K::CATEGORY,
                epoch = forks.epoch,
                "peers hold a document of this node that is not in its storage; starting a new epoch above it"
            );
            match (self.begin_epoch::<K>(view, batch), said) {
                // Both together are too much for one.
                (Err(Refusal::TooMuch), Some(own)) => self.begin_epoch::<K>(own, batch),
                (begun, _) => begun,
            }
        };
        if let Err(refusal) = written {
            tracing::error!(%refusal, "this node's document could not be started anew");
        }
    }
}
