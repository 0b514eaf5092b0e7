//! Who computes next. A pure state machine: it sees ids and counts, never a model, a channel or a
//! clock.
//!
//! Each round, every answering sequence whose reader keeps up gets one token, the longest-waiting
//! prompt gets one chunk, and one batch of texts is encoded. So a long prompt delays the others'
//! tokens by one chunk, and a slow reader delays nobody.

use std::collections::VecDeque;

/// Tokens of a prompt that are computed at once: a cancelled prompt costs at most this much more.
pub(crate) const PREFILL_CHUNK: usize = 64;

/// Names a sequence within one engine.
pub(crate) type SequenceId = u64;

/// What one round does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// One token each.
    pub(crate) decode: Vec<SequenceId>,
    /// This many tokens of this prompt.
    pub(crate) prefill: Option<(SequenceId, usize)>,
    /// Whether a batch of texts is encoded.
    pub(crate) encode: bool,
}

impl Round {
    /// Nothing can be done until something happens outside.
    pub(crate) fn is_idle(&self) -> bool {
        self.decode.is_empty() && self.prefill.is_none() && !self.encode
    }
}

/// Sequences in slots.
#[derive(Debug)]
pub(crate) struct Schedule {
    slots: usize,
    /// Prompts not yet computed and what is left of them, first come first.
    prompts: VecDeque<(SequenceId, usize)>,
    answering: Vec<SequenceId>,
}

impl Schedule {
    pub(crate) const fn new(slots: usize) -> Self {
        Self {
            slots,
            prompts: VecDeque::new(),
            answering: Vec::new(),
        }
    }

    /// Sequences that could be admitted.
    pub(crate) fn free(&self) -> usize {
        self.slots.saturating_sub(self.active())
    }

    /// Sequences in slots.
    pub(crate) fn active(&self) -> usize {
        self.prompts.len() + self.answering.len()
    }

    /// Takes a sequence with a prompt of `tokens` into a free slot.
    pub(crate) fn admit(&mut self, id: SequenceId, tokens: usize) {
        debug_assert!(self.free() > 0);
        self.prompts.push_back((id, tokens));
    }

    /// Frees a slot, whatever its sequence was at.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.prompts.retain(|(p, _)| *p != id);
        self.answering.retain(|a| *a != id);
    }

    /// Plans a round and takes it for done. `ready` says whether a sequence's reader has room.
    pub(crate) fn next(&mut self, ready: impl Fn(SequenceId) -> bool, texts_wait: bool) -> Round {
        let decode = self
            .answering
            .iter()
            .copied()
            .filter(|id| ready(*id))
            .collect();
        let mut prefill = None;
        if let Some((id, left)) = self.prompts.front_mut() {
            let tokens = PREFILL_CHUNK.min(*left);
            *left -= tokens;
            prefill = Some((*id, tokens));
            if *left == 0 {
                self.answering
                    .extend(self.prompts.pop_front().map(|(id, _)| id));
            }
        }
        Round {
            decode,
            prefill,
            encode: texts_wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_computed_in_chunks_first_come_first() {
        let mut s = Schedule::new(4);
        s.admit(1, PREFILL_CHUNK + 10);
        s.admit(2, 5);
        assert_eq!(s.next(|_| true, false).prefill, Some((1, PREFILL_CHUNK)));
        let second = s.next(|_| true, false);
        assert_eq!((second.prefill, second.decode), (Some((1, 10)), vec![]));
        let third = s.next(|_| true, true);
        assert_eq!(
            third,
            Round {
                decode: vec![1],
                prefill: Some((2, 5)),
                encode: true
            }
        );
        assert_eq!(s.next(|_| true, false).decode, [1, 2]);
    }

    #[test]
    fn a_slow_reader_is_passed_over_and_comes_back() {
        let mut s = Schedule::new(2);
        s.admit(1, 1);
        s.admit(2, 1);
        s.next(|_| true, false);
        s.next(|_| true, false);
        assert_eq!(s.next(|id| id != 1, false).decode, [2]);
        assert_eq!(s.next(|_| true, false).decode, [1, 2]);
        assert!(s.next(|_| false, false).is_idle());
    }

    #[test]
    fn slots_are_counted_and_freed() {
        let mut s = Schedule::new(2);
        assert_eq!((s.free(), s.active()), (2, 0));
        s.admit(1, 100);
        s.admit(2, 100);
        assert_eq!(s.free(), 0);
        s.remove(1);
        assert_eq!(s.free(), 1);
        assert_eq!(s.next(|_| true, false).prefill, Some((2, PREFILL_CHUNK)));
        s.remove(2);
        assert!(s.next(|_| true, false).is_idle());
    }
}
