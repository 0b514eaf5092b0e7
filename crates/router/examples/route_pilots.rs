//! How many CLINC150 queries reach the expert of their domain, by how quality is made of
//! similarities: `cargo run --release -p polymath-router --example route_pilots -- DIR`; with a second argument
//! only what preselection costs, the last table.
//!
//! `DIR` holds `clinc150.json.gz` (splits of `[text, intent]`) and `clinc150_domains.json`
//! (domain to intents) of clinc/oos-eval. The ten domains are experts; each has one line of
//! description, written here, and 15 random training utterances as examples. The encoder is a
//! throw-away: hashed character 3- to 5-grams and words. Methods are compared on training
//! utterances that are nobody's examples; the test split is then read once, for the rows named
//! beforehand and the best of the comparison. Intervals are over queries: on the test split each
//! counts with its mean over the draws, on the training split once a draw.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::Arc,
    time::Duration,
};

use polymath_router::{
    Blend, Descriptor, Descriptors, Features, PeerState, Reach, Request, Router, RouterConfig,
};
use polymath_types::{
    ExpertCard, ExpertKind, Index, Keypair, LabelSet, Message, Model, PeerOffer, Query, RequestId,
    Runtime, Sampling, SamplingOverrides,
};

const DIMENSIONS: usize = 1024;
const PILOTS: usize = 15;
const DRAWS: u64 = 5;
const COMPARED: usize = 1500;
const RESAMPLES: usize = 1000;

const DESCRIPTIONS: [(&str, &str); 10] = [
    (
        "banking",
        "Bank accounts: balances, transfers, bills, checks, PINs, interest and fraud.",
    ),
    (
        "credit_cards",
        "Credit cards: limits, APR, rewards, credit scores, lost or declined cards.",
    ),
    (
        "kitchen_and_dining",
        "Cooking and restaurants: recipes, ingredients, calories, reservations and reviews.",
    ),
    (
        "home",
        "The home: music and playlists, shopping and to-do lists, reminders, calendar, orders, smart devices.",
    ),
    (
        "auto_and_commute",
        "Cars and commuting: traffic, directions, gas, tires, oil changes and rides.",
    ),
    (
        "travel",
        "Travel: flights, hotels, visas, luggage, car rental, exchange rates, time zones and translation.",
    ),
    (
        "utility",
        "Everyday tools: weather, alarms, timers, calculator, spelling, definitions, calls and texts.",
    ),
    (
        "work",
        "Work: meetings, vacation days, pay, taxes, insurance, retirement savings and direct deposit.",
    ),
    (
        "small_talk",
        "Small talk with the assistant: greetings, jokes, its name, age, origin and hobbies.",
    ),
    (
        "meta",
        "Control of the assistant: yes and no, repeat, cancel, volume, language, accent, names, settings.",
    ),
];

/// How an expert's descriptor is made of its card, and how it is compared.
#[derive(Clone, Copy)]
enum Method {
    Random,
    Centroid,
    Description,
    Blend(Blend),
}

impl Method {
    fn name(self) -> String {
        match self {
            Self::Random => "random".into(),
            Self::Centroid => "one centroid of the examples".into(),
            Self::Description => "description only".into(),
            Self::Blend(b) => {
                format!(
                    "{:.2} description + {:.2} top-{} examples",
                    b.description,
                    1.0 - b.description,
                    b.top_examples
                )
            }
        }
    }
}

type Split = Vec<(String, String)>;

