//! Anti-entropy: what two peers know is compared, then each asks for what it lacks.
//!
//! Of two peers the one with the greater id begins, so that nothing is compared twice: it sends its
//! digest. The other answers with the sums below those that differ from its own, is told the heads
//! behind these, and says in return where it is ahead. No step needs to know of the one before, so
//! it does not matter which of them is lost with a connection.
//!
//! Heads name the last change as well as its number: where two peers hold different histories of one
//! length each asks for the other's last change. Both versions, signed by their author, prove that it
//! contradicts itself, and go to everybody in the same way.

use std::collections::{BTreeMap, BTreeSet};

use polymath_proto::v1::{Branches, Digest, Heads, OfferHead};
use polymath_types::PeerId;

use super::{Batch, Catalog};
use crate::{
    Refusal,
    buckets::{BRANCHES, Known, LEAVES_A_BRANCH},
    envelope, frames,
    kind::{Category, Kind},
    limits::{CLAIMANTS, FEW_HEADS, HEADS_PAGE},
};

impl Catalog {
    /// Begins a comparison with `peer`, if it is ours to begin.
    pub(super) fn compare_with<K: Kind>(&self, peer: PeerId, batch: &mut Batch) {
        let kept = match K::CATEGORY {
            Category::Offers => true,
            // In a mesh that nobody founded there is none.
            Category::Charter => !self.founders.is_empty(),
            Category::Observations => self.observing,
        };
        if self.me > peer && kept {
            let buckets = K::shelf(self).documents.buckets();
            let frame = if buckets.len() <= FEW_HEADS {
                frames::everything(K::CATEGORY, buckets)
            } else {
                frames::digest(K::CATEGORY, buckets)
            };
            batch.send(peer, vec![frame]);
        }
    }

    pub(super) fn on_digest<K: Kind>(&mut self, peer: PeerId, digest: &Digest, batch: &mut Batch) {
        let buckets = K::shelf(self).documents.buckets();
        match buckets.differing(&digest.sums) {
            Some(numbers) => batch.send(peer, frames::branches(K::CATEGORY, buckets, &numbers)),
            None => self.refuse(peer, Refusal::Digest),
        }
    }

    pub(super) fn on_branches<K: Kind>(
        &mut self,
        peer: PeerId,
        branches: &Branches,
        batch: &mut Batch,
    ) {
        let mut leaves = Vec::new();
        for branch in branches.branches.iter().take(BRANCHES) {
            let number = usize::try_from(branch.number).unwrap_or(usize::MAX);
            match K::shelf(self)
                .documents
                .buckets()
                .differing_leaves(number, &branch.sums)
            {
                Some(differing) => leaves.extend(differing),
                None => return self.refuse(peer, Refusal::Digest),
            }
        }
        leaves.sort_unstable();
        leaves.dedup();
        self.owe_leaves(K::CATEGORY, peer, leaves, batch);
    }

    pub(super) fn on_heads<K: Kind>(&mut self, peer: PeerId, told: Heads, batch: &mut Batch) {
        let Heads {
            heads,
            mut leaves,
            all,
        } = told;
        let mut theirs = BTreeMap::new();
        let mut behind = Vec::new();
        // A new author for whom there is no room would be asked for in vain at every digest.
        let mut room = self.room_for_new::<K>(&peer);
        for head in heads.into_iter().take(HEADS_PAGE) {
            if self.is_out(&peer) {
                return;
            }
            let Some(author) = envelope::author(&head.author) else {
                self.refuse(peer, Refusal::Author);
                continue;
            };
            let Some(claimed) = frames::known(&head) else {
                self.refuse(peer, Refusal::Digest);
                continue;
            };
            theirs.insert(author, claimed);
            behind.extend(self.question_on::<K>(peer, author, claimed, &mut room));
        }
        batch.send(peer, frames::want(K::CATEGORY, behind, &[]));
        if all {
            leaves = (0..).take(BRANCHES * LEAVES_A_BRANCH).collect();
        }
        let numbers: BTreeSet<usize> = leaves
            .into_iter()
            .filter_map(|n| usize::try_from(n).ok())
            .filter(|number| *number < BRANCHES * LEAVES_A_BRANCH)
            .collect();
        let buckets = K::shelf(self).documents.buckets();
        let ahead = buckets.ahead_of(numbers.iter().copied(), &theirs);
        let ahead: Vec<OfferHead> = ahead.map(|(a, k)| frames::head(a, k)).collect();
        // A few bytes ask for all that is known.
        let cost = u32::try_from(ahead.len() / 4).unwrap_or(u32::MAX);
        self.efforts.spend(peer, cost);
        batch.send(peer, frames::heads(K::CATEGORY, &ahead));
    }

    /// New authors that `peer` may bring.
    pub(super) fn room_for_new<K: Kind>(&self, peer: &PeerId) -> usize {
        let documents = &K::shelf(self).documents;
        documents.room_for_new(peer, false, &self.me, &self.limits)
    }

    /// What to ask of `peer`, which claims to know so much of `author`, if that is more than is known here;
    /// `room` is what is left for new authors.
    pub(super) fn question_on<K: Kind>(
        &mut self,
        peer: PeerId,
        author: PeerId,
        claimed: Known,
        room: &mut usize,
    ) -> Option<OfferHead> {
        let lacking = self.is_lacking::<K>(peer, author, claimed, room);
        let known = K::shelf(self).documents.known(&author);
        let from = known.map_or((0, 0), |known| known.question(&claimed));
        lacking.then(|| frames::question(&author, from))
    }

    /// Whether `peer` is to be asked for what it claims to have of `author`; if so, it counts as
    /// asked, and against the `room` there is for new authors.
    fn is_lacking<K: Kind>(
        &mut self,
        peer: PeerId,
        author: PeerId,
        claimed: Known,
        room: &mut usize,
    ) -> bool {
        let documents = &K::shelf(self).documents;
        let known = documents.known(&author);
        let adds = claimed.adds_to(known.as_ref()) && documents.is_begun(claimed.position.0);
        if !adds || self.conducts.is_banned(&author) || !K::admits(self, &author) {
            return false;
        }
        let new = known.is_none() && author != self.me;
        if new {
            // Whoever verified an offer of this author found the key in its id.
            if !envelope::can_sign(&author) {
                self.refuse(peer, Refusal::Author);
                return false;
            }
            // What an author says of itself shows at least that it is there.
            let gone = author != peer
                && K::shelf(self)
                    .documents
                    .is_forgotten(&author, claimed.position);
            let itself = author == peer
                && K::shelf(self)
                    .documents
                    .room_for_new(&peer, true, &self.me, &self.limits)
                    > 0;
            if (*room == 0 && !itself) || gone {
                return false;
            }
        }
        let ticks = self.ticks;
        let shelf = K::shelf_mut(self);
        let asked = shelf.asked.ask(author, peer, author == peer, ticks);
        if !asked && shelf.asked.is_open(&author) {
            // Once the answer is here, this one need not be told of it.
            let claimants = shelf.claimants.entry(author).or_default();
            if claimants.len() < CLAIMANTS {
                claimants.insert(peer);
            }
        }
        *room = room.saturating_sub(usize::from(asked && new));
        asked
    }
}
