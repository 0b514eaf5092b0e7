//! How long one decision takes, encoding not counted:
//! `cargo run --release -p polymath-router --example decision_speed -- [EXPERTS [ROW]]`.
//!
//! Every expert has a description and eight examples, as random vectors, and five replicas among 2,000 peers,
//! whose states are looked up in a hash map; 2,000 calls have been observed. Each decision is of another query.
//! Times are a thread's on its processor, so that what else the machine does is not counted (but for caches, and
//! cores that are two in one). The rows:
//!
//! * walk: by looking at every card, which finds the same (`tests/router/roster.rs`);
//! * plain: no constraint;
//! * constraints: a context that half of the cards lack, a language, a price ceiling, two peers excluded;
//! * named: an expert's name; allowed: three peers only;
//! * rare label: a label that two of the peers state; none of the closest experts is there;
//! * graded: 4,096 answers of 256 experts have been graded, queries have as many hashed words as a text of 1 KB,
//!   and experiments are allowed;
//! * patch: the index has just changed: ten offers, each with other prices, one expert less and a new one, and ten
//!   that had changed are again as before.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
    sync::Arc,
    time::Duration,
};

use polymath_router::{
    Descriptor, Descriptors, Features, Outcome, PeerState, Question, Reach, Request, Router,
    RouterConfig, Served, learning::Sparse,
};
use polymath_types::{
    Constraints, ExpertCard, ExpertId, ExpertKind, Index, Keypair, LabelSet, Message, Model,
    PathKind, PeerId, PeerOffer, Query, RequestId, Runtime, Sampling, SamplingOverrides, Terms,
};

const EXAMPLES: usize = 8;
const REPLICAS: usize = 5;
const PEERS: usize = 2000;
const DECISIONS: usize = 1000;
const WALKS: usize = 100;
const GRADES: usize = 4096;
const WORDS: usize = 300;
const CUES: [f32; 16] = [0.5; 16];
const NOW: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Row {
    Walk,
    Plain,
    Constraints,
    Named,
    Allowed,
    RareLabel,
    Graded,
    Patch,
}

impl Row {
    const ALL: [Self; 8] = [
        Self::Walk,
        Self::Plain,
        Self::Constraints,
        Self::Named,
        Self::Allowed,
        Self::RareLabel,
        Self::Graded,
        Self::Patch,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Plain => "plain",
            Self::Constraints => "constraints",
            Self::Named => "named",
            Self::Allowed => "allowed",
            Self::RareLabel => "rare label",
            Self::Graded => "graded",
            Self::Patch => "patch",
        }
    }
}

fn main() {
    println!(
        "decision time, {DECISIONS} decisions a row, 1 + {EXAMPLES} vectors an expert, {REPLICAS} replicas each, shortlist of {}",
        RouterConfig::default().shortlist
    );
    println!("| experts | dimensions | row | p50 µs | p99 µs | walk over it |");
    println!("|---:|---:|---|---:|---:|---:|");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut random = Random(1);
    let peers: Vec<PeerId> = (0..PEERS).map(|_| peer(&mut random)).collect();
    for (experts, dimensions) in [
        (10, 384),
        (256, 384),
        (1_000, 384),
        (10_000, 384),
        (10_000, 1024),
    ] {
        if wanted.first().is_some_and(|n| *n != experts.to_string()) {
            continue;
        }
        let mesh = Mesh::new(experts, dimensions, &peers, &mut random);
        let mut walked = None;
        let chosen = |row: &Row| wanted.get(1).is_none_or(|name| name == row.name());
        for row in Row::ALL.into_iter().filter(chosen) {
            let (p50, p99) = mesh.measure(row, &mut random);
            let walk = *walked.get_or_insert(p50);
            println!(
                "| {experts} | {dimensions} | {} | {:.1} | {:.1} | {:.1} |",
                row.name(),
                micros(p50),
                micros(p99),
                walk.as_secs_f64() / p50.as_secs_f64()
            );
        }
    }
}

struct Mesh {
    dimensions: usize,
    peers: Vec<PeerId>,
    cards: HashMap<ExpertId, Arc<ExpertCard>>,
    index: Index,
    vectors: Descriptors,
    states: HashMap<PeerId, PeerState>,
}

