//! Programs the tests call: looked for first, installed when missing.

use anyhow::Result;

use crate::{
    process,
    system::{self, Tool},
};

/// Known to work with `.config/nextest.toml`; any version already there is used.
const NEXTEST: &str = "0.9.143";

const SYSTEM: [Tool; 4] = [
    (&["python3", "--version"], &["python3"]),
    (&["python3", "-m", "pip", "--version"], &["python3-pip"]),
    (
        &["python3", "-c", "import ensurepip, venv"],
        &["python3-venv"],
    ),
    (&["ip", "-V"], &["iproute2"]),
];

pub(super) fn install() -> Result<()> {
    system::install("the test suite", &SYSTEM)?;
    nextest()
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
