//! A known model's files from a place the user names.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use polymath_types::FileRef;

use super::total;
use crate::{
    KnownModel, PullError, Store,
    archive::{Archive, is_archive},
    cancel::Job,
    progress::Step,
    store::WriteLock,
};

/// Where the missing files are.
enum Place {
    Archive(PathBuf),
    Files(Vec<PathBuf>),
}

impl Store {
    pub(super) fn pull_path(
        &self,
        known: &KnownModel,
        missing: &[&FileRef],
        path: &Path,
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<(), PullError> {
        if missing.is_empty() {
            return Ok(());
        }
        let place = locate(known, missing, path)?;
        self.sweep(lock, &[])?;
        self.check_room(known.name(), total(missing))?;
        let what = format!("Copying {} from {}", known.name(), path.display());
        let step = Step::begin(job.progress, &what, Some(total(missing)));
        match place {
            Place::Archive(zip) => {
                let mut archive = Archive::open(&zip)?;
                let from = zip.display().to_string();
                for &file in missing {
                    let likely: Vec<_> = known
                        .packages
                        .iter()
                        .filter_map(|p| p.member(file))
                        .collect();
                    let found: Option<_> = archive.find(file, &likely)?;
                    let Some(mut reader) = found else {
                        return Err(incomplete(known, &[file], &zip));
                    };
                    self.take_in(file, &mut reader as &mut dyn Read, &from, true, lock, job)?;
                }
            }
            Place::Files(paths) => {
                for (&file, path) in missing.iter().zip(paths) {
                    let mut reader =
                        File::open(&path).map_err(|e| PullError::unreadable(&path, e))?;
                    let from = path.display().to_string();
                    self.take_in(file, &mut reader, &from, false, lock, job)?;
                }
            }
        }
        step.complete();
        Ok(())
    }
}

fn locate(known: &KnownModel, missing: &[&FileRef], path: &Path) -> Result<Place, PullError> {
    let metadata = path
        .metadata()
        .map_err(|e| PullError::unreadable(path, e))?;
    if metadata.is_dir() {
        let found: Vec<_> = missing.iter().map(|f| find_in(known, f, path)).collect();
        if let Some(files) = found.iter().cloned().collect() {
            return Ok(Place::Files(files));
        }
        let wheel = known
            .packages
            .iter()
            .map(|p| path.join(&p.wheel))
            .find(|w| w.is_file());
        return wheel.map(Place::Archive).ok_or_else(|| {
            let absent = missing.iter().zip(&found).filter(|(_, at)| at.is_none());
            incomplete(known, &absent.map(|(f, _)| *f).collect::<Vec<_>>(), path)
        });
    }
    if !metadata.is_file() {
        return Err(PullError::unreadable(
            path,
            io::ErrorKind::InvalidInput.into(),
        ));
    }
    if is_archive(path)? {
        return Ok(Place::Archive(path.to_owned()));
    }
    // A bare file is the one that is missing, whatever it is called; of several, the one so called.
    match missing {
        [_] => Ok(Place::Files(vec![path.to_owned()])),
        _ => {
            let absent: Vec<_> = missing
                .iter()
                .filter(|f| path.file_name() != Some(f.name.as_ref()))
                .copied()
                .collect();
            Err(incomplete(known, &absent, path))
        }
    }
}

/// In the folder itself, or where an unpacked wheel has it.
fn find_in(known: &KnownModel, file: &FileRef, dir: &Path) -> Option<PathBuf> {
    let members = known.packages.iter().filter_map(|p| p.member(file));
    std::iter::once(file.name.as_str())
        .chain(members)
        .map(|m| dir.join(m))
        .find(|p| p.is_file())
}

fn incomplete(known: &KnownModel, absent: &[&FileRef], path: &Path) -> PullError {
    let wheels = known
        .packages
        .iter()
        .map(|p| p.wheel.as_str())
        .collect::<Vec<_>>()
        .join(" or ");
    PullError::Incomplete {
        path: path.to_owned(),
        model: known.name().to_owned(),
        missing: absent
            .iter()
            .map(|f| format!("'{}'", f.name))
            .collect::<Vec<_>>()
            .join(", "),
        hint: if wheels.is_empty() {
            "give a folder that holds all its files".into()
        } else {
            format!("give a folder that holds all its files, or {wheels}")
        },
    }
}
