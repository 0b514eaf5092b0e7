//! How long one decision takes, encoding not counted:
//! `cargo run --release -p polymath-router --example decision_speed`.
//!
//! Every expert has a description and eight examples of 384 dimensions and five replicas among
//! 2,000 peers; vectors and peer states are looked up in hash maps; 2,000 calls have been observed, and the
//! answers of up to 256 experts graded. Queries have as many hashed words as a text of 1 KB.
//! One core.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use polymath_router::{
    Descriptor, Features, Outcome, PeerState, Question, Reach, Request, Router, RouterConfig,
    Served, learning::Sparse,
};
use polymath_types::{
    ExpertCard, ExpertId, ExpertKind, Index, Keypair, LabelSet, Message, Model, PathKind, PeerId,
    PeerOffer, Query, RequestId, Runtime, Sampling, SamplingOverrides,
};

const DIMENSIONS: usize = 384;
const EXAMPLES: usize = 8;
const REPLICAS: usize = 5;
const PEERS: usize = 2000;
const DECISIONS: usize = 1000;
const GRADES: usize = 4096;
const WORDS: usize = 300;
const CUES: [f32; 16] = [0.5; 16];

fn main() {
    println!(
        "decision time, {DECISIONS} decisions, {DIMENSIONS} dimensions, 1 + {EXAMPLES} vectors an expert, {REPLICAS} replicas each"
    );
    println!("| experts | shortlist | graded answers | p50 µs | p99 µs |");
    println!("|---:|---:|---:|---:|---:|");
    let mut random = Random(1);
    let peers: Vec<PeerId> = (0..PEERS).map(|_| peer(&mut random)).collect();
    for experts in [10, 256, 1_000, 10_000] {
        let mesh = Mesh::new(experts, &peers, &mut random);
        let shortlist = RouterConfig::default().shortlist;
        for (shortlist, grades) in [(shortlist, 0), (shortlist, GRADES), (usize::MAX, 0)] {
            let (p50, p99) = mesh.measure(shortlist, grades, &mut random);
            let name = if shortlist == usize::MAX {
                "none".into()
            } else {
                shortlist.to_string()
            };
            println!(
                "| {experts} | {name} | {grades} | {:.1} | {:.1} |",
                micros(p50),
                micros(p99)
            );
        }
    }
}

struct Mesh {
    index: Index,
    vectors: HashMap<ExpertId, Arc<Descriptor>>,
    states: HashMap<PeerId, PeerState>,
}

impl Mesh {
    fn new(experts: usize, peers: &[PeerId], random: &mut Random) -> Self {
        let mut offers: BTreeMap<PeerId, Vec<ExpertId>> = BTreeMap::new();
        let (mut cards, mut vectors) = (HashMap::new(), HashMap::new());
        for n in 0..experts {
            let card = card(n);
            let id = card.id();
            cards.insert(id, Arc::new(card));
            let examples: Vec<Vec<f32>> = (0..EXAMPLES).map(|_| random.vector()).collect();
            vectors.insert(id, Arc::new(Descriptor::new(&random.vector(), &examples)));
            let first = random.below(peers.len());
            for i in 0..REPLICAS {
                offers
                    .entry(peers[(first + i * 7) % peers.len()])
                    .or_default()
                    .push(id);
            }
        }
        let offers = offers.into_iter().map(|(p, experts)| {
            let agent = "bench".into();
            (
                p,
                PeerOffer {
                    addresses: Vec::new(),
                    agent,
                    sequence: 1,
                    epoch: 1,
                    experts,
                    ..PeerOffer::default()
                },
            )
        });
        let states = peers
            .iter()
            .map(|p| {
                let rtt = Some(Duration::from_micros(random.below(100_000) as u64));
                let reach = Reach::Connected {
                    path: PathKind::Direct,
                };
                (
                    *p,
                    PeerState {
                        own: false,
                        reach,
                        rtt,
                        load: None,
                    },
                )
            })
            .collect();
        Self {
            index: Index::build(offers, |id| cards.get(id).cloned()),
            vectors,
            states,
        }
    }

    fn measure(
        &self,
        shortlist: usize,
        grades: usize,
        random: &mut Random,
    ) -> (Duration, Duration) {
        let config = RouterConfig {
            shortlist,
            ..RouterConfig::default()
        };
        let mut router = Router::new(config, 1);
        let pairs: Vec<_> = self
            .index
            .experts()
            .flat_map(|e| e.replicas.iter().map(|r| (e.id, r.peer)))
            .collect();
        let now = Duration::from_secs(1);
        for _ in 0..2000 {
            let (expert, peer) = pairs[random.below(pairs.len())];
            let ttft = Duration::from_millis(random.below(1000) as u64);
            let served = Served {
                ttft,
                tokens: 100,
                decode: ttft * 10,
            };
            router.started(now, expert, peer);
            router.observe(
                now,
                &Outcome {
                    expert,
                    peer,
                    result: Ok(served),
                },
            );
        }
        // Of at most as many experts as anything is learnt of.
        let graded: Vec<ExpertId> = self.index.experts().map(|e| e.id).take(256).collect();
        for n in 0..grades {
            let (words, reward) = (random.words(), random.unit());
            let question = Question {
                vector: &words,
                cues: &CUES,
            };
            let expert = (graded[n % graded.len()], 0.4);
            router.policy_mut().observe(question, expert, reward);
        }
        let query = Query {
            id: RequestId::from_random([0; 8]),
            kind: ExpertKind::Generate,
            messages: vec![Message::user("?")],
            labels: Vec::new(),
            sampling: SamplingOverrides::default(),
            constraints: Default::default(),
        };
        let mut times: Vec<Duration> = (0..DECISIONS)
            .map(|_| {
                let vector = random.vector();
                let features = Features {
                    encoder: "bench".into(),
                    vector,
                    prompt_tokens: 100,
                    language: None,
                    words: random.words(),
                    cues: CUES.to_vec(),
                };
                let request = Request {
                    query: &query,
                    features: &features,
                    explore: false,
                };
                let begin = Instant::now();
                let decision = router.decide(
                    now,
                    &request,
                    &self.index,
                    &|id| self.vectors.get(id).cloned(),
                    &|p| self.states[p].clone(),
                );
                let time = begin.elapsed();
                assert!(!black_box(decision).candidates.is_empty());
                time
            })
            .collect();
        times.sort_unstable();
        (times[DECISIONS / 2], times[DECISIONS * 99 / 100])
    }
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
            name: "model".into(),
            runtime: Runtime::GgufLlama,
            files: Vec::new(),
            adapter: None,
            context_length: 2048,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: LabelSet::None,
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

    fn vector(&mut self) -> Vec<f32> {
        let raw: Vec<f32> = (0..DIMENSIONS)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        raw.into_iter().map(|x| x / norm).collect()
    }
}
