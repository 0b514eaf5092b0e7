//! Calls between two nodes of one process, against plain tonic in the same run.
//!
//! Ours is what the daemon uses: encrypted, authenticated, with deadlines, admission and tonic's
//! generated client. tonic runs over unencrypted TCP with nodelay and large windows, at the best of 1, 2
//! and 4 connections; and over one of our own mesh streams, to tell what HTTP/2 costs. Each side has one
//! thread, as two processes on two cores would.

use std::{
    fs, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use hyper_util::rt::TokioIo;
use polymath_net::{Conditions, MeshStream, Multiaddr, Net, NetConfig, Role};
use polymath_proto::v1::{Payload, echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, COMPUTE, Clients, Parrot};
use polymath_types::{ErrorKind, Failure, Genesis, NodeKey};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{Body as HttpBody, StdError},
    metadata::MetadataValue,
    service::{Routes, RoutesBuilder},
    transport::{
        Endpoint, Server,
        server::{Connected, TcpIncoming},
    },
};
use tower::service_fn;

use super::{ROUNDS, Row, Spread, kernel_congestion_control};

/// Largest message of any case.
const LARGEST: usize = 64 << 20;
/// Longest a call or a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// HTTP/2's windows: large enough never to be what is measured.
const WINDOW: u32 = 64 << 20;
/// Name of the streams that carry HTTP/2.
const HTTP2: &str = "bench-http2";
/// Bytes a second of the long link: 200 Mbit/s.
const LINK: u64 = 25_000_000;
const TRANSPORTS: [&str; 2] = ["tcp", "quic"];

/// What is called, and by how many.
#[derive(Debug, Clone, Copy)]
struct Load {
    request: usize,
    /// Bytes of the reply.
    reply: usize,
    callers: usize,
}

impl Load {
    const fn echo(bytes: usize, callers: usize) -> Self {
        Self {
            request: bytes,
            reply: bytes,
            callers,
        }
    }

    /// A large request with a small reply.
    const fn upload(bytes: usize, callers: usize) -> Self {
        Self {
            request: bytes,
            reply: 128,
            callers,
        }
    }

    fn name(self) -> String {
        let size = match self.request {
            n if n >= 1 << 20 => format!("{} MiB", n >> 20),
            n if n >= 1 << 10 => format!("{} KiB", n >> 10),
            n => format!("{n} B"),
        };
        let callers = self.callers;
        format!(
            "{size}, {callers} caller{}",
            if callers == 1 { "" } else { "s" }
        )
    }
}

/// What one round of one side gave.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Calls a second.
    rate: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// Processor time of one call, both sides, microseconds.
    cpu: f64,
}

type OurClient = EchoClient<polymath_rpc::Channel>;

/// One way to call.
type Side = Box<dyn Fn(Load, Duration) -> BoxFuture<'static, Result<Sample, Status>> + Send + Sync>;

fn failed(what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{what}: {e}"))
}

pub(super) async fn run(quick: bool) -> Result<(Vec<Row>, Value), Failure> {
    // A thread of its own: the two sides' threads are all that shall compete.
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(measure(quick)));
    result.await.map_err(|e| failed("the benchmark", e))?
}

fn side() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.map_err(|e| failed("a thread", e))
}

fn measure(quick: bool) -> Result<(Vec<Row>, Value), Failure> {
    let (server, client) = (side()?, side()?);
    let bench = Bench {
        server: server.handle().clone(),
        quick,
    };
    let measured = client.block_on(async { tokio::spawn(bench.run()).await });
    measured.map_err(|e| failed("the benchmark", e))?
}

struct Bench {
    server: Handle,
    quick: bool,
}

