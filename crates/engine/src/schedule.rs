//! Who computes next. A pure state machine: it sees ids and counts, never a model, a channel or a
//! clock.
//!
//! Each round, every answering sequence whose reader keeps up gets one token, one prompt gets one
//! chunk, and one batch of texts is encoded. So a long prompt delays the others' tokens by one chunk,
//! and a slow reader delays nobody. Of several prompts the one with the least left comes first, and
//! every other round the one that waits longest: a question behind a book is not kept waiting by it,
//! and the book gets at least half of the rounds.

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
    /// Whether the next chunk goes to the prompt that waits longest.
    oldest_next: bool,
}

impl Schedule {
    pub(crate) const fn new(slots: usize) -> Self {
        Self {
            slots,
            prompts: VecDeque::new(),
            answering: Vec::new(),
            oldest_next: false,
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
        Round {
            decode,
            prefill: self.prefill(),
            encode: texts_wait,
        }
    }

    fn prefill(&mut self) -> Option<(SequenceId, usize)> {
        self.oldest_next = !self.oldest_next;
        let chosen = if !self.oldest_next {
            0
        } else {
            let shortest = self.prompts.iter().enumerate();
            shortest.min_by_key(|(_, (_, left))| *left)?.0
        };
        let (id, left) = self.prompts.get_mut(chosen)?;
        let (id, tokens) = (*id, PREFILL_CHUNK.min(*left));
        *left -= tokens;
        if *left == 0 {
            self.prompts.remove(chosen);
            self.answering.push(id);
        }
        Some((id, tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_prompt_is_not_kept_waiting_by_a_long_one_nor_the_long_one_for_ever() {
        let mut s = Schedule::new(4);
        s.admit(1, 3 * PREFILL_CHUNK);
        s.admit(2, PREFILL_CHUNK + 5);
        s.admit(3, 7);
        let mut chunks = Vec::new();
        while let Some(chunk) = s.next(|_| true, false).prefill {
            chunks.push(chunk);
        }
        let whole = PREFILL_CHUNK;
        assert_eq!(
            chunks,
            [
                (3, 7),
                (1, whole),
                (2, whole),
                (1, whole),
                (2, 5),
                (1, whole)
            ]
        );
        assert_eq!(s.next(|_| true, true).decode, [3, 2, 1]);
    }

    #[test]
    fn decode_prefill_and_encoding_share_a_round() {
        let mut s = Schedule::new(4);
        s.admit(1, 10);
        s.next(|_| true, false);
        s.admit(2, 5);
        assert_eq!(
            s.next(|_| true, true),
            Round {
                decode: vec![1],
                prefill: Some((2, 5)),
                encode: true
            }
        );
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
