//! What ten thousand streaming calls at once cost the node that answers them: a process of its own,
//! called by a hundred peers, real nodes, in this one. Prints the server's resident memory before, and
//! with all calls under way. Every call gets a message a second, as of a slow model.
//!
//!     cargo run --release --example call_memory -- [--json] [--peers 100] [--calls 100] [--bytes 64]
//!         [--quic] [--seconds 20]

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_net::{Multiaddr, Net, NetConfig, NetLimits, Role};
use polymath_proto::v1::{Payload, echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, Clients, Parrot};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

/// Time for all calls to have begun.
const PATIENCE: Duration = Duration::from_secs(300);

fn word(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|w| w != name);
    words.next().map(|_| words.next().unwrap_or_default())
}

fn number(name: &str, default: usize) -> usize {
    word(name).map_or(default, |n| n.parse().unwrap())
}

#[tokio::main]
async fn main() {
    match word("--serve") {
        Some(listen) => serve(listen.parse().unwrap()).await,
        None => measure().await,
    }
}

/// Says where it listens, and serves until it is ended.
async fn serve(listen: Multiaddr) {
    let genesis = Genesis::from_bytes(std::env::var("GENESIS").unwrap().as_bytes()).unwrap();
    let mut config = NetConfig::new(NodeKey::generate(), genesis, vec![listen]);
    config.limits = NetLimits::anchor();
    // All of them come from one address here.
    config.limits.connections_per_source = 4096;
    config.limits.pending_per_source = 64;
    let net = Net::start(config).await.unwrap();
    println!("{}", net.listen_addrs().borrow()[0]);
    let mut routes = RoutesBuilder::default();
    routes.add_service(EchoServer::new(Parrot));
    let (routes, admission) = (routes.routes(), Admission::default());
    polymath_rpc::serve(&net, routes, admission, CancellationToken::new())
        .await
        .unwrap();
}

/// The serving process; ends with this one.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(mesh: &Genesis, listen: &str) -> (Self, Multiaddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", listen])
            .env("GENESIS", String::from_utf8(mesh.to_bytes()).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (Self(child), line.trim().parse().unwrap())
    }

    /// A field of its status, MB.
    fn status(&self, field: &str) -> f64 {
        let path = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        let kb = line.unwrap_or_default().trim_start_matches(':').trim();
        kb.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

/// A peer and its calls, all with their first message; it goes on reading them.
async fn call(mesh: Genesis, server: Multiaddr, calls: usize, bytes: u32, got: Arc<AtomicUsize>) {
    let mut config = NetConfig::new(NodeKey::generate(), mesh, Vec::new());
    config.role = Role::Client;
    let net = Net::start(config).await.unwrap();
    let peer = loop {
        match net.dial(server.clone(), Duration::from_secs(30)).await {
            Ok(peer) => break peer,
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    };
    let clients = Clients::new(net.clone());
    let channel = clients
        .channel(peer, Duration::from_secs(30))
        .await
        .unwrap();
    let client = EchoClient::new(channel);
    for _ in 0..calls {
        let (mut client, got, net) = (client.clone(), Arc::clone(&got), net.clone());
        let asked = Payload {
            reply_bytes: Some(bytes),
            times: u32::MAX,
            delay_ms: 1000,
            ..Payload::default()
        };
        tokio::spawn(async move {
            let _net = net;
            let mut replies = client.repeat(asked).await.unwrap().into_inner();
            // Until the server is ended; calls lost before are missing in the rate.
            while let Ok(Some(_)) = replies.message().await {
                got.fetch_add(1, Relaxed);
            }
        });
    }
}

async fn measure() {
    let (peers, calls) = (number("--peers", 100), number("--calls", 100));
    let (bytes, seconds) = (number("--bytes", 64), number("--seconds", 20));
    let quic = std::env::args().any(|w| w == "--quic");
    let listen = if quic {
        "/ip4/127.0.0.1/udp/0/quic-v1"
    } else {
        "/ip4/127.0.0.1/tcp/0"
    };
    let mesh = Genesis::new("call-memory", &NodeKey::generate().keypair().public()).unwrap();
    let (server, address) = Server::start(&mesh, listen);
    let empty = server.status("VmRSS");
    let got = Arc::new(AtomicUsize::new(0));
    let mut joining = JoinSet::new();
    for _ in 0..peers {
        joining.spawn(call(
            mesh.clone(),
            address.clone(),
            calls,
            bytes as u32,
            Arc::clone(&got),
        ));
        if joining.len() >= 8 {
            joining.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(joined) = joining.join_next().await {
        joined.unwrap();
    }
    // Each has a message a second from its begin on.
    let began = Instant::now();
    while got.load(Relaxed) < peers * calls {
        assert!(began.elapsed() < PATIENCE, "{} messages", got.load(Relaxed));
        sleep(Duration::from_millis(200)).await;
    }
    let before = got.load(Relaxed);
    sleep(Duration::from_secs(seconds as u64)).await;
    let rate = (got.load(Relaxed) - before) as f64 / seconds as f64;
    let (busy, peak) = (server.status("VmRSS"), server.status("VmHWM"));
    let each = (busy - empty) * 1024.0 / (peers * calls) as f64;
    let transport = if quic { "QUIC" } else { "TCP" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = [
        ("no peer", "rss", empty, "MB"),
        ("all calls under way", "rss", busy, "MB"),
        ("all calls under way", "rss a call", each, "KB"),
        ("all calls under way", "messages", rate, "/s"),
        ("highest", "rss", peak, "MB"),
    ];
    if std::env::args().any(|w| w == "--json") {
        let rows = rows.map(|(case, metric, value, unit)| {
            format!(r#"{{"case":"{case}","metric":"{metric}","value":{value:.2},"unit":"{unit}"}}"#)
        });
        println!(
            r#"{{"bench":"call_memory","conditions":{{"cores":{cores},"profile":"release","transport":"{transport}","peers":{peers},"calls_a_peer":{calls},"bytes":{bytes}}},"rows":[{}]}}"#,
            rows.join(",")
        );
        return;
    }
    println!("{peers} peers with {calls} calls each over {transport} on {cores} cores\n");
    for (case, metric, value, unit) in rows {
        println!("{case:<24} {metric:<12} {value:>9.2} {unit}");
    }
}
