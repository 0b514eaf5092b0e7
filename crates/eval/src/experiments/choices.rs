//! MMLU-Pro with nine small experts: one is chosen, several vote, or a large one is asked where they disagree.
//!
//! Five folds over the questions on which no method was compared; those others only train. An answer that
//! an expert did not give counts as wrong and has no vote.

use std::{collections::BTreeMap, path::Path};

use polymath_figures::Row;

use crate::{
    Answered, DataError,
    baseline::{self, Baseline},
    bootstrap,
    figures::{beside, goal, noted, percent},
    load,
    study::{DEVELOPMENT, Study, folds, reserve},
};

const SMALL: [&str; 9] = [
    "Meta-Llama-3_1-8B-Instruct",
    "mathstral-7B",
    "Phi-3-mini-4k-instruct",
    "gemma-7b",
    "Meta-Llama-3_1-8B",
    "Mistral-7B-Instruct-v0.2",
    "Qwen1.5-7B-Chat",
    "Yi-6b-Chat",
    "Meta-Llama-3-8B",
];
const LARGE: &str = "Meta-Llama-3_1-70B-Instruct";
const FOLDS: usize = 5;
/// Most questions that may go to the large one.
const ESCALATED: f64 = 0.55;

/// Letters with the log-odds of those that chose them, against a guess among ten; best first.
fn votes(answered: &Answered, scores: &[f64]) -> Vec<(char, f64)> {
    let mut sums = BTreeMap::<char, f64>::new();
    for (letter, score) in answered.letters.iter().zip(scores) {
        if let Some(letter) = letter {
            let chance = score.clamp(0.02, 0.98);
            *sums.entry(*letter).or_default() += (9.0 * chance / (1.0 - chance)).ln().max(0.0);
        }
    }
    let mut sums: Vec<(char, f64)> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    sums
}

/// The letter of the two experts expected to be best, where they agree.
fn pair(answered: &Answered, scores: &[f64]) -> Option<char> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let letter = |at: usize| order.get(at).and_then(|e| answered.letters[*e]);
    letter(0).filter(|l| letter(1) == Some(*l))
}

/// How sure a vote is: the probability of its letter among all ten.
fn sureness(votes: &[(char, f64)]) -> f64 {
    let best = votes.first().map_or(0.0, |v| v.1);
    let others: f64 = votes.iter().skip(1).map(|v| (v.1 - best).exp()).sum();
    let silent = (10 - votes.len().min(10)) as f64 * (-best).exp();
    1.0 / (1.0 + others + silent)
}

pub(super) fn run(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut names = SMALL.to_vec();
    names.push(LARGE);
    let with_large = load(path, Some(&names))?;
    let large = with_large.expert(LARGE).unwrap_or_default();
    let small: Vec<usize> = (0..with_large.experts.len())
        .filter(|e| *e != large)
        .collect();
    let study = Study::new(with_large.only(&small));
    let (rest, development) = reserve(study.table.rows.len(), DEVELOPMENT);

    let mut baselines: Vec<Baseline> = Vec::new();
    let (mut one, mut plain, mut vote) = (Vec::new(), Vec::new(), Vec::new());
    let (mut agreed, mut cascade, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_pair, mut escalated) = (0.0, 0.0);
    let mut penalties = Vec::new();
    for (mut train, test) in folds(&rest, FOLDS, 11) {
        train.extend(&development);
        let penalty = study.penalty(&train, |e, rows| study.routed(e, rows));
        penalties.push(penalty);
        // From which sureness on a vote is believed: the share of escalations held-out rows allow.
        let mut sure: Vec<f64> = Vec::new();
        for (others, held) in folds(&train, 4, 13) {
            let e = study.fit(penalty, &others);
            sure.extend(held.iter().filter_map(|r| {
                let answered = study.table.rows[*r].answered.as_ref()?;
                Some(sureness(&votes(answered, &study.scores(&e, *r))))
            }));
        }
        sure.sort_unstable_by(f64::total_cmp);
        // A point below the bound, so that chance does not pass it.
        let threshold = sure[((ESCALATED - 0.01) * sure.len() as f64) as usize];

        let e = study.fit(penalty, &train);
        one.extend(study.routes(&e, &test));
        for (at, part) in baseline::all(&study.table, &train, &test)
            .into_iter()
            .enumerate()
        {
            match baselines.get_mut(at) {
                Some(known) => known.rewards.extend(part.rewards),
                None => baselines.push(part),
            }
        }
        for row in &test {
            let Some(answered) = &study.table.rows[*row].answered else {
                continue;
            };
            let scores = study.scores(&e, *row);
            let right = |letter: Option<char>| f64::from(u8::from(letter == Some(answered.truth)));
            let big = with_large.rows[*row].scores[large];
            plain.push(right(
                votes(answered, &[0.5; SMALL.len()]).first().map(|v| v.0),
            ));
            let votes = votes(answered, &scores);
            let letter = votes.first().map(|v| v.0);
            vote.push(right(letter));
            match pair(answered, &scores) {
                Some(letter) => agreed.push(right(Some(letter))),
                None => {
                    by_pair += 1.0;
                    agreed.push(big);
                }
            }
            if sureness(&votes) >= threshold {
                cascade.push(right(letter));
            } else {
                escalated += 1.0;
                cascade.push(big);
            }
            alone.push(big);
        }
    }
    let n = one.len() as f64;
    let ours = [
        ("routed to one".to_owned(), one.clone()),
        ("nine vote, equal weights".into(), plain),
    ];
    let set = "MMLU-Pro, nine small experts";
    let mut rows = beside(set, &baselines, &ours);
    let figure = |case: &str, rewards: &[f64]| {
        percent(format!("{set}: {case}"), "reward", bootstrap::mean(rewards))
    };
    rows.push(goal(
        noted(
            figure("routed to one", &one),
            format!("penalties {penalties:?}"),
        ),
        46.0,
    ));
    rows.push(goal(
        figure("nine vote, weighed by expectation", &vote),
        48.5,
    ));
    rows.push(figure("the large one alone", &alone));
    let share = |case: &str, share: f64| {
        Row::new(
            format!("{set}: {case}"),
            "escalated",
            100.0 * share / n,
            "%",
        )
    };
    rows.push(figure("large one where the best two disagree", &agreed));
    rows.push(share("large one where the best two disagree", by_pair));
    rows.push(goal(
        figure("large one where the vote is unsure", &cascade),
        60.6,
    ));
    let row = share("large one where the vote is unsure", escalated);
    let met = if row.value <= 55.0 { "met" } else { "MISSED" };
    rows.push(noted(row, format!("asked for: at most 55, {met}")));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_are_weighed_and_sure_where_they_agree() {
        let answered = |letters: &str| Answered {
            letters: letters.chars().map(|c| (c != '-').then_some(c)).collect(),
            truth: 'A',
        };
        let scores = [0.9, 0.4, 0.4];
        assert_eq!(
            votes(&answered("ABB"), &scores)[0].0,
            'A',
            "one good expert over two poor ones"
        );
        assert_eq!(votes(&answered("-BB"), &scores)[0].0, 'B');
        assert!(
            sureness(&votes(&answered("AAA"), &scores))
                > sureness(&votes(&answered("ABC"), &scores))
        );
        assert_eq!(pair(&answered("AAB"), &scores), Some('A'));
        assert_eq!(pair(&answered("ABA"), &scores), None);
        assert_eq!(pair(&answered("--A"), &scores), None);
    }
}
