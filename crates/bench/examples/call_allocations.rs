//! `polymath bench rpc` with one column more: allocations of a call, of all nodes together. An allocator
//! that counts has no place in the program people run, so it is only here.
//!
//!     cargo run --release -p polymath-bench --example call_allocations -- [--quick] [--json]
//!         [--only WORDS]...

#![allow(clippy::print_stdout)]

use std::{alloc::System, process::ExitCode};

use polymath_bench::rpc::{Options, Selection, measure};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations() -> u64 {
    let stats = COUNTING.stats();
    (stats.allocations + stats.reallocations) as u64
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| words.iter().any(|w| w == name);
    let values = words.windows(2).filter(|w| w[0] == "--only");
    let only: Vec<String> = values.map(|w| w[1].clone()).collect();
    let measured = measure(Options {
        quick: has("--quick"),
        only: Selection::new(&only),
        allocations: Some(allocations),
        ..Options::default()
    });
    match measured {
        Ok(report) if has("--json") => println!("{}", report.json()),
        Ok(report) => println!("{}", report.markdown()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
