//! Experts that each know one subject: CLINC150's domains, Banking77's intents.
//!
//! The expert of the true label answers right, all others wrong. Trained on the sets' training splits; for
//! CLINC also on 15 utterances a domain, as many as a card may show.

use std::{collections::HashMap, path::Path};

use polymath_figures::Row;
use polymath_router::Random;

use crate::{
    DataError, Entry, Graded, Table, Utterance,
    baseline::argmax,
    bootstrap,
    data::utterances,
    figures::{goal, noted, percent},
    study::Study,
};

/// Utterances of each domain that stand for a card's examples.
const PILOTS: usize = 15;
const DRAWS: u64 = 5;
/// Utterances of Banking77 on which the penalty is chosen.
const CHOSEN_ON: usize = 2000;

/// One row an utterance; `test` says which are tested. A label that no expert has is answered right by none.
fn study(
    rows: impl Iterator<Item = (Utterance, bool)>,
    experts: Vec<String>,
    policy: Entry,
) -> Study {
    let rows = rows.map(|(utterance, test)| Graded {
        scores: experts
            .iter()
            .map(|e| f64::from(u8::from(*e == utterance.label)))
            .collect(),
        query: utterance.text,
        task: utterance.label,
        test,
        answered: None,
    });
    let rows = rows.collect();
    Study::with(Table { experts, rows }, policy)
}

fn places(study: &Study, wanted: impl Fn(&Graded) -> bool) -> Vec<usize> {
    let rows = study.table.rows.iter().enumerate();
    rows.filter(|(_, r)| wanted(r)).map(|(at, _)| at).collect()
}

pub(super) fn clinc(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let splits = utterances::clinc(path)?;
    let domains = utterances::domains(&path.with_file_name("clinc150_domains.json"))?;
    let of: HashMap<&str, &str> = domains
        .iter()
        .flat_map(|(d, is)| is.iter().map(|i| (i.as_str(), d.as_str())))
        .collect();
    let split = |name: &str, test: bool| {
        let rows = splits.get(name).cloned().unwrap_or_default();
        let labelled = rows.into_iter().map(|u| {
            let label = of
                .get(u.label.as_str())
                .map_or(u.label, |d| (*d).to_owned());
            Utterance { label, ..u }
        });
        labelled.map(move |u| (u, test)).collect::<Vec<_>>()
    };
    let (train, test, outside) = (
        split("train", false),
        split("test", true),
        split("oos_test", true),
    );
    let study = study(
        train.into_iter().chain(test).chain(outside),
        domains.keys().cloned().collect(),
        policy,
    );
    let train = places(&study, |r| !r.test);
    let test = places(&study, |r| r.test && r.scores.contains(&1.0));
    let outside = places(&study, |r| r.test && !r.scores.contains(&1.0));
    let sure = |e: &dyn polymath_router::Policy, rows: &[usize]| -> Vec<f64> {
        let best = |r: &usize| {
            study
                .scores(e, *r)
                .into_iter()
                .fold(f64::NEG_INFINITY, f64::max)
        };
        rows.iter().map(best).collect()
    };

    let penalty = study.penalty(&train, |e, rows| study.routed(e, rows));
    let e = study.fit(penalty, &train);
    let (inside, outside_scores) = (sure(&*e, &test), sure(&*e, &outside));
    let set = "CLINC150, 10 domains";
    let right = percent(
        format!("{set}: all training outcomes"),
        "right",
        bootstrap::mean(&study.routes(&*e, &test)),
    );
    let area = Row::new(
        format!("{set}: all training outcomes, out of scope"),
        "AUROC",
        auroc(&inside, &outside_scores),
        "of 1",
    );

    let (mut few, mut areas) = (vec![0.0; test.len()], 0.0);
    for draw in 0..DRAWS {
        let mut rows = train.clone();
        Random::new(draw + 1).shuffle(&mut rows);
        let mut taken = vec![0; study.ids.len()];
        rows.retain(|r| {
            let domain = argmax(&study.table.rows[*r].scores);
            taken[domain] += 1;
            taken[domain] <= PILOTS
        });
        let penalty = study.penalty(&rows, |e, rows| study.routed(e, rows));
        let e = study.fit(penalty, &rows);
        few.iter_mut()
            .zip(study.routes(&*e, &test))
            .for_each(|(f, r)| *f += r / DRAWS as f64);
        areas += auroc(&sure(&*e, &test), &sure(&*e, &outside)) / DRAWS as f64;
    }
    let pilots = format!("{set}: {PILOTS} utterances a domain, mean of {DRAWS} draws");
    Ok(vec![
        Row::new(
            format!("{set}: random"),
            "right",
            100.0 / study.ids.len() as f64,
            "%",
        ),
        percent(pilots.clone(), "right", bootstrap::mean(&few)),
        Row::new(format!("{pilots}, out of scope"), "AUROC", areas, "of 1"),
        goal(noted(right, format!("penalty {penalty}")), 93.0),
        goal(area, 0.93),
    ])
}

pub(super) fn banking(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let train = utterances::csv(path)?;
    let test = utterances::csv(&path.with_file_name("banking77_test.csv.gz"))?;
    let mut experts: Vec<String> = train.iter().map(|u| u.label.clone()).collect();
    experts.sort_unstable();
    experts.dedup();
    let train = train.into_iter().map(|u| (u, false));
    let rows = train.chain(test.into_iter().map(|u| (u, true)));
    let study = study(rows, experts, policy);
    let (train, test) = (places(&study, |r| !r.test), places(&study, |r| r.test));
    // Chosen on a part: every utterance is an outcome of all 77.
    let mut some = train.clone();
    Random::new(1).shuffle(&mut some);
    some.truncate(CHOSEN_ON);
    let penalty = study.penalty(&some, |e, rows| study.routed(e, rows));
    let rewards = study.routes(&*study.fit(penalty, &train), &test);
    let set = format!("Banking77, {} intents", study.ids.len());
    Ok(vec![
        Row::new(
            format!("{set}: random"),
            "right",
            100.0 / study.ids.len() as f64,
            "%",
        ),
        noted(
            percent(format!("{set}: routed"), "right", bootstrap::mean(&rewards)),
            format!("penalty {penalty}"),
        ),
    ])
}

/// Probability that one of `inside` is greater than one of `outside` (Mann and Whitney).
fn auroc(inside: &[f64], outside: &[f64]) -> f64 {
    let mut sorted = inside.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let sum: f64 = outside
        .iter()
        .map(|o| {
            let below = sorted.partition_point(|i| i < o);
            let equal = sorted.partition_point(|i| i <= o) - below;
            (sorted.len() - below) as f64 - equal as f64 / 2.0
        })
        .sum();
    sum / (inside.len() * outside.len()).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_one_when_apart_and_a_half_when_alike() {
        assert!((auroc(&[2.0, 3.0], &[0.0, 1.0]) - 1.0).abs() < 1e-9);
        assert!((auroc(&[1.0, 1.0], &[1.0]) - 0.5).abs() < 1e-9);
        assert!((auroc(&[1.0, 3.0], &[2.0]) - 0.5).abs() < 1e-9);
    }
}
