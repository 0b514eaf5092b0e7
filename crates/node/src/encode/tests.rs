#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use polymath_blobs::{Cancel, SilentProgress, Source, known_model};
use polymath_engine::{EngineConfig, GenerateJob, Generated};
use polymath_types::{Constraints, Message, NodeKey, PeerOffer, RequestId, SamplingOverrides};
use tempfile::TempDir;

use super::*;

const WITHIN: Duration = Duration::from_secs(60);

fn files() -> PathBuf {
    let files = std::env::var_os("POLYMATH_TEST_MODELS");
    files
        .map(PathBuf::from)
        .expect("POLYMATH_TEST_MODELS names no folder: run the tests by `cargo xtask test`")
}

fn pull(store: &Store, name: &str, from: &Path) {
    let from = Source::Path(from.to_owned());
    let known = known_model(name).unwrap();
    store
        .pull(known, &from, &SilentProgress, &Cancel::new())
        .unwrap();
}

fn pull_embedder(store: &Store) {
    pull(store, "all-minilm-l6-v2", &files().join("minilm"));
}

fn encoder() -> (TempDir, Arc<Encoder>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let engine = Engine::start(EngineConfig::default()).unwrap();
    (dir, Arc::new(Encoder::new(engine, store, "auto")))
}

fn known(named: experts::Named, store: &Store) -> Arc<ExpertCard> {
    match experts::prepare(named, store).unwrap() {
        Card::Known(card) => card,
        _ => panic!("its model is no file, and nothing is said of it but its card"),
    }
}

fn built_in(names: &[&str], store: &Store) -> Vec<Arc<ExpertCard>> {
    names
        .iter()
        .map(|name| known(experts::find(name).unwrap(), store))
        .collect()
}

/// As many and as long cards as one stranger may have; they classify.
fn strangers(store: &Store) -> Vec<Arc<ExpertCard>> {
    let examples: Vec<String> = (0..32)
        .map(|i| format!("\"{i} {}\"", "all about everything ".repeat(20)))
        .collect();
    (0..64)
        .map(|i| {
            let text = format!(
                "version = 1\nname = \"s{i}\"\nkind = \"classify\"\nmodel = \"trigram\"\nexamples = [{}]\n",
                examples.join(", ")
            );
            let definition = experts::Definition::parse(&text, "test").unwrap();
            known(experts::Named::Fileless(definition), store)
        })
        .collect()
}

fn index(cards: &[Arc<ExpertCard>]) -> Index {
    let offer = PeerOffer {
        addresses: Vec::new(),
        agent: String::new(),
        sequence: 1,
        epoch: 1,
        experts: cards.iter().map(|c| c.id()).collect(),
        ..PeerOffer::default()
    };
    let peer = NodeKey::generate().peer_id();
    Index::build([(peer, offer)], |id| {
        cards.iter().find(|c| c.id() == *id).cloned()
    })
}

fn query(kind: ExpertKind) -> Query {
    Query {
        id: RequestId::from_random([7; 8]),
        kind,
        messages: vec![Message::user("How long do potatoes need in the oven?")],
        labels: Vec::new(),
        sampling: SamplingOverrides::default(),
        constraints: Constraints::default(),
    }
}

/// Asks until the embedder decides, and says how often.
async fn until_embedded(encoder: &Encoder, query: &Query, index: &Index) -> usize {
    let begun = Instant::now();
    for n in 1.. {
        let (features, descriptors) = encoder.encode(query, index).await;
        let mut experts = index.of_kind(query.kind);
        assert!(experts.all(|e| descriptors.contains_key(&e.id)));
        if features.encoder.starts_with("embedder:") {
            return n;
        }
        assert!(begun.elapsed() < WITHIN, "the static encoder still serves");
        sleep(BUSY).await;
    }
    unreachable!()
}

