//! MMLU-Pro with nine small experts: one is chosen, several vote, or a large one is asked where they disagree.
//!
//! Five folds over the questions on which no method was compared; those others only train. Rules of voting and
//! escalating are chosen on held-out parts of the training rows. An answer that an expert did not give counts
//! as wrong and has no vote.
//!
//! What is asked of several experts costs more, so each way to answer stands beside what single routing gets for
//! the same cost: one expert each, the large one for as many questions as that cost allows, those where it is
//! expected to gain most. Cost is parameters, in billions: what a token takes to compute.

use std::path::Path;

use polymath_figures::Row;
use polymath_router::{
    Policy,
    many::{Escalation, Gate, Standing, Way, tally, usual_sharpness},
};
use polymath_types::How;

mod ballot;

use ballot::{Ballot, escalation, pair, ranking, reward, right, sharpest};

use crate::{
    DataError, Entry,
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
/// Billions of parameters, as their cards state them.
const SIZES: [f64; 9] = [8.03, 7.25, 3.82, 8.54, 8.03, 7.24, 7.72, 6.06, 8.03];
const LARGE_SIZE: f64 = 70.6;
const FOLDS: usize = 5;
/// Folds inside the training rows on which rules are chosen.
const INNER: usize = 4;
/// Training rows, already shuffled, on which the penalty is chosen.
const CHOSEN_ON: usize = 3000;
/// Share of questions that may go to the large one, and what is aimed at, so that chance does not pass it.
const MOST_ESCALATED: f64 = 0.55;
const ESCALATED: f64 = 0.54;

/// The small experts, and the large one apart.
struct Pool {
    small: Study,
    large: Study,
}

impl Pool {
    fn ballot(&self, small: &dyn Policy, large: &dyn Policy, row: usize) -> Option<Ballot<'_>> {
        Some(Ballot {
            answered: self.small.table.rows[row].answered.as_ref()?,
            scores: self.small.scores(small, row),
            large: self.large.scores(large, row).first().copied()?,
            large_right: self.large.table.rows[row].scores[0],
        })
    }
}

/// Rewards of the ways to answer.
#[derive(Default)]
struct Answers {
    one: Vec<f64>,
    plain: Vec<f64>,
    weighed: Vec<f64>,
    pair: Vec<f64>,
    cascade: Vec<f64>,
    large: Vec<f64>,
    gated: Vec<f64>,
    /// What each question costs by these, billions of parameters.
    pair_cost: Vec<f64>,
    cascade_cost: Vec<f64>,
    vote_cost: Vec<f64>,
    gated_cost: Vec<f64>,
    gated_calls: f64,
    /// Of single routing: what the large one is expected to gain, both rewards, and what the small one costs.
    single: Vec<(f64, f64, f64, f64)>,
    disagreed: f64,
    escalated: f64,
}

pub(super) fn run(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let mut names = SMALL.to_vec();
    names.push(LARGE);
    let table = load(path, Some(&names))?;
    let large = table.expert(LARGE).unwrap_or_default();
    let small: Vec<usize> = (0..table.experts.len()).filter(|e| *e != large).collect();
    let pool = Pool {
        small: Study::with(table.only(&small), policy),
        large: Study::with(table.only(&[large]), policy),
    };
    let sizes: Vec<f64> = pool.small.table.experts.iter().map(|n| size(n)).collect();
    let (rest, development) = reserve(table.rows.len(), DEVELOPMENT);
    let mut baselines: Vec<Baseline> = Vec::new();
    let mut answers = Answers::default();
    let mut chosen = Vec::new();
    for (mut train, test) in folds(&rest, FOLDS, 11) {
        train.extend(&development);
        let study = &pool.small;
        let some = &train[..train.len().min(CHOSEN_ON)];
        let penalty = study.penalty(some, |e, rows| study.routed(e, rows));
        let mut held_out = Vec::new();
        for (others, held) in folds(&train, INNER, 13) {
            let (e, l) = (
                study.fit(penalty, &others),
                pool.large.fit(penalty, &others),
            );
            held_out.extend(held.iter().filter_map(|r| pool.ballot(&*e, &*l, *r)));
        }
        let sharpness = sharpest(&held_out);
        let cascade = escalation(&held_out, ESCALATED);
        chosen.push((penalty, sharpness, cascade.sharpness, cascade.caution));

        let (e, l) = (study.fit(penalty, &train), pool.large.fit(penalty, &train));
        answers.one.extend(study.routes(&*e, &test));
        for (at, part) in baseline::all(&study.table, &train, &test)
            .into_iter()
            .enumerate()
        {
            match baselines.get_mut(at) {
                Some(known) => known.rewards.extend(part.rewards),
                None => baselines.push(part),
            }
        }
        for ballot in test.iter().filter_map(|r| pool.ballot(&*e, &*l, *r)) {
            answers.add(&ballot, sharpness, &cascade, &sizes);
        }
    }
    Ok(answers.figures(&baselines, &chosen))
}

fn size(name: &str) -> f64 {
    let at = SMALL.iter().position(|n| *n == name);
    at.and_then(|at| SIZES.get(at))
        .copied()
        .unwrap_or(LARGE_SIZE)
}

