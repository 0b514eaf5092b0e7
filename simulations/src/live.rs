//! What fast state costs while nothing happens, and how soon everybody knows that a peer has died. Every
//! node runs the daemon's `Live`.
//!
//! How a death is found out is the daemon's as well, but for the dials: each peer of the dead one loses its
//! connection within a second, and as many look again as `node::live::watch` lets; they find nobody. Bytes
//! are those of encoded frames.

mod mesh;

use std::{collections::BTreeMap, time::Duration};

use polymath_catalog::live::{LIVE_BYTES_A_SECOND, LIVE_TICK};

use self::mesh::Mesh;
use crate::{
    Fault, Report, Row,
    chance::{Chance, For},
    links,
};

/// Before it is measured: first statuses, and second ones that know how large the mesh is.
const SETTLE: Duration = Duration::from_secs(120);
/// Between two deaths.
const PAUSE: Duration = Duration::from_secs(30);

/// Size of the mesh, and the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Nodes, 4 to 500.
    pub nodes: usize,
    /// Random others that each node connects to, 1 to 64; it is connected to by as many on average.
    pub links: usize,
    /// Time measured while nothing happens, minutes; 1 to 120.
    pub minutes: u64,
    /// Nodes that die then, one after another; less than half of all.
    pub deaths: usize,
    /// Equal seeds, equal reports.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: 200,
            links: 8,
            minutes: 15,
            deaths: 20,
            seed: 1,
        }
    }
}

/// Runs the scenario.
pub fn run(config: &Config) -> Result<Report, Fault> {
    Fault::check("--nodes", config.nodes as u64, 4, 500)?;
    Fault::check("--links", config.links as u64, 1, 64)?;
    Fault::check("--minutes", config.minutes, 1, 120)?;
    Fault::check("--deaths", config.deaths as u64, 0, config.nodes as u64 / 2)?;
    let chance = Chance::new(config.seed);
    let mut mesh = Mesh::new(chance, config.nodes, config.links)?;
    mesh.run_for(SETTLE);
    let before = mesh.bytes();
    let time = Duration::from_secs(60 * config.minutes);
    mesh.run_for(time);
    let after = mesh.bytes();

    let mut rows = Vec::new();
    let case = "nothing happens, one node";
    let reckoned = LIVE_BYTES_A_SECOND as f64;
    let mut together = Vec::new();
    for (at, metric) in ["sent", "received"].into_iter().enumerate() {
        let pairs = before.iter().zip(&after);
        let rates = pairs.map(|(b, a)| (a[at] - b[at]) as f64 / time.as_secs_f64());
        let rates: Vec<f64> = rates.collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        together.push(mean);
        let most = rates.iter().copied().fold(0.0, f64::max);
        rows.push(Row::new(case, metric, mean, "B/s"));
        rows.push(Row::new(
            "nothing happens, busiest node",
            metric,
            most,
            "B/s",
        ));
    }
    let both = Row::new(case, "in plus out", together.iter().sum(), "B/s");
    rows.push(both.against("what is reckoned", reckoned));

    let order = chance.shuffled(config.nodes, For::Kill, &[]);
    let (mut died, mut said) = (Vec::new(), Vec::new());
    let mut missed = 0;
    for victim in order.into_iter().take(config.deaths) {
        let Some(death) = mesh.kill(victim, PAUSE) else {
            missed += 1;
            continue;
        };
        died.push(death.since_it_died);
        said.push(death.since_two_said_so);
    }
    let rounds = |time: Duration| time.as_secs_f64() / LIVE_TICK.as_secs_f64();
    for (case, mut times) in [
        ("a dead peer is suspended everywhere, since it died", died),
        ("the same since two peers said so", said),
    ] {
        times.sort_unstable();
        for (metric, share) in [("p50", 0.5), ("max", 1.0)] {
            let at = (times.len() as f64 * share).ceil() as usize;
            if let Some(time) = times.get(at.saturating_sub(1)) {
                rows.push(Row::new(case, metric, time.as_secs_f64(), "s"));
                rows.push(Row::new(case, metric, rounds(*time), "rounds"));
            }
        }
    }
    let case = "dead peers that somebody did not suspend";
    rows.push(Row::new(case, "deaths", missed as f64, ""));
    let conditions = BTreeMap::from([
        ("clock", "virtual".into()),
        ("seed", config.seed.into()),
        ("nodes", config.nodes.into()),
        ("links dialled", config.links.into()),
        ("latency one way, ms", links::SPREAD.into()),
        ("round, ms", LIVE_TICK.as_millis().to_string().into()),
        ("measured, minutes", config.minutes.into()),
        ("deaths", config.deaths.into()),
        ("load", "none".into()),
    ]);
    Ok(Report {
        bench: "meshsim live",
        conditions,
        rows,
    })
}
