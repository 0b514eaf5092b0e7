//! A user's own model, from its files.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use polymath_types::{FileRef, FileRole, Model, Runtime};
use tempfile::NamedTempFile;

use crate::{
    Cancel, Installed, Origin, Progress, PullError, Store, StoreError,
    cancel::Job,
    digest::{Digests, Need, PumpError, digest_file, pump},
    known_model,
    manifest::{check_model, is_file_name, is_name},
    progress::Step,
};

/// A model to be made of files on this machine. What the bytes mean, the caller has read out of
/// them.
#[derive(Debug, Clone)]
pub struct Import {
    /// The name it gets; not that of a known model.
    pub name: String,
    /// Which code runs it.
    pub runtime: Runtime,
    /// Each file with its role; their own names are kept. [`FileRole::Adapter`] at most once.
    pub files: Vec<(FileRole, PathBuf)>,
    /// As [`Model::context_length`].
    pub context_length: u32,
    /// As [`Model::dimensions`].
    pub dimensions: u32,
    /// SPDX expression of the licence.
    pub licence: String,
}

impl Import {
    fn model(&self, mut files: Vec<FileRef>) -> Result<Model, PullError> {
        let fail =
            |what: String| PullError::Invalid(format!("cannot import '{}': {what}", self.name));
        files.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        let (mut adapters, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|f| f.role == FileRole::Adapter);
        if files.is_empty() {
            return Err(fail("it has no files".into()));
        }
        let adapter = adapters.pop();
        if !adapters.is_empty() {
            return Err(fail("it may have one adapter at most".into()));
        }
        let model = Model {
            name: self.name.clone(),
            runtime: self.runtime,
            files,
            adapter,
            context_length: self.context_length,
            dimensions: self.dimensions,
            licence: self.licence.clone(),
        };
        check_model(&model).map_err(fail)?;
        Ok(model)
    }
}

impl Store {
    /// Copies the files in (as clones where the file system can, so that they take no more space)
    /// and hashes them. Importing the same bytes under the same name again repairs them.
    ///
    /// The files are never linked: whoever changed his own copy in place would change the store.
    ///
    /// # Errors
    /// [`PullError::NameTaken`] if the name stands for other bytes already.
    pub fn import(
        &self,
        import: &Import,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Installed, PullError> {
        let job = Job { progress, cancel };
        let name = &import.name;
        if !is_name(name) {
            return Err(StoreError::BadName {
                name: name.chars().take(64).collect(),
            }
            .into());
        }
        if known_model(name).is_some() {
            return Err(PullError::NameTaken {
                name: name.clone(),
                by: "a model that this polymath knows",
            });
        }
        // All that can be refused is refused before anything is copied.
        let unread = Digests {
            size: 0,
            sha256: "0".repeat(64),
            blake3: "0".repeat(64),
        };
        let mut files = Vec::new();
        let mut total = 0;
        for (role, path) in &import.files {
            total += size_of_file(path)?;
            files.push(file_ref(*role, path, unread.clone())?);
        }
        import.model(files)?;
        self.check_room(name, total)?;

        let lock = self.lock(&format!("importing {name}"), job)?;
        self.sweep(&lock, &[])?;
        let step = Step::begin(progress, &format!("Importing {name}"), Some(total));
        let mut copies = Vec::new();
        for (role, path) in &import.files {
            let (tmp, digests) = self.copy_in(path, job)?;
            copies.push((tmp, file_ref(*role, path, digests)?));
        }
        step.complete();
        let model = import.model(copies.iter().map(|(_, file)| file.clone()).collect())?;
        let before = self.get_to_replace(name, progress)?;
        if before.as_ref().is_some_and(|i| i.model != model) {
            let by = "an installed model with other content";
            return Err(PullError::NameTaken {
                name: name.clone(),
                by,
            });
        }
        for (tmp, file) in copies {
            self.keep_blob(&lock, tmp, &file)?;
        }
        if let Some(before) = before {
            progress.note(&format!(
                "{name} was installed already, from the same bytes"
            ));
            return Ok(before);
        }
        let from = import
            .files
            .first()
            .map_or(Path::new(""), |(_, path)| path.as_path());
        Ok(self.install(&lock, model, Origin::path(from))?)
    }

    fn copy_in(&self, path: &Path, job: Job<'_>) -> Result<(NamedTempFile, Digests), PullError> {
        let mut from = File::open(path).map_err(|e| PullError::unreadable(path, e))?;
        let mut tmp = self.scratch("file")?;
        if clone_file(&from, tmp.as_file()) {
            let digests = digest_file(tmp.path(), Need::Both, job)?;
            return Ok((tmp, digests));
        }
        let done = pump(
            &mut from,
            Some(tmp.as_file_mut()),
            u64::MAX,
            Need::Both,
            job,
        );
        let digests = done.map_err(|e| match e {
            PumpError::Cancelled => StoreError::Cancelled.into(),
            PumpError::Write(e) => StoreError::io("write", tmp.path(), e).into(),
            PumpError::Read(e) => PullError::unreadable(path, e),
            PumpError::TooLong => {
                PullError::unreadable(path, std::io::ErrorKind::FileTooLarge.into())
            }
        })?;
        Ok((tmp, digests))
    }
}

/// Shares the blocks where the file system can (Btrfs, XFS, bcachefs).
#[cfg(target_os = "linux")]
fn clone_file(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clone_file(_: &File, _: &File) -> bool {
    false
}

fn size_of_file(path: &Path) -> Result<u64, PullError> {
    let metadata = path
        .metadata()
        .map_err(|e| PullError::unreadable(path, e))?;
    if !metadata.is_file() {
        return Err(PullError::Invalid(format!(
            "{} is not a file: name the model's files one by one",
            path.display()
        )));
    }
    Ok(metadata.len())
}

fn file_ref(role: FileRole, path: &Path, digests: Digests) -> Result<FileRef, PullError> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .filter(|n| is_file_name(n));
    let Some(name) = name else {
        return Err(PullError::Invalid(format!(
            "{} needs a plain name, at most 255 bytes of UTF-8 and no '.' first",
            path.display()
        )));
    };
    let Digests {
        size,
        sha256,
        blake3,
    } = digests;
    Ok(FileRef {
        role,
        name: name.to_owned(),
        size,
        sha256,
        blake3,
    })
}
