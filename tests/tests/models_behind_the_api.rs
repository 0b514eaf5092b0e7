//! What a node lacks when it starts is brought in behind its open API, in whatever time that takes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    time::SystemTime,
};

use polymath_testkit::{Lab, Node, eventually};
use serde_json::Value;

fn weights() -> PathBuf {
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    PathBuf::from(files).join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn readyz(node: &Node) -> u16 {
    let api = node.api();
    let mut stream = TcpStream::connect(&api).unwrap();
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn expert(node: &Node, name: &str) -> Value {
    let status = node.status();
    let experts = status["experts"].as_array().unwrap();
    let found = experts.iter().find(|e| e["name"] == name);
    found
        .unwrap_or_else(|| panic!("{name} is not in {status}"))
        .clone()
}

fn state(node: &Node, name: &str, wanted: &str) -> Value {
    eventually(&format!("{name} is {wanted}"), || {
        let expert = expert(node, name);
        (expert["state"] == wanted).then_some(expert)
    })
}

#[test]
fn a_pull_without_a_network_is_tried_again_and_holds_nobody_up() {
    let lab = Lab::new();
    let bin = lab.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let pip = bin.join("pip3");
    let script =
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'ERROR: no route to host' >&2\nexit 1\n";
    fs::write(&pip, script).unwrap();
    fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
    let language = lab.identifier("language");
    let node = lab.up_with(
        "node",
        &[
            "--expert",
            "chef",
            "--expert",
            "coder",
            "--expert",
            &language,
            "--api",
            "127.0.0.1:0",
        ],
        &[("PATH", bin.to_str().unwrap())],
    );
    state(&node, "language", "ready");
    for name in ["chef", "coder"] {
        let failed = state(&node, name, "failed");
        let why = failed["detail"].as_str().unwrap();
        assert!(
            why.contains("no route to host") && why.contains("tried again in"),
            "{why}"
        );
    }
    assert_eq!(readyz(&node), 503, "two experts cannot be asked");
    // What the next try finds is used, wherever it came from.
    let from = weights().display().to_string();
    lab.cli(
        "other",
        &["model", "pull", "smollm2-135m-instruct", "--from", &from],
    )
    .run()
    .ok();
    state(&node, "chef", "ready");
    state(&node, "coder", "ready");
    assert_eq!(readyz(&node), 200);
}

#[test]
fn a_file_of_ones_own_is_imported_behind_the_api_and_once_only() {
    let lab = Lab::new();
    let own = lab.path().join("tutor.gguf");
    fs::copy(weights(), &own).unwrap();
    let own_path = own.to_str().unwrap();
    let language = lab.identifier("language");
    let args = ["--expert", own_path, "--expert", &language];

    // Someone else writes to the store: the import cannot even begin, and everything else can.
    let lock = lab.occupy_store();
    let node = lab.up("node", &args);
    let waiting = state(&node, "tutor", "importing");
    assert_eq!(waiting["id"], "", "it is not known before the file is read");
    state(&node, "language", "ready");
    node.try_ask(&["hello", "--timeout", "5", "--model", "tutor"])
        .fails(4, &["tutor"]);
    node.signal("TERM");
    assert_eq!(node.wait(), 0, "an import that waits ends with the node");

    let node = lab.up("node", &args);
    state(&node, "tutor", "importing");
    // Only a file that has been left alone for a while is known by its looks.
    eventually("the file is old enough", || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let age =
            i64::try_from(now.unwrap().as_secs()).unwrap() - fs::metadata(&own).unwrap().ctime();
        (age > 3).then_some(())
    });
    drop(lock);
    let id = state(&node, "tutor", "ready")["id"].clone();
    assert_eq!(id.as_str().unwrap().len(), 64);
    node.knows(&["tutor"]);
    let answer = node.ask(&[
        "How do I boil an egg?",
        "--max-tokens",
        "4",
        "--model",
        "tutor",
    ]);
    assert_eq!(answer["expert"], "tutor");
    node.cli(&["down"]).run().ok();
    assert_eq!(node.wait(), 0);

    // The second start needs no place in the store, for it reads and copies nothing.
    let lock = lab.occupy_store();
    let node = lab.up("node", &args);
    assert_eq!(state(&node, "tutor", "ready")["id"], id);
    assert!(!node.log().contains("Importing"), "{}", node.log());
    drop(lock);
}
