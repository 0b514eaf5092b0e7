//! An answer carried on from its first tokens is the answer that was not interrupted.

use polymath_types::{FinishReason, SamplingOverrides};

use crate::models::{ask, engine, load, read, smollm2};

#[tokio::test]
async fn a_forced_prefix_goes_on_as_if_nothing_had_happened() {
    let engine = engine(4, 16);
    let id = load(&engine, smollm2("plain"));
    // Emoji and accents are characters of several tokens, so some cuts fall inside one.
    let question =
        "Repeat: naïve café 🦀🦀 déjà vu 🦀. Then tell a short story about a lighthouse.";
    for temperature in [0.0, 0.8] {
        let sampling = SamplingOverrides {
            max_tokens: Some(40),
            temperature: Some(temperature),
            seed: Some(42),
            stop: vec!["\n\n\n".into()],
            ..SamplingOverrides::default()
        };
        let whole = read(
            engine
                .generate(&id, ask(question, sampling.clone()))
                .unwrap(),
        )
        .await
        .unwrap();
        assert!(
            whole.ids.len() >= 8,
            "too short an answer to cut: {}",
            whole.text
        );
        for cut in [1, 2, 3, 5, whole.ids.len() / 2, whole.ids.len() - 1] {
            let mut job = ask(question, sampling.clone());
            job.prefix_token_ids = whole.ids[..cut].to_vec();
            let rest = read(engine.generate(&id, job).unwrap()).await.unwrap();
            assert_eq!(
                rest.ids,
                whole.ids[cut..],
                "temperature {temperature}, cut after {cut}"
            );
            assert_eq!(whole.text_after[cut - 1].clone() + &rest.text, whole.text);
            assert_eq!(rest.end, whole.end);
        }
    }
}

#[tokio::test]
async fn a_prefix_that_is_the_whole_answer_ends_at_once() {
    let engine = engine(1, 4);
    let id = load(&engine, smollm2("plain"));
    let sampling = SamplingOverrides {
        max_tokens: Some(4),
        ..SamplingOverrides::default()
    };
    let whole = read(
        engine
            .generate(&id, ask("Say hello.", sampling.clone()))
            .unwrap(),
    )
    .await
    .unwrap();
    let mut job = ask("Say hello.", sampling);
    job.prefix_token_ids = whole.ids.clone();
    let rest = read(engine.generate(&id, job.clone()).unwrap())
        .await
        .unwrap();
    assert!(rest.ids.is_empty() && rest.text.is_empty());
    assert_eq!(
        (rest.end.unwrap().0, rest.end),
        (FinishReason::Length, whole.end)
    );

    job.prefix_token_ids = vec![u32::MAX];
    let refusal = engine.generate(&id, job).unwrap_err();
    assert!(refusal.to_string().contains("4294967295"), "{refusal}");
}
