//! cargo-deny over `deny.toml`. Advisories are left to a schedule: a check of a commit must not
//! change its outcome overnight.

use anyhow::Result;

use crate::process;

/// The version `deny.toml` is written for; any version already there is used.
const DENY: &str = "0.20.2";

pub(super) fn check() -> Result<()> {
    if !process::succeeds(process::cargo().args(["deny", "--version"])) {
        eprintln!("Installing cargo-deny {DENY}, once (about ten minutes on two cores)");
        process::run(process::cargo().args([
            "install",
            "--locked",
            "cargo-deny",
            "--version",
            DENY,
        ]))?;
    }
    process::run(
        process::cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]),
    )
}
