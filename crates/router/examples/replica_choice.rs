//! Many askers, one expert on eight replicas, each asker with a router and measurements of its own: what
//! time answers take under the router's order of replicas, and under the power of two choices over the
//! same costs (Mitzenmacher 2001): two candidates at random, the cheaper one.
//!
//! ```text
//! cargo run --release -p polymath-router --example replica_choice
//! ```
//!
//! Virtual time; a replica answers four calls at once and lets others wait. Loads are reported as in the
//! daemon, with the last answer from that replica.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use polymath_router::{
    Descriptors, Features, Outcome, PeerState, Random, Reach, Request, Router, RouterConfig, Served,
};
use polymath_types::{
    ErrorKind, ExpertCard, ExpertId, ExpertKind, Index, LabelSet, LoadReport, Message, Model,
    PathKind, PeerId, PeerOffer, Query, RequestId, Runtime, Sampling, SamplingOverrides,
};

const REPLICAS: usize = 8;
const PLACES: usize = 4;
/// Mean service time, seconds; its logarithm has this deviation.
const SERVICE: (f64, f64) = (1.0, 0.5);
const CALLS: usize = 40_000;
/// Of the answer until its first token.
const PREFILL: f64 = 0.25;
/// How long a load report is believed.
const FRESH: f64 = 10.0;

#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Order,
    TwoChoices,
    Random,
}

#[derive(Clone, Copy)]
struct Call {
    asker: usize,
    replica: usize,
    asked: f64,
    service: f64,
}

