//! What several answers say together.

/// Least that an expert's vote is expected to be worth: nobody's counts nothing, whatever the sharpness.
const LEAST_EXPECTED: f64 = 0.02;

/// How sharply votes are weighed where expectations were learnt: what training folds of MMLU-Pro chose, each of
/// them. Likenesses of cards are no such expectations: then all votes are equal.
pub fn usual_sharpness(learnt: bool) -> f64 {
    if learnt { 4.0 } else { 0.0 }
}

/// What a vote says.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally<K> {
    /// The answer that has most weight; of equal ones that of the expert of whom most is expected.
    pub winner: Option<K>,
    /// Its share of all weights, those without an answer among them: 0 to 1.
    pub share: f64,
}

/// A vote weighs `q^sharpness`, q being what is expected of the expert: 0 is a plain vote, a great number
/// leaves the decision to the best.
fn weight(expected: f64, sharpness: f64) -> f64 {
    expected.clamp(LEAST_EXPECTED, 1.0).powf(sharpness)
}

/// One answer's part in a vote.
struct Sum<K> {
    answer: K,
    weight: f64,
    best: f64,
}

fn sums<K: PartialEq>(
    votes: impl Iterator<Item = (Option<K>, f64)>,
    sharpness: f64,
) -> (Vec<Sum<K>>, f64) {
    let (mut sums, mut total) = (Vec::<Sum<K>>::new(), 0.0);
    for (answer, expected) in votes {
        let weight = weight(expected, sharpness);
        total += weight;
        let Some(answer) = answer else { continue };
        match sums.iter_mut().find(|s| s.answer == answer) {
            Some(sum) => {
                sum.weight += weight;
                sum.best = sum.best.max(expected);
            }
            None => sums.push(Sum {
                answer,
                weight,
                best: expected,
            }),
        }
    }
    (sums, total)
}

/// Counts votes: each voter's answer, if it gave one, and what is expected of it.
pub fn tally<K: PartialEq>(
    votes: impl IntoIterator<Item = (Option<K>, f64)>,
    sharpness: f64,
) -> Tally<K> {
    let (sums, total) = sums(votes.into_iter(), sharpness);
    // The first of equals stays: voters come in the order of what is expected of them.
    let best = sums.into_iter().reduce(|best, sum| {
        let more = sum.weight.total_cmp(&best.weight);
        if more.then(sum.best.total_cmp(&best.best)).is_gt() {
            sum
        } else {
            best
        }
    });
    match best {
        Some(best) => Tally {
            share: best.weight / total,
            winner: Some(best.answer),
        },
        None => Tally {
            winner: None,
            share: 0.0,
        },
    }
}

/// Whether the winner is the same whatever those say who have not answered yet; of them only what is expected
/// is known.
pub fn settled<K: PartialEq>(
    votes: impl IntoIterator<Item = (Option<K>, f64)>,
    missing: impl IntoIterator<Item = f64>,
    sharpness: f64,
) -> bool {
    let (mut sums, _) = sums(votes.into_iter(), sharpness);
    let open: f64 = missing.into_iter().map(|e| weight(e, sharpness)).sum();
    sums.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight));
    let second = sums.get(1).map_or(0.0, |s| s.weight);
    sums.first().is_some_and(|s| s.weight > second + open)
}

/// When a vote is not believed and the strongest is asked: where its share of weights, less `caution` times
/// what is expected of the strongest, is below `least`. After the voting cascades of Yue et al. 2023 ("Large
/// Language Model Cascades with Mixture of Thoughts Representations").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Escalation {
    /// See [`tally`].
    pub sharpness: f64,
    /// How much a strong expert of whom much is expected lowers what the vote is worth.
    pub caution: f64,
    /// Votes worth less escalate.
    pub least: f64,
}

impl Default for Escalation {
    /// Where nothing was fitted: two must agree, and of more at least three in four.
    fn default() -> Self {
        Self {
            sharpness: 0.0,
            caution: 0.0,
            least: 0.75,
        }
    }
}

impl Escalation {
    /// What a vote of this share is worth beside an expert of whom `strong` is expected.
    pub fn worth(&self, share: f64, strong: f64) -> f64 {
        share - self.caution * strong
    }

    /// Whether the strong one is to be asked.
    pub fn escalates(&self, share: f64, strong: f64) -> bool {
        self.worth(share, strong) < self.least
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sharpness_leads_from_the_many_to_the_best() {
        let votes = [(Some('A'), 0.9), (Some('B'), 0.4), (Some('B'), 0.4)];
        assert_eq!(tally(votes, 0.0).winner, Some('B'));
        assert_eq!(tally(votes, 4.0).winner, Some('A'));
    }

    #[test]
    fn of_equal_votes_the_best_expert_s_counts_and_silence_lowers_the_share() {
        let votes = [(Some('B'), 0.5), (Some('A'), 0.6)];
        assert_eq!(tally(votes, 0.0).winner, Some('A'));
        let silent = tally([(Some('A'), 0.5), (None, 0.5)], 0.0);
        assert_eq!((silent.winner, silent.share), (Some('A'), 0.5));
        let nobody = tally::<char>([(None, 0.5)], 0.0);
        assert_eq!((nobody.winner, nobody.share), (None, 0.0));
        assert_eq!(tally::<char>([], 0.0).share, 0.0);
    }

    #[test]
    fn two_must_agree_and_of_four_three() {
        let rule = Escalation::default();
        for (share, escalates) in [(1.0, false), (0.5, true), (2.0 / 3.0, true), (0.75, false)] {
            assert_eq!(rule.escalates(share, 0.9), escalates, "{share}");
        }
    }

    fn votes() -> impl Strategy<Value = Vec<(Option<u8>, f64)>> {
        prop::collection::vec((prop::option::of(0u8..4), 0.0..1.0), 0..9)
    }

    proptest! {
        #[test]
        fn a_share_is_a_share_and_the_winner_was_voted_for(votes in votes(), sharpness in 0.0..16.0) {
            let tally = tally(votes.clone(), sharpness);
            prop_assert!((0.0..=1.0 + 1e-9).contains(&tally.share));
            prop_assert_eq!(tally.winner.is_some(), votes.iter().any(|v| v.0.is_some()));
            if let Some(winner) = tally.winner {
                prop_assert!(votes.iter().any(|v| v.0 == Some(winner)));
            }
        }

        #[test]
        fn what_is_settled_no_further_vote_changes(
            votes in votes(), more in votes(), sharpness in 0.0..4.0,
        ) {
            let missing = more.iter().map(|v| v.1);
            if settled(votes.clone(), missing, sharpness) {
                let all = votes.iter().chain(&more).copied();
                prop_assert_eq!(tally(votes.clone(), sharpness).winner, tally(all, sharpness).winner);
            }
        }
    }
}
