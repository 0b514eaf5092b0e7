//! The lab's own mount, process and network namespaces.
//!
//! Whatever the lab makes (network namespaces, daemons, their homes) lives only in there. The lab is
//! the first process of its process namespace: when it ends, by whatever cause, the kernel ends all
//! the others and frees the rest. So nothing is left behind, nothing can meet the host's names, and
//! no process is ever looked for by name.

use std::{
    fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, Result};

use crate::netns::tool;

/// The hidden first argument of the process inside.
pub(crate) const INSIDE: &str = "--inside";
/// Where the lab's files are, in memory.
pub(crate) const HOMES: &str = "/run/natlab";
/// The exit code of a lab whose parent went away.
const ABANDONED: i32 = 130;

/// Runs this program again, inside, with the same arguments, and returns its exit code.
pub(crate) fn enter() -> Result<ExitCode> {
    let itself = std::env::current_exe().context("the program cannot find itself")?;
    let mut inside = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(itself)
        .arg(INSIDE)
        .args(std::env::args_os().skip(1))
        // Its end is what tells the lab that nobody waits for it any more.
        .stdin(Stdio::piped())
        // Ctrl-C ends this process alone, and the lab through it.
        .process_group(0)
        .spawn()
        .context("cannot start `unshare` (util-linux)")?;
    let lifeline = inside.stdin.take();
    let status = inside.wait().context("the lab cannot be awaited")?;
    drop(lifeline);
    let code = status.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Makes the inside ready.
pub(crate) fn settle() -> Result<()> {
    thread::spawn(|| {
        let mut nothing = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut nothing);
        std::process::exit(ABANDONED);
    });
    // Covers the host's /run for us alone: the names of namespaces and all homes.
    tool(
        Command::new("mount").args(["-t", "tmpfs", "natlab", "/run"]),
        "",
    )?;
    for folder in ["/run/netns", HOMES] {
        fs::create_dir_all(Path::new(folder)).with_context(|| format!("cannot create {folder}"))?;
    }
    Ok(())
}
