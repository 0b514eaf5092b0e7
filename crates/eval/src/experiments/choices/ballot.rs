//! The constants of votes and cascades, chosen on ballots whose right answers are known. How a vote is counted
//! and when it escalates is the router's own code ([`polymath_router::many`]), which daemons use.

use polymath_router::many::{Escalation, Tally, tally};

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

impl Ballot<'_> {
    /// Who answered what, and what was expected of it.
    pub(super) fn votes(&self) -> impl Iterator<Item = (Option<char>, f64)> {
        let letters = self.answered.letters.iter().copied();
        letters.zip(self.scores.iter().copied())
    }

    /// The same of some of them.
    pub(super) fn votes_of(&self, voters: &[usize]) -> impl Iterator<Item = (Option<char>, f64)> {
        let vote = |at: &usize| (self.answered.letters[*at], self.scores[*at]);
        voters.iter().map(vote)
    }

    /// 1 where this is the right letter.
    pub(super) fn grade(&self, letter: Option<char>) -> f64 {
        f64::from(u8::from(letter == Some(self.answered.truth)))
    }
}

pub(super) fn vote(ballot: &Ballot<'_>, sharpness: f64) -> Tally<char> {
    tally(ballot.votes(), sharpness)
}

/// Whether the vote is right, 0 or 1.
pub(super) fn right(ballot: &Ballot<'_>, sharpness: f64) -> f64 {
    ballot.grade(vote(ballot, sharpness).winner)
}

/// The sharpness under which most votes are right.
pub(super) fn sharpest(ballots: &[Ballot<'_>]) -> f64 {
    let total = |s: f64| ballots.iter().map(|b| right(b, s)).sum::<f64>();
    SHARPNESS
        .into_iter()
        .max_by(|a, b| total(*a).total_cmp(&total(*b)))
        .unwrap_or(0.0)
}

/// The rule that is best on `ballots` among those that escalate `share` of them.
pub(super) fn escalation(ballots: &[Ballot<'_>], share: f64) -> Escalation {
    let mut best: Option<(f64, Escalation)> = None;
    for sharpness in SHARPNESS {
        for caution in CAUTION {
            let rule = Escalation {
                sharpness,
                caution,
                least: 0.0,
            };
            let worth = |b: &Ballot<'_>| rule.worth(vote(b, sharpness).share, b.large);
            let mut worths: Vec<f64> = ballots.iter().map(worth).collect();
            worths.sort_unstable_by(f64::total_cmp);
            let least = worths.get((share * worths.len() as f64) as usize).copied();
            let rule = Escalation {
                least: least.unwrap_or(0.0),
                ..rule
            };
            let sum: f64 = ballots.iter().map(|b| reward(b, &rule).0).sum();
            if best.is_none_or(|(known, _)| sum > known) {
                best = Some((sum, rule));
            }
        }
    }
    best.map_or_else(Escalation::default, |b| b.1)
}

/// Whether the answer is right, and whether it is the large expert's.
pub(super) fn reward(ballot: &Ballot<'_>, rule: &Escalation) -> (f64, bool) {
    let vote = vote(ballot, rule.sharpness);
    if rule.escalates(vote.share, ballot.large) {
        (ballot.large_right, true)
    } else {
        (ballot.grade(vote.winner), false)
    }
}

/// The experts, the one expected to be best first.
pub(super) fn ranking(ballot: &Ballot<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ballot.scores.len()).collect();
    order.sort_by(|a, b| ballot.scores[*b].total_cmp(&ballot.scores[*a]));
    order
}

/// The letter of the two experts expected to be best, where they agree, and who they are.
pub(super) fn pair(ballot: &Ballot<'_>) -> (Option<char>, Vec<usize>) {
    let mut two = ranking(ballot);
    two.truncate(2);
    let vote = tally(ballot.votes_of(&two), 0.0);
    let escalates = Escalation::default().escalates(vote.share, ballot.large);
    (vote.winner.filter(|_| !escalates), two)
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
        assert_eq!(vote(&ballot(&split), 0.0).winner, Some('B'));
        assert_eq!(vote(&ballot(&split), 4.0).winner, Some('A'));
        let (agree, differ) = (answered("AAA"), answered("ABC"));
        assert!(vote(&ballot(&agree), 1.0).share > vote(&ballot(&differ), 1.0).share);
        assert_eq!(pair(&ballot(&answered("AAB"))).0, Some('A'));
        assert_eq!(pair(&ballot(&split)).0, None);
        assert_eq!(pair(&ballot(&answered("--A"))).0, None);
    }

    #[test]
    fn a_cascade_escalates_where_the_vote_is_worth_least() {
        let (agree, differ) = (answered("AAA"), answered("BCD"));
        let ballots: Vec<_> = (0..10)
            .map(|i| ballot(if i < 5 { &agree } else { &differ }))
            .collect();
        let rule = escalation(&ballots, 0.5);
        assert_eq!(reward(&ballots[0], &rule), (1.0, false));
        assert_eq!(reward(&ballots[9], &rule), (1.0, true));
    }
}
