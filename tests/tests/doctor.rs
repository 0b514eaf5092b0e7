//! `polymath doctor` says what is wrong and what to do, and its exit code whether anything must be
//! done; `polymath peers` says why a peer is not used.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, time::Instant};

use polymath_testkit::{Lab, eventually};
use serde_json::Value;

/// The findings of one area.
fn of<'a>(diagnosis: &'a Value, area: &str) -> Vec<&'a Value> {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings.iter().filter(|f| f["area"] == area).collect()
}

#[track_caller]
fn is(diagnosis: &Value, area: &str, state: &str, words: &[&str]) {
    let found = of(diagnosis, area);
    let told = |f: &&&Value| {
        let text = format!("{} {}", f["found"], f["fix"]);
        f["state"] == state && words.iter().all(|w| text.contains(w))
    };
    assert!(
        found.iter().any(|f| told(&f)),
        "{state} {words:?}: {found:#?}"
    );
}

#[test]
fn a_running_node_is_examined_and_a_lost_mesh_is_a_fault() {
    let lab = Lab::new();
    let first = lab
        .up("first", &["--expert", &lab.identifier("one")])
        .ready();
    lab.join("second", &first);
    let second = lab.up("second", &[]);
    second.knows(&["one"]);
    let doctor = second.cli(&["doctor", "--json"]).run().ok();
    let diagnosis = doctor.json();
    assert_eq!(diagnosis["ok"], true);
    assert_eq!(diagnosis["reach"], "local", "{diagnosis}");
    is(&diagnosis, "peers", "ok", &["1 member connected"]);
    is(&diagnosis, "clock", "ok", &["1 member"]);
    is(&diagnosis, "identity", "ok", &[]);

    // For people: a mark, and the verdict last.
    let told = second.cli(&["doctor"]).run().ok().stdout;
    assert!(
        told.lines().last().unwrap().starts_with("verdict: "),
        "{told}"
    );
    assert!(told.contains("✓ peers"), "{told}");

    // The running node is looked at while it runs; its home without it by a passing node.
    second.cli(&["down"]).run().ok();
    assert_eq!(second.wait(), 0);
    let passing = lab.cli("second", &["doctor", "--json"]).run().ok();
    is(&passing.json(), "peers", "ok", &["1 member connected"]);
    assert!(
        passing.stderr.contains("a passing one"),
        "{}",
        passing.stderr
    );

    first.kill();
    let began = Instant::now();
    let alone = lab
        .cli("second", &["doctor", "--json", "--timeout", "3"])
        .run();
    assert_eq!(alone.code, 8, "{}", alone.stdout);
    assert!(began.elapsed().as_secs() < 10);
    assert_eq!(alone.json()["ok"], false);
    is(
        &alone.json(),
        "peers",
        "failing",
        &["refused", "polymath join"],
    );
}

#[test]
fn what_is_wrong_with_the_machine_is_found_without_a_node() {
    let lab = Lab::new();
    // A home that is not there yet is left as it is.
    let fresh = lab.cli("fresh", &["doctor", "--json"]).run().ok().json();
    assert_eq!(fresh["reach"], "unknown");
    is(&fresh, "node", "unknown", &["polymath up"]);
    assert!(!lab.home("fresh").exists());

    lab.up("node", &[]).kill();
    let home = lab.home("node");
    let key = home.join("identity.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = format!(
        "[net]\nlisten = [\"/ip4/127.0.0.1/tcp/{port}\"]\nbootstrap = [\"/dns4/nobody.invalid/tcp/1\"]\n"
    );
    fs::write(home.join("config.toml"), config).unwrap();
    let doctor = lab
        .cli("node", &["doctor", "--json", "--timeout", "0"])
        .run();
    assert_eq!(doctor.code, 8, "{}", doctor.stdout);
    let diagnosis = doctor.json();
    is(&diagnosis, "identity", "failing", &["0644", "chmod 600"]);
    is(
        &diagnosis,
        "ports",
        "failing",
        &[&port.to_string(), "--listen"],
    );
    is(
        &diagnosis,
        "dns",
        "failing",
        &["nobody.invalid", "--bootstrap"],
    );
    is(&diagnosis, "node", "failing", &["not tested"]);

    fs::write(home.join("config.toml"), "nonsense = 1\n").unwrap();
    let doctor = lab.cli("node", &["doctor", "--json"]).run();
    assert_eq!(doctor.code, 8, "{}", doctor.stdout);
    is(
        &doctor.json(),
        "config",
        "failing",
        &["line 1", "config validate"],
    );

    let wrong = lab.cli("node", &["doctor", "--timeout", "-1"]).run();
    wrong.fails(2, &["--timeout"]);
}

#[test]
fn peers_say_why_they_are_not_used_and_a_question_to_a_lost_one_ends_soon() {
    let lab = Lab::new();
    let first = lab
        .up("first", &["--expert", &lab.identifier("one")])
        .ready();
    lab.join("second", &first);
    let second = lab.up("second", &[]);
    second.knows(&["one"]);
    let peers = || second.cli(&["peers", "--json"]).run().ok().json()["peers"].clone();
    let listed = peers();
    assert_eq!(listed[0]["id"], first.peer());
    assert_eq!(
        (&listed[0]["used"], &listed[0]["reason"]),
        (&true.into(), &"".into())
    );
    let others = first.cli(&["peers", "--json"]).run().ok().json();
    assert_eq!(others["peers"][0]["reason"], "no_experts", "{others}");
    assert_eq!(others["peers"][0]["used"], false);

    let gone = first.peer();
    first.kill();
    let lost = eventually(
        "the lost peer is listed with what came of dialling it",
        || {
            let peers = peers();
            let lost = peers
                .as_array()
                .unwrap()
                .iter()
                .find(|p| p["id"] == gone)?
                .clone();
            (lost["connected"] == false && lost["last_failure"] != "").then_some(lost)
        },
    );
    assert_eq!(lost["reason"], "not_connected", "{lost}");
    assert_eq!(lost["experts"][0], "one");
    assert!(
        lost["note"].as_str().unwrap().starts_with("not used: "),
        "{lost}"
    );

    let began = Instant::now();
    let asked = second.try_ask(&["Guten Tag", "--kind", "classify", "--model", "one"]);
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_ne!(asked.code, 0);
}

#[test]
fn watching_goes_on_until_it_is_interrupted() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    let lab = Lab::new();
    let node = lab.up("node", &[]);
    let mut watching = node
        .cli(&["peers", "--watch", "0.1", "--json"])
        .into_command()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(line["peers"].is_array());
    }
    let interrupt = ["-s", "INT", &watching.id().to_string()];
    assert!(
        Command::new("kill")
            .args(interrupt)
            .status()
            .unwrap()
            .success()
    );
    // Read on: a full pipe would hold it up.
    lines.for_each(drop);
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}
