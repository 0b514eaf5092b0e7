//! What all calls of one question may cost together. What a call could take at most is set aside before it is
//! made, and given back when it is known what it took.

use polymath_types::Terms;

/// An answer of fewer tokens than these is not worth its call.
const LEAST_ANSWER: u64 = 16;

/// The bounds of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurseLimits {
    /// Experts that may be asked, a plan's steps each for itself. Failovers and hedges are not counted here.
    pub calls: usize,
    /// Tokens of all prompts and answers.
    pub tokens: Option<u64>,
    /// Millionths of a credit.
    pub cost: Option<u64>,
}

/// Tokens, and what they cost in millionths of a credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Of prompts and answers.
    pub tokens: u64,
    /// By what the peers ask.
    pub cost: u64,
}

impl Spent {
    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.saturating_add(other.cost),
        }
    }
}

/// What one call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Most tokens of its answer.
    pub max_tokens: u64,
    aside: Spent,
}

/// See the module.
#[derive(Debug)]
pub struct Purse {
    limits: PurseLimits,
    calls: usize,
    aside: Spent,
}

impl Purse {
    /// Nothing is spent yet.
    pub const fn new(limits: PurseLimits) -> Self {
        let aside = Spent { tokens: 0, cost: 0 };
        Self {
            limits,
            calls: 0,
            aside,
        }
    }

    /// Experts that may still be asked.
    pub const fn calls_left(&self) -> usize {
        self.limits.calls.saturating_sub(self.calls)
    }

    /// Whether tokens or credits are counted.
    pub const fn is_bounded(&self) -> bool {
        self.limits.tokens.is_some() || self.limits.cost.is_some()
    }

    /// Sets aside what a call takes at most: a prompt of `prompt` tokens and an answer of `answer`, or of fewer
    /// where there is no room for so many. `spent` is what all calls have taken so far; of what is left the call may
    /// have one of `shares` equal parts, so that others, at the same time or later, have theirs. `None`: it cannot
    /// be made.
    pub fn grant(
        &mut self,
        spent: Spent,
        (prompt, answer): (u64, u64),
        terms: Terms,
        shares: usize,
    ) -> Option<Grant> {
        if self.calls_left() == 0 {
            return None;
        }
        let taken = spent.plus(self.aside);
        let shares = u64::try_from(shares.max(1)).unwrap_or(u64::MAX);
        let mut most = answer;
        if let Some(tokens) = self.limits.tokens {
            let room = tokens.saturating_sub(taken.tokens) / shares;
            most = most.min(room.saturating_sub(prompt));
        }
        if let Some(cost) = self.limits.cost
            && terms.price() > 0
        {
            let room = cost.checked_sub(taken.cost)? / shares;
            let room = room.checked_sub(terms.cost(prompt, 0))?;
            if terms.price_out > 0 {
                let affordable = u128::from(room) * 1000 / u128::from(terms.price_out);
                most = most.min(u64::try_from(affordable).unwrap_or(u64::MAX));
            }
        }
        if most < LEAST_ANSWER.min(answer) {
            return None;
        }
        let aside = Spent {
            tokens: prompt.saturating_add(most),
            cost: terms.cost(prompt, most),
        };
        self.calls += 1;
        self.aside = self.aside.plus(aside);
        Some(Grant {
            max_tokens: most,
            aside,
        })
    }

    /// The call is not made after all, and counts as none.
    pub fn undo(&mut self, grant: Grant) {
        self.calls = self.calls.saturating_sub(1);
        self.give_back(grant);
    }

