//! Compares ways to learn from others on training rows alone:
//! `cargo run --release -p polymath-eval --example choose_sharing -- DATA`.
//!
//! A fifth of LLMRouter's training questions is held out in place of its test split, which is never looked at.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, path::PathBuf};

use polymath_eval::{
    experiments::sharing::{Setting, Shared},
    load,
    study::Study,
};
use polymath_router::{Random, learning::EstimatorConfig};

const REPEATS: u64 = 40;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let data: PathBuf = arguments.next().expect("give the data's folder").into();
    let table = load(&data.join("llmrouter.jsonl.gz"), None).unwrap();
    let tested: HashSet<&str> = table
        .rows
        .iter()
        .filter(|r| r.test)
        .map(|r| r.query.as_str())
        .collect();
    let rows = table.rows.iter().enumerate();
    let mut train: Vec<usize> = rows
        .filter(|(_, r)| !r.test && !tested.contains(r.query.as_str()))
        .map(|(at, _)| at)
        .collect();
    Random::new(7).shuffle(&mut train);
    let mut held = train.split_off(train.len() * 4 / 5);
    held.truncate(250);
    let study = Study::new(table.clone());
    let base = EstimatorConfig::default();
    let mut ways = vec![("as it is".to_owned(), base.clone())];
    for way in std::env::args().skip(2) {
        let n: Vec<f32> = way.split(',').map(|p| p.parse().unwrap()).collect();
        let config = EstimatorConfig {
            level_masses: vec![n[0], n[1]],
            penalty: n[2],
            ..base.clone()
        };
        ways.push((way, config));
    }
    let known = polymath_eval::baseline::all(&table, &train, &held);
    for b in known {
        println!(
            "{}: {:.2}",
            b.name,
            100.0 * b.rewards.iter().sum::<f64>() / held.len() as f64
        );
    }
    println!(
        "| way | isolated | merged, no roles | with roles | added up | one node with all | fourteen honest | least with liars |"
    );
    println!("|---|---:|---:|---:|---:|---:|---|---|");
    for (name, config) in ways {
        let setting = Setting {
            study: &study,
            train: &train,
            test: &held,
            config,
        };
        let all: Vec<Shared> = (0..REPEATS).map(|n| setting.shared(9000 + n)).collect();
        let mean =
            |f: &dyn Fn(&Shared) -> f64| 100.0 * all.iter().map(f).sum::<f64>() / REPEATS as f64;
        let least = |at: usize| {
            let lies = 0..all[0].lied.len();
            let means = lies.map(|lie| mean(&|s| s.lied[lie][at]));
            means
                .map(|m| format!("{m:.2}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2?} | {}; {}; {} |",
            mean(&|s| s.isolated),
            mean(&|s| s.merged[0]),
            mean(&|s| s.merged[1]),
            mean(&|s| s.summed),
            mean(&|s| s.one),
            [0, 1].map(|at| mean(&|s| s.honest[at])),
            least(0),
            least(1),
            least(2),
        );
    }
}
