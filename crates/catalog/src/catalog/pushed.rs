//! Authors whose last change was passed on and came once: when it comes again, others are told of it.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::PeerId;

use crate::limits::{PUSHED, PUSHED_TICKS};

#[derive(Debug)]
struct Push {
    author: PeerId,
    tick: u64,
    /// Who knows the change.
    knowing: BTreeSet<PeerId>,
}

/// Such authors, within bounds of number and time: the oldest give way.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// In the order they came in.
    pushes: BTreeMap<u64, Push>,
    numbers: BTreeMap<PeerId, u64>,
    next: u64,
    tick: u64,
}

impl Pushed {
    /// Time has passed.
    pub(super) fn begin_tick(&mut self, tick: u64) {
        self.tick = tick;
        while let Some(first) = self.pushes.first_entry()
            && tick.saturating_sub(first.get().tick) >= PUSHED_TICKS
        {
            self.numbers.remove(&first.remove().author);
        }
    }

    /// A change of `author` was passed on; these know it.
    pub(super) fn insert(&mut self, author: PeerId, knowing: BTreeSet<PeerId>) {
        self.take(&author);
        if self.pushes.len() >= PUSHED
            && let Some((_, oldest)) = self.pushes.pop_first()
        {
            self.numbers.remove(&oldest.author);
        }
        let push = Push {
            author,
            tick: self.tick,
            knowing,
        };
        self.pushes.insert(self.next, push);
        self.numbers.insert(author, self.next);
        self.next += 1;
    }

    /// It came again, or is out of date: who knows it, if it came once.
    pub(super) fn take(&mut self, author: &PeerId) -> Option<BTreeSet<PeerId>> {
        let number = self.numbers.remove(author)?;
        Some(self.pushes.remove(&number)?.knowing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_pushes_out_what_came_before_and_not_what_comes_after() {
        let [early, late] = [PeerId::random(), PeerId::random()];
        let mut pushed = Pushed::default();
        pushed.insert(early, BTreeSet::new());
        for _ in 0..PUSHED {
            pushed.insert(PeerId::random(), BTreeSet::new());
        }
        pushed.insert(late, BTreeSet::from([early]));
        assert_eq!(pushed.pushes.len(), PUSHED);
        assert_eq!(pushed.numbers.len(), PUSHED);
        assert_eq!(pushed.take(&early), None);
        assert_eq!(pushed.take(&late), Some(BTreeSet::from([early])));
        assert_eq!(pushed.take(&late), None);
    }

    #[test]
    fn a_change_may_come_again_in_the_tick_after_that_of_its_first_time() {
        let [one, other] = [PeerId::random(), PeerId::random()];
        let mut pushed = Pushed::default();
        pushed.insert(one, BTreeSet::new());
        pushed.begin_tick(1);
        pushed.insert(other, BTreeSet::new());
        assert!(pushed.take(&one).is_some());
        pushed.insert(one, BTreeSet::new());
        pushed.begin_tick(2);
        assert!(pushed.take(&one).is_some());
        pushed.begin_tick(3);
        assert!(pushed.pushes.is_empty() && pushed.numbers.is_empty());
    }
}
