//! Things that happen at the wrong moment: each ends with one clear line, and nothing is worse for it
//! afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
};

use polymath_testkit::{Lab, Node, eventually};

/// With another seed the answer may be over after twenty tokens.
const LONG: &[&str] = &[
    "ask",
    "Tell me everything about the sea.",
    "--max-tokens",
    "2000",
    "--temperature",
    "1",
    "--seed",
    "1",
];

fn start(node: &Node, args: &[&str]) -> Child {
    node.cli(args)
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_full_queue_refuses_and_harms_nobody() {
    let lab = Lab::with_models();
    let small = [
        ("POLYMATH_ENGINE_SLOTS", "1"),
        ("POLYMATH_ENGINE_QUEUE", "1"),
        // The embedder would wait in the same queue.
        ("POLYMATH_ROUTER_ENCODER", "static"),
    ];
    let server = lab.up_with("server", &["--expert", "chef"], &small).ready();
    lab.join("asker", &server);
    let asker = lab.up("asker", &["--client"]);
    asker.knows(&["chef"]);
    let mut busy = Vec::new();
    for (name, value) in [("active", 1), ("queue_depth", 1)] {
        busy.push(start(&asker, LONG));
        eventually(name, || {
            (server.status()["load"][name] == value).then_some(())
        });
    }
    asker
        .try_ask(&["How do I boil an egg?", "--max-tokens", "4"])
        .fails(10, &["queue is full", "try again"]);
    for mut client in busy {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    eventually("it is idle", || {
        let load = &server.status()["load"];
        (load["active"] == 0 && load["queue_depth"] == 0).then_some(())
    });
    let answer = asker.ask(&["How do I boil an egg?", "--max-tokens", "4"]);
    assert_eq!(answer["attempts"], 1, "its breaker stayed shut: {answer}");
}

#[test]
fn a_caller_in_a_hurry_says_nothing_of_the_peer() {
    let lab = Lab::with_models();
    let server = lab.up("server", &["--expert", "chef"]).ready();
    lab.join("asker", &server);
    let asker = lab.up("asker", &["--client"]);
    asker.knows(&["chef"]);
    let long = &LONG[1..];
    for _ in 0..3 {
        let args: Vec<&str> = long.iter().copied().chain(["--timeout", "0.3"]).collect();
        asker.try_ask(&args).fails(5, &["--timeout"]);
    }
    let answer = asker.ask(&["How do I boil an egg?", "--max-tokens", "4"]);
    assert_eq!(answer["peer"], server.peer());
}

#[test]
fn a_frozen_daemon_does_not_freeze_the_command_line() {
    let lab = Lab::new();
    let node = lab.up("node", &[]);
    node.signal("STOP");
    for verb in [&["status"][..], &["ask", "hello"]] {
        node.cli(verb)
            .run()
            .fails(4, &["does not answer", &node.pid().to_string()]);
    }
    node.signal("CONT");
    node.cli(&["status"]).run().ok();
}

#[test]
fn two_questions_at_once_from_a_home_without_a_daemon() {
    let lab = Lab::new();
    let server = lab
        .up("server", &["--expert", &lab.identifier("language")])
        .ready();
    lab.join("guest", &server);
    let ask = || {
        let args = ["ask", "Wo ist der Bahnhof?", "--kind", "classify", "--json"];
        lab.cli("guest", &args)
            .env("POLYMATH_NET_LOCAL_DISCOVERY", "false")
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| ask().run()), scope.spawn(|| ask().run())];
        for one in both {
            let answer = one.join().unwrap().ok().json();
            assert_eq!(answer["peer"], server.peer());
        }
    });
}

