//! The HTTP API, through the openai package and by hand.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use polymath_testkit::{Lab, eventually};
use serde_json::Value;

/// One request on a connection of its own: status, headers and body as text.
fn http(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(request.replace('\n', "\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    (status, answer)
}

fn get(address: &str, path: &str, more: &str) -> (u16, String) {
    http(
        address,
        &format!("GET {path} HTTP/1.1\nHost: {address}\nConnection: close\n{more}\n"),
    )
}

fn json(answer: &str) -> Value {
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {answer}"))
}

#[test]
fn the_openai_package_is_at_home() {
    let python = std::env::var_os("POLYMATH_TEST_PYTHON")
        .expect("POLYMATH_TEST_PYTHON names no interpreter: run the tests by `cargo xtask test`, which prepares it");
    let lab = Lab::with_models();
    let server = lab.up("server", &["--expert", "chef"]).ready();
    lab.join("asker", &server);
    // The API is another node's than the expert's: what it serves comes over the mesh.
    let asker = lab.up("asker", &["--client", "--api", "127.0.0.1:0"]);
    asker.knows(&["chef"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/openai_client.py");
    let run = Command::new(python)
        .arg(script)
        .arg(format!("http://{}/v1", asker.api()))
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
}

#[test]
fn health_says_alive_at_once_and_ready_when_loaded() {
    let lab = Lab::with_models();
    let node = lab.up("node", &["--expert", "chef", "--api", "127.0.0.1:0"]);
    let api = node.api();
    assert_eq!(get(&api, "/livez", "").0, 200);
    eventually("it is ready", || {
        let (status, answer) = get(&api, "/readyz", "");
        let body = json(&answer);
        assert_eq!(body["ready"], status == 200, "{answer}");
        (status == 200).then(|| assert_eq!(body["experts"][0]["state"], "ready"))
    });
    let (status, answer) = get(&api, "/v1/nothing", "");
    assert_eq!(
        (status, &json(&answer)["error"]["type"]),
        (404, &"not_found_error".into())
    );
    assert_eq!(get(&api, "/v1/chat/completions", "").0, 405);
    // More than the largest body is refused before it is read.
    let large = format!(
        "POST /v1/chat/completions HTTP/1.1\nHost: {api}\nContent-Type: application/json\nContent-Length: 99999999\nConnection: close\n\n{{}}"
    );
    let (status, answer) = http(&api, &large);
    assert_eq!(
        (status, &json(&answer)["error"]["type"]),
        (413, &"invalid_request_error".into())
    );
}

#[test]
fn web_pages_cannot_drive_it() {
    let lab = Lab::new();
    let node = lab.up("node", &["--api", "127.0.0.1:0"]);
    let api = node.api();
    assert_eq!(get(&api, "/v1/models", "").0, 200);
    assert_eq!(
        get(&api, "/v1/models", "Origin: https://evil.example\n").0,
        403
    );
    assert_eq!(get(&api, "/v1/models", "Origin: null\n").0, 403);
    let rebound = format!(
        "GET /v1/models HTTP/1.1\nHost: evil.example:{}\nConnection: close\n\n",
        api.rsplit(':').next().unwrap()
    );
    assert_eq!(http(&api, &rebound).0, 403);
    // What a page may send without asking first is not taken as JSON either.
    let simple = format!(
        "POST /v1/chat/completions HTTP/1.1\nHost: {api}\nContent-Type: text/plain\nContent-Length: 2\nConnection: close\n\n{{}}"
    );
    assert_eq!(http(&api, &simple).0, 415);
    let doubled = "GET /v1/models HTTP/1.1\nHost: {api}\nHost: evil.example\nConnection: close\n\n";
    assert_eq!(http(&api, &doubled.replace("{api}", &api)).0, 403);
}
