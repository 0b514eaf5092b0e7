//! Calls between two nodes beside other ways to call, in interleaved rounds of one run.
//!
//! Ours is what the daemon uses: encrypted, authenticated, with deadlines, admission and tonic's generated
//! client. The reference is plain tonic: unencrypted TCP with nodelay and large windows, at the best of 1, 2
//! and 4 connections in each round. Beside them: HTTP/2 over one of our own mesh streams, messages with
//! their length before them on such streams, the bulk lane, and libp2p's request-response.
//!
//! Each node has one thread, as two processes on two cores would. A side is one file here and one line in
//! [`Nodes::sides`].

use std::{
    fmt,
    time::{Duration, Instant},
};

use polymath_types::{ErrorKind, Failure};
use serde_json::json;
use tokio::{runtime::Handle, sync::oneshot};

mod bulk;
mod cases;
mod echo;
mod framed;
mod http2;
mod isolation;
mod links;
mod load;
mod mesh;
mod ours;
mod place;
mod plain_swarm;
mod request_response;
mod sample;
mod tonic;

pub use cases::Selection;
pub use place::{Line, Place};

use crate::{ROUNDS, Report, Row, Spread, kernel_congestion_control};
use cases::{Extent, Load, Transport, case};
use load::{Pace, Side};
use mesh::Mesh;
use sample::{Meter, Sample};

/// Largest message of any case.
const LARGEST: usize = 64 << 20;
/// Longest a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest a call may take: 16 MiB over a long line that loses packets take a minute and more.
const CALL: Duration = Duration::from_secs(300);

/// What is measured, where, and for how long.
#[derive(Debug)]
pub struct Options {
    /// End within a minute: shorter rounds, and without a selection only the cases that have targets.
    pub quick: bool,
    /// Which cases.
    pub only: Selection,
    /// Rounds of each case.
    pub rounds: usize,
    /// After that long a case gets no further round; it has at least one.
    pub budget: Option<Duration>,
    /// Allocations of this process so far, where something counts them.
    pub allocations: Option<fn() -> u64>,
    /// Where the nodes are.
    pub place: Place,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quick: false,
            only: Selection::default(),
            rounds: ROUNDS,
            budget: None,
            allocations: None,
            place: Place::default(),
        }
    }
}

fn failed(what: &str, e: impl fmt::Display) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{what}: {e}"))
}

/// Measures on threads of its own: the nodes' threads are all that shall compete.
pub async fn run(options: Options) -> Result<Report, Failure> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(measure(options)));
    result.await.map_err(|e| failed("the benchmark", e))?
}

/// The same, on this thread.
pub fn measure(options: Options) -> Result<Report, Failure> {
    let [server, client, relay] = options.place.runtimes()?;
    let bench = Bench {
        server: server.handle().clone(),
        relay: relay.handle().clone(),
        options,
    };
    let measured = client.block_on(async { tokio::spawn(bench.run()).await });
    measured.map_err(|e| failed("the benchmark", e))?
}

struct Bench {
    server: Handle,
    relay: Handle,
    options: Options,
}

/// Where each side's other end runs, and how it is reached.
struct Nodes<'a> {
    server: &'a Handle,
    place: &'a Place,
    near: &'a [mesh::Guest],
    relayed: Option<&'a mesh::Relayed>,
}

impl Nodes<'_> {
    /// All that is held against plain tonic. Files of sides are named here and nowhere else.
    async fn sides(&self) -> Result<Vec<Side>, Failure> {
        let mut sides = Vec::new();
        for guest in self.near {
            sides.push(ours::side(guest).await?);
            sides.push(http2::side(guest).await?);
            sides.push(framed::side(guest));
            let server = (self.server, self.place.server());
            sides.push(request_response::side(server, guest.transport).await?);
            if guest.transport == Transport::Quic {
                sides.push(bulk::side(server, guest).await?);
            }
        }
        if let Some(relayed) = self.relayed {
            let guest = relayed.guest();
            sides.push(ours::side(guest).await?);
            sides.push(http2::side(guest).await?);
            sides.push(framed::side(guest));
        }
        Ok(sides)
    }
}