fn main() {
    if std::env::args().nth(2).is_some() {
        shortlist_agreement(&Path::new(&std::env::args().nth(1).unwrap()).join("clinc150.json.gz"));
        return;
    }
    let folder = std::env::args()
        .nth(1)
        .expect("give the folder of the CLINC150 files");
    let folder = Path::new(&folder);
    let mut splits: HashMap<String, Split> = serde_json::from_reader(flate2::read::GzDecoder::new(
        File::open(folder.join("clinc150.json.gz")).expect("clinc150.json.gz"),
    ))
    .unwrap();
    let domains: BTreeMap<String, Vec<String>> = serde_json::from_reader(
        File::open(folder.join("clinc150_domains.json")).expect("clinc150_domains.json"),
    )
    .unwrap();
    let domain_of: HashMap<&str, &str> = domains
        .iter()
        .flat_map(|(d, intents)| intents.iter().map(|i| (i.as_str(), d.as_str())))
        .collect();
    let encoded = |split: Split| -> Vec<Utterance> {
        let utterance = |(text, intent): (String, String)| {
            Some(Utterance {
                vector: encode(&text),
                expert: (*domain_of.get(intent.as_str())?).to_owned(),
            })
        };
        split.into_iter().filter_map(utterance).collect()
    };
    let train = encoded(splits.remove("train").unwrap());
    let test = encoded(splits.remove("test").unwrap());
    let described: HashMap<String, Vec<f32>> = DESCRIPTIONS
        .iter()
        .map(|(d, text)| ((*d).to_owned(), encode(text)))
        .collect();

    let mut methods = vec![Method::Random, Method::Centroid, Method::Description];
    for top_examples in [1, 2, 3, 5, PILOTS] {
        for description in [0.0, 0.1, 0.2, 0.35, 0.5] {
            methods.push(Method::Blend(Blend {
                description,
                top_examples,
            }));
        }
    }
    println!(
        "CLINC150, 10 domains as experts, {PILOTS} examples each, mean of {DRAWS} draws, 95 % bootstrap\n"
    );
    println!(
        "| chosen on: train, {COMPARED} utterances a draw | right | interval |\n|---|---:|---:|"
    );
    let mut best = (0.0, Method::Random);
    for method in methods {
        let right = evaluate(method, &train, None, &described);
        let mean = print_row(&method.name(), &right);
        if mean > best.0 {
            best = (mean, method);
        }
    }
    println!(
        "\n| test, n = {} | right | interval |\n|---|---:|---:|",
        test.len()
    );
    let default = Method::Blend(Blend::default());
    for (label, method) in [
        ("", Method::Random),
        ("", Method::Centroid),
        ("", Method::Description),
        (" (the router's default)", default),
        (" (best on train)", best.1),
    ] {
        print_row(
            &format!("{}{label}", method.name()),
            &evaluate(method, &train, Some(&test), &described),
        );
    }
    shortlist_agreement(&folder.join("clinc150.json.gz"));
}

struct Utterance {
    vector: Vec<f32>,
    expert: String,
}

/// For each query, the share of draws that routed it right. Without a test split, training
/// utterances that are no examples are the queries, each draw its own: then one entry a query.
fn evaluate(
    method: Method,
    train: &[Utterance],
    test: Option<&[Utterance]>,
    described: &HashMap<String, Vec<f32>>,
) -> Vec<f64> {
    let mut right: Vec<f64> = vec![0.0; test.map_or(0, <[_]>::len)];
    for draw in 0..DRAWS {
        let mut random = Random(draw + 1);
        let mut order: Vec<&Utterance> = train.iter().collect();
        random.shuffle(&mut order);
        let mut pilots: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
        let mut held_out = Vec::new();
        for u in order {
            let own = pilots.entry(u.expert.clone()).or_default();
            if own.len() < PILOTS {
                own.push(u.vector.clone());
            } else {
                held_out.push(u);
            }
        }
        let mut mesh = Mesh::new(&pilots, described, method);
        match test {
            Some(test) => {
                for (share, u) in right.iter_mut().zip(test) {
                    *share += f64::from(u8::from(mesh.route(&u.vector, &mut random) == u.expert))
                        / DRAWS as f64;
                }
            }
            None => right.extend(
                held_out
                    .into_iter()
                    .take(COMPARED)
                    .map(|u| f64::from(u8::from(mesh.route(&u.vector, &mut random) == u.expert))),
            ),
        }
    }
    right
}

