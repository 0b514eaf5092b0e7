//! Which cards give way when the table is full: the rule of the table of offers.
//!
//! A peer may fill what is free; once nothing is, one that brought more than its share replaces its
//! own cards and gives way to everyone else's. Cards that no offer speaks of go first; among equals
//! the one that came longest ago. Those that offers of members speak of, for whom an admin stands, go last,
//! and only to each other.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::{ExpertId, PeerId};

use super::Cards;
use crate::{
    CatalogLimits, Refusal,
    evictions::Pot,
    limits::{FORGOTTEN_TICKS, SHARES},
};

/// A card that is to be kept.
#[derive(Debug)]
pub(super) struct New {
    pub(super) id: ExpertId,
    pub(super) bytes: usize,
    pub(super) from: PeerId,
    /// The offer of the peer that brings it speaks of it.
    pub(super) itself: bool,
}

/// A card that may give way.
struct Candidate {
    referenced: bool,
    since: u64,
    id: ExpertId,
    by: Option<PeerId>,
    size: usize,
}

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

    /// Makes room for a card; who went for it.
    pub(super) fn make_room(
        &mut self,
        new: &New,
        vouched: impl Fn() -> BTreeSet<ExpertId>,
        limits: &CatalogLimits,
    ) -> Result<Vec<ExpertId>, Refusal> {
        let (bytes, from) = (new.bytes, new.from);
        if self.has_room(bytes, limits) {
            return Ok(Vec::new());
        }
        if self.evictions.left_of(&from) == 0 {
            return Err(Refusal::CardsFull);
        }
        let (candidates, pot, over) = self.candidates(new, &vouched(), limits);
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

    /// What may give way to a new one, the first to go first; what that counts against, and who brought
    /// too much.
    fn candidates(
        &self,
        new: &New,
        vouched: &BTreeSet<ExpertId>,
        limits: &CatalogLimits,
    ) -> (Vec<ExpertId>, Pot, Option<PeerId>) {
        // Parts of the table by whichever is scarcer: places times all bytes, or the reverse.
        let (places, bytes) = (limits.cards as u128, limits.card_bytes as u128);
        let mut parts: BTreeMap<PeerId, (u128, u128)> = BTreeMap::new();
        let mut may_go: Vec<Candidate> = Vec::new();
        for (id, kept) in self.kept.iter().filter(|(id, _)| !self.own.contains(id)) {
            may_go.push(Candidate {
                referenced: self.is_referenced(id),
                since: kept.since,
                id: *id,
                by: kept.by.as_deref().copied(),
                size: kept.size,
            });
        }
        let member = vouched.contains(&new.id);
        let is_strangers = |c: &Candidate| !vouched.contains(&c.id);
        // What came in this tick may not be on the disk yet.
        let settled = |c: &Candidate| c.since != self.tick;
        let strangers_only = !member || may_go.iter().any(|c| is_strangers(c) && settled(c));
        may_go.retain(|c| !strangers_only || is_strangers(c));
        for candidate in &may_go {
            if let Some(by) = candidate.by {
                let part = parts.entry(by).or_default();
                *part = (part.0 + bytes, part.1 + candidate.size as u128 * places);
            }
        }
        may_go.retain(settled);
        let share = (places * bytes / SHARES).max(bytes);
        let size = |(a, b): &(u128, u128)| *a.max(b);
        let bound = !(member && strangers_only);
        let is_over = bound && parts.get(&new.from).is_some_and(|p| size(p) >= share);
        let over = if is_over {
            Some(new.from)
        } else {
            parts
                .iter()
                .filter(|(_, p)| size(p) > share)
                .filter(|(i, _)| may_go.iter().any(|c| c.by == Some(**i)))
                .max_by_key(|(_, p)| size(p))
                .map(|(peer, _)| *peer)
        };
        may_go.retain(|c| !c.referenced || over.is_none() || c.by == over);
        may_go.sort_unstable_by_key(|c| (c.referenced, c.since, c.id));
        let pot = match (is_over, new.itself) {
            (_, true) => Pot::Itself,
            (true, _) => Pot::Own,
            (false, _) => Pot::Others,
        };
        let ids = may_go.into_iter().map(|c| c.id).collect();
        (ids, pot, over)
    }
}