impl Bench {
    async fn run(self) -> Result<Report, Failure> {
        let Options { quick, place, .. } = &self.options;
        let mesh = Mesh::start(&self.server, place.server()).await?;
        let mut near = Vec::new();
        for transport in Transport::DIRECT {
            near.push(mesh.guest(transport).await?);
        }
        // Three nodes more, only where they are asked.
        let relayed = match self.extent() {
            Extent::Targets => None,
            _ => Some(mesh.relayed(&self.server, &self.relay, place).await?),
        };
        let nodes = Nodes {
            server: &self.server,
            place,
            near: &near,
            relayed: relayed.as_ref(),
        };
        let mut rows = self.calls(&nodes).await?;
        if let Some(relayed) = &relayed {
            relayed.check()?;
        }
        if place.line().is_none() {
            rows.extend(isolation::rows(&self, &mesh, &near).await?);
            if !quick {
                rows.extend(links::rows(&self, &mesh).await?);
            }
        }
        let line = place.line().map_or("loopback", |line| &line.conditions);
        let conditions = json!({
            "network": line,
            "threads": "one for each node",
            "window_ms": self.window().as_millis() as u64,
            "rounds": self.options.rounds,
            "tonic": "unencrypted, nodelay, the best of 1, 2 and 4 connections in each round",
            "encryption": {
                "tcp": "TLS 1.3 AES-128-GCM where the processor has AES", "quic": "TLS 1.3",
                "relayed": "noise between the two, TLS 1.3 to and from the relay",
            },
            "congestion_control": {
                "tcp": kernel_congestion_control(), "quic": mesh::CUBIC, "bulk lane": bulk::CONTROL,
            },
            "processor_time": "of all nodes together; with a relay that is three",
        });
        Ok(Report::new("rpc", conditions, rows))
    }

    fn extent(&self) -> Extent {
        match (self.options.place.line(), self.options.quick) {
            (Some(_), _) => Extent::Far,
            (None, true) if self.options.only.is_all() => Extent::Targets,
            (None, _) => Extent::Near,
        }
    }

    fn window(&self) -> Duration {
        let far = self.options.place.line().is_some();
        match (far, self.options.quick) {
            (true, _) => Duration::from_secs(1),
            (_, true) => Duration::from_millis(250),
            (_, false) => Duration::from_millis(500),
        }
    }

    /// Every side with every load.
    async fn calls(&self, nodes: &Nodes<'_>) -> Result<Vec<Row>, Failure> {
        let sides = nodes.sides().await?;
        let reference = tonic::side(nodes.server, nodes.place.server()).await?;
        let mut rows = Vec::new();
        for load in self.extent().loads() {
            let wanted = |side: &&Side| self.wants(*load, side);
            let asked: Vec<&Side> = sides.iter().filter(wanted).collect();
            if !asked.is_empty() || self.wants(*load, &reference) {
                eprintln!("{load} …");
                rows.extend(self.compare(*load, &reference, &asked).await?);
            }
        }
        Ok(rows)
    }

    fn name(&self, load: Load, side: &Side) -> String {
        let line = self.options.place.line().map(|line| line.name.as_str());
        case(load, line, side.transport, side.name)
    }

    fn wants(&self, load: Load, side: &Side) -> bool {
        let extent = self.extent();
        let belongs = side.name == tonic::NAME || extent.has(side.name, side.transport);
        belongs && self.options.only.covers(&self.name(load, side))
    }

