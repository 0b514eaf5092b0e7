//! What the lab found: tables in Markdown for people, or the one JSON form of every benchmark.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    cell::Cell,
    nat::Access,
    punch::Met,
    selftest::Measured,
    tally::{Tallies, Tally, fits, percentile},
    theory::{Reach, Transports},
};

/// One scenario's outcome.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) scenario: &'static str,
    /// `Err` says what was missing.
    pub(crate) result: Result<String, String>,
    pub(crate) figures: Vec<Figure>,
}

/// Something that a scenario measured.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// All that one run of the lab found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Name and value.
    pub(crate) conditions: Vec<(&'static str, Value)>,
    pub(crate) accesses: Vec<(Access, Measured)>,
    /// Pairs that tried to meet with plain sockets.
    pub(crate) punched: Vec<(Access, Access, Met)>,
    pub(crate) tallies: Tallies,
    pub(crate) scenarios: Vec<Outcome>,
    pub(crate) seconds: f64,
}

impl Report {
    /// Everything that is not as it should be.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .accesses
            .iter()
            .filter(|(access, measured)| *measured != Measured::expected(*access))
            .map(|(access, measured)| {
                let expected = Measured::expected(*access).text();
                format!(
                    "{access} is not what its name says: {}, not {expected}",
                    measured.text()
                )
            })
            .collect();
        found.extend(self.misjudged().map(|(a, b, met)| {
            let expected = Met::expected(*a, *b).text();
            format!(
                "theory is wrong of {a} and {b}: {}, not {expected}",
                met.text()
            )
        }));
        found.extend(self.tallies.shortfalls());
        found.extend(self.scenarios.iter().filter_map(|s| {
            let missing = s.result.as_ref().err()?;
            Some(format!("{}: {missing}", s.scenario))
        }));
        found
    }

    /// Pairs for which plain sockets contradict theory.
    fn misjudged(&self) -> impl Iterator<Item = &(Access, Access, Met)> {
        self.punched
            .iter()
            .filter(|(a, b, met)| *met != Met::expected(*a, *b))
    }

    pub(crate) fn json(&self) -> Value {
        let conditions: serde_json::Map<String, Value> = self
            .conditions
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let mut rows = Vec::new();
        for (access, measured) in &self.accesses {
            let fits = *measured == Measured::expected(*access);
            rows.push(json!({
                "case": access.name(), "metric": "NAT as named", "value": u8::from(fits), "unit": "bool",
                "measured": measured.text(),
            }));
        }
        for (a, b, met) in &self.punched {
            let holds = *met == Met::expected(*a, *b);
            rows.push(json!({
                "case": format!("{a} and {b}, plain sockets"), "metric": "theory holds",
                "value": u8::from(holds), "unit": "bool", "measured": met.text(),
            }));
        }
        for (cell, tally) in &self.tallies.0 {
            rows.extend(cell_rows(*cell, tally));
        }
        let mut pooled = |metric: &str, (n, of): (usize, usize)| {
            if of > 0 {
                rows.push(json!({ "case": "all cells", "metric": metric, "value": n, "unit": "runs", "of": of }));
            }
        };
        pooled("connected", self.tallies.connected());
        pooled("first question answered", self.tallies.answered_at_once());
        pooled("direct where it can be", self.tallies.direct());
        pooled(
            "verdict in time where nothing can be",
            self.tallies.explained(),
        );
        for (what, times) in [
            ("time to direct path", self.tallies.direct_times()),
            ("time to first answer", self.tallies.answer_times()),
        ] {
            for percent in [50, 95] {
                if let Some(time) = percentile(&times, percent) {
                    rows.push(json!({
                        "case": "all cells", "metric": format!("{what}, p{percent}"),
                        "value": seconds(time), "unit": "s",
                    }));
                }
            }
        }
        for outcome in &self.scenarios {
            rows.push(json!({
                "case": outcome.scenario, "metric": "passed", "value": u8::from(outcome.result.is_ok()), "unit": "bool",
                "detail": match &outcome.result { Ok(text) | Err(text) => text },
            }));
            for f in &outcome.figures {
                rows.push(json!({ "case": outcome.scenario, "metric": f.metric, "value": f.value, "unit": f.unit }));
            }
        }
        rows.push(json!({ "case": "lab", "metric": "duration", "value": (self.seconds * 10.0).round() / 10.0, "unit": "s" }));
        json!({ "bench": "natlab", "conditions": conditions, "rows": rows })
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.accesses.is_empty() {
            text += &access_table(&self.accesses);
        }
        if !self.punched.is_empty() {
            let of = self.punched.len();
            let right = of - self.misjudged().count();
            let _ = writeln!(
                text,
                "Plain sockets punch as theory says: {right} of {of} pairs.\n"
            );
        }
        for transports in Transports::ALL {
            text += &matrix(&self.tallies, transports);
        }
        if !self.tallies.0.is_empty() {
            text += &summary(&self.tallies);
        }
        if !self.scenarios.is_empty() {
            text += "| Scenario | |\n|---|---|\n";
            for outcome in &self.scenarios {
                let told = match &outcome.result {
                    Ok(text) => text.clone(),
                    Err(text) => format!("**failed:** {text}"),
                };
                let _ = writeln!(text, "| {} | {told} |", outcome.scenario);
            }
            text.push('\n');
        }
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|(name, value)| {
                format!(
                    "{name} {}",
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                )
            })
            .collect();
        let _ = writeln!(
            text,
            "natlab: {}; {:.0} s",
            conditions.join(", "),
            self.seconds
        );
        text
    }
}

