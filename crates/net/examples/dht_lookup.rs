//! How long the DHT takes to name a provider: hundreds of real nodes in one process, links of a seeded
//! length for each pair, and nodes that vanish without a word while others join.
//!
//!     cargo run --release --example dht_lookup -- [--quick] [--json] [--nodes 200] [--settle 60] [--seconds 120]
//!         [--churn PERCENT-A-MINUTE] [--rtt-min MS] [--rtt-max MS] [--rate LOOK-UPS-A-SECOND] [--seed N] [--connections KEPT-BY-A-NODE]
//!
//! With fewer idle connections kept than there are nodes, a mesh of 200 shows what a larger one is like, where a node cannot be
//! connected with everybody; and a process may have only so many sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use polymath_net::{Conditions, Multiaddr, Net, NetConfig, NetLimits, PeerId};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

/// Nodes that never leave and by whom newcomers join; they have an anchor's limits.
const ANCHORS: usize = 3;
/// Different experts in the mesh.
const EXPERTS: u64 = 100;
/// Experts of one node.
const PROVIDED: usize = 3;
/// A look-up that has named no living provider by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A provider counts as one that must be found when it has been in the mesh for so long.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// How long a node that was cut off stays frozen before its sockets are closed.
const FROZEN: Duration = Duration::from_secs(15);

struct Options {
    json: bool,
    nodes: usize,
    /// Time for the mesh to settle before anything is measured: who has just joined looks around.
    settle: u64,
    seconds: u64,
    churn: f64,
    rtt: (u64, u64),
    rate: f64,
    connections: u32,
    seed: u64,
}

impl Options {
    fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| words.iter().any(|w| w == name);
        let number = |name: &str, default: f64| {
            let at = words.iter().position(|w| w == name);
            at.map_or(default, |i| words[i + 1].parse().expect("a number"))
        };
        let quick = has("--quick");
        Self {
            json: has("--json"),
            nodes: number("--nodes", if quick { 60.0 } else { 200.0 }) as usize,
            settle: number("--settle", if quick { 15.0 } else { 60.0 }) as u64,
            seconds: number("--seconds", if quick { 20.0 } else { 120.0 }) as u64,
            churn: number("--churn", 10.0),
            rtt: (
                number("--rtt-min", 50.0) as u64,
                number("--rtt-max", 100.0) as u64,
            ),
            rate: number("--rate", 10.0),
            connections: number("--connections", 64.0) as u32,
            seed: number("--seed", 1.0) as u64,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % n.max(1)
    }
}

struct Member {
    net: Net,
    conditions: Conditions,
    experts: Vec<u64>,
    joined: Instant,
}

struct World {
    genesis: Genesis,
    options: Options,
    /// Which node listens on a port.
    ports: Mutex<HashMap<u16, u64>>,
    members: Mutex<BTreeMap<u64, Member>>,
}

impl World {
    /// Half of the pairs' seeded round trips are below the middle of the range.
    fn conditions(self: &Arc<Self>, node: u64) -> Conditions {
        let world = Arc::downgrade(self);
        Conditions::new(move |address| {
            let Some(world) = world.upgrade() else {
                return Duration::ZERO;
            };
            let other = world.ports.lock().unwrap().get(&port(address)).copied();
            let other = other.unwrap_or(node);
            let pair = (node.min(other) << 32) | node.max(other);
            let (least, most) = world.options.rtt;
            let micros = mix(world.options.seed ^ mix(pair)) % ((most - least) * 1000 + 1);
            Duration::from_micros(least * 1000 + micros)
        })
    }

