//! How several answers become one, and when none is believed.
//!
//! A letter's votes weigh `q^sharpness`, q being what is expected of the expert that chose it: 0 is a plain
//! vote, a great number leaves the decision to the best. A vote is worth its share of all weights, less
//! `caution` times what is expected of the large expert: the least worth escalate.

use std::collections::BTreeMap;

use crate::Answered;

/// What sharpness and caution are chosen among.
const SHARPNESS: [f64; 6] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0];
const CAUTION: [f64; 4] = [0.0, 0.3, 0.6, 1.0];

/// One question: the letters, what is expected of each expert and of the large one, and whether it is right.
#[derive(Debug, Clone)]
pub(super) struct Ballot<'a> {
    pub(super) answered: &'a Answered,
    pub(super) scores: Vec<f64>,
    pub(super) large: f64,
    pub(super) large_right: f64,
}

/// The winning letter and its share of all weights.
pub(super) fn vote(ballot: &Ballot<'_>, sharpness: f64) -> (Option<char>, f64) {
    let mut sums = BTreeMap::<char, f64>::new();
    let mut total = 0.0;
    for (letter, score) in ballot.answered.letters.iter().zip(&ballot.scores) {
        let weight = score.clamp(0.02, 1.0).powf(sharpness);
        total += weight;
        if let Some(letter) = letter {
            *sums.entry(*letter).or_default() += weight;
        }
    }
    let best = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or((None, 0.0), |(letter, weight)| {
        (Some(letter), weight / total)
    })
}

/// Whether the vote is right, 0 or 1.
pub(super) fn right(ballot: &Ballot<'_>, sharpness: f64) -> f64 {
    let letter = vote(ballot, sharpness).0;
    f64::from(u8::from(letter == Some(ballot.answered.truth)))
}

/// The sharpness under which most votes are right.
pub(super) fn sharpest(ballots: &[Ballot<'_>]) -> f64 {
    let total = |s: f64| ballots.iter().map(|b| right(b, s)).sum::<f64>();
    SHARPNESS
        .into_iter()
        .max_by(|a, b| total(*a).total_cmp(&total(*b)))
        .unwrap_or(0.0)
}

/// When the large expert is asked instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cascade {
    pub(super) sharpness: f64,
    pub(super) caution: f64,
    /// Votes worth less escalate.
    pub(super) least: f64,
}

impl Cascade {
    /// The best on `ballots` that escalates `share` of them.
    pub(super) fn choose(ballots: &[Ballot<'_>], share: f64) -> Self {
        let mut best: Option<(f64, Self)> = None;
        for sharpness in SHARPNESS {
            for caution in CAUTION {
                let rule = Self {
                    sharpness,
                    caution,
                    least: 0.0,
                };
                let mut worths: Vec<f64> = ballots.iter().map(|b| rule.worth(b)).collect();
                worths.sort_unstable_by(f64::total_cmp);
                let least = worths.get((share * worths.len() as f64) as usize).copied();
                let rule = Self {
                    least: least.unwrap_or(0.0),
                    ..rule
                };
                let sum: f64 = ballots.iter().map(|b| rule.reward(b).0).sum();
                if best.is_none_or(|(known, _)| sum > known) {
                    best = Some((sum, rule));
                }
            }
        }
        best.map_or(
            Self {
                sharpness: 0.0,
                caution: 0.0,
                least: 0.0,
            },
            |b| b.1,
        )
    }

    fn worth(&self, ballot: &Ballot<'_>) -> f64 {
        vote(ballot, self.sharpness).1 - self.caution * ballot.large
    }

    /// Whether the answer is right, and whether it is the large expert's.
    pub(super) fn reward(&self, ballot: &Ballot<'_>) -> (f64, bool) {
        if self.worth(ballot) < self.least {
            (ballot.large_right, true)
        } else {
            (right(ballot, self.sharpness), false)
        }
    }
}

/// The letter of the two experts expected to be best, where they agree.
pub(super) fn pair(ballot: &Ballot<'_>) -> Option<char> {
    let mut order: Vec<usize> = (0..ballot.scores.len()).collect();
    order.sort_by(|a, b| ballot.scores[*b].total_cmp(&ballot.scores[*a]));
    let letter = |at: usize| order.get(at).and_then(|e| ballot.answered.letters[*e]);
    letter(0).filter(|l| letter(1) == Some(*l))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(letters: &str) -> Answered {
        let letters = letters.chars().map(|c| (c != '-').then_some(c)).collect();
        Answered {
            letters,
            truth: 'A',
        }
    }

    fn ballot(answered: &Answered) -> Ballot<'_> {
        Ballot {
            answered,
            scores: vec![0.9, 0.4, 0.4],
            large: 0.8,
            large_right: 1.0,
        }
    }

    #[test]
    fn sharpness_leads_from_the_many_to_the_best() {
        let split = answered("ABB");
        assert_eq!(vote(&ballot(&split), 0.0).0, Some('B'));
        assert_eq!(vote(&ballot(&split), 4.0).0, Some('A'));
        let (agree, differ) = (answered("AAA"), answered("ABC"));
        assert!(vote(&ballot(&agree), 1.0).1 > vote(&ballot(&differ), 1.0).1);
        assert_eq!(pair(&ballot(&answered("AAB"))), Some('A'));
        assert_eq!(pair(&ballot(&split)), None);
        assert_eq!(pair(&ballot(&answered("--A"))), None);
    }

    #[test]
    fn a_cascade_escalates_where_the_vote_is_worth_least() {
        let (agree, differ) = (answered("AAA"), answered("BCD"));
        let ballots: Vec<_> = (0..10)
            .map(|i| ballot(if i < 5 { &agree } else { &differ }))
            .collect();
        let rule = Cascade::choose(&ballots, 0.5);
        assert_eq!(rule.reward(&ballots[0]), (1.0, false));
        assert_eq!(rule.reward(&ballots[9]), (1.0, true));
    }
}
