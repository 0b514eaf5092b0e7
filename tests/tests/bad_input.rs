//! Whatever is wrong gets one clear line that says what to do, the documented exit code, and no
//! lost state.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use polymath_testkit::{Cli, Lab};

#[test]
fn names_that_are_not_known() {
    let lab = Lab::new();
    lab.cli("a", &["up", "--expert", "chief"])
        .run()
        .fails(3, &["chief", "chef"]);
    lab.cli("a", &["model", "pull", "llama-9"])
        .run()
        .fails(3, &["llama-9", "smollm2-135m-instruct"]);
    lab.cli("a", &["model", "show", "smollm2-135m-instruct"])
        .run()
        .fails(3, &["polymath model pull"]);
    let node = lab
        .up("a", &["--expert", &lab.identifier("language")])
        .ready();
    node.try_ask(&["hello", "--kind", "classify", "--model", "langage"])
        .fails(3, &["langage", "language"]);
    node.try_ask(&["hello", "--kind", "classify", "--peer", "xyz"])
        .fails(2, &["xyz", "polymath peers"]);
    let stranger = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    node.try_ask(&["hello", "--kind", "classify", "--peer", stranger])
        .fails(3, &[stranger, "polymath peers"]);
    node.try_ask(&["", "--kind", "classify"])
        .fails(2, &["empty"]);
    node.try_ask(&["hello", "--timeout", "0"])
        .fails(2, &["--timeout"]);
}

#[test]
fn an_empty_mesh() {
    let lab = Lab::new();
    lab.cli("fresh", &["ask", "hello"])
        .run()
        .fails(4, &["polymath up", "polymath join"]);
    lab.cli("fresh", &["status"])
        .run()
        .fails(4, &["polymath", "up"]);
    let node = lab.up("lonely", &[]);
    node.try_ask(&["hello", "--timeout", "20"])
        .fails(4, &["polymath up", "polymath join"]);
}

#[test]
fn input_that_cannot_be_read() {
    let lab = Lab::new();
    let node = lab
        .up("node", &["--expert", &lab.identifier("language")])
        .ready();
    node.cli(&["ask", "--kind", "classify"])
        .stdin(b"abc\xff\xfe")
        .run()
        .fails(2, &["UTF-8", "byte 3"]);
    let answer = node
        .cli(&["ask", "--kind", "classify", "--json"])
        .stdin("Où est la gare, s'il vous plaît ?".as_bytes())
        .run()
        .ok();
    assert_eq!(answer.json()["classifications"][0][0]["label"], "fr");
}

#[test]
fn a_prompt_over_the_context_length() {
    let lab = Lab::with_models();
    let node = lab.up("node", &["--expert", "chef"]).ready();
    let long = "egg ".repeat(20_000);
    node.cli(&["ask"])
        .stdin(long.as_bytes())
        .run()
        .fails(6, &["8192"]);
    // Nor is a text answered for its beginning only.
    let lab = Lab::with_models();
    let other = lab.up("other", &["--expert", "embedder"]).ready();
    other
        .cli(&["ask", "--kind", "embed"])
        .stdin(long.as_bytes())
        .run()
        .fails(6, &["80000 bytes"]);
    other
        .cli(&["ask", "--kind", "embed"])
        .stdin("egg ".repeat(300).as_bytes())
        .run()
        .fails(6, &["302 tokens", "256"]);
    assert!(
        node.try_ask(&["How do I boil an egg?", "--max-tokens", "4"])
            .code
            == 0,
        "it still answers"
    );
}