    /// The call has ended: what it took is among what is spent from now on.
    pub fn give_back(&mut self, grant: Grant) {
        self.aside.tokens = self.aside.tokens.saturating_sub(grant.aside.tokens);
        self.aside.cost = self.aside.cost.saturating_sub(grant.aside.cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn priced(price_in: u64, price_out: u64) -> Terms {
        Terms {
            price_in,
            price_out,
            ..Terms::default()
        }
    }

    #[test]
    fn answers_are_shortened_to_what_is_left_and_then_not_asked_for() {
        let mut purse = Purse::new(PurseLimits {
            calls: 3,
            tokens: Some(100),
            cost: None,
        });
        let free = Terms::default();
        let first = purse.grant(Spent::default(), (20, 50), free, 1).unwrap();
        assert_eq!(first.max_tokens, 50);
        // Thirty are left beside what was set aside for the first.
        assert_eq!(purse.grant(Spent::default(), (20, 50), free, 1), None);
        purse.give_back(first);
        let spent = Spent {
            tokens: 40,
            cost: 0,
        };
        assert_eq!(
            purse.grant(spent, (20, 50), free, 1).unwrap().max_tokens,
            40
        );
    }

    #[test]
    fn credits_shorten_answers_and_free_experts_can_always_be_asked() {
        let limits = PurseLimits {
            calls: 4,
            tokens: None,
            cost: Some(1_000),
        };
        let mut purse = Purse::new(limits);
        let dear = priced(1_000, 10_000);
        // A hundred tokens of prompt cost 100, which leaves 900: ninety tokens.
        let grant = purse.grant(Spent::default(), (100, 500), dear, 1).unwrap();
        assert_eq!(grant.max_tokens, 90);
        assert_eq!(purse.grant(Spent::default(), (100, 500), dear, 1), None);
        assert!(
            purse
                .grant(Spent::default(), (100, 500), Terms::default(), 1)
                .is_some()
        );
        let overdrawn = Spent {
            tokens: 0,
            cost: 5_000,
        };
        assert_eq!(purse.grant(overdrawn, (1, 500), dear, 1), None);
    }

    #[test]
    fn a_call_that_is_not_made_counts_as_none() {
        let mut purse = Purse::new(PurseLimits {
            calls: 1,
            tokens: Some(100),
            cost: None,
        });
        let free = Terms::default();
        let first = purse.grant(Spent::default(), (20, 80), free, 1).unwrap();
        assert_eq!(purse.calls_left(), 0);
        purse.undo(first);
        assert_eq!(
            purse.grant(Spent::default(), (20, 80), free, 1),
            Some(first)
        );
    }

    #[test]
    fn what_is_left_is_shared_among_those_who_are_asked_at_once() {
        let mut purse = Purse::new(PurseLimits {
            calls: 3,
            tokens: Some(300),
            cost: None,
        });
        let mut grant = |shares| {
            let grant = purse.grant(Spent::default(), (20, 500), Terms::default(), shares);
            grant.unwrap().max_tokens
        };
        assert_eq!([grant(3), grant(2), grant(1)], [80, 80, 80]);
    }

    proptest! {
        #[test]
        fn calls_that_keep_to_their_grants_never_pass_the_limits(
            calls in prop::collection::vec((1u64..200, 1u64..300, 0u64..5_000, 0u64..5_000, 0.0..1.0), 1..20),
            tokens in 50u64..3_000, cost in 0u64..5_000, shares in 0usize..4,
        ) {
            let limits = PurseLimits { calls: 8, tokens: Some(tokens), cost: Some(cost) };
            let mut purse = Purse::new(limits);
            let (mut spent, mut made) = (Spent::default(), 0);
            for (prompt, answer, price_in, price_out, part) in calls {
                let terms = priced(price_in, price_out);
                let Some(grant) = purse.grant(spent, (prompt, answer), terms, shares) else { continue };
                made += 1;
                prop_assert!(grant.max_tokens <= answer);
                let said = (grant.max_tokens as f64 * part) as u64;
                spent = spent.plus(Spent { tokens: prompt + said, cost: terms.cost(prompt, said) });
                purse.give_back(grant);
                prop_assert!(spent.tokens <= tokens);
                // Each call's cost is rounded up by itself.
                prop_assert!(spent.cost <= cost + made);
            }
            prop_assert!(made <= 8);
        }
    }
}
