//! What the operator allows holds from the first join, under load too.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
};

use polymath_testkit::{Lab, Node, eventually};
use serde_json::Value;

const QUESTION: &str = "Tell me everything about the sea.";
const SHORT: &[&str] = &["How do I boil an egg?", "--max-tokens", "4"];

/// The embedder would wait in the same queue.
const STATIC: (&str, &str) = ("POLYMATH_ROUTER_ENCODER", "static");
const ONE_SLOT: (&str, &str) = ("POLYMATH_ENGINE_SLOTS", "1");

/// Asks in a process of its own.
fn start(node: &Node, question: &str, tokens: &str) -> Child {
    let args = [
        "ask",
        question,
        "--max-tokens",
        tokens,
        "--temperature",
        "1",
    ];
    node.cli(&args)
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// An answer that outlasts the test.
fn long(node: &Node) -> Child {
    start(node, QUESTION, "4000")
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn load(node: &Node, name: &str) -> u64 {
    node.status()["load"][name].as_u64().unwrap()
}

fn load_is(node: &Node, active: u64, waiting: u64) {
    eventually(&format!("{active} are answered, {waiting} wait"), || {
        let now = (load(node, "active"), load(node, "queue_depth"));
        (now == (active, waiting)).then_some(())
    });
}

fn counter(node: &Node, name: &str) -> u64 {
    node.status()["counters"][name].as_u64().unwrap()
}

fn client(lab: &Lab, name: &str, server: &Node, known: &str) -> Node {
    lab.join(name, server);
    let client = lab.up(name, &["--client", "--api", "127.0.0.1:0"]);
    client.knows(&[known]);
    client
}

fn post(node: &Node, question: &str) -> (u16, String) {
    let api = node.api();
    let mut stream = TcpStream::connect(&api).unwrap();
    let body = serde_json::json!({
        "model": "chef", "messages": [{ "role": "user", "content": question }],
    })
    .to_string();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, answer.to_lowercase())
}

#[test]
fn peers_beyond_the_limit_wait_while_own_questions_are_answered() {
    let lab = Lab::with_models();
    let limited = ["--expert", "chef", "--max-concurrent", "1"];
    let server = lab.up_with("server", &limited, &[STATIC]).ready();
    assert_eq!(server.status()["limits"]["concurrent"], 1);
    let asker = client(&lab, "asker", &server, "chef");
    let busy = [long(&asker), long(&asker)];
    load_is(&server, 1, 1);
    let own = server.ask(SHORT);
    assert_eq!(
        (&own["path"], &own["attempts"]),
        (&"local".into(), &1.into())
    );
    load_is(&server, 1, 1);
    busy.into_iter().for_each(end);
    load_is(&server, 0, 0);
    asker.ask(SHORT);
}

#[test]
fn without_a_word_from_the_operator_one_place_is_kept() {
    let lab = Lab::with_models();
    let two = ("POLYMATH_ENGINE_SLOTS", "2");
    let server = lab.up_with("server", &["--expert", "chef"], &[STATIC, two]);
    let server = server.ready();
    let asker = client(&lab, "asker", &server, "chef");
    let busy = [long(&asker), long(&asker), long(&asker)];
    load_is(&server, 1, 2);
    server.ask(SHORT);
    load_is(&server, 1, 2);
    busy.into_iter().for_each(end);
}

#[test]
fn a_greedy_peer_makes_room_for_a_modest_one() {
    let lab = Lab::with_models();
    let small = [STATIC, ONE_SLOT, ("POLYMATH_ENGINE_QUEUE", "3")];
    let server = lab.up_with("server", &["--expert", "chef"], &small).ready();
    let greedy = client(&lab, "greedy", &server, "chef");
    let modest = client(&lab, "modest", &server, "chef");
    let mut busy = Vec::new();
    for waiting in 0..4 {
        busy.push(long(&greedy));
        load_is(&server, 1, waiting);
    }
    greedy
        .try_ask(SHORT)
        .fails(10, &["queue is full", "try again"]);
    let mut lone = start(&modest, SHORT[0], "4");
    // The newest of the greedy one's calls gave its place up.
    let mut evicted = busy.pop().unwrap();
    let status = eventually("it is told", || evicted.try_wait().unwrap());
    assert_eq!(status.code(), Some(10));
    assert_eq!(counter(&server, "calls_evicted"), 1);
    load_is(&server, 1, 3);
    // Of the greedy one's two that wait, one comes before; then it is the other peer's turn.
    end(busy.remove(0));
    load_is(&server, 1, 2);
    end(busy.remove(0));
    let status = eventually("the modest one is answered", || lone.try_wait().unwrap());
    assert!(status.success());
    load_is(&server, 1, 0);
    busy.into_iter().for_each(end);
}

#[test]
fn who_could_not_be_answered_in_time_is_told_at_once_and_when_to_come_again() {
    let lab = Lab::with_models();
    let small = [STATIC, ONE_SLOT, ("POLYMATH_ENGINE_QUEUE", "1")];
    let server = lab.up_with("server", &["--expert", "chef"], &small).ready();
    let asker = client(&lab, "asker", &server, "chef");
    // Nothing was measured so far: no guess is held against a caller.
    assert_eq!(load(&server, "service_ms"), 0);
    let measured = start(&asker, QUESTION, "400").wait().unwrap();
    assert!(measured.success());
    let service = load(&server, "service_ms");
    assert!(service > 0 && load(&server, "resident_experts") == 1);
    let busy = long(&asker);
    load_is(&server, 1, 0);
    // A third of what an answer takes; it would wait for a whole one.
    let short = format!("{:.3}", service as f64 / 3000.0);
    let hurried = [SHORT, &["--timeout", &short]].concat();
    asker
        .try_ask(&hurried)
        .fails(10, &["could not begin in time", "try again"]);
    assert_eq!(counter(&server, "calls_refused_late"), 1);
    // A full queue tells HTTP clients when to come again.
    let waits = long(&asker);
    load_is(&server, 1, 1);
    let (status, answer) = post(&asker, "How do I boil an egg?");
    assert_eq!(status, 429, "{answer}");
    assert!(answer.contains("\r\nretry-after: "), "{answer}");
    end(busy);
    end(waits);
}

#[test]
fn a_paused_node_ends_what_it_began_and_answers_its_own_user_only() {
    let lab = Lab::with_models();
    let up = |more: &[&str]| {
        let args = [&["--expert", "chef"], more].concat();
        lab.up_with("server", &args, &[STATIC]).ready()
    };
    let server = up(&[]);
    let address = server.address();
    let asker = client(&lab, "asker", &server, "chef");
    let mut begun = start(&asker, QUESTION, "120");
    load_is(&server, 1, 0);
    let pause = |verb| server.cli(&[verb, "--json"]).run().ok().json();
    assert_eq!(pause("pause")["changed"], true);
    assert_eq!(pause("pause")["changed"], false);
    assert_eq!(server.status()["paused"], true);
    let status = eventually("the answer is finished", || begun.try_wait().unwrap());
    assert!(status.success());
    let gone = |node: &Node| {
        eventually("nobody is offered it", || {
            node.experts().is_empty().then_some(())
        });
    };
    gone(&asker);
    asker
        .try_ask(&[SHORT, &["--timeout", "20"]].concat())
        .fails(4, &[]);
    assert_eq!(server.ask(SHORT)["path"], "local");
    // It is still paused after a restart.
    server.cli(&["down"]).run().ok();
    assert_eq!(server.wait(), 0);
    let listen = address.split("/p2p/").next().unwrap();
    let server = up(&["--listen", listen]);
    assert_eq!(server.status()["paused"], true);
    assert_eq!(server.ask(SHORT)["path"], "local");
    gone(&asker);
    server.cli(&["resume"]).run().ok();
    asker.knows(&["chef"]);
    // What it refused before does not keep it from being asked again.
    let answer = eventually("it answers", || {
        let output = asker.try_ask(&[SHORT, &["--json"]].concat());
        (output.code == 0).then(|| output.json())
    });
    assert_eq!(answer["peer"], server.peer());
}

#[test]
fn experts_for_their_own_user_are_offered_to_nobody() {
    let lab = Lab::new();
    let (mine, theirs) = (lab.identifier("mine"), lab.identifier("theirs"));
    let hermit = lab.up("hermit", &["--expert", &mine, "--serve", "self"]);
    let hermit = hermit.ready();
    lab.join("other", &hermit);
    let other = lab.up("other", &["--expert", &theirs]).ready();
    hermit.knows(&["mine", "theirs"]);
    let ask = |node: &Node, model: &str, more: &[&str]| {
        let args = [
            "Wo ist der Bahnhof?",
            "--kind",
            "classify",
            "--model",
            model,
        ];
        node.try_ask(&[&args[..], more].concat())
    };
    ask(&hermit, "mine", &[]).ok();
    ask(&hermit, "theirs", &[]).ok();
    other.knows(&["theirs"]);
    assert_eq!(other.experts(), ["theirs"]);
    ask(&other, "mine", &["--timeout", "10"]).fails(3, &["mine"]);
    assert_eq!(hermit.status()["serve"], "self");
    hermit
        .cli(&["up", "--serve", "others"])
        .run()
        .fails(2, &["serve", "mesh, self"]);
}

#[test]
fn an_expert_that_would_pass_the_memory_limit_is_refused_with_the_numbers() {
    let lab = Lab::with_models();
    let small = ["--expert", "chef", "--max-memory", "128MiB"];
    let node = lab.up_with("node", &small, &[STATIC]);
    let why = eventually("it is refused", || {
        let expert = node.status()["experts"][0].clone();
        (expert["state"] == "failed").then(|| expert["detail"].as_str().unwrap().to_owned())
    });
    for word in ["chef", "128 MiB", "limits.memory", "--max-memory"] {
        assert!(why.contains(word), "'{word}' is not in: {why}");
    }
    let rss = node.status()["rss_bytes"].as_u64().unwrap();
    assert!(rss < 128 << 20, "{rss}");
}

#[test]
fn memory_stays_below_the_limit_however_many_ask() {
    const LIMIT: u64 = 330 << 20;
    let lab = Lab::with_models();
    let args = [
        "--expert",
        "chef",
        "--expert",
        "coder",
        "--max-memory",
        "330MiB",
        "--max-concurrent",
        "4",
    ];
    let server = lab.up_with("server", &args, &[STATIC]).ready();
    let asker = client(&lab, "asker", &server, "chef");
    let rss = |node: &Node| node.status()["rss_bytes"].as_u64().unwrap();
    // The limit leaves about 100 MB for caches; four of these take 140.
    let prompt = "The sea is deep and wide. ".repeat(100);
    let mut asked: Vec<Child> = (0..4).map(|_| start(&asker, &prompt, "8")).collect();
    let mut most = 0;
    let mut together = 0;
    for child in &mut asked {
        let status = eventually("it is answered", || {
            let status = server.status();
            most = most.max(status["rss_bytes"].as_u64().unwrap());
            together = together.max(status["limits"]["models"].as_u64().unwrap());
            child.try_wait().unwrap()
        });
        assert!(status.success(), "{}", server.log());
    }
    println!(
        "most resident: {most}, of that models: {together}, at rest: {}",
        rss(&server)
    );
    assert!(most < LIMIT, "{most}");
    // What does not fit at all is refused, not waited for.
    let huge = "sea ".repeat(7000);
    asker
        .try_ask(&[&huge, "--max-tokens", "500"])
        .fails(10, &["limits.memory"]);
}

#[test]
fn memory_stays_below_the_limit_under_long_texts_of_many_callers() {
    const LIMIT: u64 = 330 << 20;
    let lab = Lab::with_models();
    let args = ["--expert", "chef", "--max-memory", "330MiB"];
    let server = lab.up_with("server", &args, &[STATIC, ONE_SLOT]).ready();
    let askers: Vec<Node> = ["one", "two", "three"]
        .iter()
        .map(|name| client(&lab, name, &server, "chef"))
        .collect();
    // Longer than any context, and as long as a message may be: each is held until its turn comes to be
    // refused, or turned away at once. None is answered, and nothing else suffers.
    let text = "sea ".repeat(900_000);
    let mut most = 0;
    std::thread::scope(|scope| {
        let all = askers.iter().flat_map(|asker| [asker; 8]);
        let posts: Vec<_> = all
            .map(|asker| scope.spawn(|| post(asker, &text)))
            .collect();
        eventually("all are refused", || {
            most = most.max(server.status()["rss_bytes"].as_u64().unwrap());
            posts.iter().all(|p| p.is_finished()).then_some(())
        });
        for refused in posts {
            let (status, answer) = refused.join().unwrap();
            assert!([400, 429, 503].contains(&status), "{status}: {answer}");
        }
    });
    println!("most resident: {most}");
    assert!(most < LIMIT, "{most}");
    askers[0].ask(SHORT);
}

#[test]
fn memory_stays_below_the_limit_under_bodies_that_never_end() {
    const LIMIT: u64 = 330 << 20;
    let lab = Lab::with_models();
    let args = ["--expert", "chef", "--max-memory", "330MiB"];
    let args = [&args[..], &["--api", "127.0.0.1:0"]].concat();
    let node = lab.up_with("node", &args, &[STATIC]).ready();
    let api = node.api();
    let half = vec![b' '; 7 << 20];
    let mut most = 0;
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(&api).unwrap();
        let length = 8 << 20;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Whoever is refused may be cut off while it writes.
        let _ = stream.set_write_timeout(Some(std::time::Duration::from_millis(500)));
        let _ = stream.write_all(&half);
        open.push(stream);
        most = most.max(node.status()["rss_bytes"].as_u64().unwrap());
    }
    println!("most resident: {most}");
    assert!(most < LIMIT, "{most}");
    drop(open);
    node.ask(SHORT);
}

