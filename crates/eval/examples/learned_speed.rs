//! How many decisions a second one core makes with the static encoders, prompts of 1 KB:
//! `cargo run --release -p polymath-eval --example learned_speed`.
//!
//! A decision encodes the prompt both ways, as a daemon does without a sentence embedder, and decides among all
//! experts of an index, five replicas each among fifty peers. Each of those that are learnt of has outcomes of its
//! own and a regression, and experiments are allowed. Prompts are made of synthetic words, all different; cards
//! have a description and eight examples. Times are a thread's on its processor.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Duration};

use polymath_engine::static_encoder;
use polymath_eval::study::PRIOR;
use polymath_router::{
    Descriptor, Descriptors, Features, PeerState, Question, Random, Reach, Request, Router,
    RouterConfig, learning::Sparse,
};
use polymath_types::{
    ExpertCard, ExpertId, ExpertKind, Index, LabelSet, Message, Model, PathKind, PeerId, PeerOffer,
    Query, RequestId, Runtime, Sampling, SamplingOverrides,
};

const PROMPTS: usize = 2000;
const BYTES: usize = 1024;
const EXAMPLES: usize = 8;
const PEERS: usize = 50;
const REPLICAS: usize = 5;

fn main() {
    let mut random = Random::new(1);
    let prompts: Vec<String> = (0..PROMPTS).map(|_| text(BYTES, &mut random)).collect();
    let begin = on_processor();
    for prompt in &prompts {
        black_box(features(prompt));
    }
    println!("encoding alone: {:.0} a second", rate(begin));
    println!("| experts | learnt of | decisions a second | of which without encoding |");
    println!("|---:|---:|---:|---:|");
    for (experts, learnt) in [
        (9, 0),
        (9, 9),
        (64, 64),
        (256, 256),
        (10_000, 0),
        (10_000, 256),
    ] {
        let (index, descriptors) = mesh(experts, &mut random);
        let mut router = Router::new(RouterConfig::default(), 1);
        let ids: Vec<ExpertId> = index.experts().map(|e| e.id).take(learnt).collect();
        for (n, prompt) in prompts.iter().enumerate().filter(|_| learnt > 0) {
            let seen = features(prompt);
            let question = Question {
                vector: &seen.words,
                cues: &seen.cues,
            };
            let expert = (ids[n % learnt], PRIOR);
            let reward = random.unit();
            router.policy_mut().observe(question, expert, reward);
        }
        let mut decide = |seen: &Features| {
            let query = query();
            let request = Request {
                query: &query,
                features: seen,
                explore: true,
            };
            let now = Duration::from_secs(1);
            let decision = router.decide(now, &request, &index, &descriptors, &reach);
            assert!(!black_box(decision).candidates.is_empty());
        };
        // What is new of the index is taken in once.
        decide(&features(&prompts[0]));
        let begin = on_processor();
        for prompt in &prompts {
            decide(&features(prompt));
        }
        let both = rate(begin);
        let encoded: Vec<Features> = prompts.iter().map(|p| features(p)).collect();
        let begin = on_processor();
        encoded.iter().for_each(&mut decide);
        println!("| {experts} | {learnt} | {both:.0} | {:.0} |", rate(begin));
    }
}

/// Prompts a second since `begin`.
fn rate(begin: Duration) -> f64 {
    PROMPTS as f64 / (on_processor() - begin).as_secs_f64()
}

fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn features(prompt: &str) -> Features {
    let seen = polymath_encoder::encode(prompt);
    Features {
        encoder: static_encoder::ENCODER_ID.to_owned(),
        vector: static_encoder::encode(prompt),
        prompt_tokens: 200,
        language: None,
        words: Sparse::new(&seen.places, &seen.values),
        cues: seen.cues.to_vec(),
    }
}

fn reach(_: &PeerId) -> PeerState {
    PeerState {
        own: false,
        reach: Reach::Connected {
            path: PathKind::Direct,
        },
        rtt: Some(Duration::from_millis(20)),
        load: None,
    }
}

fn mesh(experts: usize, random: &mut Random) -> (Index, Descriptors) {
    let peers: Vec<PeerId> = (0..PEERS).map(|_| PeerId::random()).collect();
    let mut offers: BTreeMap<PeerId, PeerOffer> = BTreeMap::new();
    let (mut cards, mut descriptors) = (BTreeMap::new(), Descriptors::default());
    for n in 0..experts {
        let card = Arc::new(card(n));
        let id = card.id();
        let shown = (0..EXAMPLES).map(|_| static_encoder::encode(&text(60, random)));
        let shown: Vec<_> = shown.collect();
        let described = static_encoder::encode(&text(120, random));
        descriptors.insert(id, Descriptor::new(&described, &shown));
        cards.insert(id, card);
        for i in 0..REPLICAS {
            let offer = offers.entry(peers[(n + i * 7) % PEERS]).or_default();
            offer.experts.push(id);
        }
    }
    let index = Index::build(offers, |id| cards.get(id).cloned());
    (index, descriptors)
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
            context_length: 4096,
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

fn query() -> Query {
    Query {
        id: RequestId::from_random([0; 8]),
        kind: ExpertKind::Generate,
        messages: vec![Message::user("?")],
        labels: Vec::new(),
        sampling: SamplingOverrides::default(),
        constraints: Default::default(),
    }
}

fn text(bytes: usize, random: &mut Random) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        for _ in 0..2 + random.below(8) {
            text.push(char::from(b'a' + random.below(26) as u8));
        }
        text.push(if random.below(12) == 0 { '.' } else { ' ' });
    }
    text
}
