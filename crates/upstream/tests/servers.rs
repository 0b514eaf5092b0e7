//! Servers that behave, and servers that do not: each fault is a failure of the right kind, and none
//! takes time or memory without a bound.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../tests/src/fake_upstream.rs"]
#[allow(dead_code, unreachable_pub)]
mod fake_upstream;

use std::time::Duration;

use fake_upstream::{FakeUpstream, Mode, says, words};
use polymath_types::{ErrorKind, Failure, FinishReason, Message, Usage};
use polymath_upstream::{Chat, Config, KeySource, Part, Patience, Upstream};

const QUICK: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

fn patient(fake: &FakeUpstream, patience: Patience) -> Upstream {
    Upstream::new(Config {
        address: fake.url().parse().unwrap(),
        model: "m:1b".into(),
        key: KeySource::None,
        concurrency: 2,
        patience,
    })
}

fn to(fake: &FakeUpstream) -> Upstream {
    patient(
        fake,
        Patience {
            connect: LONG,
            first: LONG,
            between: LONG,
            whole: LONG,
        },
    )
}

async fn fake() -> FakeUpstream {
    FakeUpstream::start(&["m:1b", "n:latest"], None).await
}

fn chat() -> Chat {
    Chat {
        messages: vec![Message::user("Who is there?")],
        max_tokens: 16,
        ..Chat::default()
    }
}

async fn whole(upstream: &Upstream, chat: &Chat) -> Result<(String, FinishReason, Usage), Failure> {
    let mut answer = upstream.chat(chat).await?;
    let mut text = String::new();
    loop {
        match answer.next().await? {
            Part::Text(more) => text += &more,
            Part::Finished { reason, usage } => return Ok((text, reason, usage)),
        }
    }
}

#[tokio::test]
async fn an_answer_streams_with_all_that_was_asked_and_is_counted_by_the_server() {
    let fake = fake().await;
    fake.set(says("It is I, the cook."));
    let asked = Chat {
        temperature: Some(0.5),
        top_p: Some(0.9),
        seed: Some(u64::MAX),
        stop: vec!["END".into()],
        ..chat()
    };
    let (text, reason, usage) = whole(&to(&fake), &asked).await.unwrap();
    assert_eq!(
        (text.as_str(), reason),
        ("It is I, the cook.", FinishReason::Stop)
    );
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 5));
    assert!(!usage.estimated);
    let sent = &fake.asked()[0];
    assert_eq!(
        (sent["max_tokens"].as_u64(), sent["temperature"].as_f64()),
        (Some(16), Some(0.5))
    );
    assert_eq!(
        (sent["stop"][0].as_str(), sent["seed"].as_i64()),
        (Some("END"), Some(i64::MAX))
    );
    assert_eq!(sent["messages"][0]["content"], "Who is there?");
}

#[tokio::test]
async fn what_nobody_counted_or_counted_wrongly_is_estimated_and_says_so() {
    let fake = fake().await;
    fake.set(Mode::SaysUncounted(words("one two three")));
    let (_, _, usage) = whole(&to(&fake), &chat()).await.unwrap();
    assert!(usage.estimated && usage.completion_tokens == 3 && usage.prompt_tokens > 0);
    fake.set(Mode::Overcounts(1_000_000));
    let (_, _, usage) = whole(&to(&fake), &chat()).await.unwrap();
    assert!(usage.estimated && usage.completion_tokens == 2, "{usage:?}");
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let fake = fake().await;
    fake.set(Mode::Whole("All at once.".into()));
    let (text, _, usage) = whole(&to(&fake), &chat()).await.unwrap();
    assert_eq!(
        (text.as_str(), usage.completion_tokens),
        ("All at once.", 3)
    );
}

#[tokio::test]
async fn a_server_that_does_not_stop_is_left_at_the_length_asked_for() {
    let fake = fake().await;
    fake.set(Mode::Endless("more ".into()));
    let upstream = to(&fake);
    let (text, reason, usage) = whole(&upstream, &chat()).await.unwrap();
    assert_eq!((text, reason), ("more ".repeat(16), FinishReason::Length));
    assert_eq!(usage.completion_tokens, 16);
    fake.set(Mode::Endless("x".repeat(100_000)));
    let (text, ..) = whole(&upstream, &chat()).await.unwrap();
    assert_eq!(text.len(), 16 * 256);
    fake.wait_open(0).await;
}

#[tokio::test]
async fn dropping_an_answer_ends_it_at_the_server() {
    let fake = fake().await;
    fake.set(Mode::HangsAfter(words("wait")));
    let upstream = to(&fake);
    let mut answer = upstream.chat(&chat()).await.unwrap();
    assert_eq!(answer.next().await.unwrap(), Part::Text("wait".into()));
    fake.wait_open(1).await;
    drop(answer);
    fake.wait_open(0).await;
    fake.set(Mode::Hangs);
    let asking = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.chat(&chat()).await.map(drop) }
    });
    fake.wait_asked(2).await;
    asking.abort();
    fake.wait_open(0).await;
}

