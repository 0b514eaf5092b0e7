//! Strong or weak model: RouteLLM's measures (Ong et al. 2024, "RouteLLM").
//!
//! A router ranks queries by how much the strong model is expected to gain; the curve of accuracy over the
//! share of strong calls is scaled so that 0 is the weak and 1 the strong model. APGR is its mean over
//! shares, CPT(x) the least share that recovers x of the gap.
//!
//! Caveat: RouteLLM's own 1,500 labels of MMLU come from its validation set and its GSM8K labels from other
//! sets; ours are other questions of the evaluated set itself. MMLU is close to like for like, GSM8K is not.

use std::path::Path;

use polymath_figures::Row;
use polymath_router::{Policy, Random};

use crate::{
    DataError, Entry, bootstrap,
    figures::{goal, noted},
    load,
    study::{DEVELOPMENT, Study, folds, reserve},
};

const LABELS: usize = 1500;
const DRAWS: u64 = 20;
const FOLDS: usize = 5;

/// APGR, CPT50 and CPT80.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Recovered {
    /// Average performance gap recovered, 0 to 1.
    pub apgr: f64,
    /// Share of strong calls that recovers half the gap, %.
    pub cpt50: f64,
    /// The same for 80 %.
    pub cpt80: f64,
}

/// Ranks `rows` of (expected gain, weak score, strong score).
pub fn recovered(rows: &[(f64, f64, f64)]) -> Recovered {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| rows[*b].0.total_cmp(&rows[*a].0));
    let n = rows.len() as f64;
    let weak = rows.iter().map(|r| r.1).sum::<f64>() / n;
    let strong = rows.iter().map(|r| r.2).sum::<f64>() / n;
    // Accuracy with the first k queries sent to the strong model, as the share of the gap.
    let mut curve = Vec::with_capacity(rows.len() + 1);
    let mut accuracy = weak;
    curve.push(0.0);
    for at in order {
        accuracy += (rows[at].2 - rows[at].1) / n;
        curve.push((accuracy - weak) / (strong - weak));
    }
    let share = |goal: f64| {
        let reached = curve.iter().position(|g| *g >= goal).unwrap_or(rows.len());
        100.0 * reached as f64 / n
    };
    let apgr = curve.windows(2).map(|w| (w[0] + w[1]) / 2.0).sum::<f64>() / n;
    Recovered {
        apgr,
        cpt50: share(0.5),
        cpt80: share(0.8),
    }
}

/// (Expected gain, weak score, strong score) of each row; the strong model is the better one in the table.
fn ranked(study: &Study, e: &dyn Policy, rows: &[usize]) -> Vec<(f64, f64, f64)> {
    let totals = crate::baseline::totals(&study.table, rows.iter());
    let (weak, strong) = if totals[0] > totals[1] {
        (1, 0)
    } else {
        (0, 1)
    };
    rows.iter()
        .map(|r| {
            let (scores, real) = (study.scores(e, *r), &study.table.rows[*r].scores);
            (scores[strong] - scores[weak], real[weak], real[strong])
        })
        .collect()
}

fn penalty(study: &Study, train: &[usize]) -> f32 {
    study.penalty(train, |e, rows| recovered(&ranked(study, e, rows)).apgr)
}

fn two(path: &Path, policy: Entry) -> Result<Study, DataError> {
    let table = load(path, None)?;
    if table.experts.len() != 2 {
        let why = format!(
            "{} experts instead of a strong and a weak one",
            table.experts.len()
        );
        return Err(DataError::Form {
            path: path.into(),
            line: 0,
            why,
        });
    }
    Ok(Study::with(table, policy))
}

/// RouteLLM's MMLU with 1,500 labels, mean of 20 draws; questions on which methods were compared are neither
/// drawn nor tested on.
pub(super) fn mmlu(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let study = two(path, policy)?;
    let (mut rest, _) = reserve(study.table.rows.len(), DEVELOPMENT);
    let (mut all, mut penalties) = (Vec::new(), Vec::new());
    let mut table = Vec::new();
    for draw in 0..DRAWS {
        Random::new(1000 + draw).shuffle(&mut rest);
        let (train, test) = rest.split_at(LABELS.min(rest.len()));
        let penalty = penalty(&study, train);
        all.push(recovered(&ranked(
            &study,
            &*study.fit(penalty, train),
            test,
        )));
        table.push(recovered(&by_task(&study, train, test)).apgr);
        penalties.push(penalty);
    }
    let case = "RouteLLM MMLU, 1,500 labels, mean of 20 draws";
    let of = |f: fn(&Recovered) -> f64| all.iter().map(f).collect::<Vec<_>>();
    let apgr = bootstrap::mean(&of(|r| r.apgr));
    let mean = |v: Vec<f64>| v.iter().sum::<f64>() / v.len() as f64;
    let row = noted(
        Row::new(format!("{case}: routed"), "APGR", apgr.mean, "of 1"),
        format!(
            "95 % interval over draws {:.4} to {:.4}, penalties {penalties:?}",
            apgr.low, apgr.high
        ),
    );
    Ok(vec![
        Row::new(format!("{case}: random"), "APGR", 0.5, "of 1"),
        Row::new(
            format!("{case}: table of the 57 true subjects"),
            "APGR",
            mean(table),
            "of 1",
        ),
        noted(
            Row::new(format!("{case}: RouteLLM's best"), "APGR", 0.603, "of 1"),
            "as published",
        ),
        goal(row, 0.63),
        Row::new(
            format!("{case}: routed"),
            "CPT50",
            mean(of(|r| r.cpt50)),
            "%",
        ),
        Row::new(
            format!("{case}: routed"),
            "CPT80",
            mean(of(|r| r.cpt80)),
            "%",
        ),
    ])
}

