//! Who gives way when a table of documents is full.
//!
//! Keys cost nothing, so one connection can bring any number of authors. It may fill what is free;
//! once nothing is, a peer that brought more than its share replaces its own authors and gives way
//! to everyone else's. Of those who may go, the longest unseen goes first. An author that is
//! connected, or was met as a peer, counts as brought by itself. Those for whom an admin stands go last, and
//! to no stranger; whoever brings them, strangers make room for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_types::PeerId;

use super::{Author, Documents};
use crate::{
    CatalogLimits, Refusal,
    buckets::Position,
    evictions::Pot,
    kind::Kind,
    limits::{FORGOTTEN_TICKS, NOTED_TICKS, NOTES_A_TICK, SHARES},
};

/// How far the document of an author that gave way was known, and when it did.
#[derive(Debug)]
pub(super) struct Forgotten {
    position: Position,
    tick: u64,
}

/// Places and bytes that are lacking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lack {
    pub(super) authors: usize,
    pub(super) bytes: usize,
}

impl<K: Kind> Documents<K> {
    /// `peer` is connected now: it is seen, whoever brought its offer.
    pub(crate) fn met(&mut self, peer: PeerId) {
        self.connected.insert(peer);
        self.see(&peer);
        if let Some(author) = self.authors.get_mut(&peer) {
            author.introducer = Some(peer);
        }
    }

    /// `peer` is no longer connected; it was seen until now.
    pub(crate) fn parted(&mut self, peer: &PeerId) {
        if self.connected.remove(peer) {
            self.see(peer);
        }
    }

    /// Says for whom an admin stands.
    pub(crate) fn set_members(&mut self, members: Arc<BTreeSet<PeerId>>) {
        self.members = members;
    }

    /// Time has passed.
    pub(crate) fn begin_tick(&mut self, tick: u64) {
        self.tick = tick;
        self.evictions.begin_tick();
        self.forgotten
            .retain(|_, gone| tick.saturating_sub(gone.tick) < FORGOTTEN_TICKS);
    }

    /// Connected authors whose records say that they were last seen long ago. They are to be written
    /// anew, some in each tick: after a restart those who are always there must not look like
    /// those who never came back.
    pub(crate) fn note_seen(&mut self) -> Vec<PeerId> {
        let tick = self.tick;
        let mut noted = Vec::new();
        for peer in &self.connected {
            if noted.len() == NOTES_A_TICK {
                break;
            }
            if let Some(author) = self.authors.get_mut(peer)
                && tick.saturating_sub(author.noted) >= NOTED_TICKS
            {
                (author.seen, author.noted) = (Some(tick), tick);
                noted.push(*peer);
            }
        }
        noted
    }

    /// The last tick in which anyone was seen.
    pub(crate) fn last_seen(&self) -> u64 {
        self.authors.values().map(Author::seen).max().unwrap_or(0)
    }

    /// How many new authors `introducer` may bring at present; or whether it may bring itself.
    pub(crate) fn room_for_new(
        &self,
        introducer: &PeerId,
        itself: bool,
        me: &PeerId,
        limits: &CatalogLimits,
    ) -> usize {
        let free = K::bounds(limits).authors.saturating_sub(self.authors.len());
        if free > 0 || self.evictions.left_of(introducer) == 0 {
            return free;
        }
        let (candidates, pot) = self.candidates(introducer, introducer, me, limits);
        let pot = if itself { Pot::Itself } else { pot };
        candidates.len().min(self.evictions.left(introducer, pot))
    }

    /// Whether the author gave way lately and `position` brings nothing new of it. Others still
    /// hold and name it; taking it back each time would turn the table over without end.
    pub(crate) fn is_forgotten(&self, author: &PeerId, position: Position) -> bool {
        self.forgotten
            .get(author)
            .is_some_and(|gone| position <= gone.position)
    }

    /// Who must go so that `introducer` can bring something of `author`.
    pub(super) fn room_for(
        &self,
        lack: Lack,
        author: &PeerId,
        introducer: &PeerId,
        me: &PeerId,
        limits: &CatalogLimits,
    ) -> Result<(Vec<PeerId>, Pot), Refusal> {
        let (mut going, mut freed) = (Vec::new(), 0);
        if lack.authors == 0 && lack.bytes == 0 {
            return Ok((going, Pot::Others));
        }
        if self.evictions.left_of(introducer) == 0 {
            return Err(Refusal::Full);
        }
        let (candidates, pot) = self.candidates(author, introducer, me, limits);
        let itself = author == introducer && self.connected.contains(author);
        let pot = if itself { Pot::Itself } else { pot };
        let left = self.evictions.left(introducer, pot);
        for candidate in candidates.into_iter().take(left) {
            freed += self.held_bytes(&candidate);
            going.push(candidate);
            if going.len() >= lack.authors && freed >= lack.bytes {
                return Ok((going, pot));
            }
        }
        Err(Refusal::Full)
    }

