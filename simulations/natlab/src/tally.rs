//! The runs of each cell against what theory allows, and what falls short.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cell::Cell,
    theory::Reach,
    trial::{Run, VERDICT, Way},
};

/// Of all runs of punchable cells, this share must end direct.
const POOLED: f64 = 0.98;
/// And of the runs of each of them alone.
const EACH: f64 = 17.0 / 20.0;

/// Longer than anybody waits: a path that did not come counts, and is late.
const NEVER: Duration = Duration::from_secs(9999);

/// The runs of one cell.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) expected: Reach,
    pub(crate) runs: Vec<Run>,
}

impl Tally {
    /// How many runs ended as theory allows.
    pub(crate) fn fitting(&self) -> usize {
        self.runs.iter().filter(|r| fits(self.expected, r)).count()
    }

    fn connected(&self) -> usize {
        self.runs.iter().filter(|r| r.settled != Way::None).count()
    }

    /// Times from first contact to the direct path.
    pub(crate) fn times(&self) -> Vec<Duration> {
        self.runs.iter().filter_map(|r| r.direct_after).collect()
    }

    /// Times until the doctor's verdict.
    pub(crate) fn verdicts(&self) -> Vec<Duration> {
        self.runs.iter().filter_map(|r| r.verdict_after).collect()
    }

    /// What the runs that fell short had to say, the first of them.
    fn complaint(&self) -> &str {
        let misfit = self.runs.iter().find(|r| !fits(self.expected, r));
        misfit.map_or("", |r| r.note.as_str())
    }
}

/// Whether a run ended as theory allows.
pub(crate) fn fits(expected: Reach, run: &Run) -> bool {
    match expected {
        Reach::Direct | Reach::Punch => run.settled == Way::Direct,
        Reach::Relay => run.settled == Way::Relayed,
        Reach::Nothing => {
            run.settled == Way::None && run.verdict_after.is_some_and(|t| t <= VERDICT)
        }
    }
}

/// All cells that were run.
#[derive(Debug, Default)]
pub(crate) struct Tallies(pub(crate) BTreeMap<Cell, Tally>);

impl Tallies {
    pub(crate) fn add(&mut self, cell: Cell, run: Run) {
        let empty = || Tally {
            expected: cell.expected(),
            runs: Vec::new(),
        };
        self.0.entry(cell).or_insert_with(empty).runs.push(run);
    }

    /// Runs of cells that can be direct: how many were, and of how many.
    pub(crate) fn direct(&self) -> (usize, usize) {
        self.count(|t| t.expected.is_direct(), Tally::fitting)
    }

    /// Runs of cells in which both sides reach an anchor: how many had an answer, and of how many.
    pub(crate) fn connected(&self) -> (usize, usize) {
        self.count(|t| t.expected != Reach::Nothing, Tally::connected)
    }

    /// Of the same runs, how many had an answer to the very first question.
    pub(crate) fn answered_at_once(&self) -> (usize, usize) {
        let answered = |t: &Tally| t.runs.iter().filter(|r| r.first != Way::None).count();
        self.count(|t| t.expected != Reach::Nothing, answered)
    }

    /// Runs of the other cells: how many ended with a verdict in time, and of how many.
    pub(crate) fn explained(&self) -> (usize, usize) {
        self.count(|t| t.expected == Reach::Nothing, Tally::fitting)
    }

    fn count(&self, which: fn(&Tally) -> bool, what: fn(&Tally) -> usize) -> (usize, usize) {
        self.0
            .values()
            .filter(|t| which(t))
            .fold((0, 0), |(n, of), t| (n + what(t), of + t.runs.len()))
    }

    /// All times to a direct path where there can be one, sorted; [`NEVER`] where there was none in time.
    pub(crate) fn direct_times(&self) -> Vec<Duration> {
        self.times(
            |t| t.expected.is_direct(),
            |r| Some(r.direct_after.unwrap_or(NEVER)),
        )
    }

    /// All times to the first answer, sorted.
    pub(crate) fn answer_times(&self) -> Vec<Duration> {
        self.times(|t| t.expected != Reach::Nothing, |r| r.answered_after)
    }

