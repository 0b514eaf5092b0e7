//! The workspace's packages and what they say they depend on, as cargo reads it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

pub(super) struct Package {
    pub(super) name: String,
    /// The folder of its `Cargo.toml`.
    pub(super) folder: PathBuf,
    /// Names of what it is built with; what only its tests use is left out.
    pub(super) dependencies: Vec<String>,
}

pub(super) fn packages() -> Result<Vec<Package>> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let json = process::output(process::cargo().args(metadata))?;
    let metadata: Value =
        serde_json::from_slice(&json).context("cargo metadata printed no JSON")?;
    array(&metadata, "packages")?.iter().map(package).collect()
}

fn package(json: &Value) -> Result<Package> {
    let folder = PathBuf::from(string(json, "manifest_path")?);
    let dependencies = array(json, "dependencies")?
        .iter()
        .filter(|d| d["kind"] != "dev")
        .map(|d| string(d, "name"))
        .collect::<Result<_>>()?;
    Ok(Package {
        name: string(json, "name")?,
        folder: folder
            .parent()
            .context("a manifest without a folder")?
            .to_path_buf(),
        dependencies,
    })
}

fn array<'a>(json: &'a Value, key: &str) -> Result<&'a [Value]> {
    let array = json[key].as_array();
    array
        .map(Vec::as_slice)
        .with_context(|| format!("cargo metadata has no list '{key}'"))
}

fn string(json: &Value, key: &str) -> Result<String> {
    let string = json[key].as_str();
    string
        .map(str::to_owned)
        .with_context(|| format!("cargo metadata has no string '{key}'"))
}
