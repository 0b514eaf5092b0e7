//! Cards that offers speak of and that are not here: when each is asked for, and of whom not.
//!
//! An offer may name what nobody has, so a card that does not come is asked for ever more rarely, and
//! in one tick only so many are: those asked for in vain do not keep the others waiting.

use std::collections::BTreeMap;

use polymath_types::{ExpertId, PeerId};

use crate::limits::ASK_TICKS;

/// The pause between questions doubles so often.
const DOUBLINGS: u32 = 4;

#[derive(Debug, Default)]
struct Entry {
    tries: u32,
    /// The tick from which on it may be asked for.
    due: u64,
    /// Who brought it before, but had brought more than its share. Boxed, as it is hardly ever there, and
    /// longer than all else.
    not_of: Option<Box<PeerId>>,
}

/// Missing cards by id.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    entries: BTreeMap<ExpertId, Entry>,
    /// The last one looked at, so that all have their turn.
    cursor: Option<ExpertId>,
}

impl Missing {
    pub(super) fn insert(&mut self, id: ExpertId, tick: u64) {
        self.entries.entry(id).or_insert_with(|| Entry {
            due: tick,
            ..Entry::default()
        });
    }

    /// It was here and had to go.
    pub(super) fn gone(&mut self, id: ExpertId, not_of: Option<PeerId>, due: u64) {
        let tries = 0;
        let not_of = not_of.map(Box::new);
        self.entries.insert(id, Entry { tries, due, not_of });
    }

    pub(super) fn remove(&mut self, id: &ExpertId) {
        self.entries.remove(id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether news of it are a reason to ask `peer`.
    pub(crate) fn may_ask(&self, id: &ExpertId, peer: &PeerId) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|entry| entry.not_of.as_deref() != Some(peer))
    }

    /// Whether it is time to ask `peer` again for what its own offer names. Every other time someone
    /// else is asked.
    pub(crate) fn is_due(&self, id: &ExpertId, peer: &PeerId, tick: u64) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|e| e.due <= tick && e.tries.is_multiple_of(2)) && self.may_ask(id, peer)
    }

    /// Up to `most` that are due, with how often each was asked for; the next call goes on behind
    /// them.
    pub(crate) fn due(&mut self, tick: u64, most: usize) -> Vec<(ExpertId, u32)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let (behind, up_to) = match self.cursor {
            Some(last) => (Excluded(last), Included(last)),
            None => (Unbounded, Excluded(ExpertId::from_bytes([0; 32]))),
        };
        let first = self.entries.range((behind, Unbounded));
        let due: Vec<_> = first
            .chain(self.entries.range((Unbounded, up_to)))
            .filter(|(_, entry)| entry.due <= tick)
            .map(|(id, entry)| (*id, entry.tries))
            .take(most)
            .collect();
        if let Some((last, _)) = due.last() {
            self.cursor = Some(*last);
        }
        due
    }

    /// It was asked for.
    pub(crate) fn asked(&mut self, id: &ExpertId, tick: u64) {
        if let Some(entry) = self.entries.get_mut(id) {
            let pause = ASK_TICKS << entry.tries.min(DOUBLINGS);
            entry.due = tick.saturating_add(pause);
            entry.tries = entry.tries.saturating_add(1);
        }
    }

    /// There is a new reason to hope for these.
    pub(crate) fn hurry<'a>(&mut self, ids: impl IntoIterator<Item = &'a ExpertId>) {
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id) {
                (entry.tries, entry.due) = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ExpertId {
        ExpertId::from_bytes([n; 32])
    }

    #[test]
    fn every_missing_card_has_its_turn_and_those_asked_for_in_vain_ever_more_rarely() {
        let mut missing = Missing::default();
        (0..100).for_each(|n| missing.insert(id(n), 0));
        let mut asked = [0; 100];
        for tick in 0..400 {
            for (id, _) in missing.due(tick, 7) {
                asked[usize::from(id.as_bytes()[0])] += 1;
                missing.asked(&id, tick);
            }
        }
        let (least, most) = (asked.iter().min(), asked.iter().max());
        assert!(least > Some(&8) && most < Some(&20), "{asked:?}");
        missing.insert(id(200), 400);
        let mut waited = 400;
        while missing.due(waited, 7).iter().all(|(i, _)| *i != id(200)) {
            waited += 1;
        }
        assert!(waited < 416, "{waited}");
    }

    #[test]
    fn who_brought_too_much_is_not_asked_for_it_again() {
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let mut missing = Missing::default();
        missing.gone(id(1), Some(greedy), 0);
        assert!(!missing.may_ask(&id(1), &greedy) && missing.may_ask(&id(1), &other));
        assert!(missing.is_due(&id(1), &other, 0));
    }
}
