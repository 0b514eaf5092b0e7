//! The expert cards: which are wanted, which are kept.
//!
//! A card is wanted while an offer speaks of it, and kept while that is so or while this node
//! hosts it. A card nobody asked for is never taken, so strangers fill nothing but what their own
//! offers may name; and of a full table each peer's part is bounded.

mod missing;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use missing::Missing;

use polymath_types::{ExpertCard, ExpertId, PeerId};
use prost::bytes::Bytes;

use crate::{
    CatalogLimits, Refusal,
    evictions::Evictions,
    limits::{ALL_CARD_WAITS, CARD_WAITERS, CARD_WAITS},
};

/// Ids of peers that are kept to be shared among the cards that they bring.
const INTRODUCERS: usize = 64;

#[derive(Debug)]
struct Kept {
    card: Arc<ExpertCard>,
    /// Of its canonical bytes, which are made anew whenever a peer wants them.
    size: usize,
    /// The peer that brought it; unknown after a restart, and of this node's own. Shared, as one peer
    /// brings many and its id is longer than all else here.
    by: Option<Arc<PeerId>>,
    /// The tick in which it came.
    since: u64,
}

/// A card that was new here.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: ExpertId,
    /// Peers that asked for it while it was on its way.
    pub(crate) waiting: BTreeSet<PeerId>,
    /// Cards that gave way to it.
    pub(crate) evicted: Vec<ExpertId>,
}

#[derive(Debug, Default)]
pub(crate) struct Cards {
    kept: BTreeMap<ExpertId, Kept>,
    bytes: usize,
    /// Hosted here.
    own: BTreeSet<ExpertId>,
    /// How many offers speak of it.
    references: BTreeMap<ExpertId, u32>,
    /// Those that offers speak of and that are not here.
    missing: Missing,
    /// Peers that asked for a card we do not have yet.
    waiters: BTreeMap<ExpertId, BTreeSet<PeerId>>,
    /// For how many each waits, and all together.
    waits: BTreeMap<PeerId, usize>,
    waiting: usize,
    /// Peers that brought some lately.
    introducers: VecDeque<Arc<PeerId>>,
    evictions: Evictions,
    tick: u64,
}

impl Cards {
    pub(crate) fn get(&self, id: &ExpertId) -> Option<&Arc<ExpertCard>> {
        self.kept.get(id).map(|k| &k.card)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ExpertId, &Arc<ExpertCard>)> {
        self.kept.iter().map(|(id, kept)| (id, &kept.card))
    }

