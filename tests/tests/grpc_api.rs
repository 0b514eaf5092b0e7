//! The gRPC API on loopback, as any language's client finds it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::TcpListener, process::Command};

use polymath_testkit::Lab;

/// A port that was free a moment ago.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_python_client_finds_its_way_by_reflection() {
    let python = std::env::var_os("POLYMATH_TEST_PYTHON")
        .expect("POLYMATH_TEST_PYTHON names no interpreter: run the tests by `cargo xtask test`, which prepares it");
    let lab = Lab::with_models();
    let address = free();
    let _node = lab
        .up("node", &["--expert", "chef", "--grpc", &address])
        .ready();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/grpc_client.py");
    let run = Command::new(python)
        .args([script, &address, "chef"])
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
fn it_opens_on_this_machine_only_and_says_what_is_in_the_way() {
    let lab = Lab::new();
    lab.cli("node", &["up", "--grpc", "0.0.0.0:8421"])
        .run()
        .fails(2, &["api.grpc", "127.0.0.1:8421"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    lab.cli("node", &["up", "--grpc", &address])
        .run()
        .fails(8, &[&address, "--grpc"]);
}