impl Bench {
    async fn run(self) -> Result<(Vec<Row>, Value), Failure> {
        let window = Duration::from_millis(if self.quick { 250 } else { 1000 });
        let mesh = Mesh::start(&self.server).await?;
        let mut rivals = Vec::new();
        for connections in [1, 2, 4] {
            rivals.push((connections, plain_tonic(&self.server, connections).await?));
        }
        let (mut sides, mut guests) = (Vec::new(), Vec::new());
        for transport in TRANSPORTS {
            let near = mesh.guest(transport, Conditions::default()).await?;
            sides.push((transport, near.ours().await?, near.http2().await?));
            guests.push(near);
        }
        let mut loads = vec![
            Load::echo(128, 1),
            Load::echo(128, 64),
            Load::upload(256 << 10, 64),
        ];
        if !self.quick {
            loads.insert(2, Load::echo(4 << 10, 64));
            loads.insert(3, Load::upload(256 << 10, 1));
            loads.push(Load::upload(16 << 20, 4));
        }
        let mut rows = Vec::new();
        for load in loads {
            eprintln!("{} …", load.name());
            rows.extend(compare(load, window, &rivals, &sides).await?);
        }
        for (transport, near) in TRANSPORTS.iter().zip(&guests) {
            eprintln!("isolation, {transport} …");
            rows.extend(isolation(transport, &near.client().await?, self.quick).await?);
        }
        if !self.quick {
            for rtt in [20, 100, 150] {
                rows.extend(over_a_link(&mesh, rtt).await?);
            }
        }
        let conditions = json!({
            "network": "loopback", "threads": "one for each side", "window_ms": window.as_millis() as u64,
            "tonic": "unencrypted, nodelay, the best of 1, 2 and 4 connections in each round",
            "encryption": { "tcp": "TLS 1.3 AES-128-GCM where the processor has AES", "quic": "TLS 1.3" },
            "congestion_control": { "tcp": kernel_congestion_control(), "quic": "cubic" },
            "long_links": "round trip and rate (200 Mbit/s each way) imposed in the process, without loss",
        });
        Ok((rows, conditions))
    }
}