#[test]
fn a_home_that_no_longer_serves_asks_those_that_do() {
    let lab = Lab::new();
    let expert = lab.identifier("language");
    let other = lab.up("other", &["--expert", &expert]).ready();
    lab.join("home", &other);
    let before = lab.up("home", &["--expert", &expert]).ready();
    before.knows(&["language"]);
    before.cli(&["down"]).run().ok();
    assert_eq!(before.wait(), 0);
    let args = ["ask", "Wo ist der Bahnhof?", "--kind", "classify", "--json"];
    let answer = lab.cli("home", &args).run().ok().json();
    assert_eq!(
        (&answer["peer"], &answer["attempts"]),
        (&other.peer().into(), &1.into())
    );
}

#[test]
fn the_api_is_open_before_models_are_there_and_a_missing_tool_is_named() {
    let lab = Lab::new();
    // No tool can be found on this path, pip least of all.
    let node = lab.up_with("node", &["--expert", "chef"], &[("PATH", "/nowhere")]);
    let detail = eventually("the pull has failed", || {
        let expert = node.status()["experts"][0].clone();
        (expert["state"] == "failed").then(|| expert["detail"].as_str().unwrap().to_owned())
    });
    assert!(
        detail.contains("apt-get install") && detail.contains("pip"),
        "{detail}"
    );
    node.try_ask(&["hello", "--timeout", "5"])
        .fails(4, &["chef"]);
}

#[test]
fn damaged_weights_never_answer() {
    let lab = Lab::new();
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    let whole = format!("{files}/SmolLM2-135M-Instruct.Q4_1.gguf");
    let pull = ["model", "pull", "smollm2-135m-instruct", "--from", &whole];
    lab.cli("node", &pull).run().ok();
    let blobs = fs::read_dir(lab.models().join("blobs")).unwrap();
    let blob = blobs.map(|b| b.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[60_000_000] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    // Of the right length, so that only its checksum tells; both experts share it.
    let node = lab.up("node", &["--expert", "chef", "--expert", "coder"]);
    eventually("both are refused", || {
        let status = node.status();
        let experts = status["experts"].as_array().unwrap();
        experts
            .iter()
            .all(|e| e["state"] == "failed" && e["detail"].as_str().unwrap().contains("model pull"))
            .then_some(())
    });
}

#[test]
fn readers_that_leave_early() {
    let lab = Lab::with_models();
    let node = lab.up("node", &["--expert", "chef"]).ready();
    for args in [LONG, &["completions", "bash"], &["experts"]] {
        let mut child = start(&node, args);
        let mut out = child.stdout.take().unwrap();
        let _ = out.read(&mut [0]);
        drop(out);
        let status = child.wait().unwrap();
        assert_ne!(status.code(), Some(101), "{args:?} panicked");
    }
    eventually("nothing is in work", || {
        (node.status()["load"]["active"] == 0).then_some(())
    });
}

#[test]
fn a_node_whose_home_has_a_long_path_is_reached_from_any_environment() {
    let lab = Lab::new();
    let (runtime, temporary) = (lab.path().join("run"), lab.path().join("tmp"));
    for folder in [&runtime, &temporary] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let long = "x".repeat(120);
    let elsewhere = [("XDG_RUNTIME_DIR", runtime.to_str().unwrap())];
    let node = lab.up_with(
        &long,
        &["--expert", &lab.identifier("polyglot")],
        &elsewhere,
    );
    let entries = || fs::read_dir(&runtime).unwrap().count();
    assert_eq!(entries(), 1, "the socket lies in the runtime folder");
    // As from cron: no runtime folder, another temporary one.
    let ask = |verb: &str| {
        lab.cli(&long, &[verb])
            .env("XDG_RUNTIME_DIR", "")
            .env("TMPDIR", &temporary)
            .run()
    };
    ask("status").ok();
    ask("down").ok();
    assert_eq!(node.wait(), 0);
    assert_eq!(entries(), 0);
    // Someone else's socket must not be taken for this node's.
    let user = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&temporary).unwrap());
    let squatted = temporary.join(format!("polymath-{user}"));
    fs::create_dir_all(&squatted).unwrap();
    fs::set_permissions(&squatted, fs::Permissions::from_mode(0o777)).unwrap();
    ask("status").fails(2, &["XDG_RUNTIME_DIR"]);
}
