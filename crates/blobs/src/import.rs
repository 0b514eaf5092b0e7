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
    manifest::{check_model, files as files_of, is_file_name, is_name},
    progress::Step,
    stamps::Look,
};

const OTHER_CONTENT: &str = "an installed model with other content";

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
            adapter: adapter.map(Box::new),
            context_length: self.context_length,
            dimensions: self.dimensions,
            licence: self.licence.clone(),
        };
        check_model(&model).map_err(fail)?;
        Ok(model)
    }
}

/// One file of an import before it is in the store.
struct Incoming<'a> {
    role: FileRole,
    path: &'a Path,
    look: Look,
    /// What is in it, if that had to be known before copying.
    digests: Option<Digests>,
    /// Its blob is in the store already, every byte right.
    here: bool,
}

impl Store {
    /// Refuses what can be refused without reading a file: names that are not free, files that are
    /// not there.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn check_import(&self, import: &Import) -> Result<(), PullError> {
        let name = &import.name;
        if !is_name(name) {
            return Err(StoreError::BadName {
                name: name.chars().take(64).collect(),
            }
            .into());
        }
        if known_model(name).is_some() {
            return Err(taken(name, "a model that this polymath knows"));
        }
        let mut files = Vec::new();
        for (role, path) in &import.files {
            let unread = Digests {
                size: look_at(path)?.size,
                sha256: "0".repeat(64),
                blake3: "0".repeat(64),
            };
            files.push(file_ref(*role, path, unread)?);
        }
        let model = import.model(files)?;
        let sizes = |m: &Model| files_of(m).map(|f| f.size).collect::<Vec<_>>();
        match self.get(name) {
            Ok(Some(before)) if sizes(&before.model) != sizes(&model) => {
                Err(taken(name, OTHER_CONTENT))
            }
            // A damaged manifest is written anew.
            Ok(_) | Err(StoreError::DamagedManifest { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What [`Store::import`] would return, if these very files were imported before and nobody has
    /// touched them since. Reads none of them.
    pub fn imported(&self, import: &Import) -> Option<Installed> {
        let files = import.files.iter().map(|(role, path)| {
            let digests = self.remembered(path, &look_at(path).ok()?)?;
            file_ref(*role, path, digests).ok()
        });
        let model = import.model(files.collect::<Option<Vec<_>>>()?).ok()?;
        let installed = self.get(&import.name).ok()??;
        (installed.model == model && self.check_present(&model).is_ok()).then_some(installed)
    }

    /// Hashes the files and copies in what the store does not hold yet (as clones where the file
    /// system can, so that they take no more space). Importing the same bytes under the same name
    /// again repairs them.
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
        self.check_import(import)?;
        let lock = self.lock(&format!("importing {name}"), job)?;
        self.sweep(&lock, &[])?;
        let before = self.get_to_replace(name, progress)?;
        let refuse_other = |model: &Model| match &before {
            Some(before) if before.model != *model => Err(taken(name, OTHER_CONTENT)),
            _ => Ok(()),
        };

        let mut incoming = Vec::new();
        for (role, path) in &import.files {
            incoming.push(self.survey_import(*role, path, job)?);
        }
        let read: Option<Vec<_>> = incoming
            .iter()
            .map(|i| Some(file_ref(i.role, i.path, i.digests.clone()?)))
            .collect();
        if let Some(read) = read {
            let files = read.into_iter().collect::<Result<Vec<_>, _>>()?;
            refuse_other(&import.model(files)?)?;
        }
        let absent = incoming.iter().filter(|i| !i.here);
        let total = absent.map(|i| i.look.size).sum();
        let mut copies = Vec::new();
        if incoming.iter().any(|i| !i.here) {
            self.check_room(name, total)?;
            let step = Step::begin(progress, &format!("Importing {name}"), Some(total));
            for file in incoming.iter_mut().filter(|i| !i.here) {
                let (tmp, digests) = self.copy_in(file.path, job)?;
                copies.push((tmp, file_ref(file.role, file.path, digests.clone())?));
                file.digests = Some(digests);
            }
            step.complete();
        }
        let files = incoming
            .iter()
            .filter_map(|i| Some(file_ref(i.role, i.path, i.digests.clone()?)))
            .collect::<Result<Vec<_>, _>>()?;
        let model = import.model(files)?;
        refuse_other(&model)?;
        for (tmp, file) in copies {
            self.keep_blob(&lock, tmp, &file)?;
        }
        for file in &incoming {
            if let Some(digests) = &file.digests {
                self.remember(&lock, file.path, &file.look, digests);
            }
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

    /// Finds out whether a file's blob is here. Without a blob of its length there is none, and the
    /// file is read only once, as it is copied.
    fn survey_import<'a>(
        &self,
        role: FileRole,
        path: &'a Path,
        job: Job<'_>,
    ) -> Result<Incoming<'a>, PullError> {
        let look = look_at(path)?;
        let mut incoming = Incoming {
            role,
            path,
            look,
            digests: None,
            here: false,
        };
        let size = incoming.look.size;
        if !self.holds_blob_of(size)? {
            return Ok(incoming);
        }
        let digests = self.digests(path, &incoming.look, job)?;
        let blob = self.path(&file_ref(role, path, digests.clone())?);
        if blob
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() == size)
        {
            let what = format!("Checking {}", path.display());
            let step = Step::begin(job.progress, &what, Some(size));
            incoming.here = digest_file(&blob, Need::Blake3, job)?.blake3 == digests.blake3;
            step.complete();
        }
        incoming.digests = Some(digests);
        Ok(incoming)
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

fn look_at(path: &Path) -> Result<Look, PullError> {
    let metadata = path
        .metadata()
        .map_err(|e| PullError::unreadable(path, e))?;
    if !metadata.is_file() {
        return Err(PullError::Invalid(format!(
            "{} is not a file: name the model's files one by one",
            path.display()
        )));
    }
    Ok(Look::from(&metadata))
}

fn taken(name: &str, by: &'static str) -> PullError {
    PullError::NameTaken {
        name: name.to_owned(),
        by,
    }
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
