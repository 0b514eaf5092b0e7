//! `cargo xtask codegen`: `crates/proto/src/generated` from `proto/`.
//!
//! The generator is a package of its own, so that its dependencies are built only when it runs.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};

use crate::process;

pub(crate) const HELP: &str = "\
Regenerates crates/proto/src/generated from proto/ (protox: no protoc needed).
Commit the result; `cargo xtask check` fails when it differs.

Usage: cargo xtask codegen
";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        bail!("unexpected argument '{arg}'; see `cargo xtask codegen --help`");
    }
    generate(None)?;
    Ok(ExitCode::SUCCESS)
}

/// Generates into `out`, or into its place in the tree.
pub(crate) fn generate(out: Option<&Path>) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "codegen"]);
    if let Some(out) = out {
        cargo.arg("--").arg(out);
    }
    process::run(&mut cargo)
}
