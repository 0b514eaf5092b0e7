//! `polymath route eval` and `route pareto` on a small invented data set, without a daemon.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use polymath_testkit::Lab;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/eval/tests/fixture");

#[test]
fn the_router_is_measured_beside_its_baselines() {
    let lab = Lab::new();
    let run = |more: &[&str]| {
        let mut args = vec!["route", "eval", "--data", FIXTURE, "--json"];
        args.extend(more);
        lab.cli("none", &args).run()
    };
    let report = run(&["--strict"]).ok().json();
    let rows = report["rows"].as_array().unwrap();
    let reward = |case: &str| {
        let row = rows.iter().find(|r| r["case"] == case).unwrap();
        row["value"].as_f64().unwrap()
    };
    assert!(reward("subjects.jsonl: routed") > reward("subjects.jsonl: best single"));
    // Guessing misses what is asked for, which is an exit code where that is wanted.
    run(&["--policy", "random"]).ok();
    assert_eq!(run(&["--policy", "random", "--strict"]).code, 8);
    run(&["--policy", "magic"]).fails(2, &["magic", "best-single"]);
    run(&["--only", "mlmu"]).fails(2, &["mlmu", "mmlu"]);
}

#[test]
fn a_front_of_price_and_quality_is_shown() {
    let lab = Lab::new();
    let args = ["route", "pareto", "--data", FIXTURE, "--json"];
    let report = lab.cli("none", &args).run().ok().json();
    let rows = report["rows"].as_array().unwrap();
    let aiq = rows.iter().filter(|r| r["metric"] == "AIQ");
    assert_eq!(aiq.count(), 3);
}

#[test]
fn a_bad_row_is_named_by_file_and_line() {
    let lab = Lab::new();
    let folder = lab.path().join("data");
    fs::create_dir(&folder).unwrap();
    let rows = "{\"query\": \"q\", \"scores\": {\"a\": 1}}\n\n{\"query\": \"q\", \"scores\": {\"a\": 7}}\n";
    fs::write(folder.join("mine.jsonl"), rows).unwrap();
    let data = folder.to_str().unwrap();
    let eval = lab.cli("none", &["route", "eval", "--data", data]).run();
    eval.fails(7, &["mine.jsonl", "line 3", "0 to 1"]);
    let none = folder.join("none");
    let none = none.to_str().unwrap();
    let eval = lab.cli("none", &["route", "eval", "--data", none]).run();
    eval.fails(3, &[none]);
}