    /// Starts a node that joins by `anchors`; it is in the mesh when this returns.
    async fn start(self: Arc<Self>, node: u64, anchors: Vec<Multiaddr>) {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), listen);
        let conditions = self.conditions(node);
        config.lab = conditions.clone();
        if node < ANCHORS as u64 {
            config.limits = NetLimits::anchor();
            // All of them come from one address here.
            config.limits.connections_per_source = self.options.nodes * 2;
        } else {
            config.limits.idle_connections = self.options.connections;
        }
        let net = Net::start(config).await.unwrap();
        let address = net.listen_addrs().borrow()[0].clone();
        self.ports.lock().unwrap().insert(port(&address), node);
        let mut chance = Chance(mix(self.options.seed ^ mix(node)));
        let experts: Vec<u64> = (0..PROVIDED).map(|_| chance.below(EXPERTS)).collect();
        for expert in &experts {
            net.provide(&expert.to_be_bytes()).await.unwrap();
        }
        for i in 0..anchors.len() as u64 {
            let anchor = &anchors[((node + i) % anchors.len() as u64) as usize];
            if net.dial(anchor.clone(), PATIENCE * 2).await.is_ok() {
                break;
            }
        }
        let member = Member {
            net,
            conditions,
            experts,
            joined: Instant::now(),
        };
        self.members.lock().unwrap().insert(node, member);
    }

    /// Pulls the plug of a node chosen by chance.
    fn vanish(&self, chance: &mut Chance) {
        let mut members = self.members.lock().unwrap();
        let mortal: Vec<u64> = members
            .keys()
            .copied()
            .filter(|n| *n >= ANCHORS as u64)
            .collect();
        let node = mortal[chance.below(mortal.len() as u64) as usize];
        if let Some(gone) = members.remove(&node) {
            gone.conditions.cut();
            tokio::spawn(async move {
                sleep(FROZEN).await;
                drop(gone);
            });
        }
    }

    fn is_alive(&self, peer: PeerId) -> bool {
        let members = self.members.lock().unwrap();
        members.values().any(|m| m.net.local_peer() == peer)
    }

    /// A node that asks, and an expert of somebody else.
    fn question(&self, chance: &mut Chance) -> Option<(Net, u64)> {
        let members = self.members.lock().unwrap();
        let asker = members
            .values()
            .nth(chance.below(members.len() as u64) as usize)?;
        let announced: Vec<u64> = members
            .values()
            .filter(|m| m.joined.elapsed() > ANNOUNCED)
            .flat_map(|m| m.experts.iter().copied())
            .filter(|e| !asker.experts.contains(e))
            .collect();
        let expert = announced.get(chance.below(announced.len() as u64) as usize)?;
        Some((asker.net.clone(), *expert))
    }

    /// For whoever waits: what the living nodes have done so far.
    async fn tell_progress(self: Arc<Self>) {
        let began = Instant::now();
        loop {
            sleep(Duration::from_secs(10)).await;
            let (mut trimmed, mut refused, mut failed, mut living) = (0, 0, 0, 0);
            for member in self.members.lock().unwrap().values() {
                let counters = member.net.counters();
                trimmed += counters.connections_trimmed;
                refused += counters.connections_refused;
                failed += counters.announcements_failed;
                living += 1;
            }
            let (queries, requests, connections) = self.totals();
            eprintln!(
                "{:3.0} s: {living} nodes, {connections} connections, {trimmed} trimmed, {refused} refused, {failed} announcements failed; \
                 {queries} queries, {requests} requests; {:.0} s of CPU",
                began.elapsed().as_secs_f64(),
                cpu(),
            );
        }
    }

    /// Sums over the nodes that live now: queries ended, requests sent, connections.
    fn totals(&self) -> (u64, u64, usize) {
        let members = self.members.lock().unwrap();
        members.values().fold((0, 0, 0), |(q, r, c), m| {
            let counters = m.net.counters();
            let connections = m.net.peers().iter().map(|p| p.connections).sum::<usize>();
            (
                q + counters.dht_queries,
                r + counters.dht_requests,
                c + connections,
            )
        })
    }
}

