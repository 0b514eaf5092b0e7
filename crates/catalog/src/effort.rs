//! What peers cost us.
//!
//! Digests, heads, questions and repeats are no faults, but whoever sends them without end would have
//! this node compare, look up and answer without end. Each costs its sender some of what it has, and
//! more comes with each tick; a peer that has nothing left is not listened to until then. What is new has a
//! purse of its own, wide enough to bring a whole mesh at once: keys cost nothing, so what each author may
//! change bounds nothing of what one connection brings. So has what is passed on of it.

use std::collections::BTreeMap;

use polymath_proto::v1::sync_frame::Frame;
use polymath_types::PeerId;

use crate::limits::{
    APPLIED, APPLIED_BYTES, CONDUCTS, EFFORT_A_TICK, EFFORT_BURST, FREE_OPERATIONS, WRITTEN_BYTES,
};

/// What the peers have left. It outlasts their connections, else a new one would fill it up.
#[derive(Debug)]
pub(crate) struct Efforts {
    /// What is left, and as of which tick.
    of: BTreeMap<PeerId, (u32, u64)>,
    tick: u64,
    burst: u32,
    a_tick: u32,
}

impl Default for Efforts {
    fn default() -> Self {
        Self::new([EFFORT_BURST, EFFORT_A_TICK])
    }
}

/// What it costs to apply a change to a document that says so much (bytes in memory), in about a microsecond
/// each.
pub(crate) fn applied(bytes: u32) -> u32 {
    (bytes / APPLIED_BYTES).saturating_add(APPLIED)
}

/// What it costs to have a history of so many operations at hand: copied if its document is live, else replayed.
pub(crate) fn history(operations: u64, live: bool) -> u32 {
    let cost = if live {
        operations.saturating_sub(FREE_OPERATIONS) / 3
    } else {
        operations.saturating_mul(3) / 2
    };
    u32::try_from(cost).unwrap_or(u32::MAX)
}

/// What it costs to write a record of so many bytes.
pub(crate) fn written(bytes: usize) -> u32 {
    u32::try_from(bytes / WRITTEN_BYTES).unwrap_or(u32::MAX)
}

/// What it costs to handle a frame, in about a microsecond each; `known` documents are compared.
pub(crate) fn cost(frame: &Frame, known: usize) -> u32 {
    let cost = match frame {
        Frame::Digest(_) => 64,
        Frame::Branches(branches) => 16 + 16 * branches.branches.len(),
        Frame::Heads(heads) => {
            let compared = if heads.all { known / 16 } else { 0 };
            1 + heads.heads.len() / 4 + heads.leaves.len() / 4 + compared
        }
        Frame::Want(want) => 1 + (want.offers.len() + want.cards.len()) / 4,
        // What is new in them is what they are for; repeats are counted one by one.
        Frame::Offers(_) | Frame::Cards(_) => 1,
    };
    u32::try_from(cost).unwrap_or(u32::MAX)
}

impl Efforts {
    /// So much without a pause, and a tick.
    pub(crate) fn new([burst, a_tick]: [u32; 2]) -> Self {
        Self {
            of: BTreeMap::new(),
            tick: 0,
            burst,
            a_tick,
        }
    }

    /// Whether `peer` has anything left.
    pub(crate) fn has_some(&self, peer: &PeerId) -> bool {
        self.left(peer) > 0
    }

    /// `peer` has spent nothing.
    pub(crate) fn forgive(&mut self, peer: &PeerId) {
        self.of.remove(peer);
    }

    /// Time has passed.
    pub(crate) fn begin_tick(&mut self, tick: u64) {
        self.tick = tick;
        // Whoever would be full by now is as good as unknown.
        let full = u64::from(self.burst / self.a_tick) + 1;
        self.of
            .retain(|_, (_, as_of)| tick.saturating_sub(*as_of) < full);
    }

    /// Takes `cost` of what `peer` has; false, and nothing left, if that is not enough.
    pub(crate) fn spend(&mut self, peer: PeerId, cost: u32) -> bool {
        let left = self.left(&peer);
        if self.of.len() >= CONDUCTS && !self.of.contains_key(&peer) {
            let fullest = self.of.iter().max_by_key(|(_, (left, _))| *left);
            if let Some(fullest) = fullest.map(|(peer, _)| *peer) {
                self.of.remove(&fullest);
            }
        }
        self.of.insert(peer, (left.saturating_sub(cost), self.tick));
        left >= cost
    }

    fn left(&self, peer: &PeerId) -> u32 {
        let Some((left, as_of)) = self.of.get(peer) else {
            return self.burst;
        };
        let ticks = u32::try_from(self.tick.saturating_sub(*as_of)).unwrap_or(u32::MAX);
        let more = ticks.saturating_mul(self.a_tick);
        left.saturating_add(more).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_left_has_some_again_with_time() {
        let (busy, other) = (PeerId::random(), PeerId::random());
        let mut efforts = Efforts::default();
        while efforts.spend(busy, 1000) {}
        assert!(!efforts.spend(busy, 1) && efforts.spend(other, 1));
        efforts.begin_tick(1);
        assert!(efforts.spend(busy, EFFORT_A_TICK) && !efforts.spend(busy, 1));
        efforts.begin_tick(1000);
        assert!(efforts.of.is_empty());
    }

    #[test]
    fn a_whole_mesh_fits_a_purse_and_fifty_keys_without_end_do_not() {
        let mut works = Efforts::new(crate::limits::WORK);
        let (honest, hostile) = (PeerId::random(), PeerId::random());
        assert!((0..10_000).all(|_| works.spend(honest, applied(4 * 512))));
        let mut ticks = 0;
        while works.has_some(&hostile) {
            // Fifty offers of 64 experts, each changed as often as a frame holds.
            (0..50 * 60).for_each(|_| {
                works.spend(hostile, applied(64 * 512));
            });
            ticks += 1;
        }
        assert!(ticks < 3, "{ticks}");
    }

    #[test]
    fn those_who_are_remembered_are_bounded_and_the_poorest_stay() {
        let poor = PeerId::random();
        let mut efforts = Efforts::default();
        while efforts.spend(poor, 1000) {}
        (0..2 * CONDUCTS).for_each(|_| {
            efforts.spend(PeerId::random(), 1);
        });
        assert_eq!(efforts.of.len(), CONDUCTS);
        assert!(!efforts.spend(poor, 1));
    }
}
