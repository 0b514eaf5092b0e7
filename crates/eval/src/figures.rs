//! Rows of a report.

use polymath_figures::Row;

use crate::{baseline::Baseline, bootstrap, bootstrap::Interval};

/// A mean with its interval, %.
pub(crate) fn percent(case: impl Into<String>, metric: &'static str, i: Interval) -> Row {
    let note = format!(
        "95 % interval {:.2} to {:.2}",
        100.0 * i.low,
        100.0 * i.high
    );
    Row {
        note: Some(note),
        ..Row::new(case, metric, 100.0 * i.mean, "%")
    }
}

/// Adds to what is noted.
pub(crate) fn noted(row: Row, more: impl AsRef<str>) -> Row {
    let note = match row.note {
        Some(note) => format!("{note}; {}", more.as_ref()),
        None => more.as_ref().to_owned(),
    };
    Row {
        note: Some(note),
        ..row
    }
}

/// Whether a value reaches the figure that issue 6 asks for.
pub(crate) fn goal(row: Row, least: f64) -> Row {
    let met = row.value >= least;
    row.asked(least.to_string(), met)
}

/// Whether a whole interval lies above nothing, as issue 6 asks.
pub(crate) fn above_zero(row: Row, i: Interval) -> Row {
    row.asked("an interval above 0", i.low > 0.0)
}

/// The baselines, ours, and for each the regret to the oracle.
pub(crate) fn beside(set: &str, baselines: &[Baseline], ours: &[(String, Vec<f64>)]) -> Vec<Row> {
    let oracle = baselines.iter().find(|b| b.name == "oracle");
    let named = baselines.iter().map(|b| (b.name, &b.rewards));
    let all = named.chain(ours.iter().map(|(n, r)| (n.as_str(), r)));
    let mut rows = Vec::new();
    for (name, rewards) in all {
        let case = format!("{set}: {name}");
        rows.push(percent(case.clone(), "reward", bootstrap::mean(rewards)));
        if let Some(oracle) = oracle {
            let mean = |r: &[f64]| r.iter().sum::<f64>() / r.len().max(1) as f64;
            rows.push(Row::new(
                case,
                "regret",
                100.0 * (mean(&oracle.rewards) - mean(rewards)),
                "%",
            ));
        }
    }
    rows
}