/// Alternates the sides and puts each of ours beside tonic at its best.
async fn compare(
    load: Load,
    window: Duration,
    rivals: &[(usize, Side)],
    sides: &[(&'static str, Side, Side)],
) -> Result<Vec<Row>, Failure> {
    let told = |e: Status| failed("a call", e);
    let mut best = Vec::new();
    let mut measured: Vec<(Vec<Sample>, Vec<Sample>)> =
        sides.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        let mut round: Option<Sample> = None;
        for (connections, rival) in rivals {
            if *connections <= load.callers {
                let sample = rival(load, window).await.map_err(told)?;
                round = Some(round.filter(|r| r.rate >= sample.rate).unwrap_or(sample));
            }
        }
        best.extend(round);
        for ((_, ours, http2), (us, them)) in sides.iter().zip(&mut measured) {
            us.push(ours(load, window).await.map_err(told)?);
            them.push(http2(load, window).await.map_err(told)?);
        }
    }
    let name = load.name();
    let mut rows = figures(&format!("{name}, plain tonic"), &best, None);
    for ((transport, ..), (us, them)) in sides.iter().zip(&measured) {
        rows.extend(figures(&format!("{name}, {transport}"), us, Some(&best)));
        let case = format!("{name}, HTTP/2 on a stream, {transport}");
        rows.extend(figures(&case, them, Some(&best)).into_iter().take(1));
    }
    Ok(rows)
}

fn figures(case: &str, samples: &[Sample], best: Option<&[Sample]>) -> Vec<Row> {
    let of = |part: fn(&Sample) -> f64| Spread::of(&samples.iter().map(part).collect::<Vec<_>>());
    let ratios = best.map(|best| {
        let ratios = samples
            .iter()
            .zip(best)
            .map(|(us, them)| us.rate / them.rate);
        ("plain tonic", Spread::of(&ratios.collect::<Vec<_>>()))
    });
    let row = |metric, value, unit, peer| Row {
        case: case.to_owned(),
        metric,
        value,
        unit,
        peer,
    };
    vec![
        row("throughput", of(|s| s.rate).median, "calls/s", ratios),
        row("latency p50", of(|s| s.p50).median, "ms", None),
        row("latency p99", of(|s| s.p99).median, "ms", None),
        row("processor time", of(|s| s.cpu).median, "µs/call", None),
    ]
}

/// What short calls, a hundred a second, notice of a handler that computes: p99 with and without.
async fn isolation(transport: &str, client: &OurClient, quick: bool) -> Result<Vec<Row>, Failure> {
    let told = |e: Status| failed("a call", e);
    let computed = Duration::from_secs(if quick { 1 } else { 5 });
    let idle = paced(client, computed).await.map_err(told)?;
    let mut request = Request::new(Payload {
        delay_ms: u32::try_from(computed.as_millis()).unwrap_or(u32::MAX),
        ..Payload::default()
    });
    request
        .metadata_mut()
        .insert(COMPUTE, MetadataValue::from_static("yes"));
    let mut computing = client.clone();
    let busy = tokio::spawn(async move { computing.unary(request).await });
    let beside = paced(client, computed).await.map_err(told)?;
    busy.await.map_err(|e| failed("a call", e))?.map_err(told)?;
    let row = |case: &str, p99: f64, peer| Row {
        case: format!("{case}, 128 B at 100/s, {transport}"),
        metric: "latency p99",
        value: p99,
        unit: "ms",
        peer,
    };
    let ratio = ("the idle node", Spread::of(&[beside / idle]));
    Ok(vec![
        row("idle", idle, None),
        row("while a handler computes", beside, Some(ratio)),
    ])
}

/// The p99, in milliseconds, of a call every ten milliseconds.
async fn paced(client: &OurClient, time: Duration) -> Result<f64, Status> {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let (begun, mut took, mut client) = (Instant::now(), Vec::new(), client.clone());
    while begun.elapsed() < time {
        let due = ticks.tick().await;
        let request = Payload {
            data: Bytes::from_static(&[1; 128]),
            ..Payload::default()
        };
        client.unary(request).await?;
        took.push(due.elapsed());
    }
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).or(took.last());
    Ok(p99.map_or(f64::NAN, |t| t.as_secs_f64() * 1e3))
}

/// What is reached of a long link without loss, over TCP.
async fn over_a_link(mesh: &Mesh, rtt: u64) -> Result<Vec<Row>, Failure> {
    let delay = Duration::from_millis(rtt);
    let far = mesh
        .guest("tcp", Conditions::new(move |_| delay).with_rate(LINK))
        .await?;
    let client = far.client().await?;
    let mut rows = Vec::new();
    for (load, calls) in [
        (Load::echo(128, 1000), 50_000),
        (Load::upload(256 << 10, 1000), 1000),
        (Load::upload(16 << 20, 16), 16),
    ] {
        eprintln!("{}, {rtt} ms …", load.name());
        let rate = all_of(&client, load, calls).await;
        let rate = rate.map_err(|e| failed("a call", e))?;
        let case = format!("{}, tcp, {rtt} ms", load.name());
        let row = |metric, value, unit| Row {
            case: case.clone(),
            metric,
            value,
            unit,
            peer: None,
        };
        rows.push(row("throughput", rate, "calls/s"));
        #[allow(clippy::cast_precision_loss)]
        let share = rate * load.request as f64 / LINK as f64 * 100.0;
        rows.push(row("share of the link", share, "%"));
    }
    Ok(rows)
}

