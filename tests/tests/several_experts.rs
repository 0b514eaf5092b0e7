//! Several experts for one question: votes, cascades, plans, another one where the first has no answer, and nobody
//! where none fits. Real daemons; the experts say what they were told to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use polymath_testkit::{Lab, Node};
use polymath_tests::says::{FAILS, SILENT};
use serde_json::Value;

/// Like every card, so that all of them fit.
const QUESTION: &str = "What do the answers say as questions?";
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

struct Scene {
    lab: Lab,
    /// In the order in which their parts were given.
    peers: Vec<Node>,
    asker: Node,
}

impl Scene {
    /// Each of `parts` on a peer of its own.
    fn new(parts: &[&str]) -> Self {
        let lab = Lab::new();
        let mut peers: Vec<Node> = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let home = format!("p{n}");
            if let Some(first) = peers.first() {
                lab.join(&home, first);
            }
            let program = Path::new(env!("CARGO_BIN_EXE_scripted-peer"));
            peers.push(lab.run(program, &home, &[LISTEN, "1", part]));
        }
        lab.join("asker", &peers[0]);
        let asker = lab.up("asker", &["--client", "--api", "127.0.0.1:0"]);
        let names: Vec<&str> = parts.iter().map(|p| name(p)).collect();
        asker.knows(&names);
        Self { lab, peers, asker }
    }

    fn ask(&self, args: &[&str]) -> Value {
        self.asker.ask(args)
    }
}

fn name(part: &str) -> &str {
    part.split(['@', '=']).next().unwrap()
}

/// Roles, experts and outcomes of all calls, sorted.
fn calls(answered: &Value) -> Vec<String> {
    let calls = answered["calls"].as_array().unwrap();
    assert_eq!(answered["calls_made"], calls.len());
    let call = |c: &Value| {
        let of = |key: &str| c[key].as_str().unwrap().to_owned();
        format!("{} {} {}", of("role"), of("expert"), of("outcome"))
    };
    let mut calls: Vec<String> = calls.iter().map(call).collect();
    calls.sort_unstable();
    calls
}

