//! Puts the commit into the binary, for `polymath version`.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    println!(
        "cargo:rustc-env=POLYMATH_COMMIT={commit}{}",
        if dirty { "-dirty" } else { "" }
    );
    // A commit moves HEAD's log; without a log (a source archive) nothing moves.
    for file in ["logs/HEAD", "index"] {
        let Some(log) = git(&["rev-parse", "--git-path", file]) else {
            continue;
        };
        println!(
            "cargo:rerun-if-changed={}",
            std::path::absolute(log).unwrap_or_default().display()
        );
    }
}