    fn times(
        &self,
        which: fn(&Tally) -> bool,
        time: fn(&Run) -> Option<Duration>,
    ) -> Vec<Duration> {
        let runs = self.0.values().filter(|t| which(t)).flat_map(|t| &t.runs);
        let mut times: Vec<Duration> = runs.filter_map(time).collect();
        times.sort_unstable();
        times
    }

    /// Everything that falls short of theory.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (cell, tally) in &self.0 {
            let of = tally.runs.len();
            let mut short = |what: &str, n: usize| {
                found.push(format!("{cell}: {what} {n} of {of}: {}", tally.complaint()));
            };
            match tally.expected {
                Reach::Nothing if tally.fitting() < of => short("verdict in time", tally.fitting()),
                Reach::Nothing => {}
                _ if tally.connected() < of => short("connected", tally.connected()),
                // A direct path that cannot be: the lab or its theory is wrong.
                Reach::Relay if tally.fitting() < of => short("relayed", tally.fitting()),
                Reach::Relay => {}
                Reach::Direct | Reach::Punch if share(tally.fitting(), of) < EACH => {
                    short("direct", tally.fitting());
                }
                Reach::Direct | Reach::Punch => {}
            }
        }
        let (direct, of) = self.direct();
        if share(direct, of) < POOLED {
            found.push(format!(
                "of all runs that can be direct {direct} of {of} were"
            ));
        }
        found
    }
}

/// 1 where there is nothing to count.
pub(crate) fn share(n: usize, of: usize) -> f64 {
    if of == 0 { 1.0 } else { n as f64 / of as f64 }
}

/// The time that `percent` of the sorted times do not exceed.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nat::Access, theory::Transports};

    fn run(settled: Way) -> Run {
        Run {
            first: settled,
            answered_after: None,
            settled,
            direct_after: None,
            verdict_after: None,
            note: String::new(),
        }
    }

    fn cell(asks: Access, answers: Access) -> Cell {
        Cell {
            transports: Transports::Quic,
            asks,
            answers,
        }
    }

    #[test]
    fn a_punchable_cell_may_miss_a_few_of_many() {
        let mut tallies = Tallies::default();
        for i in 0..100 {
            let way = if i < 2 { Way::Relayed } else { Way::Direct };
            tallies.add(
                cell(Access::PortRestricted, Access::PortRestricted),
                run(way),
            );
        }
        assert!(tallies.shortfalls().is_empty());
        tallies.add(
            cell(Access::PortRestricted, Access::PortRestricted),
            run(Way::Relayed),
        );
        assert_eq!(tallies.shortfalls().len(), 1);
    }

    #[test]
    fn no_cell_may_miss_much() {
        let mut tallies = Tallies::default();
        for _ in 0..1000 {
            tallies.add(cell(Access::Public, Access::Public), run(Way::Direct));
        }
        for i in 0..20 {
            let way = if i < 4 { Way::Relayed } else { Way::Direct };
            tallies.add(cell(Access::Cgnat, Access::PortRestricted), run(way));
        }
        assert_eq!(tallies.shortfalls().len(), 1);
    }

    #[test]
    fn a_direct_path_that_cannot_be_is_a_fault_too() {
        let mut tallies = Tallies::default();
        tallies.add(cell(Access::Symmetric, Access::Symmetric), run(Way::Direct));
        assert_eq!(tallies.shortfalls().len(), 1);
    }

    #[test]
    fn no_connection_needs_a_verdict_in_time() {
        let blocked = cell(Access::UdpBlocked, Access::Public);
        let with = |verdict_after| {
            let mut tallies = Tallies::default();
            tallies.add(
                blocked,
                Run {
                    verdict_after,
                    ..run(Way::None)
                },
            );
            tallies.shortfalls().len()
        };
        assert_eq!(with(None), 1);
        assert_eq!(with(Some(Duration::from_secs(11))), 1);
        assert_eq!(with(Some(Duration::from_secs(3))), 0);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times: Vec<Duration> = (1..=20).map(Duration::from_secs).collect();
        assert_eq!(percentile(&times, 50), Some(Duration::from_secs(10)));
        assert_eq!(percentile(&times, 95), Some(Duration::from_secs(19)));
        assert_eq!(percentile(&[], 50), None);
    }
}
