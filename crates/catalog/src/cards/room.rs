//! Which cards give way when the table is full: the rule of the table of offers.
//!
//! A peer may fill what is free; once nothing is, one that brought more than its share replaces its
//! own cards and gives way to everyone else's. Cards that no offer speaks of go first; among equals
//! the one that came longest ago.

use std::collections::BTreeMap;

use polymath_types::{ExpertId, PeerId};

use super::Cards;
use crate::{
    CatalogLimits, Refusal,
    evictions::Pot,
    limits::{FORGOTTEN_TICKS, SHARES},
};

impl Cards {
    /// How many cards may be asked of `peer`; `itself`: of those that its own offer names.
    pub(crate) fn room_for_new(
        &self,
        peer: &PeerId,
        itself: bool,
        limits: &CatalogLimits,
    ) -> usize {
        let free = limits.cards.saturating_sub(self.kept.len());
        if free > 0 && self.bytes < limits.card_bytes {
            return free;
        }
        let pot = if itself { Pot::Itself } else { Pot::Others };
        self.evictions.left(peer, pot)
    }

    /// Makes room for a card of `bytes` that `from` brings; who went for it.
    pub(super) fn make_room(
        &mut self,
        bytes: usize,
        from: PeerId,
        itself: bool,
        limits: &CatalogLimits,
    ) -> Result<Vec<ExpertId>, Refusal> {
        if self.has_room(bytes, limits) {
            return Ok(Vec::new());
        }
        if self.evictions.left_of(&from) == 0 {
            return Err(Refusal::CardsFull);
        }
        let (candidates, pot, over) = self.candidates(&from, itself, limits);
        let left = self.evictions.left(&from, pot);
        let (mut going, mut freed) = (Vec::new(), 0);
        for id in candidates.into_iter().take(left) {
            freed += self.kept.get(&id).map_or(0, |kept| kept.size);
            going.push(id);
            let places = self.kept.len() - going.len() < limits.cards;
            if places && self.bytes + bytes <= limits.card_bytes + freed {
                going.iter().for_each(|id| self.evict(id, over));
                going.iter().for_each(|_| self.evictions.count(from, pot));
                return Ok(going);
            }
        }
        Err(Refusal::CardsFull)
    }

    fn evict(&mut self, id: &ExpertId, over: Option<PeerId>) {
        self.remove(id);
        if self.is_referenced(id) {
            // If nobody brought too much there are simply more than fit; asking for it at once
            // would turn the table over without end.
            let pause = if over.is_some() { 0 } else { FORGOTTEN_TICKS };
            let due = self.tick.saturating_add(pause);
            self.missing.gone(*id, over, due);
        }
    }

    /// What may give way to `from`, the first to go first; what that counts against, and who brought
    /// too much.
    fn candidates(
        &self,
        from: &PeerId,
        itself: bool,
        limits: &CatalogLimits,
    ) -> (Vec<ExpertId>, Pot, Option<PeerId>) {
        // Parts of the table by whichever is scarcer: places times all bytes, or the reverse.
        let (places, bytes) = (limits.cards as u128, limits.card_bytes as u128);
        let mut parts: BTreeMap<PeerId, (u128, u128)> = BTreeMap::new();
        let mut may_go = Vec::new();
        for (id, kept) in &self.kept {
            if self.own.contains(id) {
                continue;
            }
            let by = kept.by.as_deref().copied();
            if let Some(by) = by {
                let part = parts.entry(by).or_default();
                *part = (part.0 + bytes, part.1 + kept.size as u128 * places);
            }
            // What came in this tick may not be on the disk yet.
            if kept.since != self.tick {
                may_go.push((self.is_referenced(id), kept.since, *id, by));
            }
        }
        let share = (places * bytes / SHARES).max(bytes);
        let size = |(a, b): &(u128, u128)| *a.max(b);
        let is_over = parts.get(from).is_some_and(|p| size(p) >= share);
        let over = if is_over {
            Some(*from)
        } else {
            parts
                .iter()
                .filter(|(_, p)| size(p) > share)
                .filter(|(i, _)| may_go.iter().any(|(.., by)| *by == Some(**i)))
                .max_by_key(|(_, p)| size(p))
                .map(|(peer, _)| *peer)
        };
        may_go.retain(|(referenced, .., by)| !referenced || over.is_none() || *by == over);
        may_go.sort_unstable();
        let pot = match (is_over, itself) {
            (_, true) => Pot::Itself,
            (true, _) => Pot::Own,
            (false, _) => Pot::Others,
        };
        let ids = may_go.into_iter().map(|(_, _, id, _)| id).collect();
        (ids, pot, over)
    }
}
