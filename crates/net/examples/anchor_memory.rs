//! What a thousand idle peers cost an anchor: one node in a process of its own, its peers, real nodes
//! too, in others. Prints the resident memory of the anchor before, and with all of them connected.
//!
//!     cargo run --release --example anchor_memory -- [--json] [--peers 1000] [--quic] [--seconds 30]

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use polymath_net::{Membership, Multiaddr, Net, NetConfig, NetLimits, Role};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Peers in one process.
const A_PROCESS: usize = 250;
/// Time for all to be connected.
const PATIENCE: Duration = Duration::from_secs(300);

fn word(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|w| w != name);
    words.next().map(|_| words.next().unwrap_or_default())
}

fn status(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    let kb = line.unwrap_or_default().trim_start_matches(':').trim();
    kb.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

/// Seconds of CPU this process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after.split(' ').skip(11).take(2);
    ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Processes that end with this one.
struct Peers(Vec<Child>);

impl Drop for Peers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::main]
async fn main() {
    match word("--peers-of") {
        Some(anchor) => be_peers(anchor.parse().unwrap()).await,
        None => measure().await,
    }
}

async fn be_peers(anchor: Multiaddr) {
    let count: usize = word("--count").unwrap().parse().unwrap();
    let genesis = Genesis::from_bytes(std::env::var("GENESIS").unwrap().as_bytes()).unwrap();
    let mut joining = JoinSet::new();
    let mut peers = Vec::new();
    for _ in 0..count {
        let (anchor, genesis) = (anchor.clone(), genesis.clone());
        joining.spawn(async move {
            let mut config = NetConfig::new(NodeKey::generate(), genesis, Vec::new());
            config.role = Role::Client;
            let net = Net::start(config).await.unwrap();
            while net
                .dial(anchor.clone(), Duration::from_secs(30))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(200)).await;
            }
            net
        });
        if joining.len() >= 8 {
            peers.extend(joining.join_next().await);
        }
    }
    std::future::pending::<()>().await;
}

async fn measure() {
    let peers: usize = word("--peers").map_or(1000, |n| n.parse().unwrap());
    let seconds: u64 = word("--seconds").map_or(30, |n| n.parse().unwrap());
    let quic = word("--quic").is_some();
    let listen = if quic {
        "/ip4/127.0.0.1/udp/0/quic-v1"
    } else {
        "/ip4/127.0.0.1/tcp/0"
    };
    let mesh = Genesis::new("anchor-memory", &NodeKey::generate().keypair().public()).unwrap();
    let mut config = NetConfig::new(
        NodeKey::generate(),
        mesh.clone(),
        vec![listen.parse().unwrap()],
    );
    config.anchor = true;
    config.limits = NetLimits::anchor();
    // All of them come from one address here.
    config.limits.connections_per_source = peers;
    config.limits.pending_per_source = 64;
    let anchor = Net::start(config).await.unwrap();
    let empty = status("VmRSS");
    let address = anchor.listen_addrs().borrow()[0].to_string();
    let spawn = |count: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--peers-of", &address, "--count", &count.to_string()])
            .env("GENESIS", String::from_utf8(mesh.to_bytes()).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    };
    let sizes = (0..peers)
        .step_by(A_PROCESS)
        .map(|from| A_PROCESS.min(peers - from));
    let _peers = Peers(sizes.map(spawn).collect());
    let members = || {
        let all = anchor.peers();
        all.iter()
            .filter(|p| p.membership == Membership::Member)
            .count()
    };
    let began = Instant::now();
    while members() < peers {
        assert!(began.elapsed() < PATIENCE, "{} of {peers} came", members());
        sleep(Duration::from_millis(200)).await;
    }
    let joined = status("VmRSS");
    let (before, began) = (cpu(), Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let load = (cpu() - before) / began.elapsed().as_secs_f64();
    let (idle, peak) = (status("VmRSS"), status("VmHWM"));
    let connected = members();
    let each = (idle - empty) * 1024.0 / connected as f64;
    let transport = if quic { "QUIC" } else { "TCP" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = [
        ("no peer", "rss", empty, "MB"),
        ("all connected", "rss", joined, "MB"),
        ("all idle since", "rss", idle, "MB"),
        ("all idle since", "rss a peer", each, "KB"),
        ("all idle since", "cpu", load, "cores"),
        ("highest", "rss", peak, "MB"),
    ];
    if word("--json").is_some() {
        let rows = rows.map(|(case, metric, value, unit)| {
            format!(r#"{{"case":"{case}","metric":"{metric}","value":{value:.2},"unit":"{unit}"}}"#)
        });
        println!(
            r#"{{"bench":"anchor_memory","conditions":{{"cores":{cores},"profile":"release","transport":"{transport}","peers":{connected},"idle_s":{seconds}}},"rows":[{}]}}"#,
            rows.join(",")
        );
        return;
    }
    println!("{connected} idle peers over {transport} on {cores} cores, {seconds} s idle\n");
    for (case, metric, value, unit) in rows {
        println!("{case:<24} {metric:<12} {value:>9.2} {unit}");
    }
}