impl Answers {
    fn add(&mut self, ballot: &Ballot<'_>, sharpness: f64, cascade: &Escalation, sizes: &[f64]) {
        let cost = |of: &[usize]| of.iter().map(|at| sizes[*at]).sum::<f64>();
        let all: f64 = sizes.iter().sum();
        self.plain.push(right(ballot, 0.0));
        self.weighed.push(right(ballot, sharpness));
        self.vote_cost.push(all);
        self.large.push(ballot.large_right);
        let (agreed, two) = pair(ballot);
        let asked = if agreed.is_some() {
            self.pair.push(ballot.grade(agreed));
            0.0
        } else {
            self.disagreed += 1.0;
            self.pair.push(ballot.large_right);
            LARGE_SIZE
        };
        self.pair_cost.push(cost(&two) + asked);
        let (right, escalates) = reward(ballot, cascade);
        self.cascade.push(right);
        self.escalated += f64::from(u8::from(escalates));
        let asked = if escalates { LARGE_SIZE } else { 0.0 };
        self.cascade_cost.push(all + asked);
        let best = ranking(ballot)[0];
        self.single.push((
            ballot.large - ballot.scores[best],
            ballot.grade(ballot.answered.letters[best]),
            ballot.large_right,
            sizes[best],
        ));
        self.gate(ballot, sizes);
    }

    /// As daemons answer with `--how auto`, among the small ones.
    fn gate(&mut self, ballot: &Ballot<'_>, sizes: &[f64]) {
        let order = ranking(ballot);
        let standing = |at: &usize| Standing {
            expected: ballot.scores[*at],
            fit: 1.0,
            evidence: f64::MAX,
            price: sizes[*at],
            general: false,
        };
        let standings: Vec<Standing> = order.iter().map(standing).collect();
        let (voters, strong) = match Gate::default().choose(How::Auto, &standings, order.len()) {
            Way::One(at) | Way::Generalist(at) => (vec![at], None),
            Way::Vote(voters) => (voters, None),
            Way::Cascade { cheap, strong } => (cheap, Some(strong)),
            Way::Abstain => (Vec::new(), None),
        };
        let mut asked: Vec<usize> = voters.iter().map(|at| order[*at]).collect();
        let rule = Escalation::default();
        let sharpness = match strong {
            Some(_) => rule.sharpness,
            None => usual_sharpness(true),
        };
        let vote = tally(ballot.votes_of(&asked), sharpness);
        let strong = strong.map(|at| order[at]);
        let strong = strong.filter(|s| rule.escalates(vote.share, ballot.scores[*s]));
        let letter = strong.map_or(vote.winner, |s| ballot.answered.letters[s]);
        asked.extend(strong);
        self.gated.push(ballot.grade(letter));
        self.gated_calls += asked.len() as f64;
        self.gated_cost
            .push(asked.iter().map(|at| sizes[*at]).sum());
    }

    /// Rewards, row by row, of one expert each at this mean cost, if so much can be spent by it.
    fn single_at(&self, cost: f64) -> Vec<f64> {
        let mut order: Vec<usize> = (0..self.single.len()).collect();
        order.sort_by(|a, b| self.single[*b].0.total_cmp(&self.single[*a].0));
        let mut rewards: Vec<f64> = self.single.iter().map(|s| s.1).collect();
        let mut left = cost * rewards.len() as f64 - self.single.iter().map(|s| s.3).sum::<f64>();
        for at in order {
            left -= LARGE_SIZE - self.single[at].3;
            if left < 0.0 {
                break;
            }
            rewards[at] = self.single[at].2;
        }
        rewards
    }

    fn figures(&self, baselines: &[Baseline], chosen: &[(f32, f64, f64, f64)]) -> Vec<Row> {
        let set = "MMLU-Pro, nine small experts";
        let mut rows = beside(set, baselines, &[]);
        let figure = |case: &str, rewards: &[f64]| {
            percent(format!("{set}: {case}"), "reward", bootstrap::mean(rewards))
        };
        let share = |case: &str, count: f64| {
            let share = 100.0 * count / self.large.len().max(1) as f64;
            Row::new(format!("{set}: {case}"), "escalated", share, "%")
        };
        let rules = format!("penalty, sharpness; of the cascade sharpness, caution: {chosen:?}");
        rows.push(goal(noted(figure("routed to one", &self.one), rules), 46.0));
        let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len().max(1) as f64;
        // What several are worth beyond one expert each at the same cost.
        let beyond = |case: &str, rewards: &[f64], costs: &[f64]| {
            let (cost, single) = (mean(costs), self.single_at(mean(costs)));
            let gain: Vec<f64> = rewards.iter().zip(&single).map(|(a, b)| a - b).collect();
            let case = format!("{case}, gain over one each at its cost of {cost:.1}");
            figure(&case, &gain)
        };
        rows.push(figure("nine vote, equal weights", &self.plain));
        rows.push(goal(
            figure("nine vote, weighed by expectation", &self.weighed),
            48.5,
        ));
        rows.push(beyond("nine vote, weighed", &self.weighed, &self.vote_cost));
        let calls = self.gated_calls / self.gated.len().max(1) as f64;
        rows.push(noted(
            figure("how many by the gate", &self.gated),
            format!("{calls:.2} calls"),
        ));
        let by_gate = "how many by the gate";
        rows.push(beyond(by_gate, &self.gated, &self.gated_cost));
        rows.push(figure("the large one alone", &self.large));
        rows.push(figure("large one where the best two disagree", &self.pair));
        let by_two = "large one where the best two disagree";
        rows.push(beyond(by_two, &self.pair, &self.pair_cost));
        rows.push(share(
            "large one where the best two disagree",
            self.disagreed,
        ));
        rows.push(goal(
            figure("large one where the vote is worth least", &self.cascade),
            60.6,
        ));
        let by_nine = "large one where the vote is worth least";
        rows.push(beyond(by_nine, &self.cascade, &self.cascade_cost));
        let row = share("large one where the vote is worth least", self.escalated);
        let met = row.value <= 100.0 * MOST_ESCALATED;
        rows.push(row.asked("at most 55", met));
        rows
    }
}
