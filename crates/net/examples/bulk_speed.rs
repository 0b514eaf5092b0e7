//! How fast a large body travels: the bulk lane against libp2p's QUIC and TCP and against plain TCP, in
//! interleaved rounds, on new connections and on kept ones.
//!
//!     cargo run --release --example bulk_speed -- [--quick] [--json] [--rounds N] [--line TEXT]
//!
//! Both ends run in this process, over loopback. The long line that loses packets is the NAT lab's, as
//! root: `cargo xtask natlab --part bulk`, which runs the two ends apart:
//!
//!     bulk_speed --serve IP
//!     bulk_speed --ask IP [--json] [--rounds N] [--line TEXT]

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use polymath_net::{
    Bulk, BulkArrival, BulkConnection, BulkLimits, Congestion, Incoming, MeshStream, Multiaddr,
    Net, NetConfig, PeerId, Role, ShutOut, Ticket,
};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

/// The server's ports: what it answers questions on, then one for each way.
const CONTROL: u16 = 41_000;
const PLAIN_TCP: u16 = 41_001;
const MESH_TCP: u16 = 41_002;
const MESH_QUIC: u16 = 41_003;
const BULK: u16 = 41_004;
/// A transfer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Written and read at once by all but the bulk lane, which copies nothing.
const BUFFER: usize = 256 * 1024;
/// The name of the mesh stream.
const BODY: &str = "body";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bulk(Congestion),
    MeshQuic,
    MeshTcp,
    PlainTcp,
}

const CONTROLS: [Congestion; 2] = [Congestion::Bottleneck, Congestion::Bbr];

/// In the order of the table; the reference is libp2p's QUIC.
const WAYS: [Way; 5] = [
    Way::Bulk(CONTROLS[0]),
    Way::Bulk(CONTROLS[1]),
    Way::MeshQuic,
    Way::MeshTcp,
    Way::PlainTcp,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Bulk(_) => "bulk lane (QUIC, AES-GCM)",
            Self::MeshQuic => "libp2p QUIC stream",
            Self::MeshTcp => "libp2p TCP stream (TLS, yamux)",
            Self::PlainTcp => "plain TCP, no encryption",
        }
    }

    fn congestion(self) -> String {
        match self {
            Self::Bulk(Congestion::Bottleneck) => "ours".into(),
            Self::Bulk(Congestion::Bbr) => "quinn's BBR".into(),
            Self::Bulk(_) => "another".into(),
            Self::MeshQuic => "quinn's CUBIC".into(),
            Self::MeshTcp | Self::PlainTcp => {
                let path = "/proc/sys/net/ipv4/tcp_congestion_control";
                let kernel = std::fs::read_to_string(path).unwrap_or_default();
                format!("the kernel's {}", kernel.trim())
            }
        }
    }
}

struct Options {
    json: bool,
    rounds: usize,
    line: String,
    sizes: Vec<u64>,
    /// Where the server is, or shall be; loopback and this process without.
    serve: Option<IpAddr>,
    ask: Option<IpAddr>,
}

