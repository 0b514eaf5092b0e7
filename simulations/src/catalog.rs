//! How fast, and with how many bytes, catalogs become equal: from nothing, after departures and an
//! arrival, after a partition. Every node runs the daemon's `Catalog`.
//!
//! Bytes are those of encoded frames, counted when sent; streams, encryption and packets come on top.

pub(crate) mod mesh;

use std::{collections::BTreeMap, time::Duration};

use self::mesh::{Goal, Mesh, TICK};
use crate::{
    Fault, Report, Row,
    chance::{Chance, For},
    links::{self, Distance},
};

/// A phase that lasts longer is a fault.
const LIMIT: Duration = Duration::from_secs(1800);
/// Time in which the frames of one phase die down before the next one is measured.
const SETTLE: Duration = Duration::from_secs(60);
/// One node in so many leaves, and one in so many changes its offer on either side of a partition.
const ONE_IN: usize = 10;

/// Size of the mesh, and the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Nodes at the start, 4 to 500; real time grows about with their cube.
    pub nodes: usize,
    /// Random others that each node connects to, 1 to 64; it is connected to by as many on average.
    pub links: usize,
    /// Equal seeds, equal reports.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: 50,
            links: 4,
            seed: 1,
        }
    }
}

/// Runs the scenario.
pub fn run(config: &Config) -> Result<Report, Fault> {
    Fault::check("--nodes", config.nodes as u64, 4, 500)?;
    Fault::check("--links", config.links as u64, 1, 64)?;
    let chance = Chance::new(config.seed);
    let mut mesh = Mesh::new(chance, Distance::Drawn);
    let mut rows = Vec::new();
    cold_start(config, &mut mesh, &mut rows)?;
    idle(&mut mesh, &mut rows)?;
    departures_and_arrival(chance, &mut mesh, &mut rows)?;
    partition(chance, &mut mesh, &mut rows)?;
    let conditions = BTreeMap::from([
        ("clock", "virtual".into()),
        ("seed", config.seed.into()),
        ("nodes", config.nodes.into()),
        ("links dialled", config.links.into()),
        ("latency one way, ms", links::SPREAD.into()),
        ("tick, s", TICK.as_secs().into()),
        ("bandwidth", "not modelled".into()),
    ]);
    Ok(Report {
        bench: "meshsim catalog",
        conditions,
        rows,
    })
}

/// All start at once with one expert each.
fn cold_start(config: &Config, mesh: &mut Mesh, rows: &mut Vec<Row>) -> Result<(), Fault> {
    for _ in 0..config.nodes {
        let n = mesh.add_node()?;
        mesh.host(n)?;
    }
    mesh.connect_all(config.links);
    let all = mesh.alive();
    let took = mesh.run_until("cold start", &[everyone(mesh)], LIMIT)?;
    let case = "cold start, all equal";
    let most = mesh.nodes.iter().map(|n| n.sent).max().unwrap_or_default();
    let total = mesh.total_sent();
    rows.push(seconds(case, took));
    rows.push(kilobytes(case, "sent, all nodes", total as f64));
    rows.push(kilobytes(
        case,
        "sent, mean node",
        total as f64 / all.len() as f64,
    ));
    rows.push(kilobytes(case, "sent, busiest node", most as f64));
    mesh.run_for(SETTLE)
}

/// What it costs to stay equal.
fn idle(mesh: &mut Mesh, rows: &mut Vec<Row>) -> Result<(), Fault> {
    let before = mesh.total_sent();
    let ticks = 4;
    mesh.run_for(TICK * ticks)?;
    let minutes = (TICK * ticks).as_secs_f64() / 60.0;
    let sent = (mesh.total_sent() - before) as f64;
    let each = sent / mesh.alive().len() as f64 / minutes;
    rows.push(kilobytes("idle, a minute", "sent, mean node", each));
    Ok(())
}