    pub(crate) fn bytes(&self, id: &ExpertId) -> Option<Bytes> {
        let card = &self.kept.get(id)?.card;
        Some(card.to_bytes().into())
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn is_referenced(&self, id: &ExpertId) -> bool {
        self.references.contains_key(id)
    }

    /// Time has passed.
    pub(crate) fn begin_tick(&mut self, tick: u64) {
        self.tick = tick;
        self.evictions.begin_tick();
    }

    /// Cards that offers speak of and that are not here.
    pub(crate) fn missing(&mut self) -> &mut Missing {
        &mut self.missing
    }

    pub(crate) fn reference(&mut self, added: &[ExpertId], removed: &[ExpertId]) {
        for id in added {
            *self.references.entry(*id).or_default() += 1;
            if !self.kept.contains_key(id) {
                self.missing.insert(*id, self.tick);
            }
        }
        for id in removed {
            if let Some(count) = self.references.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.references.remove(id);
                    self.missing.remove(id);
                    self.release(id);
                }
            }
        }
    }

    /// Keeps a card of this node; whether it is new. The node's own cards have no bound but the
    /// node's own will.
    pub(crate) fn host(&mut self, id: ExpertId, card: Arc<ExpertCard>) -> bool {
        self.own.insert(id);
        let new = !self.kept.contains_key(&id);
        if new {
            self.insert(id, card, None);
        }
        new
    }

    pub(crate) fn forget_hosted(&mut self) {
        self.own.clear();
    }

    /// Whether there is room for `bytes` more.
    pub(crate) fn has_room(&self, bytes: usize, limits: &CatalogLimits) -> bool {
        self.kept.len() < limits.cards && self.bytes + bytes <= limits.card_bytes
    }

    /// Puts back what a record held.
    pub(crate) fn restore(
        &mut self,
        id: ExpertId,
        card: ExpertCard,
        limits: &CatalogLimits,
    ) -> bool {
        let fits = self.has_room(card.to_bytes().len(), limits);
        if fits {
            self.insert(id, Arc::new(card), None);
        }
        fits
    }

    /// Takes a card from a peer whose own offer names the experts `own`; members' offers name `vouched`.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        from: PeerId,
        own: &[ExpertId],
        vouched: impl Fn() -> BTreeSet<ExpertId>,
        limits: &CatalogLimits,
    ) -> Result<Option<Taken>, Refusal> {
        let card = ExpertCard::from_bytes(bytes).map_err(|e| match e {
            polymath_types::CardError::Version(_) => Refusal::Version,
            _ => Refusal::Card,
        })?;
        let id = card.id();
        if self.kept.contains_key(&id) {
            return Ok(None);
        }
        if !self.is_referenced(&id) {
            return Err(Refusal::CardUnwanted);
        }
        let new = room::New {
            id,
            bytes: bytes.len(),
            from,
            itself: own.contains(&id),
        };
        let evicted = self.make_room(&new, vouched, limits)?;
        self.insert(id, Arc::new(card), Some(from));
        Ok(Some(Taken {
            id,
            waiting: self.release(&id),
            evicted,
        }))
    }

    /// Remembers that `peer` asked for a card that is on its way to us. Whoever is not remembered asks again.
    pub(crate) fn wait(&mut self, id: ExpertId, peer: PeerId) {
        let own = self.waits.get(&peer).copied().unwrap_or(0);
        if !self.is_referenced(&id) || own >= CARD_WAITS || self.waiting >= ALL_CARD_WAITS {
            return;
        }
        let waiters = self.waiters.entry(id).or_default();
        if waiters.len() < CARD_WAITERS && waiters.insert(peer) {
            self.waits.insert(peer, own + 1);
            self.waiting += 1;
        }
    }

    /// Nobody waits for a card any more; who did.
    fn release(&mut self, id: &ExpertId) -> BTreeSet<PeerId> {
        let waited = self.waiters.remove(id).unwrap_or_default();
        for peer in &waited {
            self.waiting -= 1;
            if let Some(own) = self.waits.get_mut(peer) {
                *own -= 1;
                if *own == 0 {
                    self.waits.remove(peer);
                }
            }
        }
        waited
    }

    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        let Some(own) = self.waits.remove(peer) else {
            return;
        };
        self.waiting -= own;
        self.waiters.retain(|_, peers| {
            peers.remove(peer);
            !peers.is_empty()
        });
    }

    /// Drops cards that neither an offer nor this node needs.
    pub(crate) fn collect(&mut self) -> Vec<ExpertId> {
        let unused: Vec<ExpertId> = self
            .kept
            .keys()
            .filter(|id| !self.own.contains(id) && !self.is_referenced(id))
            .copied()
            .collect();
        unused.iter().for_each(|id| self.remove(id));
        unused
    }

    fn introducer(&mut self, peer: PeerId) -> Arc<PeerId> {
        if let Some(known) = self.introducers.iter().find(|known| ***known == peer) {
            return Arc::clone(known);
        }
        self.introducers.truncate(INTRODUCERS - 1);
        let new = Arc::new(peer);
        self.introducers.push_front(Arc::clone(&new));
        new
    }

    fn insert(&mut self, id: ExpertId, card: Arc<ExpertCard>, by: Option<PeerId>) {
        let by = by.map(|peer| self.introducer(peer));
        let size = card.to_bytes().len();
        self.bytes += size;
        self.missing.remove(&id);
        let since = self.tick;
        self.kept.insert(
            id,
            Kept {
                card,
                size,
                by,
                since,
            },
        );
    }

    fn remove(&mut self, id: &ExpertId) {
        if let Some(kept) = self.kept.remove(id) {
            self.bytes -= kept.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_for_cards_are_bounded_and_let_go() {
        let mut cards = Cards::default();
        let id = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            ExpertId::from_bytes(bytes)
        };
        let all: Vec<ExpertId> = (0..2 * CARD_WAITS).map(id).collect();
        cards.reference(&all, &[]);
        let peers: Vec<PeerId> = (0..2 * ALL_CARD_WAITS / CARD_WAITS)
            .map(|_| PeerId::random())
            .collect();
        for peer in &peers {
            all.iter().for_each(|id| cards.wait(*id, *peer));
            assert!(cards.waits.get(peer).is_none_or(|own| *own <= CARD_WAITS));
        }
        assert!(cards.waiting <= ALL_CARD_WAITS);
        cards.disconnected(&peers[0]);
        assert_eq!(
            cards.waiting,
            cards.waiters.values().map(BTreeSet::len).sum::<usize>()
        );
        cards.reference(&[], &all);
        assert_eq!((cards.waiting, cards.waits.len()), (0, 0));
    }
}
