//! A peer that dies costs an attempt, not an answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use polymath_testkit::{Lab, Node};
use serde_json::Value;

/// Two nodes with the chef, one that asks; all over one transport.
fn replicas(lab: &Lab, listen: &str) -> (Vec<Node>, Node) {
    let host = ["--expert", "chef", "--listen", listen];
    let first = lab.up("first", &host).ready();
    lab.join("second", &first);
    let second = lab.up("second", &host).ready();
    lab.join("asker", &first);
    let asker = lab.up("asker", &["--client", "--listen", listen]);
    asker.knows(&["chef"]);
    polymath_testkit::eventually("both replicas are known", || {
        let experts = asker.cli(&["experts", "--json"]).run().ok().json();
        (experts["experts"][0]["peers"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    (vec![first, second], asker)
}

fn kill(nodes: &mut Vec<Node>, peer: &Value) {
    let at = nodes
        .iter()
        .position(|n| *peer == n.peer())
        .expect("one of ours");
    nodes.remove(at).kill();
}

#[test]
fn the_next_question_goes_to_another_replica_over_tcp() {
    the_next_question_goes_to_another_replica("/ip4/127.0.0.1/tcp/0", "tcp");
}

#[test]
fn the_next_question_goes_to_another_replica_over_quic() {
    the_next_question_goes_to_another_replica("/ip4/127.0.0.1/udp/0/quic-v1", "quic");
}

fn the_next_question_goes_to_another_replica(listen: &str, transport: &str) {
    let lab = Lab::with_models();
    let (mut nodes, asker) = replicas(&lab, listen);
    let first = asker.ask(&["How do I boil an egg?", "--max-tokens", "8"]);
    assert_eq!(first["transport"], transport);
    kill(&mut nodes, &first["peer"]);
    let second = asker.ask(&["How do I boil an egg?", "--max-tokens", "8"]);
    assert_eq!(second["peer"], nodes[0].peer());
    // With nobody left the failure names what was tried.
    nodes.clear();
    asker
        .try_ask(&[
            "How do I boil an egg?",
            "--max-tokens",
            "8",
            "--timeout",
            "20",
        ])
        .fails(4, &["chef"]);
}

#[test]
fn an_answer_cut_off_in_the_middle_is_carried_on_without_a_token_lost_or_doubled() {
    let lab = Lab::with_models();
    let (mut nodes, asker) = replicas(&lab, "/ip4/127.0.0.1/tcp/0");
    let question = [
        "Explain how to bake bread, step by step.",
        "--max-tokens",
        "96",
        "--temperature",
        "0.9",
        "--seed",
        "11",
    ];
    let whole = asker.ask(&question);
    assert_eq!(whole["attempts"], 1);

    let args: Vec<&str> = ["ask", "--verbose"].into_iter().chain(question).collect();
    let mut child = asker
        .cli(&args)
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut begun = [0; 12];
    stdout.read_exact(&mut begun).unwrap();
    // Who is answering? The node that has an answer in work.
    let busy = nodes
        .iter()
        .find(|n| n.status()["load"]["active"] == 1)
        .expect("one of them answers")
        .peer();
    kill(&mut nodes, &busy.clone().into());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .lines()
        .for_each(|l| said.push_str(&l.unwrap()));
    assert!(child.wait().unwrap().success(), "{said}");
    let answer = format!("{}{rest}", std::str::from_utf8(&begun).unwrap());
    assert_eq!(
        answer.trim_end_matches('\n'),
        whole["answer"].as_str().unwrap().trim_end_matches('\n')
    );
    assert!(
        said.contains("instead") && said.contains("2 tries"),
        "{said}"
    );
    assert_ne!(nodes[0].peer(), busy);
}