    /// Alternates the sides and puts each beside the reference of the same round.
    async fn compare(
        &self,
        load: Load,
        reference: &Side,
        sides: &[&Side],
    ) -> Result<Vec<Row>, Failure> {
        let far = self.options.place.line().is_some();
        let pace = Pace::of(self.window(), load, far);
        let meter = self.meter();
        let all: Vec<&Side> = [reference]
            .into_iter()
            .chain(sides.iter().copied())
            .collect();
        let mut samples: Vec<Vec<Sample>> = all.iter().map(|_| Vec::new()).collect();
        // A side that has failed says why, and is tried no more.
        let mut failures: Vec<Option<Failure>> = all.iter().map(|_| None).collect();
        let begun = Instant::now();
        for round in 0..self.options.rounds.max(1) {
            if round > 0 && self.options.budget.is_some_and(|b| begun.elapsed() > b) {
                break;
            }
            for (i, side) in all.iter().enumerate() {
                if failures[i].is_some() {
                    continue;
                }
                let name = self.name(load, side);
                match (side.run)(load, pace, meter).await {
                    Ok(sample) => {
                        if far {
                            eprintln!("round {round}: {name}: {:.2} calls/s", sample.rate);
                        }
                        samples[i].push(sample);
                    }
                    Err(failure) => {
                        eprintln!("round {round}: {name}: {failure}");
                        failures[i] = Some(failure);
                    }
                }
            }
        }
        let best = samples.first().cloned().unwrap_or_default();
        let mut rows = Vec::new();
        for (i, (side, samples)) in all.iter().zip(&samples).enumerate() {
            let best = (i > 0).then_some(best.as_slice());
            let (rounds, s) = (samples.len(), if samples.len() == 1 { "" } else { "s" });
            let mut note = far.then(|| format!("{}; {rounds} round{s}", side.control));
            if let Some(failure) = &failures[i] {
                note = Some(format!("failed after {rounds} round{s}: {failure}"));
            }
            rows.extend(figures(&self.name(load, side), samples, best, note));
        }
        Ok(rows)
    }

    fn meter(&self) -> Meter {
        Meter {
            allocations: self.options.allocations,
        }
    }
}

/// The medians of one side's rounds, and what they are of the reference's.
fn figures(
    case: &str,
    samples: &[Sample],
    best: Option<&[Sample]>,
    note: Option<String>,
) -> Vec<Row> {
    let median =
        |part: fn(&Sample) -> f64| Spread::of(&samples.iter().map(part).collect::<Vec<_>>()).median;
    let mut rate = Row::new(case, "throughput", median(|s| s.rate), "calls/s");
    rate.note = note;
    if let Some(best) = best {
        let rounds = samples.iter().zip(best);
        let ratios: Vec<f64> = rounds.map(|(us, them)| us.rate / them.rate).collect();
        rate = rate.against(tonic::NAME, Spread::of(&ratios));
    }
    let mut rows = vec![
        rate,
        Row::new(case, "latency p50", median(|s| s.p50), "ms"),
        Row::new(case, "latency p99", median(|s| s.p99), "ms"),
        Row::new(case, "processor", median(|s| s.cpu_of_call), "µs/call"),
        Row::new(
            case,
            "processor time",
            median(|s| s.cpu_of_megabyte),
            "µs/MB",
        ),
    ];
    let allocations = median(|s| s.allocations);
    if !allocations.is_nan() {
        rows.push(Row::new(case, "allocations", allocations, "/call"));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        Sample {
            rate,
            p50: 1.0,
            p99: 2.0,
            cpu_of_call: 3.0,
            cpu_of_megabyte: 4.0,
            allocations: f64::NAN,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() {
        let ours = [100.0, 10.0, 300.0].map(sample);
        let theirs = [50.0, 100.0, 100.0].map(sample);
        let rows = figures("ours", &ours, Some(&theirs), None);
        assert_eq!(rows[0].value.round(), 100.0);
        let ratio = rows[0].peer.as_ref().map(|(_, s)| s.median.round());
        assert_eq!(ratio, Some(2.0), "of 2.0, 0.1 and 3.0");
        assert!(rows.iter().all(|r| r.metric != "allocations"));
    }
}
