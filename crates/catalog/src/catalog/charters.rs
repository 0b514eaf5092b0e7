//! What becomes of charter documents: the charter, whose documents are kept, and who is out.

use std::{collections::BTreeSet, sync::Arc};

use polymath_types::{Charter, PeerId};

use super::{Batch, Catalog};
use crate::{
    frames,
    kind::{
        Category,
        charter::{
            CharterKind, Entries, Paper,
            merge::{Merged, merge},
        },
    },
    limits::ANNOUNCED,
};

impl Catalog {
    pub(super) fn merged_now(&self) -> Merged {
        merge(&self.founders, self.latest_epoch, |peer| self.paper(peer))
    }

    /// Whether not all that an admin said counts, as it contradicts itself.
    pub(crate) fn contradicts_itself(&self, author: &PeerId) -> bool {
        self.charters.documents.contradicts_itself(author)
    }

    /// What counts of an author's document. Of one that contradicts itself that is what it had said before:
    /// of the two versions which came first differs from node to node, what came before them does not, and a
    /// revocation is not to lapse since its author's disk was put back.
    pub(crate) fn paper(&self, author: &PeerId) -> Option<&Paper> {
        self.charters.said(author)
    }

    /// What does, if its author counts.
    pub(crate) fn heard(&self, author: &PeerId) -> Option<&Entries> {
        self.paper(author)?.since(self.merged.voided(author))
    }

    /// Says to the tables for whom an admin stands.
    pub(super) fn set_members(&mut self) {
        let members = Arc::new(self.merged.charter.trusted());
        self.offers.documents.set_members(Arc::clone(&members));
        self.observations.documents.set_members(members);
    }

    /// This node's next document is of an epoch that counts.
    pub(super) fn step_over_void(&mut self) {
        let voided = self.merged.voided(&self.me);
        let forks = &mut self.charters.forks;
        forks.epoch = forks.epoch.max(voided);
    }

    /// Lets go what this node said before it heard that it was removed and appointed again, though it was
    /// in an epoch of which whoever removed it had not heard.
    fn forget_void(&mut self, batch: &mut Batch) {
        // While this node is no admin nothing is known to be void: what was met before is no news then.
        let voided = self.merged.voided(&self.me);
        let news = voided > self.voided_met;
        self.voided_met = self.voided_met.max(voided);
        if news
            && self
                .heard(&self.me)
                .is_some_and(|said| *said != Entries::default())
        {
            let begun = self.begin_epoch::<CharterKind>(Entries::default(), batch);
            if let Err(refusal) = begun {
                tracing::error!(%refusal, "this node's charter document could not be started anew");
            }
        }
    }

    /// Brings the charter up to what the documents say. Those that no longer count are dropped; of
    /// those that count from now on, some peers are asked at once.
    pub(super) fn remerge(&mut self, batch: &mut Batch) {
        self.merge_due = false;
        let merged = self.merged_now();
        let before = std::mem::replace(&mut self.merged, merged);
        self.step_over_void();
        self.forget_void(batch);
        let me = self.me;
        let kept: BTreeSet<PeerId> = self.merged.counted.iter().copied().collect();
        let gone: Vec<PeerId> = self
            .charters
            .documents
            .iter()
            .map(|(author, _)| *author)
            .filter(|author| !kept.contains(author) && *author != me)
            .collect();
        for author in gone {
            self.charters.documents.remove(&author);
            self.charters.asked.close(&author);
            self.charters.unannounced.remove(&author);
            batch.evicted.insert((Category::Charter, author));
        }
        // A document that nobody keeps would make every comparison differ.
        self.charters.documents.show(&me, kept.contains(&me));
        let new: Vec<PeerId> = kept
            .iter()
            .filter(|author| !before.counted.contains(author))
            .copied()
            .collect();
        let own = new.contains(&me) && self.charters.said(&me).is_some();
        let heads: Vec<_> = new
            .iter()
            .filter(|author| **author != me)
            .map(|author| frames::question(author, self.charters.documents.position(author)))
            .collect();
        if let Some(seed) = new.first().filter(|_| own || !heads.is_empty()) {
            for peer in self.some_peers(ANNOUNCED, &BTreeSet::new(), &seed.to_bytes()) {
                batch.send(peer, frames::want(Category::Charter, heads.clone(), &[]));
                let known = self.charters.documents.known(&me).filter(|_| own);
                if let Some(known) = known {
                    let head = frames::head(&me, &known);
                    batch.send(peer, frames::heads(Category::Charter, &[head]));
                }
            }
        }
        if before.charter == self.merged.charter {
            return;
        }
        self.set_members();
        let (old, new) = (&before.charter, &self.merged.charter);
        let named = |charter: &Charter| -> Vec<PeerId> {
            let admins = charter.admins.iter().map(|admin| admin.peer);
            let others = charter.roles.keys().chain(charter.revoked.keys());
            admins.chain(others.copied()).collect()
        };
        let stands =
            |charter: &Charter, peer: &PeerId| (charter.is_revoked(peer), charter.trusts(peer));
        let named = [named(old), named(new)].concat();
        let turned = named.into_iter();
        let turned = turned.filter(|peer| stands(old, peer) != stands(new, peer));
        batch.relisted.extend(turned);
        if new.is_revoked(&me) && !old.is_revoked(&me) {
            tracing::warn!("this node was shut out of its mesh by the mesh's admins");
        }
        batch.charter = Some(Arc::new(new.clone()));
    }
}
