//! How many entries of a full table may give way in one tick, and to whom.
//!
//! Each that goes is a record that is removed and one that is written, so their number is bounded.
//! What is left is dealt out in parts, so that no few peers use up what is there for all: nobody
//! gets more than an eighth of it at once. Peers that brought more than their share replace what they
//! brought themselves out of another pot, and who brings what it offers itself out of a third: a
//! flood of others' authors never keeps out a peer that is connected.

use std::collections::BTreeMap;

use polymath_types::PeerId;

use crate::limits::{EVICTIONS, EVICTIONS_A_PEER};

/// What an eviction counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pot {
    /// A peer that brought more than its share replaces its own.
    Own,
    /// Others make room for a peer below its share.
    Others,
    /// Others make room for what a connected peer says of itself.
    Itself,
}

/// The evictions of this tick.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    used: [usize; 3],
    by: BTreeMap<PeerId, usize>,
}

impl Evictions {
    /// Time has passed.
    pub(crate) fn begin_tick(&mut self) {
        *self = Self::default();
    }

    /// How many may yet give way to what `introducer` brings.
    pub(crate) fn left(&self, introducer: &PeerId, pot: Pot) -> usize {
        let left = EVICTIONS.saturating_sub(self.used[pot as usize]);
        let had = self.by.get(introducer).copied().unwrap_or(0);
        let part = (left + had).div_ceil(EVICTIONS / EVICTIONS_A_PEER);
        part.saturating_sub(had)
            .min(left)
            .min(self.left_of(introducer))
    }

    /// The same, whatever the pot.
    pub(crate) fn left_of(&self, introducer: &PeerId) -> usize {
        EVICTIONS_A_PEER.saturating_sub(self.by.get(introducer).copied().unwrap_or(0))
    }

    pub(crate) fn count(&mut self, introducer: PeerId, pot: Pot) {
        self.used[pot as usize] += 1;
        *self.by.entry(introducer).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_peers_do_not_use_up_what_is_there_for_all() {
        let mut evictions = Evictions::default();
        let mut use_up = |peer: PeerId, pot| {
            let mut used = 0;
            while evictions.left(&peer, pot) > 0 {
                evictions.count(peer, pot);
                used += 1;
            }
            used
        };
        let hostile: usize = (0..16).map(|_| use_up(PeerId::random(), Pot::Others)).sum();
        assert!(hostile < EVICTIONS, "{hostile}");
        assert!(use_up(PeerId::random(), Pot::Others) > 0);
        for _ in 0..1000 {
            use_up(PeerId::random(), Pot::Others);
            use_up(PeerId::random(), Pot::Own);
        }
        assert_eq!(
            use_up(PeerId::random(), Pot::Others),
            0,
            "all together are bounded"
        );
        assert_eq!(use_up(PeerId::random(), Pot::Itself), EVICTIONS_A_PEER);
        evictions.begin_tick();
        assert!(evictions.left(&PeerId::random(), Pot::Others) > 0);
    }
}
