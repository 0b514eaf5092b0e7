//! `cargo xtask fuzz`: hostile bytes for every decoder.

use std::process::ExitCode;

use anyhow::Result;

use crate::process;

pub(crate) const HELP: &str = "\
Mutates valid bytes and gives them to every decoder of what the network brings, on the stable toolchain.

Usage: cargo xtask fuzz [--seconds N | --executions N] [--target NAME] [--seed N]

  --seconds N    for each target (default: 60)
  --executions N inputs for each target instead, however long they take
  --target NAME  only this one
  --seed N       other inputs than those of seed 1

Inputs that fail are kept in target/fuzz and tried first from then on.

Exit codes: 0 nothing found · 1 a decoder panicked or took too long, or wrong usage
";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        // As the tests are built: other packages would be other features, and all compiled anew.
        "--workspace",
        "--bins",
    ]))?;
    let mut fuzz = process::command(process::target().join("release").join("fuzz"));
    fuzz.args(args);
    let ended = process::status(&mut fuzz)?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
