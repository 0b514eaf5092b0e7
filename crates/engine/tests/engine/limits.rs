//! Bounds: context, queue, slow readers, readers that leave, deadlines, nonsense.

use std::time::{Duration, Instant};

use polymath_engine::{Engine, EngineError, GenerateJob, GenerateStream, Overlong};
use polymath_types::{ErrorKind, ExpertId, FinishReason, SamplingOverrides};

use crate::{
    models::{ask, engine, next, read},
    tiny,
};

/// More tokens than events fit between engine and reader.
const MANY: u32 = 150;

fn start(engine: &Engine, id: &ExpertId, max_tokens: u32) -> Result<GenerateStream, EngineError> {
    let sampling = SamplingOverrides {
        max_tokens: Some(max_tokens),
        ..SamplingOverrides::default()
    };
    engine.generate(id, ask("hi", sampling))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < patience, "{what}: not within a minute");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_prompt_over_the_context_is_refused_with_the_numbers() {
    let engine = engine(1, 2);
    let id = tiny::load(&engine);
    // A byte is a token; the template adds two control tokens.
    let ask_long =
        |bytes: usize| engine.generate(&id, ask(&"x".repeat(bytes), SamplingOverrides::default()));
    let refusal = ask_long(300).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::ContextOverflow);
    let limit = tiny::CONTEXT.to_string();
    assert!(
        refusal.to_string().contains(&limit) && refusal.to_string().contains("shorten"),
        "{refusal}"
    );
    assert_eq!(
        ask_long(tiny::CONTEXT as usize - 2).unwrap_err(),
        EngineError::ContextOverflow {
            prompt: tiny::CONTEXT,
            limit: tiny::CONTEXT
        }
    );
    assert!(ask_long(10_000_000).is_err());

    let full = read(ask_long(tiny::CONTEXT as usize - 3 - 5).unwrap())
        .await
        .unwrap();
    let (reason, usage) = full.end.unwrap();
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(usage.prompt_tokens + usage.completion_tokens, tiny::CONTEXT);
}

#[tokio::test]
async fn a_full_queue_is_busy_and_a_slow_reader_loses_nothing() {
    let engine = engine(1, 1);
    let id = tiny::load(&engine);
    // Nobody reads, so the first keeps its slot once its channel is full.
    let unread = start(&engine, &id, MANY).unwrap();
    until("the first gets its slot", || {
        engine.load_report().active == 1
    })
    .await;
    let queued = start(&engine, &id, 3).unwrap();
    let busy = start(&engine, &id, 3).unwrap_err();
    assert_eq!(
        (busy.clone(), busy.kind()),
        (
            EngineError::Busy { queued: 1 },
            ErrorKind::ResourceExhausted
        )
    );
    let report = engine.load_report();
    assert_eq!(
        (report.queue_depth, report.active, report.free_slots),
        (1, 1, 0)
    );

    assert_eq!(read(unread).await.unwrap().ids.len(), MANY as usize);
    assert_eq!(read(queued).await.unwrap().ids.len(), 3);
    until("all slots are free", || {
        engine.load_report().free_slots == 1
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_leaves_frees_its_slot() {
    let engine = engine(1, 4);
    let id = tiny::load(&engine);
    let mut first = start(&engine, &id, MANY).unwrap();
    next(&mut first).await.unwrap().unwrap();
    let gone_while_queued = start(&engine, &id, 3).unwrap();
    let second = start(&engine, &id, 3).unwrap();
    drop(gone_while_queued);
    drop(first);
    assert_eq!(read(second).await.unwrap().ids.len(), 3);
    until("nothing is left", || {
        engine.load_report().active == 0 && engine.load_report().queue_depth == 0
    })
    .await;
}

#[tokio::test]
async fn a_deadline_ends_an_answer_in_a_slot_and_in_the_queue() {
    let engine = engine(1, 4);
    let id = tiny::load(&engine);
    let job = |deadline| GenerateJob {
        deadline: Some(deadline),
        ..ask(
            "hi",
            SamplingOverrides {
                max_tokens: Some(MANY),
                ..SamplingOverrides::default()
            },
        )
    };
    let mut past = engine.generate(&id, job(Instant::now())).unwrap();
    assert_eq!(
        next(&mut past).await,
        Some(Err(EngineError::DeadlineExceeded))
    );
    assert_eq!(next(&mut past).await, None);

    // Unread, so it can never complete; the slot is free when its time is over.
    let stuck = engine
        .generate(&id, job(Instant::now() + Duration::from_millis(300)))
        .unwrap();
    assert_eq!(
        read(start(&engine, &id, 3).unwrap())
            .await
            .unwrap()
            .ids
            .len(),
        3
    );
    drop(stuck);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_at_once() {
    let engine = engine(1, 1);
    let id = tiny::load(&engine);
    let nothing = GenerateJob::default();
    assert_eq!(
        engine.generate(&id, nothing).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let hot = SamplingOverrides {
        temperature: Some(9.0),
        ..SamplingOverrides::default()
    };
    assert_eq!(
        engine.generate(&id, ask("x", hot)).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let wrong = engine
        .embed(&id, vec!["x".into()], Overlong::Cut)
        .await
        .unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "expert 'tiny' can generate, it was asked to embed"
    );
    let mut other = tiny::card();
    other.name = "other".into();
    assert_eq!(
        start(&engine, &other.id(), 1).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn the_last_handle_dropped_stops_the_engine() {
    let engine = engine(1, 4);
    let id = tiny::load(&engine);
    // Unread, so it cannot be complete when the engine goes.
    let mut stream = start(&engine, &id, MANY).unwrap();
    drop(engine);
    let mut last = None;
    while let Some(event) = next(&mut stream).await {
        last = Some(event);
    }
    assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}