fn cell_rows(cell: Cell, tally: &Tally) -> Vec<Value> {
    let case = format!("{} asks {}, {}", cell.asks, cell.answers, cell.transports);
    let mut rows = vec![json!({
        "case": case, "metric": "as theory allows", "value": tally.fitting(), "unit": "runs",
        "of": tally.runs.len(), "theory": tally.expected.name(),
        "notes": tally.runs.iter().filter(|r| !fits(tally.expected, r)).map(|r| r.note.as_str()).collect::<Vec<_>>(),
    })];
    let mut time = |metric: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        if let Some(median) = percentile(&times, 50) {
            rows.push(
                json!({ "case": case, "metric": metric, "value": seconds(median), "unit": "s" }),
            );
        }
    };
    time("time to direct path, p50", tally.times());
    time("time to verdict, p50", tally.verdicts());
    rows
}

fn access_table(accesses: &[(Access, Measured)]) -> String {
    let mut text = "| Access | measured | |\n|---|---|---|\n".to_owned();
    for (access, measured) in accesses {
        let fits = *measured == Measured::expected(*access);
        let _ = writeln!(
            text,
            "| {access} | {} | {} |",
            measured.text(),
            if fits { "as named" } else { "**not as named**" }
        );
    }
    text.push('\n');
    text
}

/// Rows ask, columns answer.
fn matrix(tallies: &Tallies, transports: Transports) -> String {
    let shown: Vec<(&Cell, &Tally)> = tallies
        .0
        .iter()
        .filter(|(c, _)| c.transports == transports)
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    let columns: Vec<Access> = Access::ALL
        .into_iter()
        .filter(|x| shown.iter().any(|(c, _)| c.answers == *x))
        .collect();
    let mut text = format!("| {transports} |");
    for answers in &columns {
        let _ = write!(text, " {answers} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
    for asks in Access::ALL {
        if !shown.iter().any(|(c, _)| c.asks == asks) {
            continue;
        }
        let _ = write!(text, "| {asks} |");
        for answers in &columns {
            let cell = shown
                .iter()
                .find(|(c, _)| c.asks == asks && c.answers == *answers);
            let _ = write!(
                text,
                " {} |",
                cell.map(|(_, t)| entry(t)).unwrap_or_default()
            );
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// `direct 20/20 0.8 s`.
fn entry(tally: &Tally) -> String {
    let what = match tally.expected {
        Reach::Direct | Reach::Punch => "direct",
        Reach::Relay => "relayed",
        Reach::Nothing => "verdict",
    };
    let mut times = match tally.expected {
        Reach::Direct | Reach::Punch => tally.times(),
        Reach::Relay => Vec::new(),
        Reach::Nothing => tally.verdicts(),
    };
    times.sort_unstable();
    let time = percentile(&times, 50).map_or(String::new(), |t| format!(" {:.1} s", seconds(t)));
    let count = format!("{}/{}", tally.fitting(), tally.runs.len());
    if tally.fitting() == tally.runs.len() {
        format!("{what} {count}{time}")
    } else {
        format!("**{what} {count}**{time}")
    }
}

fn summary(tallies: &Tallies) -> String {
    let percent = |(n, of): (usize, usize)| {
        format!("{n} of {of} ({:.1} %)", 100.0 * n as f64 / of.max(1) as f64)
    };
    let mut text = String::new();
    for (what, counted) in [
        (
            "connected, of runs in which both sides reach an anchor",
            tallies.connected(),
        ),
        (
            "answered at the very first question, of the same runs",
            tallies.answered_at_once(),
        ),
        (
            "direct, of runs in which theory allows it",
            tallies.direct(),
        ),
        (
            "verdict in time, of runs without connection",
            tallies.explained(),
        ),
    ] {
        if counted.1 > 0 {
            let _ = writeln!(text, "* {what}: {}", percent(counted));
        }
    }
    for (what, times) in [
        ("direct path", tallies.direct_times()),
        ("first answer", tallies.answer_times()),
    ] {
        if let (Some(median), Some(most)) = (percentile(&times, 50), percentile(&times, 95)) {
            let (median, most) = (seconds(median), seconds(most));
            let _ = writeln!(
                text,
                "* from first contact to the {what}: median {median:.2} s, 95th percentile {most:.2} s"
            );
        }
    }
    text.push('\n');
    text
}

pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
