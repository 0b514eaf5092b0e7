//! The store: a folder of blobs and the manifests that name them.

mod lock;
mod partial;

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::UNIX_EPOCH,
};

use polymath_types::{FileRef, Format, Model};
use tempfile::NamedTempFile;

pub(crate) use lock::WriteLock;

use crate::{
    Cancel, Installed, Origin, Progress, StoreError,
    cancel::Job,
    digest::is_hex64,
    manifest::{MANIFEST_BYTES, ManifestError, files, is_name},
};

/// A content-addressed store of model files in one directory. Cheap to open; holds no lock, so any
/// number of processes may have it open.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    pub(crate) options: StoreOptions,
}

/// What a store takes from its surroundings.
#[derive(Clone)]
pub struct StoreOptions {
    /// Folders in which to look for `python3` and `pip`, as in `PATH`; `PATH` itself when `None`.
    pub search_path: Option<OsString>,
    /// Bytes that this user may still write below a directory.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
    /// What the operator lets the store take.
    pub limit: Option<DiskLimit>,
}

/// A bound on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLimit {
    /// Bytes.
    pub bytes: u64,
    /// A folder whose files count beside the store's; the store may lie in it.
    pub beside: Option<PathBuf>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            search_path: None,
            free_bytes: |dir| {
                let fs = rustix::fs::statvfs(dir)?;
                Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
            },
            limit: None,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("search_path", &self.search_path)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// What [`Store::list`] found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// Readable manifests, by name.
    pub installed: Vec<Installed>,
    /// The others, by name.
    pub damaged: Vec<Damaged>,
}

