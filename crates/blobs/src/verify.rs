//! Whether what lies in the store is what it should be.

use std::io;

use polymath_types::{FileRef, Model};

use crate::{
    BadFile, Cancel, Origin, Progress, Store, StoreError, VerifyError,
    cancel::Job,
    digest::{Need, digest_file},
    known_model,
    manifest::{distinct_files, files},
    progress::Step,
};

/// What [`Store::verify`] read and found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Number of files.
    pub files: usize,
    /// Their length together.
    pub bytes: u64,
}

impl Store {
    /// Reads every byte of an installed model and compares both digests.
    ///
    /// # Errors
    /// [`VerifyError::Damaged`] names every bad file and the command that repairs the model.
    pub fn verify(
        &self,
        name: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Verified, VerifyError> {
        let job = Job { progress, cancel };
        let absent = || StoreError::NotInstalled {
            name: name.to_owned(),
        };
        let installed = self.get(name)?.ok_or_else(absent)?;
        let files = distinct_files(&installed.model);
        let bytes = files.iter().map(|f| f.size).sum();
        let mut bad = Vec::new();
        let step = Step::begin(progress, &format!("Verifying {name}"), Some(bytes));
        for file in &files {
            if let Some(b) = self.look_at(file)? {
                bad.push(b);
                continue;
            }
            let found = digest_file(&self.path(file), Need::Both, job)?;
            let wrong = |what, found: &str, expected: &str| {
                (found != expected).then(|| format!("has {what} {found}, expected {expected}"))
            };
            let problem = wrong("sha256", &found.sha256, &file.sha256)
                .or_else(|| wrong("blake3", &found.blake3, &file.blake3));
            bad.extend(problem.map(|p| self.bad(file, p)));
        }
        if bad.is_empty() {
            step.complete();
            return Ok(Verified {
                files: files.len(),
                bytes,
            });
        }
        let from = match installed.origin {
            Origin::Package(_) => String::new(),
            Origin::Path(path) => format!(" --from {path}"),
        };
        Err(damaged(&installed.model, bad, &from))
    }

    /// A quick look: every file is there and has its length.
    ///
    /// # Errors
    /// [`VerifyError::Damaged`] as for [`Store::verify`].
    pub fn check_present(&self, model: &Model) -> Result<(), VerifyError> {
        let mut bad = Vec::new();
        for file in files(model) {
            bad.extend(self.look_at(file)?);
        }
        let from = if known_model(&model.name).is_some() {
            ""
        } else {
            " --from PATH"
        };
        if bad.is_empty() {
            Ok(())
        } else {
            Err(damaged(model, bad, from))
        }
    }

    fn look_at(&self, file: &FileRef) -> Result<Option<BadFile>, StoreError> {
        let path = self.path(file);
        let problem = match path.metadata() {
            Ok(m) if m.len() == file.size => return Ok(None),
            Ok(m) => format!("has {} bytes, expected {}", m.len(), file.size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
            Err(e) => return Err(StoreError::io("look at", path, e)),
        };
        Ok(Some(self.bad(file, problem)))
    }

    fn bad(&self, file: &FileRef, problem: String) -> BadFile {
        BadFile {
            name: file.name.clone(),
            problem,
            path: self.path(file),
        }
    }
}

fn damaged(model: &Model, bad: Vec<BadFile>, from: &str) -> VerifyError {
    let name = model.name.clone();
    let advice = format!("`polymath model pull {name}{from}` repairs it");
    VerifyError::Damaged {
        model: name,
        bad,
        advice,
    }
}
