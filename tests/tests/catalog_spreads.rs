//! The catalog reaches a newcomer through one peer, and outlives both its authors' absence and a
//! restart.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use polymath_testkit::{Lab, Node};

#[test]
fn a_newcomer_that_dials_one_peer_sees_all_experts_of_ten_nodes() {
    let lab = Lab::new();
    let names: Vec<String> = (0..10).map(|i| format!("expert-{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let home = format!("n{i}");
        if let Some(first) = nodes.first() {
            lab.join(&home, first);
        }
        nodes.push(lab.up(&home, &["--expert", &lab.identifier(name)]).ready());
    }
    nodes[0].knows(&all);
    nodes[9].knows(&all);
    // Some authors are gone, in more than one way, before the newcomer comes.
    nodes.remove(8).kill();
    nodes.remove(5).kill();
    let leaver = nodes.remove(3);
    leaver.cli(&["down"]).run().ok();
    assert_eq!(leaver.wait(), 0);

    lab.join("newcomer", &nodes[0]);
    let newcomer = lab.up("newcomer", &["--client"]);
    newcomer.knows(&all);

    // Killed and started again with nobody left to meet, it still has the catalog.
    newcomer.kill();
    drop(nodes);
    let alone = lab.up("newcomer", &["--client"]);
    assert_eq!(alone.experts(), all);
}

#[test]
fn a_node_killed_at_odd_moments_comes_back_with_its_catalog() {
    let lab = Lab::new();
    let first = lab
        .up("first", &["--expert", &lab.identifier("one")])
        .ready();
    lab.join("second", &first);
    let definition = lab.identifier("two");
    for _ in 0..5 {
        // Killed as soon as its API is open: in the middle of loading, offering and syncing.
        lab.up("second", &["--expert", &definition]).kill();
    }
    let second = lab.up("second", &["--expert", &definition]).ready();
    second.knows(&["one", "two"]);
    first.knows(&["one", "two"]);
    assert!(!second.log().contains("was skipped"), "{}", second.log());
    let answer = first.ask(&[
        "Buenos días, ¿dónde está la estación?",
        "--kind",
        "classify",
        "--model",
        "two",
    ]);
    assert_eq!(answer["peer"], second.peer());
}