/// A tenth leaves without a word; a newcomer knows one peer.
fn departures_and_arrival(
    chance: Chance,
    mesh: &mut Mesh,
    rows: &mut Vec<Row>,
) -> Result<(), Fault> {
    let nodes = mesh.nodes.len();
    let gone = chance.shuffled(nodes, For::Leave, &[]);
    for n in gone.into_iter().take(nodes.div_ceil(ONE_IN)) {
        mesh.leave(n);
    }
    let stayed = mesh.alive();
    mesh.mend(&stayed);
    mesh.run_for(SETTLE)?;

    let before = mesh.total_sent();
    let newcomer = mesh.add_node()?;
    mesh.host(newcomer)?;
    let door = stayed[chance.below(stayed.len(), For::Entry, &[])];
    mesh.connect(newcomer, door);
    let alone = Goal {
        nodes: vec![newcomer],
        authors: (0..mesh.nodes.len()).collect(),
    };
    let took = mesh.run_until("newcomer", &[alone], LIMIT)?;
    let case = "newcomer has everything";
    rows.push(seconds(case, took));
    let node = &mesh.nodes[newcomer];
    rows.push(kilobytes(
        case,
        "sent and received by it",
        (node.sent + node.received) as f64,
    ));
    let then = mesh.run_until("newcomer known", &[everyone(mesh)], LIMIT)?;
    let case = "all know the newcomer";
    rows.push(seconds(case, took + then));
    let sent = (mesh.total_sent() - before) as f64;
    rows.push(kilobytes(case, "sent, all nodes", sent));
    mesh.run_for(SETTLE)
}

/// Two halves lose each other, change apart, and meet again.
fn partition(chance: Chance, mesh: &mut Mesh, rows: &mut Vec<Row>) -> Result<(), Fault> {
    let alive = mesh.alive();
    let order = chance.shuffled(alive.len(), For::Side, &[]);
    let (left, right) = order.split_at(alive.len() / 2);
    let mut sides = [left, right].map(|s| s.iter().map(|i| alive[*i]).collect::<Vec<_>>());
    sides.iter_mut().for_each(|side| side.sort_unstable());
    let [left, _] = &sides;
    let cut: Vec<(usize, usize)> = mesh
        .links()
        .into_iter()
        .filter(|(a, b)| left.contains(a) != left.contains(b))
        .collect();
    for (a, b) in &cut {
        mesh.disconnect(*a, *b);
    }
    let mut goals = Vec::new();
    for (number, side) in sides.into_iter().enumerate() {
        mesh.mend(&side);
        let changed = chance.shuffled(side.len(), For::Change, &[number as u64]);
        for at in changed.into_iter().take(side.len().div_ceil(ONE_IN)) {
            mesh.host(side[at])?;
        }
        goals.push(Goal {
            authors: side.clone(),
            nodes: side,
        });
    }
    let took = mesh.run_until("partition", &goals, LIMIT)?;
    rows.push(seconds("partitioned, each half equal", took));
    mesh.run_for(SETTLE)?;

    let before = mesh.total_sent();
    for (a, b) in cut {
        mesh.connect(a, b);
    }
    let took = mesh.run_until("healing", &[everyone(mesh)], LIMIT)?;
    let case = "healed, all equal";
    rows.push(seconds(case, took));
    let sent = (mesh.total_sent() - before) as f64;
    rows.push(kilobytes(case, "sent, all nodes", sent));
    Ok(())
}

pub(crate) fn everyone(mesh: &Mesh) -> Goal {
    let nodes = mesh.alive();
    // Offers outlive their authors' connections: who has left still counts.
    let authors = (0..mesh.nodes.len()).collect();
    Goal { nodes, authors }
}

fn seconds(case: &str, time: Duration) -> Row {
    Row::new(case, "time", time.as_secs_f64(), "s")
}

fn kilobytes(case: &str, metric: &'static str, bytes: f64) -> Row {
    Row::new(case, metric, bytes / 1000.0, "kB")
}
