//! One writer at a time, across threads and processes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    thread,
    time::Duration,
};

use super::Store;
use crate::{StoreError, cancel::Job};

/// The right to write; the kernel takes it back when its holder dies.
pub(crate) struct WriteLock {
    _file: File,
    /// Someone else wrote before: what was seen without the lock may be out of date.
    pub(crate) waited: bool,
}

impl Store {
    /// Waits for the lock, saying for whom.
    pub(crate) fn lock(&self, purpose: &str, job: Job<'_>) -> Result<WriteLock, StoreError> {
        let mut waited = false;
        loop {
            if let Some(mut lock) = self.try_lock()? {
                lock.waited = waited;
                // Only for the line that others print while they wait, so a failure is harmless.
                let _ = lock._file.set_len(0).and_then(|()| lock._file.rewind());
                let _ = writeln!(lock._file, "process {} ({purpose})", std::process::id());
                return Ok(lock);
            }
            if job.cancel.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            if !waited {
                waited = true;
                job.progress.note(&format!(
                    "waiting for {}, which is writing to the model store {}",
                    self.holder(),
                    self.dir().display()
                ));
            }
            // `File::lock` would block past a cancel.
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The lock, if it is free.
    pub(super) fn try_lock(&self) -> Result<Option<WriteLock>, StoreError> {
        let path = self.dir().join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(WriteLock {
                _file: file,
                waited: false,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", path, e)),
        }
    }

    fn holder(&self) -> String {
        let mut text = String::new();
        let read =
            File::open(self.dir().join("lock")).and_then(|f| f.take(200).read_to_string(&mut text));
        match (read, text.trim()) {
            (Ok(_), holder) if !holder.is_empty() => holder.to_owned(),
            _ => "another process".to_owned(),
        }
    }
}
