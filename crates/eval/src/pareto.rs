//! What quality costs: `polymath route pareto --data DIR`.
//!
//! A query goes to the expert of the greatest `expected reward − λ·price`; every λ makes a point of cost and
//! quality. Beside the routed front stands the *zero router*, which knows nothing of queries and mixes experts at
//! random along the hull of their own points (Hu et al. 2024, "RouterBench"). AIQ is the mean height of a
//! non-decreasing hull between the cheapest and the dearest expert's price.
//!
//! A set has prices where `NAME_experts.json` lies beside `NAME.jsonl.gz`: expert to `input_price` and
//! `output_price`, dollars a million tokens. The sets have no counts of tokens, so the price of a call is that of
//! as many tokens in as out. RouteLLM's two experts have the prices its paper reckons with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use polymath_figures::{Report, Row};
use serde::Deserialize;
use serde_json::json;

use crate::{
    DataError, Entry, bootstrap,
    experiments::{any, experts::split},
    figures::percent,
    load,
    study::{DEVELOPMENT, Study, folds, reserve},
};

/// Weights of the price, which is divided by the dearest one.
const WEIGHTS: [f64; 16] = [
    0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.1, 1.6, 1e9,
];
/// Ong et al. 2024, "RouteLLM", section 5: dollars a million tokens.
const ROUTELLM: [(&str, f64); 2] = [
    ("gpt-4-1106-preview", 24.7),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", 0.24),
];
/// Labels of RouteLLM's MMLU.
const LABELS: usize = 1500;
const FOLDS: usize = 5;
const RESAMPLES: usize = 500;

#[derive(Deserialize)]
struct Priced {
    input_price: f64,
    output_price: f64,
}

/// Fronts of all sets in `folder` that have prices; `progress` is told which begins.
pub fn pareto(
    folder: &Path,
    policy: Entry,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, DataError> {
    let mut rows = Vec::new();
    for path in any::files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('.').next().unwrap_or_default().to_owned();
        let described = path.with_file_name(format!("{stem}_experts.json"));
        let of_routellm = stem.starts_with("routellm_");
        if !of_routellm && !described.exists() {
            continue;
        }
        progress(&stem);
        let table = load(&path, None)?;
        let prices = if of_routellm {
            known(&path, &table.experts)?
        } else {
            described_prices(&described, &table.experts)?
        };
        let study = Study::with(table, policy);
        rows.extend(front(&stem, &study, &prices, &parts(&stem, &study)));
    }
    if rows.is_empty() {
        return Err(DataError::Nothing {
            folder: folder.into(),
        });
    }
    let conditions = json!({
        "encoder": polymath_encoder::ENCODER_ID,
        "policy": policy.name,
        "price": "dollars for a million tokens in and a million out; of RouteLLM for a million tokens",
    });
    Ok(Report::new("route pareto", conditions, rows))
}

fn known(path: &Path, experts: &[String]) -> Result<Vec<f64>, DataError> {
    let price = |name: &String| {
        let known = ROUTELLM.iter().find(|(n, _)| n == name);
        known
            .map(|(_, price)| *price)
            .ok_or_else(|| unpriced(path, name))
    };
    experts.iter().map(price).collect()
}

fn described_prices(path: &PathBuf, experts: &[String]) -> Result<Vec<f64>, DataError> {
    let file = std::io::BufReader::new(crate::data::open(path)?);
    let all: BTreeMap<String, Priced> =
        serde_json::from_reader(file).map_err(|e| DataError::Form {
            path: path.clone(),
            line: e.line(),
            why: e.to_string(),
        })?;
    let price = |name: &String| {
        let known = all.get(name).map(|p| p.input_price + p.output_price);
        let usable = known.filter(|p| p.is_finite() && *p >= 0.0);
        usable.ok_or_else(|| unpriced(path, name))
    };
    experts.iter().map(price).collect()
}

fn unpriced(path: &Path, name: &str) -> DataError {
    DataError::Form {
        path: path.into(),
        line: 0,
        why: format!("{name} has no price"),
    }
}

/// Pairs of training and test rows.
fn parts(stem: &str, study: &Study) -> Vec<(Vec<usize>, Vec<usize>)> {
    let rows = study.table.rows.len();
    if stem == "routellm_mmlu" {
        let (mut rest, _) = reserve(rows, DEVELOPMENT);
        let test = rest.split_off(LABELS.min(rest.len()));
        return vec![(rest, test)];
    }
    let (train, test) = split(&study.table);
    if train.is_empty() || test.is_empty() {
        let all: Vec<usize> = (0..rows).collect();
        return folds(&all, FOLDS, 5);
    }
    vec![(train, test)]
}

/// Price and reward of every tested row, by weight of the price.
struct Routed {
    points: Vec<Vec<(f64, f64)>>,
    /// The same for each expert alone.
    singles: Vec<Vec<(f64, f64)>>,
}

