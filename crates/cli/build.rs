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
    println!("cargo:rustc-env=POLYMATH_COMMIT={commit}");
    // A commit moves HEAD's log; without a log (a source archive) nothing moves.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!(
            "cargo:rerun-if-changed={}",
            std::path::absolute(log).unwrap_or_default().display()
        );
    }
}