impl Options {
    fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| words.iter().any(|w| w == name);
        let value = |name: &str| {
            let at = words.iter().position(|w| w == name)?;
            Some(words.get(at + 1).expect("a value").clone())
        };
        let ip = |name: &str| value(name).map(|v| v.parse().expect("an address"));
        let rounds = if has("--quick") { "1" } else { "5" };
        Self {
            json: has("--json"),
            rounds: value("--rounds")
                .unwrap_or(rounds.into())
                .parse()
                .expect("a number"),
            line: value("--line").unwrap_or("loopback, both ends in one process".into()),
            sizes: vec![256 << 10, 16 << 20],
            serve: ip("--serve"),
            ask: ip("--ask"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

/// What is sent, again and again.
fn filler() -> Bytes {
    (0..1 << 20).map(|i: u32| (i * 31 % 251) as u8).collect()
}

// ---- The serving end. Each question is a size, each answer so many bytes.

async fn serve(ip: IpAddr) {
    let genesis = Genesis::new("bulk-speed", &NodeKey::generate().keypair().public()).unwrap();
    let mut nets = Vec::new();
    for listen in [
        format!("/ip4/{ip}/tcp/{MESH_TCP}"),
        format!("/ip4/{ip}/udp/{MESH_QUIC}/quic-v1"),
    ] {
        let listen: Multiaddr = listen.parse().unwrap();
        let config = NetConfig::new(NodeKey::generate(), genesis.clone(), vec![listen]);
        let net = Net::start(config).await.unwrap();
        tokio::spawn(serve_mesh(net.accept(BODY).unwrap()));
        nets.push(net);
    }
    let mut lanes = Vec::new();
    for (port, congestion) in (BULK..).zip(CONTROLS) {
        let mut limits = BulkLimits::default();
        limits.congestion = congestion;
        let addr = SocketAddr::new(ip, port);
        let lane = Bulk::bind(
            &NodeKey::generate(),
            genesis.id(),
            addr,
            limits,
            ShutOut::default(),
        )
        .unwrap();
        let loss = Loss::default();
        tokio::spawn(serve_bulk(lane.clone(), loss.clone()));
        lanes.push((lane, loss));
    }
    let plain = TcpListener::bind((ip, PLAIN_TCP)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(answer(stream));
        }
    });
    // Tickets and identities; in the daemon a gRPC call tells them.
    let control = TcpListener::bind((ip, CONTROL)).await.unwrap();
    while let Ok((stream, _)) = control.accept().await {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match line.split_once(' ') {
                Some(("ticket", rest)) => {
                    let (lane, peer) = rest.split_once(' ').unwrap();
                    let lane = &lanes[lane.parse::<usize>().unwrap()].0;
                    hex(lane.ticket(peer.parse().unwrap()).unwrap().as_bytes())
                }
                Some(("loss", lane)) => {
                    let (lost, sent) = *lanes[lane.parse::<usize>().unwrap()].1.lock().unwrap();
                    format!("{}", 100.0 * lost as f64 / sent as f64)
                }
                _ => {
                    let peers = nets.iter().map(Net::local_peer);
                    let peers = peers.chain(lanes.iter().map(|(lane, _)| lane.local_peer()));
                    let peers: Vec<String> = peers.map(|p| p.to_string()).collect();
                    format!("{} {}", hex(&genesis.to_bytes()), peers.join(" "))
                }
            };
            let writer = lines.get_mut();
            if writer
                .write_all(format!("{answer}\n").as_bytes())
                .await
                .is_err()
            {
                break;
            }
        }
    }
}

