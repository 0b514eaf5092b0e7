//! The program: its object form, and one line with exit code 2 for what it cannot understand.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn meshsim(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_meshsim");
    Command::new(program).args(arguments).output().unwrap()
}

#[test]
fn json_is_one_object_with_conditions_and_rows() {
    let done = meshsim(&["replicas", "--queries=100", "--seed", "3", "--json"]);
    assert!(done.status.success());
    let object: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(object["bench"], "meshsim replicas");
    assert_eq!(object["conditions"]["seed"], 3);
    let rows = object["rows"].as_array().unwrap();
    let router = rows.iter().find(|r| r["case"] == "router").unwrap();
    assert_eq!(router["peer"], "random");
    assert!(
        router["ratio"].is_number() && router["value"].is_number(),
        "{router}"
    );
}

#[test]
fn bad_arguments_give_one_line_and_code_2() {
    for arguments in [
        &[][..],
        &["dance"],
        &["catalog", "--nodes"],
        &["catalog", "--nodes", "many"],
        &["catalog", "--nodes", "0"],
        &["catalog", "--rate", "3"],
        &["catalog", "--json=yes"],
        &["replicas", "extra\nline"],
    ] {
        let done = meshsim(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(done.stdout.is_empty());
        let line = String::from_utf8(done.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}