#[test]
fn a_vote_picks_the_majority_survives_a_dead_voter_and_leaves_who_can_change_nothing() {
    let fails = format!("delta={FAILS}");
    let silent = format!("omega={SILENT}");
    let parts = [
        "alpha=Paris.",
        "beta=The answer is: paris",
        "gamma=Rome",
        &fails,
        &silent,
    ];
    let scene = Scene::new(&parts);
    let all = ["--how", "vote", "--max-calls", "5", "--timeout", "40"];
    let answered = scene.ask(&[&[QUESTION], &all[..]].concat());
    assert!(
        answered["answer"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("paris")
    );
    assert_eq!(answered["how"], "vote");
    let made = calls(&answered);
    assert!(
        made.contains(&"voter alpha answered".to_owned()),
        "{made:?}"
    );
    assert!(
        made.contains(&"voter gamma answered".to_owned()),
        "{made:?}"
    );
    assert!(
        made.contains(&"voter delta internal".to_owned()),
        "{made:?}"
    );
    let parts = answered["parts"].as_array().unwrap();
    assert!(parts.iter().any(|p| p["answer"] == "Rome"), "{parts:?}");

    // One answer by three of five settles it, whatever the silent one would say.
    let peers = &scene.peers;
    let three: Vec<&str> = [QUESTION, "--how", "vote", "--max-calls", "3"].into();
    let without = [peers[2].peer(), peers[3].peer()];
    let exclude = ["--exclude", &without[0], "--exclude", &without[1]];
    let answered = scene.ask(&[&three[..], &exclude].concat());
    let expected = [
        "voter alpha answered",
        "voter beta answered",
        "voter omega cancelled",
    ];
    assert_eq!(calls(&answered), expected);
    assert_eq!(answered["agreement"], 1.0);
    // Ten tokens of a prompt each, and what came of the answers.
    assert!(answered["total_usage"]["prompt_tokens"].as_u64().unwrap() >= 20);

    // By a flag in the question, and over HTTP by a header and by the model's name.
    let flagged = format!("[route: vote] {QUESTION}");
    let answered = scene.ask(&[&[flagged.as_str()], &exclude[..]].concat());
    assert_eq!(answered["how"], "vote");
    let cascade = format!("[route: cascade] {QUESTION}");
    let answered = scene.ask(&[&[cascade.as_str(), "--how", "one"], &exclude[..]].concat());
    assert_eq!(answered["how"], "one");
    for (model, header) in [("auto", "x-polymath-how: vote\r\n"), ("auto:vote", "")] {
        let answer = post(&scene.asker.api(), model, header);
        assert!(answer.contains(r#""how":"vote""#), "{answer}");
    }
    let answer = post(&scene.asker.api(), "auto", "x-polymath-how: many\r\n");
    assert!(answer.contains("400 Bad Request"), "{answer}");
    assert!(answer.contains("there is no way to ask 'many'"), "{answer}");
}

#[test]
fn a_voter_whose_peer_is_killed_is_left_out() {
    let mut scene = Scene::new(&["alpha=Paris", "beta=Rome", "gamma=Paris"]);
    scene.peers.remove(1).kill();
    let answered = scene.ask(&[QUESTION, "--how", "vote", "--timeout", "60"]);
    assert!(answered["answer"].as_str().unwrap().contains("Paris"));
    assert_eq!(answered["how"], "vote");
}

fn post(address: &str, model: &str, header: &str) -> String {
    let body = format!(
        r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}"#
    );
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_cascade_asks_the_strongest_only_where_the_cheap_ones_disagree_and_counts_what_it_costs() {
    let scene = Scene::new(&[
        "strong@5=Berlin||easy=>Four",
        "alpha@0.1=Rome||easy=>four.",
        "beta@0.1=Paris||easy=>4||hard=>[cannot answer]",
        "dear@9=Oslo",
    ]);
    // Most like the card of the strong one.
    let question = "What does strong say, as the answers of questions?";
    let easy = format!("{question} (easy: alpha, four)");
    let disagreed = scene.ask(&[question, "--how", "cascade"]);
    assert_eq!(disagreed["answer"], "Berlin");
    let expected = [
        "first alpha answered",
        "first beta answered",
        "strongest strong answered",
    ];
    assert_eq!(calls(&disagreed), expected);
    assert_eq!(disagreed["agreement"], 0.5);
    // Eleven tokens each, at 0.1, 0.1 and 5 credits for 1,000.
    let cost = disagreed["cost"].as_f64().unwrap();
    assert!((cost - 11.0 * 5.2 / 1000.0).abs() < 1e-9, "{cost}");

    // A number in words is no number: the cheap ones still disagree.
    let words = scene.ask(&[&easy, "--how", "cascade"]);
    assert_eq!(words["answer"], "Four");
    let peer = scene.peers[2].peer();
    let agreed = scene.ask(&[
        &easy,
        "--how",
        "cascade",
        "--exclude",
        &peer,
        "--max-calls",
        "3",
    ]);
    // Without beta the dear one is the other cheap one, and does not agree.
    assert_eq!(agreed["calls_made"], 3);

    // Credits bound what is asked: the strong one is too dear, and what a cheap one says is better than nothing.
    let bounded = [question, "--how", "cascade", "--max-cost", "0.2"];
    let bounded = scene.ask(&[&bounded[..], &["--max-tokens", "100"]].concat());
    let made = calls(&bounded);
    assert!(made.iter().all(|c| c.starts_with("first")), "{made:?}");
    let nothing = [question, "--how", "cascade", "--max-cost", "0.000001"];
    let refused = scene.asker.try_ask(&nothing);
    refused.fails(10, &["--max-cost"]);
}

#[test]
fn a_cascade_whose_cheap_ones_agree_ends_there() {
    let scene = Scene::new(&[
        "strong@5=Berlin",
        "alpha@0.1=B.",
        "beta@0.1=The answer is (b).",
    ]);
    let question = "What does strong say, as the answers of questions?";
    let answered = scene.ask(&[question, "--how", "cascade"]);
    let expected = ["first alpha answered", "first beta answered"];
    assert_eq!(calls(&answered), expected);
    assert_eq!(answered["agreement"], 1.0);
    let explained = scene.ask(&[question, "--how", "cascade", "--dry-run"]);
    assert_eq!(explained["decision"]["how"], "cascade");
    assert_eq!(explained["decision"]["chosen"][2], "strong");
}

#[test]
fn a_plan_asks_step_by_step_whom_each_suits_and_is_put_together_within_its_bounds() {
    let planner = "planner=Divide the question=>1. What do the answers of eggs say?\n2. As to {1}, what do the answers of heat say?||What is known=>Together: {asked}||alone";
    let scene = Scene::new(&[planner, "eggs=six", "heat=hot: {asked}"]);
    let question = "Ask the planner, as the answers say: how are eggs boiled?";
    let answered = scene.ask(&[question, "--model", "planner", "--plan"]);
    assert_eq!(answered["how"], "plan");
    let expected = [
        "integrator planner answered",
        "planner planner answered",
        "step eggs answered",
        "step heat answered",
    ];
    assert_eq!(calls(&answered), expected);
    let text = answered["answer"].as_str().unwrap();
    assert!(text.starts_with("Together: "), "{text}");
    // The second step was asked with the first one's answer.
    assert!(text.contains("hot: As to six, what"), "{text}");
    let parts = answered["parts"].as_array().unwrap();
    assert_eq!(parts[1]["asked"], "What do the answers of eggs say?");

    // Three calls: the second step gives way to the end.
    let short = [question, "--model", "planner", "--plan", "--max-calls", "3"];
    let answered = scene.ask(&short);
    assert_eq!(answered["calls_made"], 3);
    assert!(answered["answer"].as_str().unwrap().contains("(no answer)"));
}

#[test]
fn what_is_no_plan_is_asked_as_it_is() {
    let planner = "planner=alone||Divide the question=>Boil them.";
    let scene = Scene::new(&[planner, "eggs=six eggs"]);
    let answered = scene.ask(&[QUESTION, "--model", "planner", "--how", "plan"]);
    assert_eq!(answered["answer"], "alone");
    assert_eq!(answered["how"], "one");
    let expected = ["answer planner answered", "planner planner answered"];
    assert_eq!(calls(&answered), expected);
}

#[test]
fn who_says_that_it_cannot_answer_is_followed_by_another_once() {
    let scene = Scene::new(&[
        "alpha=I'm sorry, but I cannot answer that.",
        "beta=Paris||twice=>I don't know.",
        "gamma=Rome",
    ]);
    let question = "What does alpha say, as the answers of questions?";
    let answered = scene.ask(&[question]);
    let other = answered["answer"].as_str().unwrap().to_owned();
    assert!(["Paris", "Rome"].contains(&other.as_str()), "{other}");
    let made = calls(&answered);
    assert_eq!(made.len(), 2);
    assert!(
        made.contains(&"answer alpha gave_up".to_owned()),
        "{made:?}"
    );
    // Who was named answers, whatever it says.
    let named = scene.ask(&[question, "--model", "alpha"]);
    assert_eq!(named["calls_made"], 1);
    assert!(named["answer"].as_str().unwrap().contains("cannot answer"));
    // Once: the second one's answer stands.
    let peer = scene.peers[2].peer();
    let twice = format!("{question} twice");
    let answered = scene.ask(&[&twice, "--exclude", &peer]);
    assert_eq!(answered["answer"], "I don't know.");
    assert_eq!(answered["calls_made"], 2);
    // Of those who vote nobody has an answer.
    let nobody = [&twice, "--how", "vote", "--exclude", &peer];
    scene.asker.try_ask(&nobody).fails(3, &["cannot answer"]);
}

#[test]
fn an_answer_that_goes_in_circles_is_begun_anew_by_another() {
    let circles = format!("alpha={}", "round and ".repeat(150));
    let scene = Scene::new(&[&circles, "beta=Paris"]);
    let question = "What does alpha say, as the answers of questions?";
    let answered = scene.ask(&[question]);
    assert_eq!(answered["answer"], "Paris");
    let made = calls(&answered);
    assert!(
        made.contains(&"answer alpha gave_up".to_owned()),
        "{made:?}"
    );
    // A client that cannot take back what it was given keeps it.
    let scene_api = scene.asker.api();
    assert!(post(&scene_api, "alpha", "").contains("round and round"));
}

#[test]
fn where_none_fits_nobody_is_asked_unless_the_caller_wants_it() {
    let scene = Scene::new(&["alpha=Paris", "beta=Rome"]);
    let question = "Zxqv wjkp?";
    let refused = scene.asker.try_ask(&[question, "--how", "auto"]);
    refused.fails(3, &["no expert here suits", "--how one"]);
    assert_eq!(scene.ask(&[question])["calls_made"], 1);
    assert_eq!(scene.ask(&[QUESTION, "--how", "auto"])["calls_made"], 1);
    let args = ["ask", "--kind", "embed", "--how", "vote", "x"];
    let refused = scene.lab.cli("asker", &args).run();
    refused.fails(2, &["for generating"]);
}
