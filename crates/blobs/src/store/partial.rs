//! Unfinished work: how it is made, adopted and thrown away.
//!
//! Only the holder of the lock works in `partial/`, so what another left there is dead. Of that
//! only whole wheels are worth keeping, under their SHA-256: extraction and copying start a file
//! anew, which costs less than proving what is in half a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use polymath_types::FileRef;
use tempfile::NamedTempFile;

use super::{Store, WriteLock, entries, persist};
use crate::StoreError;

const OLD: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// A new file for unfinished work; deleted unless it is persisted.
    pub(crate) fn scratch(&self, purpose: &str) -> Result<NamedTempFile, StoreError> {
        let dir = self.partial();
        tempfile::Builder::new()
            .prefix(&format!("{purpose}-"))
            .tempfile_in(&dir)
            .map_err(|e| StoreError::io("write to", dir, e))
    }

    /// Makes a checked scratch file a blob.
    pub(crate) fn keep_blob(
        &self,
        _: &WriteLock,
        tmp: NamedTempFile,
        file: &FileRef,
    ) -> Result<(), StoreError> {
        persist(tmp, &self.path(file), 0o444)
    }

    /// Where a whole wheel waits until all its files are blobs.
    pub(crate) fn wheel(&self, sha256: &str) -> PathBuf {
        self.partial().join(format!("{sha256}.whl"))
    }

    /// Throws away what dead writers left, but for the wheels in `keep`.
    pub(crate) fn sweep(&self, _: &WriteLock, keep: &[PathBuf]) -> Result<(), StoreError> {
        for (path, metadata) in entries(&self.partial())? {
            if !keep.contains(&path) {
                discard(&path, &metadata)?;
            }
        }
        Ok(())
    }

    /// Throws away what is a day old, unless someone is writing.
    pub(super) fn sweep_old(&self) -> Result<(), StoreError> {
        let found = entries(&self.partial())?;
        if found.is_empty() {
            return Ok(());
        }
        let Some(_lock) = self.try_lock()? else {
            return Ok(());
        };
        let probe = self.scratch("now")?;
        let modified = |m: &fs::Metadata| m.modified();
        let Ok(now) = probe.as_file().metadata().and_then(|m| modified(&m)) else {
            return Ok(());
        };
        for (path, metadata) in found {
            let age = modified(&metadata)
                .ok()
                .and_then(|then| now.duration_since(then).ok());
            if age.is_some_and(|age| age > OLD) {
                discard(&path, &metadata)?;
            }
        }
        Ok(())
    }
}

fn discard(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    let done = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // The pip of a killed pull may still be writing there; it goes at the next sweep.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) => Err(StoreError::io("remove", path, e)),
        Ok(()) => Ok(()),
    }
}
