//! What others notice of a handler that computes: calls a hundred a second, pings as often, and queries of
//! the DHT twenty a second; p99 of each, against the same while the node is idle.
//!
//! The pings are of libp2p's size, on a mesh stream. libp2p's own would do over TCP; over QUIC its third
//! answer waits for whatever else wakes the connection, such as the ping of the other side.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use polymath_net::Net;
use polymath_proto::v1::{Payload, echo_client::EchoClient};
use polymath_rpc::{COMPUTE, Channel};
use tokio::{
    sync::Mutex,
    time::{interval, timeout},
};
use tonic::{Request, metadata::MetadataValue};

use super::{
    Bench, Failure, PATIENCE,
    cases::Load,
    echo, failed, framed,
    load::Call,
    mesh::{Guest, LOOK, Mesh},
    ours,
    sample::percentile,
};
use crate::{Row, Spread};

/// Between calls, and between pings.
const OFTEN: Duration = Duration::from_millis(10);
/// Between queries of the DHT.
const SELDOM: Duration = Duration::from_millis(50);
/// What the serving node provides.
const KEY: &[u8] = b"bench";
/// The names of what is measured.
const WHAT: [&str; 3] = [
    "calls of 128 B, 100/s",
    "pings of 32 B, 100/s",
    "DHT queries, 20/s",
];

/// libp2p's pings have as much.
const PING: Load = Load::echo(32, 1);
/// Of idling and computing; longer than those of the calls, so there are fewer.
const ROUNDS: usize = 3;

/// The p99 of each, idle and beside a handler that computes.
type Round = ([f64; 3], [f64; 3]);

pub(super) async fn rows(
    bench: &Bench,
    mesh: &Mesh,
    guests: &[Guest],
) -> Result<Vec<Row>, Failure> {
    let computed = Duration::from_secs(if bench.options.quick { 1 } else { 5 });
    let mut rows = Vec::new();
    for guest in guests {
        let transport = guest.transport.name();
        let name = |what: &str, when: &str| format!("isolation, {what}, {transport}, {when}");
        let (idle_name, busy_name) = ("idle node", "while a handler computes");
        let wanted = |what: &str| bench.options.only.covers(&name(what, busy_name));
        if !WHAT.iter().any(|what| wanted(what)) {
            continue;
        }
        eprintln!("isolation, {transport} …");
        let provided = mesh.net.provide(KEY).await;
        provided.map_err(|e| failed("the DHT", e))?;
        found(&guest.net).await?;
        let client = ours::client(guest).await?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let idle = beside(&client, guest, computed).await?;
            let computing = tokio::spawn(compute(client.clone(), computed));
            let busy = beside(&client, guest, computed).await?;
            computing.await.map_err(|e| failed("a call", e))??;
            rounds.push((idle, busy));
        }
        for (i, what) in WHAT.iter().enumerate().filter(|(_, what)| wanted(what)) {
            let spread = |part: fn(&Round, usize) -> f64| {
                Spread::of(&rounds.iter().map(|r| part(r, i)).collect::<Vec<_>>())
            };
            let p99 = |case, of: Spread| {
                let mut row = Row::new(case, "latency p99", of.median, "ms");
                row.note = Some(format!("{ROUNDS} rounds of {} s", computed.as_secs()));
                row
            };
            let ratio = spread(|(idle, busy), i| busy[i] / idle[i]);
            rows.push(p99(name(what, idle_name), spread(|(idle, _), i| idle[i])));
            let busy = p99(name(what, busy_name), spread(|(_, busy), i| busy[i]));
            rows.push(busy.against(idle_name, ratio));
        }
    }
    Ok(rows)
}

/// A call whose handler is at full load for this long, on a thread of its own as an engine is.
async fn compute(mut client: EchoClient<Channel>, time: Duration) -> Result<(), Failure> {
    let mut request = Request::new(Payload {
        delay_ms: u32::try_from(time.as_millis()).unwrap_or(u32::MAX),
        ..Payload::default()
    });
    let yes = MetadataValue::from_static("yes");
    request.metadata_mut().insert(COMPUTE, yes);
    let computed = client.unary(request).await;
    computed.map(drop).map_err(|e| failed("a call", e))
}

/// The p99 of each, in milliseconds, side by side for this long.
async fn beside(
    client: &EchoClient<Channel>,
    guest: &Guest,
    time: Duration,
) -> Result<[f64; 3], Failure> {
    let payload = echo::request(Load::echo(128, 1));
    let called = paced(OFTEN, time, || {
        let (mut client, payload) = (client.clone(), payload.clone());
        async move {
            let answered = client.unary(payload).await;
            answered.map(drop).map_err(|e| failed("a call", e))
        }
    });
    let queried = paced(SELDOM, time, || {
        let net = guest.net.clone();
        async move { query(&net).await }
    });
    let pinging = Arc::new(Mutex::new(framed::caller(guest, PING).await?));
    let pinged = paced(OFTEN, time, || {
        let pinging = pinging.clone();
        async move { pinging.lock().await.call().await }
    });
    let (called, queried, pinged) = tokio::join!(called, queried, pinged);
    let p99 = |mut took: Vec<Duration>| {
        took.sort_unstable();
        percentile(&took, 99)
    };
    Ok([p99(called?), p99(pinged?), p99(queried?)])
}

/// Times of what is done again and again, each from the moment it was due.
async fn paced<F: Future<Output = Result<(), Failure>>>(
    every: Duration,
    time: Duration,
    doing: impl Fn() -> F,
) -> Result<Vec<Duration>, Failure> {
    let (begun, mut ticks, mut took) = (Instant::now(), interval(every), Vec::new());
    while begun.elapsed() < time {
        let due = ticks.tick().await;
        doing().await?;
        took.push(due.elapsed());
    }
    Ok(took)
}

/// Asks the DHT who provides the key, until the first is named.
async fn query(net: &Net) -> Result<(), Failure> {
    let asked = net.look_up(KEY).await;
    let mut providers = asked.map_err(|e| failed("the DHT", e))?;
    let first = timeout(PATIENCE, providers.next()).await;
    let first = first.map_err(|e| failed("the DHT", e))?;
    first
        .map(drop)
        .ok_or_else(|| failed("the DHT", "nobody is named"))
}

/// Waits until the serving node is in the routing table, and known to provide.
async fn found(net: &Net) -> Result<(), Failure> {
    let mut looks = interval(LOOK);
    let finding = async {
        while query(net).await.is_err() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, finding)
        .await
        .map_err(|e| failed("the DHT", e))
}
