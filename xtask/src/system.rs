//! Programs of the operating system: looked for first, installed when missing.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::process;

/// A probe that succeeds where the tool works, and the Debian packages that bring it.
pub(crate) type Tool = (&'static [&'static str], &'static [&'static str]);

/// The packages of those tools that do not answer.
pub(crate) fn missing(tools: &[Tool]) -> BTreeSet<&'static str> {
    tools
        .iter()
        .filter(|(probe, _)| !process::succeeds(process::command(probe[0]).args(&probe[1..])))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect()
}

/// Installs what is missing by apt-get, as root; else says what to type. `who` needs it.
pub(crate) fn install(who: &str, tools: &[Tool]) -> Result<()> {
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {list}");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{who} needs what Debian calls {list}: install these, then run this again");
    }
    if !is_root() {
        bail!("{who} needs {list}: run this line, then the same again:\n  sudo sh -c '{line}'");
    }
    eprintln!("Installing {list}");
    process::run(&mut apt(&["update", "-qq"]))?;
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    process::run(install.args(&packages))?;
    let still = missing(tools);
    if !still.is_empty() {
        bail!(
            "{still:?} is installed, but does not answer: look at PATH for another program of that name"
        );
    }
    Ok(())
}

pub(crate) fn is_root() -> bool {
    process::output(process::command("id").arg("-u")).is_ok_and(|id| id.trim_ascii() == b"0")
}

fn apt(args: &[&str]) -> Command {
    let mut apt = process::command("apt-get");
    apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}