#[test]
fn a_pull_that_would_pass_the_disk_limit_is_refused() {
    let lab = Lab::new();
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    let weights = format!("{files}/SmolLM2-135M-Instruct.Q4_1.gguf");
    let pull = ["model", "pull", "smollm2-135m-instruct", "--from", &weights];
    let words = ["50.00 MiB", "limits.disk", "model rm", "--max-disk"];
    lab.cli("node", &pull)
        .env("POLYMATH_LIMITS_DISK", "50MiB")
        .run()
        .fails(10, &words);
    // A daemon that would fetch or import what it lacks is no exception.
    let own = lab.path().join("own.gguf");
    std::fs::copy(&weights, &own).unwrap();
    let args = ["--expert", own.to_str().unwrap(), "--max-disk", "50MiB"];
    let node = lab.up("node", &args);
    let why = eventually("it is refused", || {
        let expert = node.status()["experts"][0].clone();
        (expert["state"] == "failed").then(|| expert["detail"].clone())
    });
    let why = why.as_str().unwrap();
    assert!(words.iter().all(|w| why.contains(w)), "{why}");
    let blobs = std::fs::read_dir(lab.models().join("blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    lab.cli("node", &pull)
        .env("POLYMATH_LIMITS_DISK", "1GB")
        .run()
        .ok();
}

#[test]
fn many_pulls_at_once_never_pass_the_disk_limit() {
    /// The language model or the embedder, not both.
    const LIMIT: u64 = 120 << 20;
    let lab = Lab::new();
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    let models = [
        ("smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("all-minilm-l6-v2", "minilm"),
    ];
    let pull = |(model, from): (&'static str, &str)| {
        let from = format!("{files}/{from}");
        let pull = lab.cli("node", &["model", "pull", model, "--from", &from]);
        let mut command = pull.env("POLYMATH_LIMITS_DISK", "120MiB").into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        (model, command.stderr(Stdio::null()).spawn().unwrap())
    };
    let pulls: Vec<_> = (0..3).flat_map(|_| models).map(pull).collect();
    let mut most = 0;
    let mut ended: Vec<(&str, i32)> = Vec::new();
    for (model, mut child) in pulls {
        let status = eventually("the pull ends", || {
            most = most.max(bytes_below(lab.models()));
            child.try_wait().unwrap()
        });
        ended.push((model, status.code().unwrap()));
    }
    println!("most on the disk: {most}; {ended:?}");
    assert!(most <= LIMIT, "{most}");
    // Whichever came first is there for all who asked for it; the other was refused to all.
    let first = ended.iter().find(|(_, code)| *code == 0).unwrap().0;
    for (model, code) in ended {
        assert_eq!(code, if model == first { 0 } else { 10 }, "{model}");
    }
}

/// Bytes of all files below a folder in which others are at work.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        // It was there a moment ago.
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn answers_keep_to_the_upload_limit_and_all_arrive() {
    let lab = Lab::with_models();
    let args = ["--expert", "embedder", "--max-upload", "16KiB"];
    let server = lab.up_with("server", &args, &[STATIC]).ready();
    let asker = client(&lab, "asker", &server, "embedder");
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = || asker.ask(&["The sea is deep.", "--kind", "embed"]);
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert!(
        answers
            .iter()
            .all(|a| a["embeddings"][0].as_array().unwrap().len() == 384)
    );
    // Twelve vectors take more than a second's worth, and none of them was dropped for it.
    assert!(counter(&server, "uploads_delayed") > 0);
    assert_eq!(server.status()["limits"]["upload"], 16 << 10);
}

#[test]
fn a_limit_that_cannot_be_read_is_named() {
    let lab = Lab::new();
    for (flag, value, words) in [
        ("--max-memory", "5 potatoes", ["limits.memory", "512MiB"]),
        ("--max-upload", "10", ["limits.upload", "16KiB"]),
        ("--max-disk", "20Gib of it", ["limits.disk", "512MiB"]),
        ("--max-concurrent", "9999", ["limits.concurrent", "pause"]),
    ] {
        lab.cli("node", &["up", flag, value]).run().fails(2, &words);
    }
}