fn is_static(features: &Features) -> bool {
    features.encoder == static_encoder::ENCODER_ID
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedder_that_comes_after_the_first_question_serves_the_later_ones() {
    let (_dir, encoder) = encoder();
    let index = Arc::new(index(&built_in(&["chef", "coder"], &encoder.store)));
    let (swap, question) = (
        ArcSwap::from(Arc::clone(&index)),
        query(ExpertKind::Generate),
    );
    let asked = async {
        let (features, _) = encoder.encode(&question, &index).await;
        assert!(is_static(&features), "nothing is in the store yet");
        let store = encoder.store.clone();
        tokio::task::spawn_blocking(move || pull_embedder(&store))
            .await
            .unwrap();
        until_embedded(&encoder, &question, &index).await;
    };
    tokio::select! {
        () = encoder.prepare(&swap) => unreachable!(),
        () = asked => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_are_described_as_they_come_before_the_first_question() {
    let (_dir, encoder) = encoder();
    pull_embedder(&encoder.store);
    let mut names = vec!["embedder", "chef"];
    let swap = ArcSwap::from_pointee(index(&built_in(&names, &encoder.store)));
    let mut described = encoder.described.subscribe();
    let grows = async {
        // Two of different kinds are no choice, but the beginning of one.
        described.wait_for(|n| *n == 2).await.unwrap();
        names.extend(["assistant", "coder", "geographer", "physician"]);
        swap.store(Arc::new(index(&built_in(&names, &encoder.store))));
        described.wait_for(|n| *n == 6).await.unwrap();
    };
    tokio::select! {
        () = encoder.prepare(&swap) => unreachable!(),
        grown = timeout(WITHIN, grows) => grown.unwrap(),
    }
    // Nobody prepares any more: all that is needed is there.
    let index = swap.load_full();
    let asked = encoder.encode(&query(ExpertKind::Generate), &index).await;
    assert!(!is_static(&asked.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_many_long_cards_delays_neither_a_question_nor_the_others_cards() {
    let (_dir, encoder) = encoder();
    pull_embedder(&encoder.store);
    let mut cards = strangers(&encoder.store);
    cards.extend(built_in(&["chef", "coder", "geographer"], &encoder.store));
    let index = Arc::new(index(&cards));
    let swap = ArcSwap::from(Arc::clone(&index));
    let asked = async {
        until_embedded(&encoder, &query(ExpertKind::Generate), &index).await;
        // The stranger's own two thousand texts are far from done: one vector space, the other one.
        let classify = query(ExpertKind::Classify);
        let (features, descriptors) = encoder.encode(&classify, &index).await;
        assert!(is_static(&features));
        let mut strangers = index.of_kind(ExpertKind::Classify);
        assert!(strangers.all(|e| descriptors.contains_key(&e.id)));
        assert!(*encoder.described.borrow() < 64);
    };
    tokio::select! {
        () = encoder.prepare(&swap) => unreachable!(),
        () = asked => {}
    }
}

const ENGLISH: &str = "The river rises in the mountains, crosses three countries and reaches the sea \
    after a thousand kilometres. Nevertheless, its responsibilities as a transportation route are \
    internationally acknowledged, and understanding its characteristics remains extraordinarily important.";
const GERMAN: &str = "Der Fluss entspringt in den Bergen, durchquert drei Länder und erreicht nach \
    tausend Kilometern das Meer. Die Donaudampfschifffahrtsgesellschaft beförderte jahrzehntelang Reisende.";
const CODE: &str = "fn main() {\n        let mut total = 0;\n        for i in 0..10 {\n                if i % 2 == 0 {\n                        total += i;\n                }\n        }\n        // ----------------\n        println!(\"{total}\");\n}\n";
const CHINESE: &str =
    "这条河发源于山区，流经三个国家，全长一千公里后入海。它是国际上重要的运输路线。";
const SPACES: &str = "a                                                                       \n\n\n\n\n\n\n\n\n\n b";

#[tokio::test(flavor = "multi_thread")]
async fn the_estimate_of_tokens_is_never_above_what_a_tokenizer_makes_of_a_text() {
    let (_dir, encoder) = encoder();
    let model = "smollm2-135m-instruct";
    let weights = files().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    pull(&encoder.store, model, &weights);
    let card = known(experts::find(model).unwrap(), &encoder.store);
    let file = |f: &_| encoder.store.path(f);
    encoder.engine.load(Arc::clone(&card), &file).unwrap();
    let real = async |text: &str| {
        let job = GenerateJob {
            messages: vec![Message::user(text)],
            sampling: SamplingOverrides {
                max_tokens: Some(1),
                ..SamplingOverrides::default()
            },
            ..GenerateJob::default()
        };
        let mut answer = encoder.engine.generate(&card.id(), job).unwrap();
        match answer.next().await.unwrap().unwrap() {
            Generated::Started { prompt_tokens, .. } => prompt_tokens as usize,
            other => panic!("{other:?}"),
        }
    };
    let frame = real("a").await - 1;
    for (name, text) in [
        ("English", ENGLISH),
        ("German", GERMAN),
        ("code", CODE),
        ("Chinese", CHINESE),
        ("spaces", SPACES),
    ] {
        let (least, real) = (least_tokens(text), real(text).await - frame);
        println!("{name}: at least {least} of {real}, {} bytes", text.len());
        assert!(least <= real, "{name}: at least {least} of {real}");
        // Worth having where words are written apart.
        if name == "English" {
            assert!(least * 2 >= real, "{name}: at least {least} of {real}");
        }
    }
}
