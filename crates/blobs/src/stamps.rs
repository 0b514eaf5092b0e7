//! What an imported file held when it was last read, so that it need not be read again while nobody
//! has touched it. Merely a memory: a stamp that is missing or unreadable costs one more reading.

use std::{
    fs::{self, File, Metadata},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use polymath_types::Format;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{
    Store, StoreError,
    cancel::Job,
    digest::{Digests, Need, digest_file, is_hex64},
    progress::Step,
    store::{WriteLock, entries, persist},
};

/// Files remembered; people import a few.
const MOST_STAMPS: usize = 256;
/// A stamp is ten short fields; more than this is not one.
const STAMP_BYTES: u64 = 16 * 1024;
/// Changes this close to the reading could share its time on a file system with coarse times.
const TOO_FRESH: i64 = 2;

/// What tells one state of a file from another without reading it. The change time is part of it
/// since no program can set that one back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Look {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Look {
    fn from(m: &Metadata) -> Self {
        Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    version: u32,
    /// For people; the stamp is found by its file name.
    path: String,
    look: Look,
    sha256: String,
    blake3: String,
}

impl Store {
    /// Digests of a file that looks as it did when it was last read.
    pub(crate) fn remembered(&self, path: &Path, look: &Look) -> Option<Digests> {
        let mut bytes = Vec::new();
        let file = File::open(self.stamp(path)).ok()?;
        file.take(STAMP_BYTES).read_to_end(&mut bytes).ok()?;
        let stamp: Stamp = serde_json::from_slice(&bytes).ok()?;
        let ours = stamp.version == Format::ModelStore.current();
        let digests = is_hex64(&stamp.sha256) && is_hex64(&stamp.blake3);
        (ours && digests && stamp.look == *look).then_some(Digests {
            size: look.size,
            sha256: stamp.sha256,
            blake3: stamp.blake3,
        })
    }

    /// Digests of a file, read only if it has to be.
    pub(crate) fn digests(
        &self,
        path: &Path,
        look: &Look,
        job: Job<'_>,
    ) -> Result<Digests, StoreError> {
        if let Some(known) = self.remembered(path, look) {
            return Ok(known);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let what = format!("Reading {name}");
        let step = Step::begin(job.progress, &what, Some(look.size));
        let digests = digest_file(path, Need::Both, job)?;
        step.complete();
        Ok(digests)
    }

    /// Remembers what a file held; `look` was taken before it was read.
    pub(crate) fn remember(&self, lock: &WriteLock, path: &Path, look: &Look, digests: &Digests) {
        // The import stands without it; only the next one is not as quick.
        let _ = self.try_remember(lock, path, look, digests);
    }

    fn try_remember(
        &self,
        _: &WriteLock,
        path: &Path,
        look: &Look,
        digests: &Digests,
    ) -> Result<(), StoreError> {
        let mut tmp: NamedTempFile = self.scratch("stamp")?;
        let failed = |e| StoreError::io("look at", path, e);
        let now = tmp.as_file().metadata().map_err(failed)?.mtime();
        let after = Look::from(&path.metadata().map_err(failed)?);
        if after != *look || digests.size != look.size || now < look.changed.0 + TOO_FRESH {
            return Ok(());
        }
        let dir = self.stamps();
        fs::create_dir_all(&dir).map_err(|e| StoreError::io("create", &dir, e))?;
        let found = entries(&dir)?;
        if found.len() >= MOST_STAMPS {
            for (stamp, _) in found {
                let _ = fs::remove_file(stamp);
            }
        }
        let stamp = Stamp {
            version: Format::ModelStore.current(),
            path: path.display().to_string(),
            look: look.clone(),
            sha256: digests.sha256.clone(),
            blake3: digests.blake3.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&stamp).unwrap_or_default();
        tmp.write_all(&bytes)
            .map_err(|e| StoreError::io("write", tmp.path(), e))?;
        persist(tmp, &self.stamp(path), 0o644)
    }

    fn stamps(&self) -> PathBuf {
        self.dir().join("stamps")
    }

    fn stamp(&self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = blake3::hash(path.as_os_str().as_encoded_bytes());
        self.stamps().join(format!("{}.json", name.to_hex()))
    }
}
