//! Whoever goes away stops the work he asked for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Stdio,
};

use polymath_testkit::{Lab, Node, eventually};

const LONG: &[&str] = &[
    "ask",
    "Tell me everything about the sea.",
    "--max-tokens",
    "400",
    "--model",
    "chef",
    "--temperature",
    "0",
];

/// Tokens that `LONG` has when nobody goes away.
fn whole(asker: &Node) -> u64 {
    let tokens = asker.ask(&LONG[1..])["usage"]["completion_tokens"].as_u64();
    let tokens = tokens.expect("a number");
    assert!(tokens > 100, "too short to be cut off: {tokens}");
    tokens
}

fn generated(node: &Node) -> u64 {
    node.status()["generated_tokens"]
        .as_u64()
        .expect("a number")
}

fn active(node: &Node, wanted: u64) {
    eventually(&format!("{wanted} answers in work"), || {
        (node.status()["load"]["active"] == wanted).then_some(())
    });
}

#[test]
fn a_killed_client_stops_the_remote_generation() {
    let lab = Lab::with_models();
    let server = lab.up("server", &["--expert", "chef"]).ready();
    lab.join("asker", &server);
    let asker = lab.up("asker", &["--client"]);
    asker.knows(&["chef"]);
    let (whole, before) = (whole(&asker), generated(&server));
    let mut client = asker
        .cli(LONG)
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut byte = [0];
    client
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();
    active(&server, 1);
    client.kill().unwrap();
    client.wait().unwrap();
    active(&server, 0);
    let tokens = generated(&server) - before;
    assert!(tokens < whole, "all {whole} tokens were computed");
}

#[test]
fn a_disconnected_http_client_stops_the_generation() {
    let lab = Lab::with_models();
    let node = lab
        .up("node", &["--expert", "chef", "--api", "127.0.0.1:0"])
        .ready();
    let whole = whole(&node);
    for stream in [true, false] {
        let before = generated(&node);
        let mut http = TcpStream::connect(node.api()).unwrap();
        let body = format!(
            r#"{{"model":"chef","stream":{stream},"max_tokens":400,"temperature":0,"messages":[{{"role":"user","content":"Tell me everything about the sea."}}]}}"#
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            node.api(),
            body.len()
        );
        http.write_all(request.as_bytes()).unwrap();
        active(&node, 1);
        drop(http);
        active(&node, 0);
        let tokens = generated(&node) - before;
        assert!(tokens < whole, "all {whole} tokens were computed");
    }
}

#[test]
fn a_deadline_ends_the_answer_everywhere() {
    let lab = Lab::with_models();
    let server = lab.up("server", &["--expert", "chef"]).ready();
    lab.join("asker", &server);
    let asker = lab.up("asker", &["--client"]);
    asker.knows(&["chef"]);
    let args: Vec<&str> = LONG[1..]
        .iter()
        .copied()
        .chain(["--timeout", "2"])
        .collect();
    asker.try_ask(&args).fails(5, &["--timeout"]);
    active(&server, 0);
}