#[test]
fn configuration() {
    let lab = Lab::new();
    let home = lab.home("a");
    fs::create_dir_all(&home).unwrap();
    let file = home.join("config.toml");
    fs::write(&file, "[net]\nlisten_on = []\n").unwrap();
    for verb in [
        &["config", "validate"][..],
        &["up"],
        &["config", "show", "--effective"],
    ] {
        lab.cli("a", verb)
            .run()
            .fails(2, &["config.toml", "line 2", "listen_on"]);
    }
    fs::write(&file, "[net\n").unwrap();
    lab.cli("a", &["config", "validate"])
        .run()
        .fails(2, &["config.toml", "line 1"]);
    fs::write(&file, b"\xff\xfe").unwrap();
    lab.cli("a", &["config", "validate"])
        .run()
        .fails(2, &["config.toml"]);
    for (text, words) in [
        ("experts = [\"chief\"]", ["chief", "chef"]),
        ("log.level = \"no,such=filter=x\"", ["log", "filter"]),
        ("net.listen = [\"0.0.0.0:4040\"]", ["0.0.0.0:4040", "/ip4/"]),
    ] {
        fs::write(&file, text).unwrap();
        let refused = lab.cli("a", &["config", "validate"]).run();
        let code = if text.starts_with("experts") { 3 } else { 2 };
        refused.fails(code, &words);
    }
    fs::write(&file, "[engine]\nslots = 2\n").unwrap();
    lab.cli("a", &["config", "validate"]).run().ok();
    let shown = lab
        .cli("a", &["config", "show", "--effective", "--json"])
        .env("POLYMATH_ENGINE_QUEUE", "5")
        .run()
        .ok()
        .json();
    let of = |key: &str| {
        shown["settings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&of("engine.slots")["value"], &of("engine.slots")["source"]),
        (&2.into(), &"file".into())
    );
    assert_eq!(
        (&of("engine.queue")["value"], &of("engine.queue")["source"]),
        (&5.into(), &"POLYMATH_ENGINE_QUEUE".into())
    );
    assert_eq!(of("router.encoder")["source"], "default");
    lab.cli("a", &["--config", "/nowhere.toml", "up"])
        .run()
        .fails(2, &["/nowhere.toml"]);
}

#[test]
fn a_port_in_use() {
    let lab = Lab::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    lab.cli("a", &["up", "--api", &format!("127.0.0.1:{port}")])
        .run()
        .fails(8, &[&port.to_string(), "--api"]);
    lab.cli(
        "a",
        &[
            "up",
            "--api",
            "off",
            "--listen",
            &format!("/ip4/127.0.0.1/tcp/{port}"),
        ],
    )
    .run()
    .fails(8, &[&port.to_string()]);
    lab.cli("a", &["up", "--api", "0.0.0.0:9999"])
        .run()
        .fails(2, &["loopback"]);
    // Nothing of the failures stays behind.
    let node = lab.up("a", &[]);
    assert_eq!(node.status()["connected_peers"], 0);
}

#[test]
fn a_second_process_on_the_same_home_and_an_open_key_file() {
    let lab = Lab::new();
    let node = lab.up("a", &[]);
    lab.cli("a", &["up", "--api", "off"])
        .run()
        .fails(8, &[&node.pid().to_string(), "polymath down"]);
    let key = lab.home("a").join("identity.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let peer = node.peer();
    node.cli(&["down"]).run().ok();
    assert_eq!(node.wait(), 0);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    lab.cli("a", &["up", "--api", "off"])
        .run()
        .fails(2, &["identity.key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, text.replace("identity 1", "identity 2")).unwrap();
    lab.cli("a", &["up", "--api", "off"])
        .run()
        .fails(9, &["version 2", "version 1"]);
    fs::write(&key, b"\xff\x00 no key").unwrap();
    lab.cli("a", &["up", "--api", "off"])
        .run()
        .fails(7, &["identity.key", "damaged"]);
    fs::write(&key, &text).unwrap();
    assert_eq!(lab.up("a", &[]).peer(), peer, "the identity stays");
}

#[test]
fn weights_that_are_not_what_they_should_be() {
    let lab = Lab::new();
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    let whole = fs::read(format!("{files}/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let pull = |path: &str| {
        lab.cli(
            "a",
            &["model", "pull", "smollm2-135m-instruct", "--from", path],
        )
        .run()
    };
    // Truncated, altered and absent sources never enter the store.
    let short = lab.path().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    fs::write(&short, &whole[..whole.len() / 2]).unwrap();
    pull(short.to_str().unwrap()).fails(7, &["SmolLM2-135M-Instruct.Q4_1.gguf"]);
    let mut altered = whole.clone();
    altered[50_000_000] ^= 1;
    fs::write(&short, &altered).unwrap();
    pull(short.to_str().unwrap()).fails(7, &["SmolLM2-135M-Instruct.Q4_1.gguf"]);
    pull("/nowhere.gguf").fails(3, &["/nowhere.gguf"]);
    fs::write(&short, &whole).unwrap();
    pull(short.to_str().unwrap()).ok();

    // A blob damaged in the store is found by verify and mended by pull.
    let shown = lab
        .cli("a", &["model", "show", "smollm2-135m-instruct", "--json"])
        .run()
        .ok()
        .json();
    let blob = lab
        .models()
        .join("blobs")
        .join(shown["model"]["files"][0]["blake3"].as_str().unwrap());
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, &altered).unwrap();
    lab.cli("a", &["model", "verify"])
        .run()
        .fails(7, &["polymath model pull smollm2-135m-instruct"]);
    pull(short.to_str().unwrap()).ok();
    lab.cli("a", &["model", "verify", "smollm2-135m-instruct"])
        .run()
        .ok();

    // A user's own file that is no model, or half of one.
    let own = lab.path().join("own.gguf");
    fs::write(&own, b"not a model").unwrap();
    lab.cli("a", &["up", "--expert", own.to_str().unwrap()])
        .run()
        .fails(7, &["own.gguf"]);
    fs::write(&own, &whole[..whole.len() / 2]).unwrap();
    lab.cli("a", &["up", "--expert", own.to_str().unwrap()])
        .run()
        .fails(7, &["own.gguf"]);
}

#[test]
fn peers_that_do_not_answer_or_belong_elsewhere() {
    let lab = Lab::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    lab.cli("a", &["join", &silent])
        .run()
        .fails(4, &["cannot join"]);
    lab.cli("a", &["join", "localhost:4040"])
        .run()
        .fails(2, &["localhost:4040", "/ip4/"]);
    lab.cli("a", &["join", "/ip4/127.0.0.1/tcp/1"])
        .run()
        .fails(4, &["cannot join"]);

    // A home that joined one mesh does not silently move to another.
    let (one, other) = (lab.up("one", &[]), lab.up("other", &[]));
    lab.join("a", &one);
    lab.cli("a", &["join", &other.address()])
        .run()
        .fails(8, &["--home"]);
    let node = lab.up("a", &[]);
    assert_eq!(node.status()["mesh"]["id"], one.status()["mesh"]["id"]);
    node.cli(&["join", &other.address()])
        .run()
        .fails(8, &["--home"]);
    assert_eq!(
        node.status()["mesh"]["id"],
        one.status()["mesh"]["id"],
        "it still runs, in its mesh"
    );
}

#[test]
fn joining_while_running_moves_a_fresh_node() {
    let lab = Lab::new();
    let one = lab
        .up("one", &["--expert", &lab.identifier("language")])
        .ready();
    let node = lab.up("fresh", &[]);
    node.cli(&["join", "--accept-public", &one.address()])
        .run()
        .ok();
    polymath_testkit::eventually("it is in the other mesh", || {
        let status = node.cli(&["status", "--json"]).run();
        (status.code == 0 && status.json()["mesh"]["id"] == one.started["mesh"]["id"]).then_some(())
    });
    node.knows(&["language"]);
}

#[test]
fn usage_and_completions() {
    assert_eq!(Cli::new(&["frobnicate"]).run().code, 2);
    let wrong = Cli::new(&["frobnicate", "--json"]).run();
    assert_eq!(
        (wrong.code, &wrong.json()["error"]["kind"]),
        (2, &"invalid_input".into())
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(
            Cli::new(&["completions", shell])
                .run()
                .ok()
                .stdout
                .contains("polymath")
        );
    }
    let version = Cli::new(&["version", "--json"]).run().ok().json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["commit"].as_str().unwrap().len() >= 7);
    let lab = Lab::new();
    let error = lab.cli("a", &["status", "--json"]).run();
    assert_eq!(
        (error.code, &error.json()["error"]["kind"]),
        (4, &"unavailable".into())
    );
}