/// Calls a second while so many are made, from the first one's beginning to the last one's end: a window
/// of time would count whole what was half done at its edges. A few calls before warm the path.
async fn all_of(client: &OurClient, load: Load, calls: usize) -> Result<f64, Status> {
    let data = Bytes::from(vec![1; load.request]);
    let reply_bytes = Some(u32::try_from(load.reply).unwrap_or(u32::MAX));
    let make = async |calls: usize| {
        let left = Arc::new(AtomicUsize::new(calls));
        let callers = (0..load.callers.min(calls)).map(|_| {
            let (mut client, left, data) = (client.clone(), left.clone(), data.clone());
            tokio::spawn(async move {
                while left
                    .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let mut request = Request::new(Payload {
                        data: data.clone(),
                        reply_bytes,
                        ..Payload::default()
                    });
                    request.set_timeout(10 * PATIENCE);
                    client.unary(request).await?;
                }
                Ok::<_, Status>(())
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller
                .await
                .map_err(|e| Status::internal(e.to_string()))??;
        }
        Ok::<_, Status>(())
    };
    make(calls.div_ceil(16)).await?;
    let begun = Instant::now();
    make(calls).await?;
    #[allow(clippy::cast_precision_loss)]
    Ok(calls as f64 / begun.elapsed().as_secs_f64())
}

/// Processor time this process has used.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    // utime and stime, in ticks of 10 ms (proc_pid_stat(5)).
    let times = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Every caller has one call under way.
async fn rate<C>(
    clients: Vec<EchoClient<C>>,
    load: Load,
    window: Duration,
) -> Result<Sample, Status>
where
    C: tonic::client::GrpcService<Body> + Clone + Send + 'static,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    C::Future: Send,
{
    let (counting, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let data = Bytes::from(vec![1; load.request]);
    let reply_bytes =
        (load.reply != load.request).then(|| u32::try_from(load.reply).unwrap_or(u32::MAX));
    let callers = (0..load.callers).map(|i| {
        let mut client = clients[i % clients.len()].clone();
        let (counting, stop, data) = (counting.clone(), stop.clone(), data.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            while !stop.load(Relaxed) {
                let mut request = Request::new(Payload {
                    data: data.clone(),
                    reply_bytes,
                    ..Payload::default()
                });
                request.set_timeout(PATIENCE);
                let begun = Instant::now();
                client.unary(request).await?;
                if counting.load(Relaxed) {
                    took.push(begun.elapsed());
                }
            }
            Ok::<_, Status>(took)
        })
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(window / 4).await;
    counting.store(true, Relaxed);
    let (begun, used) = (Instant::now(), processor());
    tokio::time::sleep(window).await;
    counting.store(false, Relaxed);
    let (elapsed, used) = (begun.elapsed(), processor() - used);
    stop.store(true, Relaxed);
    let mut took = Vec::new();
    for caller in callers {
        took.extend(
            caller
                .await
                .map_err(|e| Status::internal(e.to_string()))??,
        );
    }
    took.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let calls = took.len() as f64;
    let at = |share: usize| {
        let at = took.get(took.len() * share / 100).or(took.last());
        at.map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
    };
    Ok(Sample {
        rate: calls / elapsed.as_secs_f64(),
        p50: at(50),
        p99: at(99),
        cpu: used.as_secs_f64() * 1e6 / calls,
    })
}

fn as_side<C>(clients: Vec<EchoClient<C>>) -> Side
where
    C: tonic::client::GrpcService<Body> + Clone + Send + Sync + 'static,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    C::Future: Send,
{
    let clients: Vec<_> = clients
        .into_iter()
        .map(|c| {
            c.max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST)
        })
        .collect();
    Box::new(move |load, window| rate(clients.clone(), load, window).boxed())
}

fn service() -> EchoServer<Parrot> {
    EchoServer::new(Parrot)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST)
}

fn routes() -> Routes {
    let mut routes = RoutesBuilder::default();
    routes.add_service(service());
    routes.routes()
}

fn http2_server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(1 << 20)
}

fn endpoint(address: String) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(address).map_err(|e| failed("an address", e))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW))
}

