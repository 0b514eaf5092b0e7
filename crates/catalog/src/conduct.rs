//! Who misbehaved, how often, and for how long nobody listens to them.
//!
//! A *peer* is to blame for what no honest node passes on; a new connection wipes out nothing. An
//! *author* is to blame for changes that it signed itself and that are poison: no offer document can
//! contain them. Each is counted once, whoever brings it how often, so others cannot make one mistake
//! look like many. Two different changes under one sequence are no poison: a node whose disk was put
//! back signs such things in good faith.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::PeerId;

use crate::{
    Refusal,
    limits::{CONDUCTS, FORGIVEN_TICKS, POISONS, STRIKES},
};

#[derive(Debug)]
struct Conduct {
    faults: u32,
    last: Option<Refusal>,
    /// Fingerprints of its poisonous changes.
    poisons: BTreeSet<u64>,
    /// Of the last fault.
    tick: u64,
}

/// The conduct of peers and authors: of those who misbehaved lately.
#[derive(Debug, Default)]
pub(crate) struct Conducts {
    of: BTreeMap<PeerId, Conduct>,
    tick: u64,
}

impl Conducts {
    /// Time has passed.
    pub(crate) fn begin_tick(&mut self, tick: u64) {
        self.tick = tick;
        self.of
            .retain(|_, conduct| tick.saturating_sub(conduct.tick) < FORGIVEN_TICKS);
    }

    /// `peer` passed on what no honest peer does.
    pub(crate) fn fault(&mut self, peer: PeerId, refusal: Refusal) {
        let conduct = self.of(peer);
        conduct.faults = conduct.faults.saturating_add(1);
        conduct.last = Some(refusal);
    }

    /// Faults of a peer that is to be cut off, and the last one.
    pub(crate) fn cut_off(&self, peer: &PeerId) -> Option<(u32, Refusal)> {
        let conduct = self.of.get(peer)?;
        Some((conduct.faults, conduct.last?)).filter(|(faults, _)| *faults >= STRIKES)
    }

    /// `author` signed poison; whether that makes it banned now.
    pub(crate) fn poison(&mut self, author: PeerId, signature: &[u8]) -> bool {
        let before = self.is_banned(&author);
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&blake3::hash(signature).as_bytes()[..8]);
        let conduct = self.of(author);
        if conduct.poisons.len() < POISONS {
            conduct.poisons.insert(u64::from_be_bytes(fingerprint));
        }
        !before && self.is_banned(&author)
    }

    /// Whether changes of `author` are not looked at.
    pub(crate) fn is_banned(&self, author: &PeerId) -> bool {
        let conduct = self.of.get(author);
        conduct.is_some_and(|conduct| conduct.poisons.len() >= POISONS)
    }

    fn of(&mut self, peer: PeerId) -> &mut Conduct {
        if self.of.len() >= CONDUCTS && !self.of.contains_key(&peer) {
            let oldest = self.of.iter().min_by_key(|(_, conduct)| conduct.tick);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.of.remove(&oldest);
            }
        }
        let conduct = self.of.entry(peer).or_insert_with(|| Conduct {
            faults: 0,
            last: None,
            poisons: BTreeSet::new(),
            tick: 0,
        });
        conduct.tick = self.tick;
        conduct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_poison_is_one_however_often_it_comes() {
        let author = PeerId::random();
        let mut conducts = Conducts::default();
        for _ in 0..100 {
            assert!(!conducts.poison(author, b"the same"));
        }
        let mut banned = 0;
        for n in 0..100u8 {
            banned += usize::from(conducts.poison(author, &[n]));
        }
        assert_eq!(banned, 1);
        assert!(conducts.is_banned(&author));
        assert!(conducts.cut_off(&author).is_none(), "it passed on nothing");
        conducts.begin_tick(FORGIVEN_TICKS);
        assert!(!conducts.is_banned(&author));
    }

    #[test]
    fn those_who_are_remembered_are_bounded_and_the_longest_ago_is_forgotten() {
        let mut conducts = Conducts::default();
        let first = PeerId::random();
        for _ in 0..STRIKES {
            conducts.fault(first, Refusal::Signature);
        }
        assert_eq!(
            conducts.cut_off(&first),
            Some((STRIKES, Refusal::Signature))
        );
        conducts.begin_tick(1);
        for _ in 0..CONDUCTS {
            conducts.fault(PeerId::random(), Refusal::Chunk);
        }
        assert_eq!(conducts.of.len(), CONDUCTS);
        assert!(conducts.cut_off(&first).is_none());
    }
}