    /// Forgets an author to make room for what `introducer` brings.
    pub(super) fn evict(
        &mut self,
        author: &PeerId,
        introducer: PeerId,
        pot: Pot,
        limits: &CatalogLimits,
    ) -> Option<Author<K>> {
        let gone = self.forget(author, limits)?;
        self.evictions.count(introducer, pot);
        Some(gone)
    }

    /// Drops an author, and remembers how far it was known.
    pub(super) fn forget(&mut self, author: &PeerId, limits: &CatalogLimits) -> Option<Author<K>> {
        let gone = self.remove(author)?;
        if self.forgotten.len() >= K::bounds(limits).authors {
            let first = self.forgotten.iter().min_by_key(|(_, f)| f.tick);
            if let Some(first) = first.map(|(a, _)| *a) {
                self.forgotten.remove(&first);
            }
        }
        let (position, tick) = (gone.final_position(), self.tick);
        self.forgotten.insert(*author, Forgotten { position, tick });
        Some(gone)
    }

    fn see(&mut self, peer: &PeerId) {
        if let Some(author) = self.authors.get_mut(peer) {
            author.seen = Some(self.tick);
        }
    }

    /// Who may give way to `author`, brought by `introducer`; the first to go comes first. And what
    /// that counts against.
    fn candidates(
        &self,
        author: &PeerId,
        introducer: &PeerId,
        me: &PeerId,
        limits: &CatalogLimits,
    ) -> (Vec<PeerId>, Pot) {
        let mut may_go: Vec<(&PeerId, &Author<K>)> = self
            .authors
            .iter()
            .filter(|(peer, _)| ![author, me].contains(peer) && !self.connected.contains(peer))
            .collect();
        let member = self.members.contains(author);
        let is_stranger = |(peer, log): &(&PeerId, &Author<K>)| {
            !self.members.contains(peer) && log.seen != Some(self.tick)
        };
        let strangers_only = !member || may_go.iter().any(is_stranger);
        may_go.retain(|(peer, _)| !strangers_only || !self.members.contains(peer));
        // Parts of the table, by whichever is scarcer: places times all bytes, or the reverse.
        let bounds = K::bounds(limits);
        let (places, bytes) = (bounds.authors as u128, bounds.bytes as u128);
        let mut parts: BTreeMap<PeerId, (u128, u128)> = BTreeMap::new();
        for (_, log) in &may_go {
            // Who brought those of an earlier run is not known; they weigh on no one.
            if let Some(introducer) = log.introducer {
                let part = parts.entry(introducer).or_default();
                *part = (part.0 + bytes, part.1 + log.bytes() as u128 * places);
            }
        }
        let share = (places * bytes / SHARES).max(bytes);
        let size = |(a, b): &(u128, u128)| *a.max(b);
        // What came in this tick may not be on the disk yet.
        let mut may_go: Vec<(Option<PeerId>, Option<u64>, PeerId)> = may_go
            .into_iter()
            .filter(|(_, log)| log.seen != Some(self.tick))
            .map(|(peer, log)| (log.introducer, log.seen, *peer))
            .collect();
        // Whoever brings a member may have brought any number of strangers.
        let bound = !(member && strangers_only);
        let over = bound && parts.get(introducer).is_some_and(|p| size(p) >= share);
        let from = if over {
            Some(*introducer)
        } else {
            parts
                .iter()
                .filter(|(_, p)| size(p) > share)
                .filter(|(i, _)| may_go.iter().any(|(by, ..)| *by == Some(**i)))
                .max_by_key(|(_, p)| size(p))
                .map(|(introducer, _)| *introducer)
        };
        may_go.retain(|(by, ..)| from.is_none() || *by == from);
        may_go.sort_unstable_by_key(|(_, seen, peer)| (*seen, *peer));
        let pot = if over { Pot::Own } else { Pot::Others };
        (may_go.into_iter().map(|(.., peer)| peer).collect(), pot)
    }
}
