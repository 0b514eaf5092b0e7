//! `cargo xtask check`: all that a change must satisfy besides its tests.
//!
//! Every step runs, whatever became of those before it; the summary at the end names the failed.

mod clocks;
mod deny;
mod floors;
mod generated;
mod links;
mod manifest;

use std::{fmt::Write as _, process::ExitCode, time::Instant};

use anyhow::{Result, bail};

use crate::process;

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: [Step; 8] = [
    Step {
        name: "fmt",
        what: "code is formatted",
        run: formatted,
    },
    Step {
        name: "floors",
        what: "no crate depends on its own floor or a higher one",
        run: floors::check,
    },
    Step {
        name: "clocks",
        what: "no wall clock below floor 4",
        run: clocks::check,
    },
    Step {
        name: "links",
        what: "relative links of the documents lead to files",
        run: links::check,
    },
    Step {
        name: "clippy",
        what: "clippy has nothing to say",
        run: clippy,
    },
    Step {
        name: "generated",
        what: "generated code is what the generator writes",
        run: generated::check,
    },
    Step {
        name: "docs",
        what: "API documentation has no broken links",
        run: documented,
    },
    Step {
        name: "deny",
        what: "dependencies: bans, licences, sources (cargo-deny)",
        run: deny::check,
    },
];

pub(crate) fn help() -> String {
    let mut text = "\
Checks everything but the tests. Every step runs, even when one failed.

Usage: cargo xtask check [STEP ...]

Steps:
"
    .to_owned();
    for step in &STEPS {
        let _ = writeln!(text, "  {:<10} {}", step.name, step.what);
    }
    text
}

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = args.iter().find(|a| STEPS.iter().all(|s| s.name != *a)) {
        bail!("there is no step '{unknown}'; see `cargo xtask check --help`");
    }
    let mut summary = String::new();
    let mut failed = 0;
    for step in STEPS
        .iter()
        .filter(|s| args.is_empty() || args.iter().any(|a| a == s.name))
    {
        eprintln!("\n== {}: {}", step.name, step.what);
        let began = Instant::now();
        let result = (step.run)();
        let seconds = began.elapsed().as_secs_f64();
        let outcome = match &result {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                failed += 1;
                eprintln!("{error:#}");
                // The first line is enough where the whole stands above.
                format!(
                    "FAILED: {}",
                    format!("{error:#}").lines().next().unwrap_or_default()
                )
            }
        };
        eprintln!(
            "== {}: {} in {seconds:.1} s",
            step.name,
            if result.is_ok() { "ok" } else { "FAILED" }
        );
        let _ = writeln!(summary, "  {:<10} {seconds:>7.1} s  {outcome}", step.name);
    }
    eprintln!("\nSummary\n{summary}");
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{failed} failed.");
    Ok(ExitCode::FAILURE)
}

fn formatted() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ];
    process::run(process::cargo().args(clippy))
}

fn documented() -> Result<()> {
    let doc = ["doc", "--workspace", "--no-deps", "--locked"];
    process::run(
        process::cargo()
            .args(doc)
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}
