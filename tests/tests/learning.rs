//! What people say of answers decides whom the next question goes to, here, after a restart, and on other nodes.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use polymath_testkit::{Lab, Node, eventually};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUESTION: [&str; 3] = ["Wo ist der Bahnhof?", "--kind", "classify"];

/// Whose answer a question would get.
fn choice(node: &Node) -> String {
    let all: Vec<&str> = QUESTION.into_iter().chain(["--dry-run"]).collect();
    let asked = node.ask(&all);
    let first = &asked["decision"]["candidates"][0];
    first["expert"].as_str().unwrap().to_owned()
}

/// Asks one expert and rates its answer.
fn rate(node: &Node, expert: &str, rating: &str) {
    let all: Vec<&str> = QUESTION.into_iter().chain(["--model", expert]).collect();
    let answered = node.ask(&all);
    let id = answered["request_id"].as_str().unwrap();
    let rated = node.cli(&["rate", rating, id, "--json"]).run().ok().json();
    assert_eq!(rated["expert"], expert);
    assert_eq!(rated["request_id"], id);
    assert_eq!(rated["peer"], answered["peer"]);
}

fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split_whitespace().nth(1);
    (status.unwrap_or_default().parse().unwrap(), answer)
}

fn other<'a>(of: &str) -> &'a str {
    if of == "alpha" { "beta" } else { "alpha" }
}

#[test]
fn ratings_change_the_choice_outlast_a_restart_and_count_once() {
    let lab = Lab::new();
    let experts = ["alpha", "beta"].map(|name| lab.identifier(name));
    let args = [
        "--expert",
        &experts[0],
        "--expert",
        &experts[1],
        "--listen",
        TCP,
        "--api",
        "127.0.0.1:0",
    ];
    let node = lab.up("node", &args).ready();
    node.cli(&["rate", "good"])
        .run()
        .fails(3, &["ask something first"]);
    node.cli(&["rate", "splendid"])
        .run()
        .fails(2, &["from 0 to 1"]);
    let before = choice(&node);
    for _ in 0..8 {
        rate(&node, &before, "bad");
    }
    let answered = node.ask(&QUESTION);
    assert_eq!(answered["expert"], other(&before));
    let id = answered["request_id"].as_str().unwrap();
    // The latest answer needs no name, and an answer is rated once.
    node.cli(&["rate", "1"]).run().ok();
    node.cli(&["rate", "0", id])
        .run()
        .fails(8, &["rated 1 before"]);

    // The same over HTTP.
    let body = r#"{"request_id": "nobody", "rating": 0}"#;
    let (status, answer) = post(&node.api(), "/v1/ratings", body);
    assert_eq!(status, 404);
    assert!(answer.contains("request_not_found"), "{answer}");
    let body = r#"{"rating": 2}"#;
    assert_eq!(post(&node.api(), "/v1/ratings", body).0, 400);
    node.ask(&QUESTION);
    let (status, answer) = post(&node.api(), "/v1/ratings", r#"{"rating": 0.5}"#);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(other(&before)), "{answer}");

    node.signal("KILL");
    node.wait();
    let node = lab.up("node", &args).ready();
    assert_eq!(choice(&node), other(&before));
    for n in 0..40 {
        rate(&node, &before, if n % 3 == 0 { "bad" } else { "good" });
    }
    node.signal("TERM");
    node.wait();
    let node = lab.up("node", &args).ready();
    for _ in 0..3 {
        rate(&node, &before, "bad");
        node.ask(&QUESTION);
    }

    // What was decided in all three runs, decided again from the log alone.
    let log = lab.path().join("decisions.jsonl");
    let log = log.to_str().unwrap();
    node.cli(&["route", "log", "export", log]).run().ok();
    let replay = ["route", "eval", "--replay", log, "--strict", "--json"];
    let replayed = node.cli(&replay).run().ok().json();
    let figure = |metric: &str| {
        let rows = replayed["rows"].as_array().unwrap();
        let row = rows.iter().find(|r| r["metric"] == metric);
        row.and_then(|r| r["value"].as_f64()).unwrap_or(0.0)
    };
    assert_eq!(figure("decided again"), 56.0, "{replayed}");
    assert_eq!(figure("identical"), figure("decided again"));
    assert_eq!(figure("left out"), 0.0);
    // A check that can fail: of another answer to one question all that follows differs.
    let text = std::fs::read_to_string(log).unwrap();
    let altered = text.replacen("\"reward\":0.0", "\"reward\":1.0", 1);
    assert_ne!(altered, text);
    std::fs::write(log, altered).unwrap();
    assert_eq!(node.cli(&replay).run().code, 8);
}

#[test]
fn what_one_node_was_told_another_node_goes_by() {
    let lab = Lab::new();
    let experts = ["alpha", "beta"].map(|name| lab.identifier(name));
    let args = [
        "--expert",
        &experts[0],
        "--expert",
        &experts[1],
        "--listen",
        TCP,
    ];
    let server = lab.up("server", &args).ready();
    let [one, two] = ["one", "two"].map(|name| {
        lab.join(name, &server);
        let node = lab.up(name, &["--listen", TCP]);
        node.knows(&["alpha", "beta"]);
        node
    });
    let before = choice(&two);
    assert_eq!(choice(&one), before);
    for _ in 0..12 {
        rate(&one, &before, "bad");
    }
    assert_eq!(choice(&one), other(&before));
    eventually("the other node has heard of it", || {
        (choice(&two) == other(&before)).then_some(())
    });
    // Whoever serves an expert is not believed about it, nor does it believe less of its own grades.
    let all: Vec<&str> = QUESTION.into_iter().chain(["--dry-run"]).collect();
    let asked = two.ask(&all);
    let candidates = asked["decision"]["candidates"].as_array().unwrap().clone();
    let named = |name: &str| {
        candidates
            .iter()
            .find(|c| c["expert"] == name)
            .unwrap()
            .clone()
    };
    let worse = named(&before);
    assert!(worse["expected"]["quality"].as_f64() < worse["expected"]["prior"].as_f64());
}