/// tonic as it comes, without encryption.
async fn plain_tonic(server: &Handle, connections: usize) -> Result<Side, Failure> {
    let binding = server.spawn(TcpListener::bind("127.0.0.1:0")).await;
    let listener = binding
        .map_err(|e| failed("tonic's server", e))?
        .map_err(|e| failed("tonic's server", e))?;
    let address = listener
        .local_addr()
        .map_err(|e| failed("tonic's server", e))?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.spawn(
        http2_server()
            .add_service(service())
            .serve_with_incoming(incoming),
    );
    let mut clients = Vec::new();
    for _ in 0..connections {
        let channel = endpoint(format!("http://{address}"))?.connect().await;
        clients.push(EchoClient::new(
            channel.map_err(|e| failed("tonic's client", e))?,
        ));
    }
    Ok(as_side(clients))
}

/// The serving node.
struct Mesh {
    net: Net,
    genesis: Genesis,
}

/// A node that calls it.
struct Guest {
    net: Net,
    server: polymath_net::PeerId,
}

impl Mesh {
    async fn start(server: &Handle) -> Result<Self, Failure> {
        let key = NodeKey::generate();
        let genesis =
            Genesis::new("bench", &key.keypair().public()).map_err(|e| failed("a mesh", e))?;
        let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let listen = listen.iter().filter_map(|a| a.parse().ok()).collect();
        let starting = server.spawn(Net::start(NetConfig::new(key, genesis.clone(), listen)));
        let net = starting
            .await
            .map_err(|e| failed("a node", e))?
            .map_err(|e| failed("a node", e))?;
        let calls = net.clone();
        server.spawn(async move {
            let stop = CancellationToken::new();
            // A thousand large requests at once are what is measured here.
            let admission = Admission::default().holding(1 << 30);
            polymath_rpc::serve(&calls, routes(), admission, stop).await
        });
        let streams = net.accept(HTTP2).map_err(|e| failed("streams", e))?;
        let incoming = streams.map(|s| Ok::<_, io::Error>(Http2Stream(s)));
        server.spawn(
            http2_server()
                .add_service(service())
                .serve_with_incoming(incoming),
        );
        Ok(Self { net, genesis })
    }

    async fn guest(&self, transport: &str, conditions: Conditions) -> Result<Guest, Failure> {
        let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), Vec::new());
        config.role = Role::Client;
        config.lab = conditions;
        let net = Net::start(config).await.map_err(|e| failed("a node", e))?;
        let addresses: Vec<Multiaddr> = self.net.listen_addrs().borrow().clone();
        let address = addresses
            .into_iter()
            .find(|a| a.to_string().contains(transport));
        let address = address.ok_or_else(|| failed("a node", "it listens nowhere"))?;
        let dialled = net.dial(address, PATIENCE).await;
        let server = dialled.map_err(|e| failed("a connection", e))?;
        Ok(Guest { net, server })
    }
}

impl Guest {
    async fn client(&self) -> Result<OurClient, Failure> {
        let clients = Clients::new(self.net.clone());
        let channel = clients.channel(self.server, PATIENCE).await;
        let channel = channel.map_err(|e| failed("a lane", e))?;
        Ok(EchoClient::new(channel).max_encoding_message_size(LARGEST))
    }

    async fn ours(&self) -> Result<Side, Failure> {
        Ok(as_side(vec![self.client().await?]))
    }

    async fn http2(&self) -> Result<Side, Failure> {
        let (net, server) = (self.net.clone(), self.server);
        let connector = service_fn(move |_: tonic::codegen::http::Uri| {
            let net = net.clone();
            async move {
                let stream = net.open(server, HTTP2, PATIENCE).await;
                let stream = stream.map_err(|e| io::Error::other(e.to_string()))?;
                Ok::<_, io::Error>(TokioIo::new(Http2Stream(stream)))
            }
        });
        let endpoint = endpoint("http://mesh.invalid".into())?;
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|e| failed("HTTP/2 on a stream", e))?;
        Ok(as_side(vec![EchoClient::new(channel)]))
    }
}

/// A mesh stream as tonic's HTTP/2 takes it.
struct Http2Stream(MeshStream);

impl Connected for Http2Stream {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
