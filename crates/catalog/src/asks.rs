//! Which question is out to whom, so that many peers are not asked for the same thing at once.

use std::{collections::BTreeMap, hash::Hash};

use polymath_types::PeerId;

use crate::limits::ASK_TICKS;

/// Open questions by subject. Bounded by its subjects: authors and cards the tables have room for.
#[derive(Debug)]
pub(crate) struct Asks<K> {
    open: BTreeMap<K, (PeerId, u64)>,
    limit: usize,
}

impl<K: Ord + Copy + Hash> Asks<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            limit,
        }
    }

    /// Whether `peer` may be asked about `subject` at `tick`; if so, it counts as asked.
    pub(crate) fn ask(&mut self, subject: K, peer: PeerId, tick: u64) -> bool {
        let free = !self.open.contains_key(&subject) && self.open.len() < self.limit;
        if free {
            self.open.insert(subject, (peer, tick));
        }
        free
    }

    /// Whether `peer` was asked about `subject`.
    pub(crate) fn is_asked(&self, subject: &K, peer: &PeerId) -> bool {
        self.open
            .get(subject)
            .is_some_and(|(asked, _)| asked == peer)
    }

    /// The question is answered, or need not be.
    pub(crate) fn close(&mut self, subject: &K) {
        self.open.remove(subject);
    }

    /// `peer` will answer nothing more.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        self.open.retain(|_, (asked, _)| asked != peer);
    }

    /// Gives up on what has waited too long.
    pub(crate) fn expire(&mut self, tick: u64) {
        self.open
            .retain(|_, (_, since)| tick.saturating_sub(*since) < ASK_TICKS);
    }
}
