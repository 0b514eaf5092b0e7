//! `cargo xtask natlab`: what the NAT lab needs, then the lab.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{
    process,
    system::{self, Tool},
};

pub(crate) const HELP: &str = "\
Runs real daemons behind real NATs, in network namespaces, and holds what they reach against theory.

Usage: cargo xtask natlab [--strict] [--quick] [--jobs N] [--json] [LAB OPTIONS]

  --quick    a short set (as in CI): every NAT measured, a cell for each way things can go, one scenario
  --jobs N   cells side by side
  --json     one JSON object instead of tables
  --strict   fail where the lab cannot run, instead of skipping it
`target/release/natlab --help` lists the rest: repeats, single cells, single scenarios.

It needs Linux, root, network namespaces and /dev/net/tun; iproute2, nftables and conntrack are
installed by apt-get when missing. Where something of that is not to be had, it says what, prints
SKIPPED and succeeds.

Exit codes: 0 all is as theory allows, or skipped · 1 something falls short, or the lab failed ·
2 wrong usage · 130 interrupted
";

const TOOLS: [Tool; 4] = [
    (&["ip", "-V"], &["iproute2"]),
    (&["nft", "--version"], &["nftables"]),
    (&["conntrack", "--version"], &["conntrack"]),
    (&["unshare", "--version"], &["util-linux"]),
];

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let strict = args.iter().any(|a| a == "--strict");
    if let Err(missing) = prepare() {
        eprintln!("SKIPPED: natlab: {missing:#}");
        return Ok(if strict {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        });
    }
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        // As the tests are built: other packages would be other features, and all compiled anew.
        "--workspace",
        "--bins",
        // The bulk lane's speed program.
        "--examples",
    ]))?;
    let mut lab = process::command(process::target().join("release").join("natlab"));
    lab.args(args.iter().filter(|a| *a != "--strict"));
    let ended = process::status(&mut lab)?;
    let code = ended.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What the lab needs; an error names what is not to be had.
fn prepare() -> Result<()> {
    anyhow::ensure!(cfg!(target_os = "linux"), "network namespaces are Linux's");
    anyhow::ensure!(system::is_root(), "only root may make network namespaces");
    anyhow::ensure!(
        Path::new("/dev/net/tun").exists(),
        "there is no /dev/net/tun"
    );
    system::install("natlab", &TOOLS)?;
    // All that the lab does rests on these two; a container may have neither.
    let inside = ["--mount", "--net", "--pid", "--fork"];
    let namespaces = process::succeeds(process::command("unshare").args(inside).arg("true"));
    anyhow::ensure!(
        namespaces,
        "this kernel or container allows no new namespaces"
    );
    let table = ["--net", "nft", "add", "table", "ip", "trial"];
    let nftables = process::succeeds(process::command("unshare").args(table));
    anyhow::ensure!(nftables, "this kernel has no nftables");
    Ok(())
}