/// Does the preselection change the choice? With the 150 intents as experts, and with a crowd, each of whom shows
/// eight utterances of an intent.
fn shortlist_agreement(path: &Path) {
    const CROWD: usize = 10_000;
    const SHOWN: usize = 8;
    let splits: HashMap<String, Split> =
        serde_json::from_reader(flate2::read::GzDecoder::new(File::open(path).unwrap())).unwrap();
    let mut random = Random(1);
    let mut train: Vec<&(String, String)> = splits["train"].iter().collect();
    random.shuffle(&mut train);
    let mut known: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
    let mut queries = Vec::new();
    for (text, intent) in train {
        let own = known.entry(intent.clone()).or_default();
        if own.len() < 80 {
            own.push(encode(text));
        } else {
            queries.push((encode(text), intent));
        }
    }
    queries.truncate(COMPARED);
    let intents = known.iter();
    let few = intents.map(|(name, own)| (name.clone(), own[..PILOTS].to_vec()));
    let few: BTreeMap<String, Vec<Vec<f32>>> = few.collect();
    let mut many = BTreeMap::new();
    for n in 0..CROWD {
        let (name, own) = known.iter().nth(n % known.len()).unwrap();
        let shown = (0..SHOWN).map(|_| own[random.below(own.len())].clone());
        many.insert(format!("{name}.{n}"), shown.collect());
    }
    println!(
        "\n| experts | preselected by mean vector | same choice as without | intent is right |\n|---:|---:|---:|---:|"
    );
    for pilots in [few, many] {
        let mut mesh = Mesh::new(&pilots, &HashMap::new(), Method::Blend(Blend::default()));
        let mut exact: Option<Vec<String>> = None;
        for shortlist in [usize::MAX, 256, 128, 96, 64, 48, 32, 16] {
            mesh.router = Router::new(
                RouterConfig {
                    shortlist,
                    ..RouterConfig::default()
                },
                1,
            );
            let vectors: Vec<Vec<f32>> = queries.iter().map(|(v, _)| v.clone()).collect();
            let chosen = mesh.route_all(&vectors);
            let right = chosen.iter().zip(&queries);
            let right = right.filter(|(name, (_, intent))| name.split('.').next() == Some(intent));
            let right = right.count();
            let exact = exact.get_or_insert_with(|| chosen.clone());
            let same = chosen.iter().zip(exact.iter()).filter(|(a, b)| a == b);
            let share = |n: usize| 100.0 * n as f64 / queries.len() as f64;
            println!(
                "| {} | {} | {:.1} % | {:.1} % |",
                pilots.len(),
                if shortlist == usize::MAX {
                    "none".into()
                } else {
                    shortlist.to_string()
                },
                share(same.count()),
                share(right)
            );
        }
    }
}

/// One peer, which is this node, so that content alone decides.
struct Mesh {
    router: Router,
    index: Index,
    vectors: Descriptors,
    experts: Vec<String>,
    random: bool,
}

impl Mesh {
    fn new(
        pilots: &BTreeMap<String, Vec<Vec<f32>>>,
        described: &HashMap<String, Vec<f32>>,
        method: Method,
    ) -> Self {
        let (mut cards, mut vectors) = (HashMap::new(), Descriptors::default());
        for (name, pilots) in pilots {
            let description = described.get(name).map_or(&[][..], Vec::as_slice);
            let descriptor = match method {
                Method::Random | Method::Description => Descriptor::new(description, &[]),
                Method::Centroid => Descriptor::new(&mean(pilots), &[]),
                Method::Blend(_) => Descriptor::new(description, pilots),
            };
            let card = card(name);
            vectors.insert(card.id(), Arc::new(descriptor));
            cards.insert(card.id(), Arc::new(card));
        }
        let here = Keypair::ed25519_from_bytes([1; 32])
            .unwrap()
            .public()
            .to_peer_id();
        let experts = cards.keys().copied().collect();
        let offer = PeerOffer {
            addresses: Vec::new(),
            agent: "eval".into(),
            sequence: 1,
            epoch: 1,
            experts,
            ..PeerOffer::default()
        };
        let index = Index::build(BTreeMap::from([(here, offer)]), |id| cards.get(id).cloned());
        let blend = if let Method::Blend(blend) = method {
            blend
        } else {
            Blend::default()
        };
        let router = Router::new(
            RouterConfig {
                blend,
                ..RouterConfig::default()
            },
            1,
        );
        let experts = pilots.keys().cloned().collect();
        Self {
            router,
            index,
            vectors,
            experts,
            random: matches!(method, Method::Random),
        }
    }