fn front(set: &str, study: &Study, prices: &[f64], parts: &[(Vec<usize>, Vec<usize>)]) -> Vec<Row> {
    let low = prices.iter().copied().fold(f64::INFINITY, f64::min);
    let high = prices.iter().copied().fold(0.0, f64::max);
    let mut routed = Routed {
        points: vec![Vec::new(); WEIGHTS.len()],
        singles: vec![Vec::new(); prices.len()],
    };
    for (train, test) in parts {
        let penalty = study.penalty(train, |p, rows| study.routed(p, rows));
        let policy = study.fit(penalty, train);
        for row in test {
            let (scores, real) = (study.scores(&*policy, *row), &study.table.rows[*row].scores);
            for (weight, points) in WEIGHTS.iter().zip(&mut routed.points) {
                let worth = |e: usize| scores[e] - weight * prices[e] / high.max(f64::MIN_POSITIVE);
                let worths: Vec<f64> = (0..prices.len()).map(worth).collect();
                let chosen = crate::baseline::argmax(&worths);
                points.push((prices[chosen], real[chosen]));
            }
            for (expert, points) in routed.singles.iter_mut().enumerate() {
                points.push((prices[expert], real[expert]));
            }
        }
    }
    let all: Vec<usize> = (0..routed.singles.first().map_or(0, Vec::len)).collect();
    let mut rows = Vec::new();
    for (name, points) in study.table.experts.iter().zip(&routed.singles) {
        rows.extend(point(format!("{set}: {name} alone"), mean(points, &all)));
    }
    for (weight, points) in WEIGHTS.iter().zip(&routed.points) {
        let weight = if *weight < 1e6 {
            format!("{weight}")
        } else {
            "infinite".to_owned()
        };
        let case = format!("{set}: routed, weight of the price {weight}");
        rows.extend(point(case, mean(points, &all)));
    }
    let area = |points: &[Vec<(f64, f64)>], sample: &[usize]| {
        let means: Vec<(f64, f64)> = points.iter().map(|p| mean(p, sample)).collect();
        aiq(&means, low, high)
    };
    let interval = |f: &dyn Fn(&[usize]) -> f64| bootstrap::resampled(all.len(), RESAMPLES, f);
    let zero = interval(&|sample| area(&routed.singles, sample));
    let ours = interval(&|sample| area(&routed.points, sample));
    let gain = interval(&|sample| area(&routed.points, sample) - area(&routed.singles, sample));
    rows.push(percent(format!("{set}: zero router"), "AIQ", zero));
    rows.push(percent(format!("{set}: routed"), "AIQ", ours));
    rows.push(percent(
        format!("{set}: routed less zero router, paired"),
        "AIQ",
        gain,
    ));
    rows
}

fn point(case: String, (price, reward): (f64, f64)) -> [Row; 2] {
    [
        Row::new(case.clone(), "price", price, "dollars"),
        Row::new(case, "reward", 100.0 * reward, "%"),
    ]
}

fn mean(points: &[(f64, f64)], sample: &[usize]) -> (f64, f64) {
    let sum = sample.iter().fold((0.0, 0.0), |sum, i| {
        (sum.0 + points[*i].0, sum.1 + points[*i].1)
    });
    let n = sample.len().max(1) as f64;
    (sum.0 / n, sum.1 / n)
}

/// Mean height between `low` and `high` of the least concave curve that does not fall and lies above all
/// points of (cost, quality).
pub fn aiq(points: &[(f64, f64)], low: f64, high: f64) -> f64 {
    let best = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let mut points = points.to_vec();
    // Whoever may spend more need not.
    points.push((high, best));
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    points.dedup_by_key(|p| p.0);
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for next in points {
        while let [.., a, b] = hull[..] {
            // b lies on or below the line from a to the next one.
            if (b.1 - a.1) * (next.0 - a.0) > (next.1 - a.1) * (b.0 - a.0) {
                break;
            }
            hull.pop();
        }
        hull.push(next);
    }
    let area: f64 = hull
        .windows(2)
        .map(|w| (w[1].0 - w[0].0) * f64::midpoint(w[0].1, w[1].1))
        .sum();
    if high > low {
        area / (high - low)
    } else {
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_the_hull_and_no_point_below_it_counts() {
        let singles = [(1.0, 0.2), (3.0, 0.6)];
        assert!((aiq(&singles, 1.0, 3.0) - 0.4).abs() < 1e-9);
        let worse = [(1.0, 0.2), (2.0, 0.3), (3.0, 0.6)];
        assert!((aiq(&worse, 1.0, 3.0) - 0.4).abs() < 1e-9);
        let better = [(1.0, 0.2), (2.0, 0.6), (3.0, 0.5)];
        // Up to 0.6 halfway, and level from there.
        assert!((aiq(&better, 1.0, 3.0) - 0.5).abs() < 1e-9);
        assert!((aiq(&[(1.0, 0.7)], 1.0, 1.0) - 0.7).abs() < 1e-9);
    }
}
