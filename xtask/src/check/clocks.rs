//! The wall clock stays above floor 3: what lies below is given the time.
//!
//! Clippy's lists hold for whole crates with their own `clippy.toml`; this holds for all of the
//! lower floors. Monotonic time is allowed where a crate runs tasks, and barred by clippy in the
//! sans-IO crates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::floors;
use crate::process;

const BARRED: [&str; 3] = ["SystemTime::now", "Utc::now", "Local::now"];
const HIGHEST: u8 = 3;

pub(super) fn check() -> Result<()> {
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for package in floors::up_to(HIGHEST)? {
        rust_files(&package.folder.join("src"), &mut files)?;
    }
    for file in &files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let shown = file
            .strip_prefix(process::root())
            .unwrap_or(file)
            .display()
            .to_string();
        faults.extend(readings(&text).map(|(line, what)| format!("{shown}:{line}: {what}")));
    }
    if !faults.is_empty() {
        bail!(
            "the wall clock is read below floor {}:\n  {}",
            HIGHEST + 1,
            faults.join("\n  ")
        );
    }
    eprintln!("{} files of floors 1 to {HIGHEST}", files.len());
    Ok(())
}

/// Numbers of the lines that read a clock, and which.
fn readings(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().filter_map(|(i, line)| {
        let code = line.split("//").next().unwrap_or_default();
        BARRED
            .into_iter()
            .find(|b| code.contains(b))
            .map(|b| (i + 1, b))
    })
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.is_dir() {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_seen_and_comments_are_not() {
        let text = "//! No SystemTime::now here.\nlet t = std::time::SystemTime::now(); // why\n";
        assert_eq!(readings(text).collect::<Vec<_>>(), [(2, "SystemTime::now")]);
    }
}
