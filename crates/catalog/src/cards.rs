//! The expert cards: which are wanted, which are kept.
//!
//! A card is wanted while an offer speaks of it, and kept while that is so or while this node
//! hosts it. A card nobody asked for is never taken, so strangers fill nothing but what their own
//! offers may name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_types::{ExpertCard, ExpertId, PeerId};
use prost::bytes::Bytes;

use crate::{CatalogLimits, Refusal, limits::CARD_WAITERS};

#[derive(Debug)]
struct Kept {
    card: Arc<ExpertCard>,
    /// Of its canonical bytes, which are made anew whenever a peer wants them.
    size: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Cards {
    kept: BTreeMap<ExpertId, Kept>,
    bytes: usize,
    /// Hosted here.
    own: BTreeSet<ExpertId>,
    /// How many offers speak of it.
    references: BTreeMap<ExpertId, u32>,
    /// Peers that asked for a card we do not have yet.
    waiters: BTreeMap<ExpertId, BTreeSet<PeerId>>,
}

impl Cards {
    pub(crate) fn get(&self, id: &ExpertId) -> Option<&Arc<ExpertCard>> {
        self.kept.get(id).map(|k| &k.card)
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

    /// Cards that offers speak of and that are not here.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &ExpertId> {
        self.references
            .keys()
            .filter(|id| !self.kept.contains_key(id))
    }

    pub(crate) fn reference(&mut self, added: &[ExpertId], removed: &[ExpertId]) {
        for id in added {
            *self.references.entry(*id).or_default() += 1;
        }
        for id in removed {
            if let Some(count) = self.references.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.references.remove(id);
                    self.waiters.remove(id);
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
            self.insert(id, card);
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
            self.insert(id, Arc::new(card));
        }
        fits
    }

    /// Takes a card from a peer: its id if it is new, and those who wait for it.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        limits: &CatalogLimits,
    ) -> Result<Option<(ExpertId, BTreeSet<PeerId>)>, Refusal> {
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
        if !self.has_room(bytes.len(), limits) {
            return Err(Refusal::CardsFull);
        }
        self.insert(id, Arc::new(card));
        Ok(Some((id, self.waiters.remove(&id).unwrap_or_default())))
    }

    /// Remembers that `peer` asked for a card that is on its way to us.
    pub(crate) fn wait(&mut self, id: ExpertId, peer: PeerId) {
        if self.is_referenced(&id) {
            let waiters = self.waiters.entry(id).or_default();
            if waiters.len() < CARD_WAITERS {
                waiters.insert(peer);
            }
        }
    }

    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
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
        for id in &unused {
            if let Some(kept) = self.kept.remove(id) {
                self.bytes -= kept.size;
            }
        }
        unused
    }

    fn insert(&mut self, id: ExpertId, card: Arc<ExpertCard>) {
        let size = card.to_bytes().len();
        self.bytes += size;
        self.kept.insert(id, Kept { card, size });
    }
}
