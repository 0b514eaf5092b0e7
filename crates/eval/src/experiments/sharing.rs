//! Twenty nodes that grade a hundred answers each, apart and with what the others report.
//!
//! A node asks random experts of LLMRouter about training questions of its own, and publishes counts of cells
//! with at least [`LEAST`] grades. Tested on the test split. Six of the twenty then lie at fifty times the
//! volume; figures are means over the fourteen others.

use std::{collections::HashSet, path::Path};

use polymath_figures::Row;
use polymath_router::{
    Random,
    learning::{
        Estimator, EstimatorConfig,
        merge::{Report, Reported, Trust, merge},
    },
};

use super::experts::split;
use crate::{
    DataError,
    baseline::{argmax, totals},
    bootstrap,
    figures::{goal, percent},
    load,
    study::{PRIOR, Study, estimator},
};

const NODES: usize = 20;
const LIARS: usize = 6;
const FEEDBACKS: usize = 100;
const VOLUME: f32 = 50.0;
const REPEATS: u64 = 10;
/// Grades a cell needs to be published: the catalog's rule.
const LEAST: f32 = 5.0;

/// What liars write in place of what they saw.
#[derive(Debug, Clone, Copy)]
enum Lie {
    PraiseWorst,
    DamnBest,
    Invert,
    Noise,
    Collude,
}

impl Lie {
    const ALL: [(Self, &'static str); 5] = [
        (Self::PraiseWorst, "praise the worst"),
        (Self::DamnBest, "damn the best"),
        (Self::Invert, "invert all"),
        (Self::Noise, "noise"),
        (Self::Collude, "praise the worst, damn all others"),
    ];

    fn tell(self, cell: &Reported, worst: bool, best: bool, random: &mut Random) -> Reported {
        let mean = cell.reward / cell.count;
        let told = match self {
            Self::PraiseWorst if worst => 1.0,
            Self::DamnBest if best => 0.0,
            Self::Invert => 1.0 - mean,
            Self::Noise => random.unit() as f32,
            Self::Collude => f32::from(u8::from(worst)),
            Self::PraiseWorst | Self::DamnBest => mean,
        };
        let count = cell.count * VOLUME;
        Reported {
            count,
            reward: told * count,
            ..*cell
        }
    }
}

fn report(cells: Vec<Reported>) -> Report {
    Report {
        cells,
        serves: HashSet::new(),
        trust: 1.0,
    }
}

pub(super) fn run(path: &Path) -> Result<Vec<Row>, DataError> {
    let study = Study::new(load(path, None)?);
    let (train, test) = split(&study.table);
    let sums = totals(&study.table, train.iter());
    let best = study.ids[argmax(&sums)];
    let worst = study.ids[argmax(&sums.iter().map(|s| -s).collect::<Vec<_>>())];
    let mut apart = Vec::new();
    let mut unshared = Vec::new();
    let (mut merged, mut merged_any) = (Vec::new(), Vec::new());
    let (mut naive, mut honest) = (Vec::new(), Vec::new());
    let mut lied: Vec<Vec<f64>> = vec![Vec::new(); Lie::ALL.len()];

    for repeat in 0..REPEATS {
        let mut random = Random::new(500 + repeat);
        let mut nodes: Vec<Estimator> = (0..NODES)
            .map(|n| node(&study, &train, n as u64, &mut random))
            .collect();
        let mean = |nodes: &[Estimator]| {
            nodes.iter().map(|e| study.routed(e, &test)).sum::<f64>() / nodes.len() as f64
        };
        apart.push(mean(&nodes));
        unshared.push(mean(&nodes[LIARS..]));
        let mut share = |nodes: &mut [Estimator],
                         from: usize,
                         least: f32,
                         lie: Option<Lie>,
                         trust: &Trust,
                         naive: bool| {
            let mut reports: Vec<Report> =
                nodes.iter().map(|n| report(n.own_counts(least))).collect();
            if let Some(lie) = lie {
                for liar in &mut reports[..LIARS] {
                    let cells = liar.cells.iter();
                    liar.cells = cells
                        .map(|c| lie.tell(c, c.expert == worst, c.expert == best, &mut random))
                        .collect();
                }
            }
            for (at, node) in nodes.iter_mut().enumerate().skip(from) {
                let others: Vec<Report> = reports
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| *i != at)
                    .map(|(_, r)| r.clone())
                    .collect();
                let own = node.own_counts(1.0);
                let cells = if naive {
                    others
                        .iter()
                        .flat_map(|r| r.cells.iter().copied())
                        .collect()
                } else {
                    merge(&others, &own, trust)
                };
                node.share(&cells);
            }
        };
        let trust = Trust::default();
        share(&mut nodes, 0, LEAST, None, &trust, false);
        merged.push(mean(&nodes));
        honest.push(mean(&nodes[LIARS..]));
        share(&mut nodes, 0, 1.0, None, &trust, false);
        merged_any.push(mean(&nodes));
        for ((lie, _), means) in Lie::ALL.iter().zip(&mut lied) {
            share(&mut nodes, LIARS, LEAST, Some(*lie), &trust, false);
            means.push(mean(&nodes[LIARS..]));
        }
        share(&mut nodes, LIARS, LEAST, Some(Lie::Collude), &trust, true);
        naive.push(mean(&nodes[LIARS..]));
    }

    let less = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let figure = |case: &str, values: &[f64]| {
        percent(
            format!("20 nodes, 100 grades each: {case}"),
            "reward",
            bootstrap::mean(values),
        )
    };
    let gain = |case: &str, values: &[f64]| {
        percent(
            format!("20 nodes, 100 grades each: {case}"),
            "gain",
            bootstrap::mean(values),
        )
    };
    let mut rows = vec![
        figure("isolated", &apart),
        figure("merged, cells of 5 and more", &merged),
        goal(gain("merged less isolated", &less(&merged, &apart)), 3.0),
        figure("merged, all cells", &merged_any),
        gain(
            "merged less isolated, all cells, which the catalog would not publish",
            &less(&merged_any, &apart),
        ),
        figure(
            "6 liars, plain sum: praise the worst, damn all others",
            &naive,
        ),
    ];
    for ((_, name), means) in Lie::ALL.iter().zip(&lied) {
        rows.push(figure(&format!("6 liars: {name}"), means));
        rows.push(goal(
            gain(
                &format!("6 liars less honest: {name}"),
                &less(means, &honest),
            ),
            -1.0,
        ));
    }
    rows.push(figure("the same fourteen, isolated", &unshared));
    Ok(rows)
}

/// One node after its own questions.
fn node(study: &Study, train: &[usize], seed: u64, random: &mut Random) -> Estimator {
    let mut e = estimator(EstimatorConfig::default(), seed);
    for _ in 0..FEEDBACKS {
        let row = train[random.below(train.len())];
        let expert = random.below(study.ids.len());
        e.observe(
            study.ids[expert],
            &study.seen[row],
            PRIOR,
            study.table.rows[row].scores[expert],
        );
    }
    e
}