fn port(address: &Multiaddr) -> u16 {
    let text = address.to_string();
    let mut parts = text.split('/').skip_while(|p| *p != "tcp");
    parts.nth(1).and_then(|p| p.parse().ok()).unwrap_or(0)
}

/// How one look-up went.
struct Outcome {
    first: Option<Duration>,
    alive: Option<Duration>,
}

async fn look_up(world: Arc<World>, asker: Net, expert: u64) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome {
        first: None,
        alive: None,
    };
    let _ = timeout(PATIENCE, async {
        let Ok(mut providers) = asker.look_up(&expert.to_be_bytes()).await else {
            return;
        };
        while let Some(peer) = providers.next().await {
            outcome.first.get_or_insert(began.elapsed());
            if world.is_alive(peer) {
                outcome.alive = Some(began.elapsed());
                return;
            }
        }
    })
    .await;
    outcome
}

/// Seconds of CPU this process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = after
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// Seconds the threads of this process ran, and waited for a core although they could have run. A
/// look-up that waits there says nothing of the DHT.
fn scheduled() -> (f64, f64) {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let stats = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let mut nanos = text.split(' ').filter_map(|n| n.parse::<f64>().ok());
        Some((nanos.next()? / 1e9, nanos.next()? / 1e9))
    });
    stats.fold((0.0, 0.0), |(r, w), (run, wait)| (r + run, w + wait))
}

fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    kb / 1024.0
}

fn percentile(sorted: &[Duration], p: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * p).round() as usize;
    sorted
        .get(at)
        .map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(run(cores));
}

async fn run(cores: usize) {
    let options = Options::read();
    let founder = NodeKey::generate();
    let genesis = Genesis::new("dht-lookup", &founder.keypair().public()).unwrap();
    let world = Arc::new(World {
        genesis,
        options,
        ports: Mutex::default(),
        members: Mutex::default(),
    });
    tokio::spawn(world.clone().tell_progress());
    let options = &world.options;
    for node in 0..ANCHORS as u64 {
        let anchors = anchors(&world);
        world.clone().start(node, anchors).await;
    }
    let anchors = anchors(&world);
    let mut starting = JoinSet::new();
    for node in ANCHORS as u64..options.nodes as u64 {
        starting.spawn(world.clone().start(node, anchors.clone()));
        if starting.len() >= 8 {
            starting.join_next().await;
        }
    }
    while starting.join_next().await.is_some() {}
    eprintln!(
        "{} nodes started; {} s to settle",
        options.nodes, options.settle
    );
    sleep(Duration::from_secs(options.settle)).await;

    let (queries, requests, _) = world.totals();
    let (began, cpu_before, (ran, waited)) = (Instant::now(), cpu(), scheduled());
    let length = Duration::from_secs(options.seconds);
    let mut chance = Chance(options.seed);
    let mut questions = interval(Duration::from_secs_f64(1.0 / options.rate));
    let a_minute = options.nodes as f64 * options.churn / 100.0;
    let mut churn = interval(Duration::from_secs_f64(60.0 / a_minute.max(0.001)));
    churn.reset();
    let mut next = options.nodes as u64;
    let (mut asked, mut joining) = (JoinSet::new(), JoinSet::new());
    while began.elapsed() < length {
        tokio::select! {
            _ = questions.tick() => {
                if let Some((asker, expert)) = world.question(&mut chance) {
                    asked.spawn(look_up(world.clone(), asker, expert));
                }
            }
            _ = churn.tick() => {
                world.vanish(&mut chance);
                joining.spawn(world.clone().start(next, anchors.clone()));
                next += 1;
            }
        }
    }
    let load = (cpu() - cpu_before) / began.elapsed().as_secs_f64();
    let (ran_now, waited_now) = scheduled();
    let starved = (waited_now - waited) / (ran_now - ran + waited_now - waited).max(1e-9) * 100.0;
    let outcomes = asked.join_all().await;
    joining.join_all().await;
    let (queries_now, requests_now, connections) = world.totals();
    let living = world.members.lock().unwrap().len();
    let per_query = requests_now.saturating_sub(requests) as f64
        / queries_now.saturating_sub(queries).max(1) as f64;

    // A look-up that failed took for ever.
    let or_never = |time: Option<Duration>| time.unwrap_or(Duration::MAX);
    let mut first: Vec<_> = outcomes.iter().map(|o| or_never(o.first)).collect();
    let mut alive: Vec<_> = outcomes.iter().map(|o| or_never(o.alive)).collect();
    let named = outcomes.iter().filter(|o| o.alive.is_some()).count();
    first.sort();
    alive.sort();
    let local = first
        .iter()
        .filter(|d| **d < Duration::from_millis(5))
        .count();
    let remote = &alive[alive.partition_point(|d| *d < Duration::from_millis(5))..];
    let share = |part: usize| 100.0 * part as f64 / outcomes.len().max(1) as f64;
    let mut rows = Vec::new();
    for (case, times) in [
        ("first provider named", first.as_slice()),
        ("first living provider named", &alive),
        ("the same, asker held no record itself", remote),
    ] {
        for (metric, p) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            rows.push((case, metric, percentile(times, p), "ms"));
        }
    }
    rows.extend([
        ("look-ups", "count", outcomes.len() as f64, ""),
        ("look-ups", "named a living provider", share(named), "%"),
        (
            "look-ups",
            "answered by the asker's own store",
            share(local),
            "%",
        ),
        (
            "queries, announcements included",
            "requests",
            per_query,
            "a query",
        ),
        (
            "nodes",
            "connections",
            connections as f64 / living as f64,
            "a node",
        ),
        ("process", "cpu", load, "cores"),
        (
            "process",
            "could run, had no core",
            starved,
            "% of the time",
        ),
        ("process", "rss", rss_mb(), "MB"),
    ]);
    print(&world.options, cores, next - options.nodes as u64, &rows);
}

