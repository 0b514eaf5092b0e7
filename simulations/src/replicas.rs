//! One node asks eight replicas of one expert, one of them five times slower, while replicas end
//! and come back: the daemon's `Router` beside two other ways to choose, in the same world.
//!
//! * `router`: the order of the router's candidates; it learns from each outcome, as in the daemon.
//! * `random`: any order, those connected first.
//! * `oracle`: the least expected time, knowing who is up, everyone's mean and every queue.
//!
//! All three try one replica after another until an answer is complete or the deadline passes, and
//! keep the daemon's patience with one that is silent. A retry starts the answer afresh (the daemon
//! carries it on), and a call given up keeps its place to its end (the daemon cancels it).

mod policy;
mod world;

use std::{collections::BTreeMap, time::Duration};

pub(crate) use self::policy::Policy;
use self::world::{Answer, World};
use crate::{Fault, Report, Row, chance::Chance, links};

/// Replicas of the expert asked for; one more peer hosts another expert.
pub(crate) const REPLICAS: usize = 8;
/// The side the others are held against.
const BASE: &str = "random";

/// Load, failures and patience.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How many queries, 1 to 1,000,000.
    pub queries: usize,
    /// Queries a second at even distances, 1 to 1,000.
    pub rate: u32,
    /// Share of the replicas that end each minute, percent, 0 to 100.
    pub kills: u32,
    /// Until when an answer must be complete, milliseconds, 100 to 600,000.
    pub deadline_ms: u64,
    /// How long a silent replica is waited for while another could be asked, milliseconds, 100 to
    /// 600,000; the daemon's is 20,000.
    pub patience_ms: u64,
    /// Equal seeds, equal reports.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queries: 2000,
            rate: 5,
            kills: 10,
            deadline_ms: 10_000,
            patience_ms: 20_000,
            seed: 1,
        }
    }
}

/// What one policy achieved.
struct Score {
    success: f64,
    attempts: f64,
    /// Milliseconds of the answers that were complete; p50, p95, p99.
    latency: Option<[f64; 3]>,
}

/// Runs the scenario, once with each policy.
pub fn run(config: &Config) -> Result<Report, Fault> {
    Fault::check("--queries", config.queries as u64, 1, 1_000_000)?;
    Fault::check("--rate", config.rate.into(), 1, 1000)?;
    Fault::check("--kills", config.kills.into(), 0, 100)?;
    Fault::check("--deadline-ms", config.deadline_ms, 100, 600_000)?;
    Fault::check("--patience-ms", config.patience_ms, 100, 600_000)?;
    let chance = Chance::new(config.seed);
    let mut kills = 0;
    let mut scores = Vec::new();
    for policy in [Policy::Random, Policy::Router, Policy::Oracle] {
        let mut world = World::new(config, chance, policy)?;
        world.run();
        kills = world.kills;
        scores.push((policy, score(&world.answers())));
    }
    let base: BTreeMap<&str, f64> = scores
        .iter()
        .filter(|(policy, _)| *policy == Policy::Random)
        .flat_map(|(_, score)| figures(score))
        .map(|(metric, value, _)| (metric, value))
        .collect();
    let mut rows = Vec::new();
    for (policy, score) in &scores {
        for (metric, value, unit) in figures(score) {
            let row = Row::new(policy.name(), metric, value, unit);
            rows.push(match base.get(metric) {
                Some(base) if *policy != Policy::Random => row.against(BASE, *base),
                _ => row,
            });
        }
    }
    let conditions = BTreeMap::from([
        ("clock", "virtual".into()),
        ("seed", config.seed.into()),
        ("queries", config.queries.into()),
        ("queries a second", config.rate.into()),
        ("replicas", REPLICAS.into()),
        ("replicas killed a minute, %", config.kills.into()),
        ("replicas killed in all", kills.into()),
        ("deadline, ms", config.deadline_ms.into()),
        ("patience, ms", config.patience_ms.into()),
        ("latency one way, ms", links::SPREAD.into()),
        ("service time", world::SERVICE.into()),
    ]);
    Ok(Report {
        bench: "meshsim replicas",
        conditions,
        rows,
    })
}

fn figures(score: &Score) -> Vec<(&'static str, f64, &'static str)> {
    let mut figures = vec![
        ("success within the deadline", score.success, "%"),
        ("attempts a query", score.attempts, "attempts"),
    ];
    if let Some([p50, p95, p99]) = score.latency {
        figures.push(("latency p50", p50, "ms"));
        figures.push(("latency p95", p95, "ms"));
        figures.push(("latency p99", p99, "ms"));
    }
    figures
}

fn score(answers: &[Answer]) -> Score {
    let mut times: Vec<Duration> = answers.iter().filter_map(|a| a.took).collect();
    times.sort_unstable();
    let count = answers.len() as f64;
    let attempts: u32 = answers.iter().map(|a| a.attempts).sum();
    // Nearest rank.
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil() as usize;
        Some(times.get(rank.checked_sub(1)?)?.as_secs_f64() * 1000.0)
    };
    let latency = match (at(0.5), at(0.95), at(0.99)) {
        (Some(p50), Some(p95), Some(p99)) => Some([p50, p95, p99]),
        _ => None,
    };
    Score {
        success: 100.0 * times.len() as f64 / count,
        attempts: f64::from(attempts) / count,
        latency,
    }
}