    fn route(&mut self, vector: &[f32], random: &mut Random) -> String {
        if self.random {
            return self.experts[random.below(self.experts.len())].clone();
        }
        let query = Query {
            id: RequestId::from_random([0; 8]),
            kind: ExpertKind::Generate,
            messages: vec![Message::user("?")],
            labels: Vec::new(),
            sampling: SamplingOverrides::default(),
            constraints: Default::default(),
        };
        let features = Features {
            encoder: "n-grams".into(),
            vector: vector.to_vec(),
            prompt_tokens: 10,
            language: None,
            ..Features::default()
        };
        let request = Request {
            query: &query,
            features: &features,
            explore: false,
        };
        let here = |_: &_| PeerState {
            own: false,
            reach: Reach::Here,
            rtt: None,
            load: None,
        };
        let vectors = &self.vectors;
        let decision = self
            .router
            .decide(Duration::ZERO, &request, &self.index, vectors, &here);
        decision.candidates[0].name.clone()
    }

    fn route_all(&mut self, queries: &[Vec<f32>]) -> Vec<String> {
        queries
            .iter()
            .map(|q| self.route(q, &mut Random(1)))
            .collect()
    }
}

fn print_row(name: &str, right: &[f64]) -> f64 {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / right.len() as f64;
    let point = mean(&mut right.iter().copied());
    let mut random = Random(99);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| mean(&mut (0..right.len()).map(|_| right[random.below(right.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let (low, high) = (means[RESAMPLES / 40], means[RESAMPLES - RESAMPLES / 40 - 1]);
    println!(
        "| {name} | {:.1} % | {:.1} to {:.1} |",
        100.0 * point,
        100.0 * low,
        100.0 * high
    );
    point
}

fn mean(vectors: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; DIMENSIONS];
    for v in vectors {
        sum.iter_mut()
            .zip(v)
            .for_each(|(s, x)| *s += x / vectors.len() as f32);
    }
    sum
}

/// Signed feature hashing (Weinberger et al. 2009) of words and of their character n-grams,
/// counts damped by the square root, L2-normalised.
fn encode(text: &str) -> Vec<f32> {
    let mut counts: BTreeMap<u64, f32> = BTreeMap::new();
    let mut add = |feature: &str| {
        let mut hasher = DefaultHasher::new();
        feature.hash(&mut hasher);
        *counts.entry(hasher.finish()).or_default() += 1.0;
    };
    for word in text
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
    {
        let padded: Vec<char> = format!("<{word}>").chars().collect();
        add(word);
        for n in 3..=5 {
            padded
                .windows(n)
                .for_each(|gram| add(&gram.iter().collect::<String>()));
        }
    }
    let mut vector = vec![0.0f32; DIMENSIONS];
    for (hash, count) in counts {
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        vector[(hash % DIMENSIONS as u64) as usize] += sign * count.sqrt();
    }
    let norm = vector
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    vector.into_iter().map(|x| x / norm).collect()
}

fn card(name: &str) -> ExpertCard {
    ExpertCard {
        version: 1,
        name: name.into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "model".into(),
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

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
