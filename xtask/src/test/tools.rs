//! Programs the tests call: looked for first, installed when missing.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::process;

/// Known to work with `.config/nextest.toml`; any version already there is used.
const NEXTEST: &str = "0.9.143";

/// A probe that succeeds where the tool works, and the Debian packages that bring it.
const SYSTEM: [(&[&str], &[&str]); 4] = [
    (&["python3", "--version"], &["python3"]),
    (&["python3", "-m", "pip", "--version"], &["python3-pip"]),
    (
        &["python3", "-c", "import ensurepip, venv"],
        &["python3-venv"],
    ),
    (&["ip", "-V"], &["iproute2"]),
];

pub(super) fn install() -> Result<()> {
    system()?;
    nextest()
}

fn missing() -> BTreeSet<&'static str> {
    SYSTEM
        .iter()
        .filter(|(probe, _)| !process::succeeds(process::command(probe[0]).args(&probe[1..])))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect()
}

fn system() -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {list}");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("the tests need what Debian calls {list}: install these, then run this again");
    }
    if !is_root() {
        bail!(
            "the tests need {list}: run this line, then `cargo xtask test` again:\n  sudo sh -c '{line}'"
        );
    }
    eprintln!("Installing {list}");
    process::run(&mut apt(&["update", "-qq"]))?;
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    process::run(install.args(&packages))?;
    let still = missing();
    if !still.is_empty() {
        bail!(
            "{still:?} is installed, but does not answer: look at PATH for another python3 or ip"
        );
    }
    Ok(())
}

fn apt(args: &[&str]) -> Command {
    let mut apt = process::command("apt-get");
    apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn is_root() -> bool {
    process::output(process::command("id").arg("-u")).is_ok_and(|id| id.trim_ascii() == b"0")
}

fn nextest() -> Result<()> {
    if process::succeeds(process::cargo().args(["nextest", "--version"])) {
        return Ok(());
    }
    eprintln!("Installing cargo-nextest {NEXTEST}, once (about ten minutes on two cores)");
    process::run(process::cargo().args([
        "install",
        "--locked",
        "cargo-nextest",
        "--version",
        NEXTEST,
    ]))
}