struct Asker {
    router: Router,
    reports: HashMap<PeerId, (f64, LoadReport)>,
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn main() {
    println!("{REPLICAS} replicas of {PLACES} places, {CALLS} calls, virtual time; seconds");
    println!("askers  load  slow  choice        p50    p95    p99");
    for (askers, load, slow) in [
        (1, 0.7, 1.0),
        (30, 0.7, 1.0),
        (30, 0.9, 1.0),
        (200, 0.7, 1.0),
        (1, 0.6, 5.0),
        (30, 0.6, 5.0),
        (200, 0.6, 5.0),
    ] {
        for (name, choice) in [
            ("router", Choice::Order),
            ("two choices", Choice::TwoChoices),
            ("random", Choice::Random),
        ] {
            let mut times = run(askers, load, slow, choice);
            times.sort_unstable_by(f64::total_cmp);
            let p = |share: f64| times[(share * times.len() as f64) as usize];
            println!(
                "{askers:6} {load:5.1} {slow:5.0}  {name:11} {:6.2} {:6.2} {:6.2}",
                p(0.5),
                p(0.95),
                p(0.99)
            );
        }
    }
}

/// The times of all answers; the last replica is `slow` times slower.
fn run(askers: usize, load: f64, slow: f64, choice: Choice) -> Vec<f64> {
    let mut random = Random::new(7);
    let peers: Vec<PeerId> = (0..REPLICAS).map(|_| PeerId::random()).collect();
    let (index, expert) = index(&peers);
    let mut all: Vec<Asker> = (0..askers)
        .map(|n| Asker {
            router: Router::new(RouterConfig::default(), n as u64),
            reports: HashMap::new(),
        })
        .collect();
    let (features, query) = (Features::default(), query());
    let request = Request {
        query: &query,
        features: &features,
        explore: false,
    };
    let capacity = PLACES as f64 * (REPLICAS as f64 - 1.0 + 1.0 / slow) / SERVICE.0;
    let rate = load * capacity;
    let mut busy = [0_usize; REPLICAS];
    let mut waiting: Vec<VecDeque<(Call, f64)>> = vec![VecDeque::new(); REPLICAS];
    // Ends by time; nanoseconds, so that they can be ordered.
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut calls: Vec<(Call, f64)> = Vec::new();
    let mut times = Vec::with_capacity(CALLS);
    let mut made = 0;
    let mut next = 0.0;
    while made < CALLS || !ends.is_empty() {
        let end = ends.peek().map(|Reverse((t, _))| *t as f64 / 1e9);
        if made < CALLS && end.is_none_or(|end| next < end) {
            let now = next;
            next += -(1.0 - random.unit()).ln() / rate;
            made += 1;
            let asker = random.below(askers);
            let Asker { router, reports } = &mut all[asker];
            let state = |peer: &PeerId| PeerState {
                own: false,
                reach: Reach::Connected {
                    path: PathKind::Direct,
                },
                rtt: Some(Duration::from_millis(10)),
                load: reports
                    .get(peer)
                    .filter(|(at, _)| now - at < FRESH)
                    .map(|(_, load)| *load),
            };
            let decision =
                router.decide(at(now), &request, &index, &Descriptors::default(), &state);
            let candidates = &decision.candidates;
            let chosen = match choice {
                Choice::Order => &candidates[0],
                Choice::Random => &candidates[random.below(candidates.len())],
                Choice::TwoChoices => {
                    let one = random.below(candidates.len());
                    let other = (one + 1 + random.below(candidates.len() - 1)) % candidates.len();
                    // They stand in the router's order.
                    &candidates[one.min(other)]
                }
            };
            router.started(at(now), expert, chosen.peer);
            let replica = peers.iter().position(|p| *p == chosen.peer).unwrap_or(0);
            let (mean, sigma) = SERVICE;
            let mut service = (sigma * random.normal() - sigma * sigma / 2.0).exp() * mean;
            if replica == REPLICAS - 1 {
                service *= slow;
            }
            let call = Call {
                asker,
                replica,
                asked: now,
                service,
            };
            if busy[replica] < PLACES {
                busy[replica] += 1;
                ends.push(Reverse((((now + service) * 1e9) as u64, calls.len())));
                calls.push((call, now));
            } else {
                waiting[replica].push_back((call, now));
            }
            continue;
        }
        let Some(Reverse((t, n))) = ends.pop() else {
            break;
        };
        let now = t as f64 / 1e9;
        let (call, begun) = calls[n];
        times.push(now - call.asked);
        busy[call.replica] -= 1;
        if let Some((call, _)) = waiting[call.replica].pop_front() {
            busy[call.replica] += 1;
            ends.push(Reverse((((now + call.service) * 1e9) as u64, calls.len())));
            calls.push((call, now));
        }
        let report = LoadReport {
            queue_depth: waiting[call.replica].len() as u32,
            active: busy[call.replica] as u32,
            free_slots: (PLACES - busy[call.replica]) as u32,
            ..LoadReport::default()
        };
        let asker = &mut all[call.asker];
        asker.reports.insert(peers[call.replica], (now, report));
        let served = Served {
            ttft: at(begun - call.asked + call.service * PREFILL),
            tokens: 64,
            decode: at(call.service * (1.0 - PREFILL)),
        };
        let result: Result<Served, ErrorKind> = Ok(served);
        let outcome = Outcome {
            expert,
            peer: peers[call.replica],
            result,
        };
        asker.router.observe(at(now), &outcome);
    }
    times
}

fn index(peers: &[PeerId]) -> (Index, ExpertId) {
    let card = Arc::new(ExpertCard {
        version: 1,
        name: "one".into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "one-model".into(),
            runtime: Runtime::GgufLlama,
            files: Vec::new(),
            adapter: None,
            context_length: 0,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        capabilities: Vec::new(),
        labels: LabelSet::None,
    });
    let id = card.id();
    let offer = PeerOffer {
        agent: "example".into(),
        experts: vec![id],
        ..PeerOffer::default()
    };
    let offers = peers.iter().map(|p| (*p, offer.clone()));
    (Index::build(offers, |_| Some(Arc::clone(&card))), id)
}

fn query() -> Query {
    Query {
        id: RequestId::from_random([0; 8]),
        kind: ExpertKind::Generate,
        messages: vec![Message::user("How long do I boil an egg?")],
        labels: Vec::new(),
        sampling: SamplingOverrides {
            max_tokens: Some(64),
            ..SamplingOverrides::default()
        },
        constraints: Default::default(),
    }
}
