//! A network fetches a model once: whoever lacks it takes it from members who have it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use polymath_testkit::{Lab, Node, eventually};
use serde_json::Value;

/// Without any `python3` or `pip` no package can be fetched.
const NO_PIP: (&str, &str) = ("PATH", "/nonexistent");
/// Every way is a long one.
const FAR: (&str, &str) = ("POLYMATH_NET_BULK_FROM_MS", "0");

/// Starts a node whose model store is empty and that can fetch nothing.
fn taker(lab: &Lab, name: &str, giver: &Node, env: &[(&str, &str)]) -> Node {
    lab.join(name, giver);
    let store = store(lab, name).display().to_string();
    let mut all = vec![("POLYMATH_MODELS_DIR", store.as_str()), NO_PIP];
    all.extend(env);
    lab.up_with(name, &["--expert", "chef"], &all)
}

fn store(lab: &Lab, name: &str) -> PathBuf {
    lab.path().join(format!("{name}-models"))
}

fn giver(lab: &Lab, name: &str, env: &[(&str, &str)]) -> Node {
    let language = lab.identifier(name);
    lab.up_with(name, &["--expert", &language], env)
}

fn chef(node: &Node) -> Value {
    let status = node.status();
    let experts = status["experts"].as_array().unwrap();
    experts
        .iter()
        .find(|e| e["name"] == "chef")
        .unwrap()
        .clone()
}

fn becomes(node: &Node, state: &str) -> Value {
    eventually(&format!("the expert is {state}"), || {
        let chef = chef(node);
        (chef["state"] == state).then_some(chef)
    })
}

#[test]
fn a_member_gives_the_model_and_no_package_is_fetched() {
    let lab = Lab::with_models();
    let giver = giver(&lab, "giver", &[]);
    let taker = taker(&lab, "taker", &giver, &[]);
    becomes(&taker, "ready");
    let from = format!("from member {}", giver.peer());
    assert!(taker.log().contains(&from), "{}", taker.log());
    let answer = taker.ask(&["How do I boil an egg?", "--max-tokens", "4"]);
    assert_eq!(answer["expert"], "chef");
}

#[test]
fn what_is_far_comes_by_the_bulk_lane() {
    let lab = Lab::with_models();
    let giver = giver(&lab, "giver", &[]);
    let taker = taker(&lab, "taker", &giver, &[FAR]);
    becomes(&taker, "ready");
    let log = taker.log();
    assert!(log.contains("comes by the bulk lane"), "{log}");
}

#[test]
fn a_giver_that_dies_is_replaced_where_it_stopped() {
    let lab = Lab::with_models();
    let slow = [
        ("POLYMATH_LIMITS_UPLOAD", "24MiB"),
        ("POLYMATH_LOG_LEVEL", "polymath=debug"),
    ];
    let first = giver(&lab, "first", &slow);
    lab.join("second", &first);
    let second = giver(&lab, "second", &slow);
    let both = [
        ("POLYMATH_LOG_LEVEL", "polymath=debug"),
        ("POLYMATH_NET_BOOTSTRAP", &second.address()),
    ];
    let taker = taker(&lab, "taker", &first, &both);
    let begun = |node: &Node| node.log().contains("a member takes a file");
    let dies = eventually("one gives", || {
        [&first, &second].iter().position(|n| begun(n))
    });
    let (dead, alive) = if dies == 0 {
        (first, second)
    } else {
        (second, first)
    };
    dead.kill();
    becomes(&taker, "ready");
    // It goes on behind what the other gave, unless that had given nothing yet.
    assert!(begun(&alive), "{}", alive.log());
    assert!(
        taker.log().contains("a file does not come"),
        "{}",
        taker.log()
    );
}

#[test]
fn who_serves_nobody_or_shares_nothing_gives_no_files() {
    let lab = Lab::with_models();
    for (name, env) in [
        ("alone", ("POLYMATH_SERVE", "self")),
        ("close", ("POLYMATH_MODELS_SHARE", "false")),
    ] {
        let giver = giver(&lab, name, &[env]);
        let taker = taker(&lab, &format!("{name}-taker"), &giver, &[]);
        let failed = becomes(&taker, "failed");
        let why = failed["detail"].as_str().unwrap();
        assert!(why.contains("pip"), "{why}");
    }
}
