//! How soon a change of one node's offer is known to all others, in a mesh where all else is still.
//!
//! Beside the way of the frames nothing takes time here: the daemon writes what it learned to its disk
//! before it passes it on, which is a millisecond or a few for each step.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Fault, Report, Row,
    catalog::{
        everyone,
        mesh::{Mesh, TICK},
    },
    chance::{Chance, For},
    links::Distance,
};

/// A cold start that lasts longer is a fault.
const LIMIT: Duration = Duration::from_secs(1800);
/// For so long a change is looked after: pushes, and two rounds of digests.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is to be reached, of a hundred nodes.
const SHARE: usize = 99;

/// Size of the mesh, and the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Nodes, 4 to 500.
    pub nodes: usize,
    /// Random others that each node connects to, 1 to 64; it is connected to by as many on average. Twice
    /// eight are the sixteen members that a daemon looks for.
    pub links: usize,
    /// There and back between any two, milliseconds, 1 to 1000.
    pub rtt_ms: u64,
    /// Changes, one after another, by authors drawn by chance; 1 to 1000.
    pub changes: usize,
    /// Equal seeds, equal reports.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: 200,
            links: 8,
            rtt_ms: 50,
            changes: 50,
            seed: 1,
        }
    }
}

/// Runs the scenario.
pub fn run(config: &Config) -> Result<Report, Fault> {
    Fault::check("--nodes", config.nodes as u64, 4, 500)?;
    Fault::check("--links", config.links as u64, 1, 64)?;
    Fault::check("--rtt-ms", config.rtt_ms, 1, 1000)?;
    Fault::check("--changes", config.changes as u64, 1, 1000)?;
    let chance = Chance::new(config.seed);
    let one_way = Duration::from_millis(config.rtt_ms) / 2;
    let mut mesh = Mesh::new(chance, Distance::Equal(one_way));
    for _ in 0..config.nodes {
        let n = mesh.add_node()?;
        mesh.host(n)?;
    }
    mesh.connect_all(config.links);
    mesh.run_until("cold start", &[everyone(&mesh)], LIMIT)?;
    mesh.run_for(2 * TICK)?;

    let (mut each, mut shares, mut missed) = (Vec::new(), Vec::new(), 0);
    for change in 0..config.changes as u64 {
        let pause = chance.between(0.0, TICK.as_secs_f64(), For::Pause, &[change]);
        mesh.run_for(Duration::from_secs_f64(pause))?;
        let author = chance.below(config.nodes, For::Change, &[change]);
        mesh.move_on(author)?;
        let known = mesh.spread(author, PATIENCE)?;
        missed += known.iter().filter(|time| time.is_none()).count();
        let mut times: Vec<Duration> = known.into_iter().map(|t| t.unwrap_or(PATIENCE)).collect();
        times.sort_unstable();
        // The author knows it too.
        let enough = (config.nodes * SHARE).div_ceil(100).saturating_sub(2);
        shares.extend(times.get(enough));
        each.extend(times);
    }
    let mut rows = Vec::new();
    for (case, mut times) in [
        ("one node knows a change", each),
        ("99 % of all nodes know a change", shares),
    ] {
        times.sort_unstable();
        for (metric, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let at = (times.len() as f64 * share).ceil() as usize;
            let time = times.get(at.saturating_sub(1)).copied().unwrap_or_default();
            rows.push(Row::new(case, metric, time.as_secs_f64(), "s"));
        }
    }
    let case = "not known after a minute";
    rows.push(Row::new(case, "nodes, all changes", missed as f64, ""));
    let conditions = BTreeMap::from([
        ("clock", "virtual".into()),
        ("seed", config.seed.into()),
        ("nodes", config.nodes.into()),
        ("links dialled", config.links.into()),
        ("round trip, ms", config.rtt_ms.into()),
        ("changes", config.changes.into()),
        ("tick, s", TICK.as_secs().into()),
        ("disks", "not modelled".into()),
    ]);
    Ok(Report {
        bench: "meshsim spread",
        conditions,
        rows,
    })
}