/// A manifest that cannot be read; the other models are none the worse.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damaged {
    /// The model's name.
    pub name: String,
    /// Why not.
    pub error: StoreError,
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Disk given back. Files that other models use stay, and all files stay while another
    /// manifest is damaged, since it may need any of them.
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, making it if there is none. Leftovers of killed writers older than
    /// a day are deleted. A store of another version is refused, naming both versions.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, StoreOptions::default())
    }

    /// [`Store::open`] in other surroundings.
    pub fn open_with(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let store = Self {
            dir: dir.to_owned(),
            options,
        };
        for folder in [
            dir.to_owned(),
            store.blobs(),
            store.models(),
            store.partial(),
        ] {
            fs::create_dir_all(&folder).map_err(|e| StoreError::io("create", &folder, e))?;
        }
        while !store.has_version()? {
            // Whoever holds the lock over a store without a version is writing it.
            if let Some(_lock) = store.try_lock()?
                && !store.has_version()?
            {
                let text = format!("{}\n", Format::ModelStore.current());
                store.commit(
                    store.scratch("version")?,
                    text.as_bytes(),
                    &dir.join("version"),
                )?;
            }
            thread::yield_now();
        }
        // Housekeeping: who may only read the store can still do that.
        let _ = store.sweep_old();
        Ok(store)
    }

    /// [`Store::get`] for a writer, to whom an unreadable manifest is one to write anew.
    pub(crate) fn get_to_replace(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Installed>, StoreError> {
        match self.get(name) {
            Err(e @ StoreError::DamagedManifest { .. }) => {
                progress.note(&format!("writing the manifest of {name} anew: {e}"));
                Ok(None)
            }
            other => other,
        }
    }

    /// Whether the version is there; an error if it is not ours.
    fn has_version(&self) -> Result<bool, StoreError> {
        let path = self.dir.join("version");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(e) => return Err(StoreError::io("read", path, e)),
        };
        let Ok(found) = text.trim().parse() else {
            return Err(StoreError::DamagedVersion { path });
        };
        Format::ModelStore
            .check(found)
            .map_err(|source| StoreError::Version { path, source })?;
        Ok(true)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the blob of this file lies, if it is here. A file without a proper BLAKE3 digest gets
    /// a path at which nothing ever lies.
    pub fn path(&self, file: &FileRef) -> PathBuf {
        let name = if is_hex64(&file.blake3) {
            &file.blake3
        } else {
            "none"
        };
        self.blobs().join(name)
    }

    /// All installed models, by name.
    pub fn list(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for name in self.names()? {
            match self.get(&name) {
                Ok(Some(installed)) => listing.installed.push(installed),
                Ok(None) => {} // removed since
                Err(error) => listing.damaged.push(Damaged { name, error }),
            }
        }
        Ok(listing)
    }

    /// One installed model, by its exact name.
    pub fn get(&self, name: &str) -> Result<Option<Installed>, StoreError> {
        let path = self.manifest(name)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", path, e)),
        };
        let damaged = |path, reason| StoreError::DamagedManifest {
            name: name.into(),
            path,
            reason,
        };
        let mut bytes = Vec::new();
        if let Err(e) = file.take(MANIFEST_BYTES + 1).read_to_end(&mut bytes) {
            return Err(StoreError::io("read", path, e));
        }
        if bytes.len() as u64 > MANIFEST_BYTES {
            return Err(damaged(path, format!("over {MANIFEST_BYTES} bytes")));
        }
        match Installed::from_bytes(&bytes, name) {
            Ok(installed) => Ok(Some(installed)),
            Err(ManifestError::Version(source)) => Err(StoreError::Version { path, source }),
            Err(ManifestError::Damaged(reason)) => Err(damaged(path, reason)),
        }
    }

    /// Bytes that the store takes, and what counts beside it.
    pub fn disk_used(&self) -> u64 {
        let beside = self.options.limit.as_ref().and_then(|l| l.beside.as_ref());
        match beside {
            Some(folder) if self.dir.starts_with(folder) => size_of(folder),
            Some(folder) => size_of(folder).saturating_add(size_of(&self.dir)),
            None => size_of(&self.dir),
        }
    }

    /// Whether any blob has this length.
    pub(crate) fn holds_blob_of(&self, size: u64) -> Result<bool, StoreError> {
        let found = entries(&self.blobs())?;
        Ok(found.iter().any(|(_, m)| m.is_file() && m.len() == size))
    }

    /// Removes a model, its manifest readable or not, and every blob that no model names.
    pub fn remove(
        &self,
        name: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Removed, StoreError> {
        let path = self.manifest(name)?;
        let absent = || StoreError::NotInstalled { name: name.into() };
        if !path.exists() {
            return Err(absent());
        }
        let lock = self.lock(&format!("removing {name}"), Job { progress, cancel })?;
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.models())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(absent()),
            Err(e) => return Err(StoreError::io("remove", path, e)),
        }
        let bytes = self.remove_unnamed_blobs(&lock, progress)?;
        Ok(Removed { bytes })
    }

    /// Deletes blobs that no manifest names; none while a manifest is unreadable.
    pub(crate) fn remove_unnamed_blobs(
        &self,
        _: &WriteLock,
        progress: &dyn Progress,
    ) -> Result<u64, StoreError> {
        let listing = self.list()?;
        if let Some(d) = listing.damaged.first() {
            progress.note(&format!(
                "no file was deleted, any may belong to '{}': {}",
                d.name, d.error
            ));
            return Ok(0);
        }
        let named: Vec<_> = listing
            .installed
            .iter()
            .flat_map(|i| files(&i.model))
            .map(|f| self.path(f))
            .collect();
        let mut bytes = 0;
        for (path, metadata) in entries(&self.blobs())? {
            if !named.contains(&path) {
                fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
                bytes += metadata.len();
            }
        }
        Ok(bytes)
    }

    /// Writes a manifest: the last act of bringing a model in.
    pub(crate) fn install(
        &self,
        _: &WriteLock,
        model: Model,
        origin: Origin,
    ) -> Result<Installed, StoreError> {
        let path = self.manifest(&model.name)?;
        let tmp = self.scratch("manifest")?;
        // The file system's clock: the one that other dates in this folder are read by.
        let installed_at = tmp
            .as_file()
            .metadata()
            .and_then(|m| m.modified())
            .map_err(|e| StoreError::io("read", tmp.path(), e))?
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let installed = Installed {
            model,
            origin,
            installed_at,
        };
        self.commit(tmp, &installed.to_bytes(), &path)?;
        Ok(installed)
    }

    fn commit(&self, mut tmp: NamedTempFile, bytes: &[u8], to: &Path) -> Result<(), StoreError> {
        tmp.write_all(bytes)
            .map_err(|e| StoreError::io("write", tmp.path(), e))?;
        persist(tmp, to, 0o644)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<_> = entries(&self.models())?
            .into_iter()
            .filter_map(|(path, _)| {
                let name = path
                    .file_name()?
                    .to_str()?
                    .strip_suffix(".json")?
                    .to_owned();
                is_name(&name).then_some(name)
            })
            .collect();
        names.sort();
        Ok(names)
    }

    fn manifest(&self, name: &str) -> Result<PathBuf, StoreError> {
        if !is_name(name) {
            return Err(StoreError::BadName {
                name: name.chars().take(64).collect(),
            });
        }
        Ok(self.models().join(format!("{name}.json")))
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    fn models(&self) -> PathBuf {
        self.dir.join("models")
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.dir.join("partial")
    }
}

/// Gives a finished file its name for good: synced, then renamed, then the folder synced.
pub(crate) fn persist(tmp: NamedTempFile, to: &Path, mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    tmp.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| tmp.as_file().sync_all())
        .map_err(|e| StoreError::io("write", tmp.path(), e))?;
    tmp.persist(to)
        .map_err(|e| StoreError::io("write", to, e.error))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// [`persist`] for a file that someone else wrote.
pub(crate) fn persist_path(from: &Path, to: &Path) -> Result<(), StoreError> {
    File::open(from)
        .and_then(|f| f.sync_all())
        .map_err(|e| StoreError::io("sync", from, e))?;
    fs::rename(from, to).map_err(|e| StoreError::io("write", to, e))?;
    to.parent().map_or(Ok(()), sync_dir)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| StoreError::io("sync", dir, e))
}

/// Bytes of all files below a folder. Links are not followed, so it comes to an end.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let Ok(found) = entries(dir) else { return 0 };
    found
        .iter()
        .map(|(path, m)| if m.is_dir() { size_of(path) } else { m.len() })
        .fold(0, u64::saturating_add)
}

/// What lies in a folder; what vanishes meanwhile is left out.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, StoreError> {
    let failed = |e| StoreError::io("read", dir, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(metadata) = entry.metadata() {
            found.push((entry.path(), metadata));
        }
    }
    Ok(found)
}
