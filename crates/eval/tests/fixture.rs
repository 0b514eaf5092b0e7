//! The suite on a small invented data set: four experts, three subjects, prices.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use polymath_eval::{
    DataError, Entry, Options, evaluate,
    pareto::pareto,
    policies::{self, LEARNED},
};
use polymath_router::{Likeness, Policy};
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture")
}

fn measured(policy: Entry) -> Value {
    let options = Options {
        policy,
        ..Options::default()
    };
    let report = evaluate(&fixture(), &options, &mut |_| ()).unwrap();
    report.json()
}

fn value(report: &Value, case: &str, metric: &str) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|r| r["case"] == case && r["metric"] == metric);
    row.unwrap()["value"].as_f64().unwrap()
}

#[test]
fn the_learned_policy_beats_the_best_single_expert_and_does_so_again() {
    let report = measured(LEARNED);
    let of = |case| value(&report, &format!("subjects.jsonl: {case}"), "reward");
    assert!(of("routed") > of("best single") + 5.0, "{report}");
    assert!(of("routed") <= of("oracle") && of("random") < of("best single"));
    let gain = "subjects.jsonl: routed less best single, paired";
    let rows = report["rows"].as_array().unwrap();
    let row = rows.iter().find(|r| r["case"] == gain).unwrap();
    assert_eq!(row["goal"]["met"], true, "{row}");
    assert_eq!(measured(LEARNED)["rows"], report["rows"]);
}

#[test]
fn policies_of_other_makes_are_measured_by_the_same_rows() {
    let routed = |policy: Entry| {
        let report = measured(policy);
        assert_eq!(report["conditions"]["policy"], policy.name);
        let of = |case| value(&report, &format!("subjects.jsonl: {case}"), "reward");
        (of("routed"), of("best single"))
    };
    let (best, baseline) = routed(policies::by_name("best-single").unwrap());
    assert!((best - baseline).abs() < 1e-9, "{best} {baseline}");
    let (random, _) = routed(policies::by_name("random").unwrap());
    assert!(random < baseline);
    // One that this crate does not know: all priors are equal, so the first expert is asked.
    let likeness = Entry {
        name: "likeness",
        penalties: &[],
        make: |_| Box::new(Likeness) as Box<dyn Policy>,
    };
    assert!(routed(likeness).0 < baseline);
}

#[test]
fn the_front_of_the_learned_policy_lies_above_mixtures_of_single_experts() {
    let report = pareto(&fixture(), LEARNED, &mut |_| ()).unwrap().json();
    let zero = value(&report, "subjects: zero router", "AIQ");
    let ours = value(&report, "subjects: routed", "AIQ");
    assert!(ours > zero, "{ours} {zero}");
    let cheapest = "subjects: routed, weight of the price infinite";
    assert!((value(&report, cheapest, "price") - 0.2).abs() < 1e-9);
}

#[test]
fn experiments_that_are_not_known_and_folders_without_data_are_refused_by_name() {
    let options = Options {
        only: vec!["mlmu".into()],
        ..Options::default()
    };
    let error = evaluate(&fixture(), &options, &mut |_| ()).unwrap_err();
    assert!(matches!(error, DataError::Unknown { .. }) && error.to_string().contains("mmlu"));
    let empty = tempfile::tempdir().unwrap();
    let error = evaluate(empty.path(), &Options::default(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, DataError::Nothing { .. }), "{error}");
    let error = pareto(empty.path(), LEARNED, &mut |_| ()).unwrap_err();
    assert!(matches!(error, DataError::Nothing { .. }), "{error}");
}
