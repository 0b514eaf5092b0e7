//! Calls a second through this transport, against plain tonic in the same run.
//!
//! Ours is encrypted and authenticated, with deadlines, admission and tonic's generated client; tonic
//! runs over unencrypted TCP with nodelay and large windows, at the best of 1, 2 and 4 connections.
//! `--quick`: three rounds instead of nine. `--case TEXT`: only cases that contain it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../../tests/calls/echo.rs"]
mod echo;

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use echo::Parrot;
use polymath_net::{Multiaddr, Net, NetConfig, Role};
use polymath_proto::v1::{Payload, echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, Clients};
use polymath_types::{Genesis, NodeKey};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes, StdError},
    service::RoutesBuilder,
    transport::{Endpoint, Server},
};

const LARGEST: usize = 64 << 20;
const SOON: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_millis(1000);

/// The services' side. Each side has one thread, as two processes on two cores would.
static SERVER: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
});

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}

async fn run() {
    let args: Vec<String> = std::env::args().collect();
    let rounds = if args.iter().any(|a| a == "--quick") {
        3
    } else {
        9
    };
    let only = args
        .iter()
        .position(|a| a == "--case")
        .map(|i| args[i + 1].clone())
        .unwrap_or_default();
    let alone = args.iter().any(|a| a == "--alone");
    let mesh = Mesh::start().await;
    let tonic = plain_tonic().await;
    println!("one thread for each side; {rounds} rounds of {WINDOW:?} each");
    println!(
        "{:34} {:>10} {:>10} {:>7}  spread",
        "case", "ours /s", "tonic /s", "ratio"
    );
    for (size, callers) in [
        (128, 1),
        (128, 64),
        (4096, 64),
        (256 << 10, 1),
        (256 << 10, 64),
    ] {
        for transport in ["tcp", "quic"] {
            let case = format!("{size} B, {callers} callers, {transport}");
            if !case.contains(&only) {
                continue;
            }
            let mut ratios = Vec::new();
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let mut best: f64 = 0.0;
                for connections in [1, 2, 4] {
                    if alone || connections > callers {
                        continue;
                    }
                    let clients = (0..callers).map(|i| tonic[i % connections].clone());
                    best = best.max(rate(clients.collect(), size).await);
                }
                let channel = mesh.client(transport);
                let clients = (0..callers).map(|_| channel.clone());
                let us = rate(clients.collect(), size).await;
                ratios.push(us / best);
                ours.push(us);
                theirs.push(best);
            }
            println!(
                "{case:34} {:>10.0} {:>10.0} {:>7.2}  {:.2} to {:.2}",
                median(&mut ours),
                median(&mut theirs),
                median(&mut ratios),
                ratios[0],
                ratios[ratios.len() - 1]
            );
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calls a second of so many callers, each with one call under way.
async fn rate<C>(clients: Vec<EchoClient<C>>, size: usize) -> f64
where
    C: tonic::client::GrpcService<Body> + Clone + Send + 'static,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    C::Future: Send,
    C::Error: std::fmt::Debug,
{
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let data = Bytes::from(vec![1; size]);
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let (stop, done, data) = (stop.clone(), done.clone(), data.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let mut request = Request::new(Payload {
                        data: data.clone(),
                        reply_bytes: (size > 4096).then_some(128),
                        ..Payload::default()
                    });
                    request.set_timeout(SOON);
                    client.unary(request).await?;
                    done.fetch_add(1, Relaxed);
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    tokio::time::sleep(WINDOW / 4).await;
    let (start, before) = (Instant::now(), done.load(Relaxed));
    tokio::time::sleep(WINDOW).await;
    let rate = (done.load(Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    rate
}

async fn plain_tonic() -> Vec<EchoClient<tonic::transport::Channel>> {
    let binding = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = SERVER.spawn(binding).await.unwrap().unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let service = EchoServer::new(Parrot)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    SERVER.spawn(
        Server::builder()
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20)
            .add_service(service)
            .serve_with_incoming(
                tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true)),
            ),
    );
    let mut clients = Vec::new();
    for _ in 0..4 {
        let channel = Endpoint::from_shared(format!("http://{addr}"))
            .unwrap()
            .tcp_nodelay(true)
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(64 << 20)
            .connect()
            .await
            .unwrap();
        clients.push(EchoClient::new(channel).max_decoding_message_size(LARGEST));
    }
    clients
}

struct Mesh {
    clients: Vec<(&'static str, EchoClient<polymath_rpc::Channel>)>,
    _nets: Vec<Net>,
}

impl Mesh {
    async fn start() -> Self {
        let key = NodeKey::generate();
        let genesis = Genesis::new("speed", &key.keypair().public()).unwrap();
        let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let listen = listen.iter().map(|a| a.parse().unwrap()).collect();
        let starting = Net::start(NetConfig::new(key, genesis.clone(), listen));
        let server = SERVER.spawn(starting).await.unwrap().unwrap();
        let mut routes = RoutesBuilder::default();
        routes.add_service(
            EchoServer::new(Parrot)
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST),
        );
        let (net, routes) = (server.clone(), routes.routes());
        SERVER.spawn(async move {
            polymath_rpc::serve(&net, routes, Admission::default(), CancellationToken::new())
                .await
                .unwrap();
        });
        let (mut clients, mut nets) = (Vec::new(), vec![server.clone()]);
        for transport in ["tcp", "quic"] {
            let mut config = NetConfig::new(NodeKey::generate(), genesis.clone(), Vec::new());
            config.role = Role::Client;
            let net = Net::start(config).await.unwrap();
            let addrs: Vec<Multiaddr> = server.listen_addrs().borrow().clone();
            let addr = addrs.iter().find(|a| a.to_string().contains(transport));
            net.dial(addr.unwrap().clone(), SOON).await.unwrap();
            let calls = Clients::new(net.clone());
            let channel = calls.channel(server.local_peer(), SOON).await.unwrap();
            let client = EchoClient::new(channel)
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST);
            clients.push((transport, client));
            nets.push(net);
        }
        Self {
            clients,
            _nets: nets,
        }
    }

    fn client(&self, transport: &str) -> EchoClient<polymath_rpc::Channel> {
        let found = self.clients.iter().find(|(t, _)| *t == transport);
        found.unwrap().1.clone()
    }
}
