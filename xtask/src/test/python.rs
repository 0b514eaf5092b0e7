//! The virtual environment of the tests that speak Python.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::process;

const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// The environment's interpreter, with every requirement installed.
pub(super) fn environment() -> Result<PathBuf> {
    let venv = process::target().join("test-venv");
    let python = venv.join("bin/python");
    let requirements = process::root().join(REQUIREMENTS);
    let wanted = fs::read(&requirements).with_context(|| format!("cannot read {REQUIREMENTS}"))?;

    // A venv outlives the interpreter it was made with; pip tells whether both still work.
    if !process::succeeds(&mut pip(&python, &["--version"])) {
        process::run(
            process::command("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        )?;
    }
    // Written last, so that it is there only behind a complete installation.
    let installed = venv.join("requirements.installed");
    if fs::read(&installed).ok().as_ref() != Some(&wanted) {
        let mut install = pip(&python, &["install", "--quiet", "--requirement"]);
        process::run(install.arg(&requirements))?;
        fs::write(&installed, wanted)
            .with_context(|| format!("cannot write {}", installed.display()))?;
    }
    Ok(python)
}

/// `pip ARGS` of this interpreter, without questions and without notices of newer versions.
pub(super) fn pip(python: &Path, args: &[&str]) -> std::process::Command {
    let mut pip = process::command(python);
    pip.args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
        .args(args);
    pip
}
