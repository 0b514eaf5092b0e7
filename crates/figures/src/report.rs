//! The one form that all tables of benchmarks have.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::Row;

/// What was measured, and under which conditions.
#[derive(Debug, Clone)]
pub struct Report {
    bench: String,
    conditions: Value,
    rows: Vec<Row>,
}

impl Report {
    /// `conditions` is an object; cores and profile are added.
    pub fn new(bench: impl Into<String>, mut conditions: Value, rows: Vec<Row>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        conditions["cores"] = cores.into();
        let dev = cfg!(debug_assertions);
        conditions["profile"] = if dev { "dev" } else { "release" }.into();
        Self {
            bench: bench.into(),
            conditions,
            rows,
        }
    }

    /// Adds a condition.
    pub fn condition(&mut self, name: &str, value: impl Into<Value>) {
        self.conditions[name] = value.into();
    }

    /// Takes over another's rows.
    pub fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }

    /// The figures that do not reach what they are to reach.
    pub fn missed(&self) -> impl Iterator<Item = &Row> {
        let missed = |r: &&Row| r.goal.as_ref().is_some_and(|goal| !goal.met);
        self.rows.iter().filter(missed)
    }

    /// Under which conditions.
    pub fn conditions(&self) -> &Value {
        &self.conditions
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|r| {
            let mut row =
                json!({ "case": r.case, "metric": r.metric, "value": r.value, "unit": r.unit });
            if let Some((peer, ratio)) = &r.peer {
                row["peer"] = (*peer).into();
                row["ratio"] = ratio.median.into();
                row["ratio_range"] = json!([ratio.least, ratio.greatest]);
            }
            if let Some(note) = &r.note {
                row["note"] = note.as_str().into();
            }
            if let Some(goal) = &r.goal {
                row["goal"] = json!({ "asked": goal.asked, "met": goal.met });
            }
            row
        });
        let rows: Vec<Value> = rows.collect();
        json!({ "bench": self.bench, "conditions": self.conditions, "rows": rows })
    }

    /// For people: a line for each case, a column for each of the figures; the header comes first.
    pub fn table(&self) -> Vec<Vec<String>> {
        let mut metrics: Vec<(&str, &str)> = Vec::new();
        let mut cases: Vec<(&str, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            let metric = (row.metric, row.unit);
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
            match cases.iter_mut().find(|(case, _)| *case == row.case) {
                Some((_, rows)) => rows.push(row),
                None => cases.push((&row.case, vec![row])),
            }
        }
        let noted = self.rows.iter().any(|r| r.remarks().is_some());
        let mut header = vec!["case".to_owned()];
        header.extend(
            metrics
                .iter()
                .map(|(metric, unit)| format!("{metric}, {unit}")),
        );
        header.push("ratio (least to greatest)".into());
        header.extend(noted.then(|| "note".into()));
        let mut table = vec![header];
        for (case, rows) in cases {
            let mut line = vec![case.to_owned()];
            line.extend(metrics.iter().map(|metric| {
                let row = rows.iter().find(|r| (r.metric, r.unit) == *metric);
                row.map_or_else(String::new, |r| figure(r.value))
            }));
            let ratio = rows.iter().find_map(|r| r.peer.as_ref());
            line.push(ratio.map_or_else(String::new, |(peer, s)| {
                let (median, least, greatest) = (s.median, s.least, s.greatest);
                format!("{median:.2} of {peer} ({least:.2} to {greatest:.2})")
            }));
            let mut notes: Vec<String> = rows.iter().filter_map(|r| r.remarks()).collect();
            notes.dedup();
            line.extend(noted.then(|| notes.join("; ")));
            table.push(line);
        }
        table
    }

    /// That table as Markdown, and the conditions.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (i, line) in self.table().iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if i == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(line.len()));
            }
        }
        let _ = writeln!(text, "\n{}", self.conditions);
        text
    }
}

/// Three digits that count, or all before the point.
fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".into(),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v if v.abs() >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spread;

    fn report() -> Report {
        let ratios = Spread::of(&[0.5, 1.0, 2.0]);
        let rows = vec![
            Row::new("ours", "throughput", 12_345.6, "calls/s").against("tonic", ratios),
            Row::new("ours", "latency p50", 0.1234, "ms"),
            Row::new("theirs", "throughput", f64::NAN, "calls/s"),
        ];
        Report::new("rpc", json!({ "network": "loopback" }), rows)
    }

    #[test]
    fn a_case_is_one_line_with_a_column_for_each_figure() {
        let table = report().table();
        assert_eq!(table.len(), 3);
        assert_eq!(table[0][1..3], ["throughput, calls/s", "latency p50, ms"]);
        assert_eq!(
            table[1][1..],
            ["12346", "0.123", "1.00 of tonic (0.50 to 2.00)"]
        );
        assert_eq!(table[2][1..], ["-", "", ""]);
    }

    #[test]
    fn what_a_figure_is_to_reach_is_told_beside_every_note_of_its_case() {
        let mut noted = Row::new("ours", "gain", 2.0, "%").asked("3", false);
        noted.note = Some("ten rounds".into());
        let rows = vec![
            Row::new("ours", "regret", 1.0, "%").asked("at most 2", true),
            noted,
        ];
        let report = Report::new("eval", json!({}), rows);
        let note = report.table()[1].last().cloned().unwrap_or_default();
        assert_eq!(
            note,
            "asked for: at most 2, met; ten rounds; asked for: 3, MISSED"
        );
        assert_eq!(report.missed().count(), 1);
        assert_eq!(
            report.json()["rows"][1]["goal"],
            json!({ "asked": "3", "met": false })
        );
    }

    #[test]
    fn programs_get_every_figure_with_its_ratio() {
        let json = report().json();
        assert_eq!(json["rows"][0]["ratio_range"], json!([0.5, 2.0]));
        assert_eq!(json["rows"][2]["value"], Value::Null, "JSON has no NaN");
        assert_eq!(json["conditions"]["network"], "loopback");
    }
}
