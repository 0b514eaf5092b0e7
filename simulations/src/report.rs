//! What a simulation found, in the form of every benchmark: a table for people, or one object
//! `{bench, conditions, rows}`.
//!
//! Cores and build profile are no conditions here: the clock is virtual.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use serde_json::Value;

/// One run's findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Which simulation.
    pub bench: &'static str,
    /// Under which settings.
    pub conditions: BTreeMap<&'static str, Value>,
    /// What was found.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Of which case or side.
    pub case: String,
    /// What is measured.
    pub metric: &'static str,
    /// The figure, to a thousandth.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'static str>,
    /// This figure over the peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Row {
    pub(crate) fn new(
        case: impl Into<String>,
        metric: &'static str,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            case: case.into(),
            metric,
            value: rounded(value),
            unit,
            peer: None,
            ratio: None,
        }
    }

    /// Against the same figure of another side; without a ratio where that is 0.
    pub(crate) fn against(mut self, peer: &'static str, value: f64) -> Self {
        self.peer = Some(peer);
        self.ratio = (value != 0.0).then(|| rounded(self.value / rounded(value)));
        self
    }
}

impl Report {
    /// The figure of a case, if there is one.
    pub fn value(&self, case: &str, metric: &str) -> Option<f64> {
        let row = self
            .rows
            .iter()
            .find(|r| r.case == case && r.metric == metric)?;
        Some(row.value)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["CASE", "METRIC", "VALUE", "RATIO"].map(String::from);
        let lines: Vec<[String; 4]> = std::iter::once(head)
            .chain(self.rows.iter().map(|r| {
                let ratio = match (r.peer, r.ratio) {
                    (Some(peer), Some(ratio)) => format!("{ratio} of {peer}"),
                    _ => String::new(),
                };
                [
                    r.case.clone(),
                    r.metric.to_owned(),
                    format!("{} {}", r.value, r.unit),
                    ratio,
                ]
            }))
            .collect();
        let width = |column: usize| {
            let widths = lines.iter().map(|l| l[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let (case, metric, value) = (width(0), width(1), width(2));
        for [a, b, c, d] in &lines {
            let line = format!("{a:case$}  {b:metric$}  {c:value$}  {d}");
            writeln!(f, "{}", line.trim_end())?;
        }
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        write!(f, "{} ({})", self.bench, conditions.join(", "))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