fn anchors(world: &World) -> Vec<Multiaddr> {
    let members = world.members.lock().unwrap();
    let anchors = members.values().take(ANCHORS);
    anchors
        .map(|m| m.net.listen_addrs().borrow()[0].clone())
        .collect()
}

fn print(options: &Options, cores: usize, churned: u64, rows: &[(&str, &str, f64, &str)]) {
    let (least, most) = options.rtt;
    if options.json {
        let rows: Vec<String> = rows
            .iter()
            .map(|(case, metric, value, unit)| {
                format!(
                    r#"{{"case":"{case}","metric":"{metric}","value":{value:.2},"unit":"{unit}"}}"#
                )
            })
            .collect();
        println!(
            r#"{{"bench":"dht_lookup","conditions":{{"cores":{cores},"profile":"release","transport":"TCP","nodes":{},"processes":1,"rtt_ms":[{least},{most}],"idle_connections_a_node":{},"churn_percent_a_minute":{},"left_frozen":{churned},"settled_s":{},"seconds":{},"look_ups_a_second":{},"experts":{EXPERTS},"experts_a_node":{PROVIDED},"seed":{}}},"rows":[{}]}}"#,
            options.nodes,
            options.connections,
            options.churn,
            options.settle,
            options.seconds,
            options.rate,
            options.seed,
            rows.join(",")
        );
        return;
    }
    println!(
        "{} nodes of one process on {cores} cores, TCP, {least}-{most} ms RTT seeded for each pair, {} % churn a minute\n\
         ({churned} nodes frozen without a word, as many joined), {} s, {} look-ups a second, {EXPERTS} experts, {PROVIDED} a node, {} idle connections kept by a node, seed {}\n",
        options.nodes,
        options.churn,
        options.seconds,
        options.rate,
        options.connections,
        options.seed
    );
    for (case, metric, value, unit) in rows {
        println!("{case:<40} {metric:<34} {value:>9.1} {unit}");
    }
}
