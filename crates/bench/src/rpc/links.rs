//! What calls of ours reach of a long link without loss, laid in the process below one node's TCP.
//! Sides of others do not pass there: all sides over a line are the NAT lab's part `rpc`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use polymath_net::Conditions;
use polymath_proto::v1::echo_client::EchoClient;
use polymath_rpc::Channel;
use tonic::{Request, Status};

use super::{
    Bench, CALL, Failure,
    cases::{Load, Transport, case},
    echo, failed,
    mesh::Mesh,
    ours,
};
use crate::Row;

/// Bytes a second: 200 Mbit/s.
const RATE: u64 = 25_000_000;
/// Round trips, milliseconds.
const TRIPS: [u64; 3] = [20, 100, 150];
/// Loads that can fill it, and how many calls are made.
const LOADS: [(Load, usize); 3] = [
    (Load::echo(128, 1000), 50_000),
    (Load::upload(256 << 10, 1000), 1000),
    (Load::upload(16 << 20, 16), 16),
];

pub(super) async fn rows(bench: &Bench, mesh: &Mesh) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for trip in TRIPS {
        let line = format!("{trip} ms 200 Mbit/s in the process");
        let name = |load| case(load, Some(&line), Transport::Tcp, ours::NAME);
        let wanted = |(load, _): &&(Load, usize)| bench.options.only.covers(&name(*load));
        let loads: Vec<_> = LOADS.iter().filter(wanted).collect();
        if loads.is_empty() {
            continue;
        }
        let delay = Duration::from_millis(trip);
        let conditions = Conditions::new(move |_| delay).with_rate(RATE);
        let far = mesh.guest_over(Transport::Tcp, conditions).await?;
        let client = ours::client(&far).await?;
        for (load, calls) in loads {
            let name = name(*load);
            eprintln!("{name} …");
            let rate = all_of(&client, *load, *calls).await;
            let rate = rate.map_err(|e| failed(&name, e))?;
            rows.push(Row::new(name.as_str(), "throughput", rate, "calls/s"));
            #[allow(clippy::cast_precision_loss)]
            let share = rate * load.request as f64 / RATE as f64 * 100.0;
            rows.push(Row::new(name, "share of the link", share, "%"));
        }
    }
    Ok(rows)
}

/// Calls a second while so many are made, from the first one's beginning to the last one's end: a window
/// of time would count whole what was half done at its edges. A few calls before warm the path.
async fn all_of(client: &EchoClient<Channel>, load: Load, calls: usize) -> Result<f64, Status> {
    make(client, load, calls.div_ceil(16)).await?;
    let begun = Instant::now();
    make(client, load, calls).await?;
    #[allow(clippy::cast_precision_loss)]
    Ok(calls as f64 / begun.elapsed().as_secs_f64())
}

async fn make(client: &EchoClient<Channel>, load: Load, calls: usize) -> Result<(), Status> {
    let payload = echo::request(load);
    let left = Arc::new(AtomicUsize::new(calls));
    let callers = (0..load.callers.min(calls)).map(|_| {
        let (mut client, left, payload) = (client.clone(), left.clone(), payload.clone());
        tokio::spawn(async move {
            let one = || left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
            while one().is_ok() {
                let mut request = Request::new(payload.clone());
                request.set_timeout(CALL);
                client.unary(request).await?;
            }
            Ok::<_, Status>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        let ended = caller.await;
        ended.map_err(|e| Status::internal(e.to_string()))??;
    }
    Ok(())
}