#[tokio::test]
async fn silence_ends_by_itself_before_and_within_an_answer() {
    let fake = fake().await;
    let quick = Patience {
        connect: LONG,
        first: QUICK,
        between: QUICK,
        whole: QUICK,
    };
    for mode in [
        Mode::Hangs,
        Mode::HangsAfter(words("a b")),
        // Signs of life that are none.
        Mode::Flood(b": still here\n\n".to_vec()),
        Mode::Flood(b"data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n".to_vec()),
    ] {
        fake.set(mode.clone());
        let failure = whole(&patient(&fake, quick), &chat()).await.unwrap_err();
        // A flood may reach the bound of what says nothing first.
        let kinds = [ErrorKind::Unavailable, ErrorKind::Internal];
        assert!(kinds.contains(&failure.kind), "{mode:?}: {failure}");
        fake.wait_open(0).await;
    }
}

#[tokio::test]
async fn an_answer_that_said_why_it_ended_is_whole_whatever_follows() {
    let fake = fake().await;
    let end = "data: {\"choices\":[{\"delta\":{\"content\":\"All.\"}}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    for after in ["", "data: garbage\n\n", "data: {\"error\":\"late\"}\n\n"] {
        fake.set(Mode::Stream([end, after].concat().into_bytes()));
        let (text, reason, usage) = whole(&to(&fake), &chat()).await.unwrap();
        assert_eq!(
            (text.as_str(), reason),
            ("All.", FinishReason::Stop),
            "{after}"
        );
        assert!(usage.estimated && usage.prompt_tokens > 0);
    }
    // Silence, too: the server's own patience would be a minute.
    fake.set(Mode::SilentAfter(end.as_bytes().to_vec()));
    let (text, ..) = whole(&to(&fake), &chat()).await.unwrap();
    assert_eq!(text, "All.");
    fake.wait_open(0).await;
}

#[tokio::test]
async fn a_model_that_only_thought_came_to_no_answer_and_says_so() {
    let fake = fake().await;
    let thoughts =
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm.\"}}]}\n\n".repeat(9);
    let end =
        |why| format!("{thoughts}data: {{\"choices\":[{{\"finish_reason\":\"{why}\"}}]}}\n\n");
    fake.set(Mode::Stream(end("length").into_bytes()));
    let failure = whole(&to(&fake), &chat()).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::ResourceExhausted);
    assert!(
        failure.message.contains("16 tokens on thinking"),
        "{failure}"
    );
    // It had its say, which was nothing.
    fake.set(Mode::Stream(end("stop").into_bytes()));
    let (text, _, usage) = whole(&to(&fake), &chat()).await.unwrap();
    assert!(text.is_empty() && usage.completion_tokens == 9);
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_wait_as_long_as_the_server_might_take() {
    let fake = fake().await;
    fake.set(Mode::Hangs);
    let upstream = to(&fake);
    let until = tokio::time::Instant::now() + QUICK;
    let place = upstream.place(until).await.unwrap();
    let failure = upstream.chat_in(place, &chat(), until).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    fake.wait_open(0).await;
}

#[tokio::test]
async fn each_fault_is_a_failure_of_the_right_kind() {
    let fake = fake().await;
    let status = |code, headers: &str, body: &str| Mode::Status(code, headers.into(), body.into());
    let raw = |text: &str| Mode::Raw(text.as_bytes().to_vec());
    let stream = |text: &str| Mode::Stream(text.as_bytes().to_vec());
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    for (mode, kind) in [
        (Mode::DiesAfter(words("a b")), ErrorKind::Unavailable),
        (Mode::ShortBody, ErrorKind::Unavailable),
        (raw(""), ErrorKind::Unavailable),
        (raw("SSH-2.0-OpenSSH_9.9\r\n"), ErrorKind::Internal),
        (raw(&many), ErrorKind::Internal),
        (raw(&long), ErrorKind::Internal),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\nhi!"),
            ErrorKind::Internal,
        ),
        (
            raw("HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n"),
            ErrorKind::Unavailable,
        ),
        (
            raw(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ),
            ErrorKind::Unavailable,
        ),
        (stream("data: garbage\n\n"), ErrorKind::Internal),
        (stream("data: [1,2]\n\n"), ErrorKind::Internal),
        (stream("<html>\n</html>\n"), ErrorKind::Unavailable),
        (
            stream("data: {\"error\":{\"code\":503,\"message\":\"full\"}}\n\n"),
            ErrorKind::ResourceExhausted,
        ),
        (
            Mode::Stream(b"data: \xff\xfe\n\n".to_vec()),
            ErrorKind::Internal,
        ),
        (Mode::Flood(vec![b'x'; 60_000]), ErrorKind::Internal),
        (
            Mode::Flood([b": ".as_slice(), &[b'x'; 60_000], b"\n"].concat()),
            ErrorKind::Internal,
        ),
        (
            status(429, "retry-after: 7\r\n", "{}"),
            ErrorKind::ResourceExhausted,
        ),
        (status(503, "", "{}"), ErrorKind::ResourceExhausted),
        (status(500, "", "boom"), ErrorKind::Unavailable),
        (
            status(
                400,
                "",
                "{\"error\":{\"code\":\"context_length_exceeded\"}}",
            ),
            ErrorKind::ContextOverflow,
        ),
        (
            status(422, "", "{\"error\":\"no\"}"),
            ErrorKind::InvalidInput,
        ),
        (
            status(500, "", &"y".repeat(1 << 20)),
            ErrorKind::Unavailable,
        ),
    ] {
        fake.set(mode.clone());
        let failure = whole(&to(&fake), &chat()).await.unwrap_err();
        let what = format!("{mode:?}");
        assert_eq!(
            failure.kind,
            kind,
            "{}: {failure}",
            &what[..what.len().min(200)]
        );
        assert!(!failure.message.contains(&fake.url()), "{failure}");
        let waits = failure.retry_after_ms.is_some();
        assert_eq!(waits, kind == ErrorKind::ResourceExhausted, "{failure}");
        fake.wait_open(0).await;
    }
}