impl Mesh {
    fn new(experts: usize, dimensions: usize, peers: &[PeerId], random: &mut Random) -> Self {
        let mut offers: BTreeMap<PeerId, PeerOffer> = BTreeMap::new();
        let (mut cards, mut vectors) = (HashMap::new(), Descriptors::default());
        for n in 0..experts {
            let card = card(n);
            let id = card.id();
            cards.insert(id, Arc::new(card));
            vectors.insert(id, descriptor(dimensions, random));
            let first = random.below(peers.len());
            for i in 0..REPLICAS {
                let at = (first + i * 7) % peers.len();
                let offer = offers.entry(peers[at]).or_insert_with(|| PeerOffer {
                    epoch: 1,
                    sequence: 1,
                    labels: BTreeMap::from([(
                        "office".to_owned(),
                        if at.is_multiple_of(1000) {
                            "berlin"
                        } else {
                            "elsewhere"
                        }
                        .to_owned(),
                    )]),
                    ..PeerOffer::default()
                });
                offer.experts.push(id);
            }
        }
        let states = peers
            .iter()
            .map(|p| {
                let rtt = Some(Duration::from_micros(random.below(100_000) as u64));
                let reach = Reach::Connected {
                    path: PathKind::Direct,
                };
                let state = PeerState {
                    own: false,
                    reach,
                    rtt,
                    load: None,
                };
                (*p, state)
            })
            .collect();
        Self {
            dimensions,
            peers: peers.to_vec(),
            index: Index::build(offers, |id| cards.get(id).cloned()),
            cards,
            vectors,
            states,
        }
    }

    /// After a while: calls were observed, and answers graded where the row is about them.
    fn router(&self, row: Row, random: &mut Random) -> Router {
        let mut router = Router::new(RouterConfig::default(), 1);
        let pairs: Vec<_> = self
            .index
            .experts()
            .flat_map(|e| e.replicas.iter().map(|r| (e.id, r.peer)))
            .collect();
        for _ in 0..2000 {
            let (expert, peer) = pairs[random.below(pairs.len())];
            let ttft = Duration::from_millis(random.below(1000) as u64);
            let served = Served {
                ttft,
                tokens: 100,
                decode: ttft * 10,
            };
            let outcome = Outcome {
                expert,
                peer,
                result: Ok(served),
            };
            router.started(NOW, expert, peer);
            router.observe(NOW, &outcome);
        }
        if row == Row::Graded {
            // Of at most as many experts as anything is learnt of.
            let graded: Vec<ExpertId> = self.index.experts().map(|e| e.id).take(256).collect();
            for n in 0..GRADES {
                let (words, reward) = (random.words(), random.unit());
                let question = Question {
                    vector: &words,
                    cues: &CUES,
                };
                let expert = (graded[n % graded.len()], 0.4);
                router.policy_mut().observe(question, expert, reward);
            }
        }
        router
    }

    fn constraints(&self, row: Row, random: &mut Random) -> Constraints {
        let mut any = || self.peers[random.below(self.peers.len())];
        match row {
            Row::Constraints => Constraints {
                exclude: vec![any(), any()],
                max_price: Some(Terms::CREDIT),
                ..Constraints::default()
            },
            Row::Allowed => {
                let serving: Vec<PeerId> = self.index.peers().keys().copied().collect();
                let mut any = || serving[random.below(serving.len())];
                Constraints {
                    allow: vec![any(), any(), any()],
                    ..Constraints::default()
                }
            }
            Row::Named => Constraints {
                model: Some(format!("expert-{}", random.below(self.cards.len()))),
                ..Constraints::default()
            },
            Row::RareLabel => Constraints {
                peer_labels: BTreeMap::from([("office".to_owned(), "berlin".to_owned())]),
                ..Constraints::default()
            },
            _ => Constraints::default(),
        }
    }

