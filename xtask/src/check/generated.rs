//! Committed generated code is byte for byte what the generator writes today.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    codegen,
    process::{root, target},
};

const COMMITTED: &str = "crates/proto/src/generated";

pub(super) fn check() -> Result<()> {
    let fresh = target().join(format!("xtask-generated-{}", process::id()));
    let compared = codegen::generate(Some(&fresh)).and_then(|()| compare(&fresh));
    // Best effort: what is left lies in the target folder.
    let _ = fs::remove_dir_all(&fresh);
    compared
}

fn compare(fresh: &Path) -> Result<()> {
    let (fresh, committed) = (contents(fresh)?, contents(&root().join(COMMITTED))?);
    let names: BTreeSet<&String> = fresh.keys().chain(committed.keys()).collect();
    let differing: Vec<&str> = names
        .iter()
        .filter(|n| fresh.get(**n) != committed.get(**n))
        .map(|n| n.as_str())
        .collect();
    if !differing.is_empty() {
        bail!(
            "{COMMITTED}: {} differ: run `cargo xtask codegen` and commit",
            differing.join(", ")
        );
    }
    eprintln!("{} file(s) unmodified", committed.len());
    Ok(())
}

fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let failed = || format!("cannot read {}", folder.display());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(name, fs::read(&path).with_context(failed)?);
    }
    Ok(files)
}