/// Gains by a table of the set's own subjects, shrunk to the mean gain by ten rows.
fn by_task(study: &Study, train: &[usize], test: &[usize]) -> Vec<(f64, f64, f64)> {
    let totals = crate::baseline::totals(&study.table, train.iter());
    let (weak, strong) = if totals[0] > totals[1] {
        (1, 0)
    } else {
        (0, 1)
    };
    let gain = |r: &usize| study.table.rows[*r].scores[strong] - study.table.rows[*r].scores[weak];
    let all = train.iter().map(gain).sum::<f64>() / train.len() as f64;
    let mut sums = std::collections::HashMap::<&str, (f64, f64)>::new();
    for row in train {
        let sum = sums.entry(&study.table.rows[*row].task).or_default();
        *sum = (sum.0 + gain(row), sum.1 + 1.0);
    }
    test.iter()
        .map(|r| {
            let row = &study.table.rows[*r];
            let (sum, n) = sums.get(row.task.as_str()).copied().unwrap_or_default();
            (
                (sum + 10.0 * all) / (n + 10.0),
                row.scores[weak],
                row.scores[strong],
            )
        })
        .collect()
}

/// RouteLLM's GSM8K in five folds.
pub(super) fn gsm8k(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let study = two(path, policy)?;
    let all: Vec<usize> = (0..study.table.rows.len()).collect();
    let (mut ranks, mut length, mut penalties) = (Vec::new(), Vec::new(), Vec::new());
    for (train, test) in folds(&all, FOLDS, 3) {
        let penalty = penalty(&study, &train);
        let rows = ranked(&study, &*study.fit(penalty, &train), &test);
        length.extend(rows.iter().zip(&test).map(|((_, weak, strong), r)| {
            (study.table.rows[*r].query.len() as f64, *weak, *strong)
        }));
        ranks.extend(rows);
        penalties.push(penalty);
    }
    let case = "RouteLLM GSM8K, 5 folds";
    let ours = recovered(&ranks);
    let interval = bootstrap::resampled(ranks.len(), 500, |sample| {
        recovered(&sample.iter().map(|i| ranks[*i]).collect::<Vec<_>>()).apgr
    });
    let row = noted(
        Row::new(format!("{case}: routed"), "APGR", ours.apgr, "of 1"),
        format!(
            "95 % interval {:.3} to {:.3}, penalties {penalties:?}",
            interval.low, interval.high
        ),
    );
    let theirs = Row::new(format!("{case}: RouteLLM's best"), "APGR", 0.622, "of 1");
    let caveat =
        "as published; its labels are not of this set, ours are: in-domain, so not like for like";
    Ok(vec![
        Row::new(format!("{case}: random"), "APGR", 0.5, "of 1"),
        Row::new(
            format!("{case}: by length alone"),
            "APGR",
            recovered(&length).apgr,
            "of 1",
        ),
        noted(theirs, caveat),
        goal(row, 0.63),
        Row::new(format!("{case}: routed"), "CPT50", ours.cpt50, "%"),
        Row::new(format!("{case}: routed"), "CPT80", ours.cpt80, "%"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_ranking_recovers_more_than_a_random_one_and_a_wrong_one_less() {
        let rows = |sign: f64| -> Vec<(f64, f64, f64)> {
            (0..100)
                .map(|i| {
                    let gains = i % 4 == 0;
                    (
                        sign * f64::from(u8::from(gains)),
                        f64::from(u8::from(!gains)),
                        1.0,
                    )
                })
                .collect()
        };
        let (good, bad) = (recovered(&rows(1.0)), recovered(&rows(-1.0)));
        assert!((good.apgr - 0.875).abs() < 1e-9 && (bad.apgr - 0.125).abs() < 1e-9);
        assert!(good.cpt50 < 14.0 && bad.cpt50 > 86.0);
    }
}