    fn measure(&self, row: Row, random: &mut Random) -> (Duration, Duration) {
        let mut router = self.router(row, random);
        let (mut index, mut vectors) = (self.index.clone(), self.vectors.clone());
        let decisions = if row == Row::Walk { WALKS } else { DECISIONS };
        let mut times: Vec<Duration> = (0..decisions)
            .map(|n| {
                if row == Row::Patch {
                    (index, vectors) = (self.index.clone(), self.vectors.clone());
                    self.patch(n, &mut index, &mut vectors, random);
                }
                let query = Query {
                    id: RequestId::from_random([0; 8]),
                    kind: ExpertKind::Generate,
                    messages: vec![Message::user("?")],
                    labels: Vec::new(),
                    sampling: SamplingOverrides::default(),
                    constraints: self.constraints(row, random),
                };
                let constrained = row == Row::Constraints;
                let features = Features {
                    encoder: "bench".into(),
                    vector: random.vector(self.dimensions),
                    prompt_tokens: if constrained { 2000 } else { 100 },
                    language: constrained.then(|| "de".to_owned()),
                    words: random.words(),
                    cues: CUES.to_vec(),
                };
                let request = Request {
                    query: &query,
                    features: &features,
                    explore: row == Row::Graded,
                };
                let peers = |p: &PeerId| self.states[p].clone();
                let begin = on_processor();
                let decision = if row == Row::Walk {
                    router.decide_by_walk(NOW, &request, &index, &vectors, &peers)
                } else {
                    router.decide(NOW, &request, &index, &vectors, &peers)
                };
                let time = on_processor() - begin;
                let none = black_box(decision).candidates.is_empty();
                // In a small mesh no peer of the label serves anything.
                assert!(!none || row == Row::RareLabel);
                time
            })
            .collect();
        times.sort_unstable();
        (times[decisions / 2], times[decisions * 99 / 100])
    }

    /// Ten offers, each with one expert fewer, a new one, and other prices.
    fn patch(&self, n: usize, index: &mut Index, vectors: &mut Descriptors, random: &mut Random) {
        let serving: Vec<PeerId> = index.peers().keys().copied().collect();
        for i in 0..10 {
            let peer = serving[random.below(serving.len())];
            let new = card(1_000_000 + n * 10 + i);
            let id = new.id();
            vectors.insert(id, descriptor(self.dimensions, random));
            let mut offer = index.peers()[&peer].clone();
            if offer.experts.len() > 1 {
                offer.experts.pop();
            }
            offer.experts.push(id);
            let price_in = random.below(1000) as u64;
            let terms = Terms {
                price_in,
                ..Terms::default()
            };
            offer.terms = offer.experts.iter().map(|e| (*e, terms)).collect();
            let new = Arc::new(new);
            index.set_offer(peer, Arc::new(offer), |wanted| {
                if *wanted == id {
                    return Some(Arc::clone(&new));
                }
                self.cards.get(wanted).cloned()
            });
        }
    }
}

fn descriptor(dimensions: usize, random: &mut Random) -> Descriptor {
    let examples: Vec<Vec<f32>> = (0..EXAMPLES).map(|_| random.vector(dimensions)).collect();
    Descriptor::new(&random.vector(dimensions), &examples)
}

/// How long this thread has computed.
fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

fn peer(random: &mut Random) -> PeerId {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&random.next().to_le_bytes());
    Keypair::ed25519_from_bytes(seed)
        .unwrap()
        .public()
        .to_peer_id()
}

fn card(n: usize) -> ExpertCard {
    ExpertCard {
        version: 1,
        name: format!("expert-{n}"),
        kind: ExpertKind::Generate,
        model: Model {
            name: format!("model-{}", n % 50),
            runtime: Runtime::GgufLlama,
            files: Vec::new(),
            adapter: None,
            context_length: [1024, 4096][n % 2],
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: LabelSet::None,
        capabilities: Vec::new(),
    }
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        self.below(1001) as f64 / 1000.0
    }

    /// As many places as a text of 1 KB has.
    fn words(&mut self) -> Sparse {
        let mut places: Vec<u32> = (0..WORDS).map(|_| self.below(1 << 14) as u32).collect();
        places.sort_unstable();
        places.dedup();
        let value = 1.0 / (places.len() as f32).sqrt();
        Sparse::new(&places, &vec![value; places.len()])
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn vector(&mut self, dimensions: usize) -> Vec<f32> {
        let raw: Vec<f32> = (0..dimensions)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        raw.into_iter().map(|x| x / norm).collect()
    }
}