#[tokio::test]
async fn a_key_is_sent_and_what_the_server_says_of_it_is_not_passed_on() {
    let fake = FakeUpstream::start(&["m:1b"], Some("sk-right")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let config = to(&fake).config().clone();
    let upstream = Upstream::new(Config {
        key: KeySource::File(path.clone()),
        ..config
    });
    std::fs::write(&path, "sk-wrong").unwrap();
    let refused = upstream.chat(&chat()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(
        refused.message.contains("API key") && !refused.message.contains("sk-"),
        "{refused}"
    );
    // It is read anew.
    std::fs::write(&path, "sk-right\n").unwrap();
    assert!(whole(&upstream, &chat()).await.is_ok());
    fake.set(Mode::Status(
        500,
        String::new(),
        "{\"error\":\"sk-right broke me\"}".into(),
    ));
    let failure = upstream.chat(&chat()).await.unwrap_err();
    assert!(!failure.message.contains("broke me"), "{failure}");
    fake.set(Mode::Status(
        422,
        String::new(),
        "{\"error\":\"sk-right broke me\"}".into(),
    ));
    let failure = upstream.chat(&chat()).await.unwrap_err();
    assert!(failure.message.contains("broke me") && !failure.message.contains("sk-right"));
    // Whoever runs the node is told where the key lies; whoever asks is not.
    std::fs::remove_file(&path).unwrap();
    let shown = path.display().to_string();
    let told = upstream.chat(&chat()).await.unwrap_err();
    assert!(told.kind == ErrorKind::Unavailable && !told.message.contains(&shown));
    let told = upstream.config().key.check().await.unwrap_err();
    assert!(told.message.contains(&shown), "{told}");
}

#[tokio::test]
async fn more_calls_than_places_wait_and_more_than_that_are_refused() {
    let fake = fake().await;
    fake.set(Mode::HangsAfter(words("on")));
    let upstream = to(&fake);
    let first = upstream.chat(&chat()).await.unwrap();
    let _second = upstream.chat(&chat()).await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.chat(&chat()).await })
        })
        .collect();
    // Each has asked for its place before it gives up the thread.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let refused = upstream.chat(&chat()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ResourceExhausted);
    assert_eq!(
        (fake.asked().len(), refused.retry_after_ms),
        (2, Some(1_000))
    );
    drop(first);
    fake.wait_asked(3).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn models_are_discovered_and_a_wrong_one_is_answered_with_near_names() {
    let fake = fake().await;
    let upstream = to(&fake);
    assert_eq!(upstream.find().await.unwrap().context, 4096);
    let named = |model: &str| {
        Upstream::new(Config {
            model: model.into(),
            ..upstream.config().clone()
        })
    };
    assert_eq!(named("n").find().await.unwrap().id, "n:latest");
    let missing = named("m:2b").find().await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert!(missing.message.contains("m:1b"), "{missing}");
    fake.close().await;
    assert_eq!(
        upstream.find().await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
}

#[tokio::test]
async fn vectors_come_in_the_texts_order_and_of_length_one() {
    let fake = fake().await;
    fake.set(Mode::Vectors(vec![3.0, 4.0]));
    let texts = ["a".to_owned(), "b".to_owned()];
    let vectors = to(&fake).embed(&texts).await.unwrap();
    assert_eq!(vectors.vectors, [[0.6, 0.8], [0.6, 0.8]]);
    assert_eq!(vectors.prompt_tokens, 2);
    for bad in [vec![], vec![0.0]] {
        fake.set(Mode::Vectors(bad));
        let failure = to(&fake).embed(&texts).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Internal);
    }
}