async fn serve_mesh(mut incoming: Incoming) {
    while let Some(stream) = incoming.next().await {
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: impl tokio::io::AsyncRead + AsyncWrite + Unpin) {
    let filler = filler();
    while let Ok(mut left) = stream.read_u64().await {
        while left > 0 {
            let size = left.min(BUFFER as u64);
            if stream.write_all(&filler[..size as usize]).await.is_err() {
                return;
            }
            left -= size;
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

/// Packets lost and sent on a lane's ended connections.
type Loss = Arc<Mutex<(u64, u64)>>;

async fn serve_bulk(lane: Bulk, loss: Loss) {
    let filler = filler();
    while let Some(connection) = lane.accept().await {
        let (filler, loss) = (filler.clone(), loss.clone());
        tokio::spawn(async move {
            while let Ok(BulkArrival::Call(question, reply)) = connection.accept().await {
                let header: [u8; 8] = question.header().as_ref().try_into().unwrap();
                let mut left = u64::from_be_bytes(header);
                let Ok(mut sender) = reply.send(Bytes::new(), left).await else {
                    continue;
                };
                while left > 0 {
                    let size = left.min(filler.len() as u64);
                    if sender
                        .write_chunk(filler.slice(..size as usize))
                        .await
                        .is_err()
                    {
                        break;
                    }
                    left -= size;
                }
                let _ = sender.finish().await;
            }
            let (lost, sent) = connection.loss();
            let mut loss = loss.lock().unwrap();
            *loss = (loss.0 + lost, loss.1 + sent);
        });
    }
}

// ---- The asking end.

/// What the server told.
struct Server {
    ip: IpAddr,
    control: BufReader<TcpStream>,
    genesis: Genesis,
    /// libp2p's TCP, its QUIC, then the lanes.
    peers: Vec<PeerId>,
}

impl Server {
    async fn meet(ip: IpAddr) -> Self {
        let reached = timeout(PATIENCE, async {
            loop {
                // The server may still be starting.
                if let Ok(stream) = TcpStream::connect((ip, CONTROL)).await {
                    break stream;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let mut control = BufReader::new(reached.await.expect("no server"));
        let told = Self::ask(&mut control, "who").await;
        let mut words = told.split(' ');
        let genesis = Genesis::from_bytes(&unhex(words.next().unwrap())).unwrap();
        let peers = words.map(|p| p.parse().unwrap()).collect();
        Self {
            ip,
            control,
            genesis,
            peers,
        }
    }

    async fn ask(control: &mut BufReader<TcpStream>, question: &str) -> String {
        let stream = control.get_mut();
        stream
            .write_all(format!("{question}\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        control.read_line(&mut answer).await.unwrap();
        answer.trim().to_owned()
    }

    /// A ticket is fetched before the clock starts: the call travels on a connection that is there.
    async fn prepare(&mut self, way: Way) -> Prepared {
        match way {
            Way::Bulk(congestion) => {
                let number = CONTROLS.iter().position(|c| *c == congestion).unwrap();
                let mut limits = BulkLimits::default();
                limits.congestion = congestion;
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let key = NodeKey::generate();
                let lane =
                    Bulk::bind(&key, self.genesis.id(), any, limits, ShutOut::default()).unwrap();
                let question = format!("ticket {number} {}", key.peer_id());
                let ticket = unhex(&Self::ask(&mut self.control, &question).await);
                Prepared::Bulk {
                    lane,
                    peer: self.peers[2 + number],
                    addr: SocketAddr::new(self.ip, BULK + number as u16),
                    ticket: Ticket::from_bytes(ticket.try_into().unwrap()),
                }
            }
            Way::MeshQuic | Way::MeshTcp => {
                let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), vec![]);
                config.role = Role::Client;
                let (ip, quic) = (self.ip, way == Way::MeshQuic);
                let addr = if quic {
                    format!("/ip4/{ip}/udp/{MESH_QUIC}/quic-v1")
                } else {
                    format!("/ip4/{ip}/tcp/{MESH_TCP}")
                };
                Prepared::Mesh {
                    net: Net::start(config).await.unwrap(),
                    peer: self.peers[usize::from(quic)],
                    addr: addr.parse().unwrap(),
                }
            }
            Way::PlainTcp => Prepared::Plain(SocketAddr::new(self.ip, PLAIN_TCP)),
        }
    }
}

enum Prepared {
    Bulk {
        lane: Bulk,
        peer: PeerId,
        addr: SocketAddr,
        ticket: Ticket,
    },
    Mesh {
        net: Net,
        peer: PeerId,
        addr: Multiaddr,
    },
    Plain(SocketAddr),
}

/// An open way; the first part of each only keeps it open.
enum Open {
    Bulk(Bulk, BulkConnection),
    Mesh(Net, MeshStream),
    Plain(TcpStream),
}

impl Prepared {
    async fn open(self) -> Open {
        match self {
            Self::Bulk {
                lane,
                peer,
                addr,
                ticket,
            } => {
                let connection = lane.connect(peer, addr, ticket, PATIENCE).await.unwrap();
                Open::Bulk(lane, connection)
            }
            Self::Mesh { net, peer, addr } => {
                net.dial(addr, PATIENCE).await.unwrap();
                let stream = net.open(peer, BODY, PATIENCE).await.unwrap();
                Open::Mesh(net, stream)
            }
            Self::Plain(addr) => {
                let stream = TcpStream::connect(addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                Open::Plain(stream)
            }
        }
    }
}

impl Open {
    /// Fetches so many bytes.
    async fn fetch(&mut self, size: u64) {
        match self {
            Self::Bulk(_, connection) => {
                let header = Bytes::copy_from_slice(&size.to_be_bytes());
                let mut receiver = connection.ask(header).await.unwrap();
                let mut chunks = vec![Bytes::new(); 64];
                let mut read = 0;
                loop {
                    let n = receiver.read_chunks(&mut chunks).await.unwrap();
                    if n == 0 {
                        break;
                    }
                    read += chunks[..n].iter().map(|c| c.len() as u64).sum::<u64>();
                }
                assert_eq!(read, size);
            }
            Self::Mesh(_, stream) => fetch(stream, size).await,
            Self::Plain(stream) => fetch(stream, size).await,
        }
    }

    async fn close(self) {
        match self {
            Self::Bulk(lane, connection) => {
                drop(connection);
                lane.shutdown().await;
            }
            Self::Mesh(net, stream) => {
                drop(stream);
                net.shutdown().await;
            }
            Self::Plain(_) => {}
        }
    }
}

async fn fetch(stream: &mut (impl tokio::io::AsyncRead + AsyncWrite + Unpin), size: u64) {
    stream.write_u64(size).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = vec![0; BUFFER];
    let mut left = size;
    while left > 0 {
        let want = left.min(BUFFER as u64) as usize;
        let read = stream.read(&mut buffer[..want]).await.unwrap();
        assert!(read > 0, "{left} of {size} bytes never came");
        left -= read as u64;
    }
}

/// All times of one way and size.
struct Row {
    way: Way,
    size: u64,
    /// From the first packet of a new connection to the last byte.
    new: Vec<f64>,
    /// Again over the same connection.
    kept: Vec<f64>,
}

/// Which times of a row.
type Times = fn(&Row) -> &Vec<f64>;

/// All rows, and the percentage of packets that the server lost with each congestion control.
async fn measure(options: &Options, ip: IpAddr) -> (Vec<Row>, Vec<String>) {
    let mut server = Server::meet(ip).await;
    let mut rows = Vec::new();
    for size in &options.sizes {
        rows.extend(WAYS.map(|way| Row {
            way,
            size: *size,
            new: Vec::new(),
            kept: Vec::new(),
        }));
    }
    for round in 0..options.rounds {
        for row in &mut rows {
            let prepared = server.prepare(row.way).await;
            let began = Instant::now();
            let mut open = prepared.open().await;
            let late = |what: &str| {
                eprintln!(
                    "round {round}: {:?}, {} bytes, {what}: not in {PATIENCE:?}",
                    row.way, row.size
                );
                f64::INFINITY
            };
            let new = match timeout(PATIENCE, open.fetch(row.size)).await {
                Ok(()) => began.elapsed().as_secs_f64(),
                Err(_) => late("new"),
            };
            let mut kept = f64::INFINITY;
            if new.is_finite() {
                let began = Instant::now();
                kept = match timeout(PATIENCE, open.fetch(row.size)).await {
                    Ok(()) => began.elapsed().as_secs_f64(),
                    Err(_) => late("kept"),
                };
            }
            eprintln!(
                "round {round}: {:?}, {} bytes: {new:.3} s new, {kept:.3} s kept",
                row.way, row.size
            );
            row.new.push(new);
            row.kept.push(kept);
            open.close().await;
        }
    }
    let mut losses = Vec::new();
    for (number, congestion) in CONTROLS.into_iter().enumerate() {
        let lost = Server::ask(&mut server.control, &format!("loss {number}")).await;
        let lost: f64 = lost.parse().unwrap();
        losses.push(format!(
            "{}: {lost:.2} %",
            Way::Bulk(congestion).congestion()
        ));
    }
    (rows, losses)
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

fn spread(times: &[f64]) -> (f64, f64) {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    (least, times.iter().copied().fold(0.0, f64::max))
}

fn print(options: &Options, rows: &[Row], losses: &[String]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let reference = |row: &Row, times: Times| {
        let same = |r: &&Row| r.way == Way::MeshQuic && r.size == row.size;
        rows.iter()
            .find(same)
            .map_or(f64::NAN, |r| median(times(r)))
    };
    let columns: [(&str, Times); 2] = [("new", |r| &r.new), ("kept", |r| &r.kept)];
    if options.json {
        let mut out = Vec::new();
        for row in rows {
            for (connection, times) in columns {
                let (least, most) = spread(times(row));
                out.push(format!(
                    r#"{{"case":"{}","congestion":"{}","bytes":{},"connection":"{connection}","metric":"time","value":{:.4},"least":{least:.4},"most":{most:.4},"unit":"s","times_libp2p_quic":{:.2}}}"#,
                    row.way.name(),
                    row.way.congestion(),
                    row.size,
                    median(times(row)),
                    reference(row, times) / median(times(row)),
                ));
            }
        }
        println!(
            r#"{{"bench":"bulk_speed","conditions":{{"cores":{cores},"profile":"release","line":"{}","rounds":{},"packets_lost":"{}"}},"rows":[{}]}}"#,
            options.line,
            options.rounds,
            losses.join(", "),
            out.join(",")
        );
        return;
    }
    println!(
        "{}; {cores} cores, release, {} interleaved rounds; median seconds from question to last byte (least - most),\n\
         Mbit/s, and how many times libp2p's QUIC\n",
        options.line, options.rounds
    );
    println!("Packets the bulk lane lost, {}.\n", losses.join(", "));
    println!(
        "| way | congestion control | bytes | connection | seconds | Mbit/s | times libp2p QUIC |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        for (connection, times) in columns {
            let (least, most) = spread(times(row));
            let time = median(times(row));
            println!(
                "| {} | {} | {} | {connection} | {time:.3} ({least:.3} - {most:.3}) | {:.0} | {:.1} |",
                row.way.name(),
                row.way.congestion(),
                row.size,
                row.size as f64 * 8.0 / time / 1e6,
                reference(row, times) / time,
            );
        }
    }
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    if let Some(ip) = options.serve {
        return serve(ip).await;
    }
    let ip = options.ask.unwrap_or_else(|| {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        tokio::spawn(serve(here));
        here
    });
    let (rows, losses) = measure(&options, ip).await;
    print(&options, &rows, &losses);
}
