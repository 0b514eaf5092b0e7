//! A model's files from somebody nearer than its package: whoever it is, the digests tell whether it is
//! the file.

use std::io::Read;

use polymath_types::FileRef;

use super::total;
use crate::{
    KnownModel, PullError, Store, StoreError, cancel::Job, progress::Step, store::WriteLock,
};

/// Readers of one file that turn out to be wrong until it is left to the package.
const TRIES: usize = 3;

/// Others who have files. Blocks, as everything here.
pub trait Mirror: Send + Sync {
    /// Somebody who has this file; `None`: nobody, now.
    fn open(&self, file: &FileRef) -> Option<Mirrored>;

    /// What was read was not the file: whoever gave it is not asked again.
    fn blame(&self, file: &FileRef);
}

/// A file at a mirror.
#[allow(missing_debug_implementations)] // a reader has nothing to show
pub struct Mirrored {
    /// Whom it comes from, for people.
    pub from: String,
    /// Its bytes, from the first on.
    pub reader: Box<dyn Read + Send>,
}

impl Store {
    /// Takes in what `mirror` has of `missing`, which keeps the rest.
    pub(super) fn pull_mirrored(
        &self,
        known: &KnownModel,
        missing: &mut Vec<&FileRef>,
        mirror: &dyn Mirror,
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<(), PullError> {
        let mut left = Vec::new();
        for file in missing.drain(..) {
            if !self.pull_from_mirror(known, file, mirror, lock, job)? {
                left.push(file);
            }
        }
        *missing = left;
        Ok(())
    }

    fn pull_from_mirror(
        &self,
        known: &KnownModel,
        file: &FileRef,
        mirror: &dyn Mirror,
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<bool, PullError> {
        for _ in 0..TRIES {
            let Some(Mirrored { from, mut reader }) = mirror.open(file) else {
                return Ok(false);
            };
            self.check_room(known.name(), total(&[file]))?;
            let what = format!("Copying '{}' from {from}", file.name);
            let step = Step::begin(job.progress, &what, Some(file.size));
            let taken = self.take_in(file, &mut reader, &from, false, lock, job);
            if taken.is_err() && job.cancel.is_cancelled() {
                return Err(StoreError::Cancelled.into());
            }
            match taken {
                Ok(()) => {
                    step.complete();
                    return Ok(true);
                }
                Err(e @ PullError::WrongContent { .. }) => {
                    job.progress.note(&format!("{e}; it is not asked again"));
                    mirror.blame(file);
                }
                Err(PullError::Unreadable { source, .. }) => {
                    job.progress
                        .note(&format!("'{}' did not come whole: {source}", file.name));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}
