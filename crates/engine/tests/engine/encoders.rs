//! Embedding and classification on the real encoder, and the language identifier.

use polymath_engine::Overlong;
use polymath_types::{ErrorKind, ExpertKind, LabelSet, Runtime};

use crate::models::{card, engine, load, minilm};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn meaning_brings_texts_together() {
    let engine = engine(1, 4);
    let id = load(
        &engine,
        minilm("embedder", ExpertKind::Embed, Runtime::BertSentence),
    );
    let sentences = texts(&[
        "How do I bake bread?",
        "A recipe for sourdough loaves.",
        "The stock market fell sharply today.",
        "Rust is a systems programming language.",
    ]);
    let all = engine
        .embed(&id, sentences.clone(), Overlong::Refuse)
        .await
        .unwrap();
    assert!(
        all.vectors
            .iter()
            .all(|v| v.len() == 384 && (cosine(v, v) - 1.0).abs() < 1e-5)
    );
    let [bread, dough, market, rust] = [0, 1, 2, 3].map(|i| &all.vectors[i]);
    assert!(cosine(bread, dough) > 0.4, "{}", cosine(bread, dough));
    assert!(cosine(bread, market) < 0.2 && cosine(bread, rust) < 0.2);

    let mut tokens = 0;
    for (sentence, together) in sentences.iter().zip(&all.vectors) {
        let alone = engine
            .embed(&id, vec![sentence.clone()], Overlong::Refuse)
            .await
            .unwrap();
        let gap = alone.vectors[0]
            .iter()
            .zip(together)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            gap < 1e-5,
            "{sentence}: alone and in a batch differ by {gap}"
        );
        tokens += alone.prompt_tokens;
    }
    assert_eq!(tokens, all.prompt_tokens);
    assert_eq!(
        all,
        engine
            .embed(&id, sentences, Overlong::Refuse)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn long_and_many_texts_are_bounded() {
    let engine = engine(1, 4);
    let id = load(
        &engine,
        minilm("embedder", ExpertKind::Embed, Runtime::BertSentence),
    );
    let long = engine
        .embed(
            &id,
            vec!["ocean ".repeat(100_000), "ocean ".repeat(254)],
            Overlong::Cut,
        )
        .await
        .unwrap();
    assert_eq!(long.prompt_tokens, 512, "256 tokens of each");
    assert!(cosine(&long.vectors[0], &long.vectors[1]) > 0.9999);
    // What a caller asked for is never answered for a part of it only.
    for (times, length) in [(255, "257 tokens"), (100_000, "600000 bytes")] {
        let text = "ocean ".repeat(times);
        let refused = engine.embed(&id, vec![text], Overlong::Refuse).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ContextOverflow);
        assert!(refused.to_string().contains(length), "{refused}");
    }
    let many: Vec<String> = (0..20).map(|i| format!("text number {i}")).collect();
    assert_eq!(
        engine
            .embed(&id, many, Overlong::Refuse)
            .await
            .unwrap()
            .vectors
            .len(),
        20
    );
    for wrong in [vec![], vec![String::new(); 5000]] {
        assert_eq!(
            engine
                .embed(&id, wrong, Overlong::Cut)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
    }
}

#[tokio::test]
async fn labels_never_seen_are_told_apart() {
    let engine = engine(1, 4);
    let id = load(
        &engine,
        minilm("topics", ExpertKind::Classify, Runtime::BertZeroShot),
    );
    let labels = texts(&["sports", "cooking", "politics", "technology"]);
    let cases = [
        ("The striker scored twice in the final.", "sports"),
        (
            "Simmer the sauce until it thickens, then add basil.",
            "cooking",
        ),
        ("The parliament voted on the new election law.", "politics"),
        (
            "The new processor has eight cores and more cache.",
            "technology",
        ),
    ];
    let asked = cases.iter().map(|(t, _)| (*t).to_owned()).collect();
    let got = engine.classify(&id, asked, labels.clone()).await.unwrap();
    for (ranked, (text, label)) in got.labels.iter().zip(cases) {
        assert_eq!(ranked[0].0, label, "{text}: {ranked:?}");
        assert!((ranked.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(ranked.len() == 4 && ranked.is_sorted_by(|a, b| a.1 >= b.1));
    }
    assert!(got.prompt_tokens > 20);
    let none = engine
        .classify(&id, texts(&["x"]), vec![])
        .await
        .unwrap_err();
    assert!(none.to_string().contains("name the labels"), "{none}");

    let mut own = minilm("moods", ExpertKind::Classify, Runtime::BertZeroShot);
    own.labels = LabelSet::Fixed(texts(&["joy", "anger"]));
    let own = load(&engine, own);
    let ranked = engine
        .classify(
            &own,
            texts(&["What a wonderful day, I am so happy!"]),
            vec![],
        )
        .await
        .unwrap();
    assert_eq!(ranked.labels[0][0].0, "joy");
}

#[tokio::test]
async fn languages_are_identified_without_any_file() {
    let engine = engine(1, 4);
    let id = load(
        &engine,
        card("languages", ExpertKind::Classify, Runtime::Trigram, &[]),
    );
    let asked = texts(&[
        "Where is the nearest railway station?",
        "Wo ist der nächste Bahnhof, bitte?",
        "42",
    ]);
    let got = engine.classify(&id, asked.clone(), vec![]).await.unwrap();
    assert_eq!(
        (got.labels[0][0].0.as_str(), got.labels[1][0].0.as_str()),
        ("en", "de")
    );
    assert!(got.labels[2].is_empty());
    let narrowed = engine
        .classify(&id, asked, texts(&["de", "nl"]))
        .await
        .unwrap();
    assert!(
        narrowed
            .labels
            .iter()
            .flatten()
            .all(|(l, _)| l == "de" || l == "nl")
    );
    let unknown = engine
        .classify(&id, texts(&["x"]), texts(&["klingon"]))
        .await
        .unwrap_err();
    assert!(unknown.to_string().contains("klingon"), "{unknown}");
}
