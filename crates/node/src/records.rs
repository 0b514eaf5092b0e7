//! The catalog's records on disk: one file, `records.redb`, one transaction for all that belongs
//! together.
//!
//! redb, because what is wanted is exactly that: a transactional map in one file, without a thread of
//! its own, whose disk can be exchanged for one that fails. Its commits are in two phases, since part
//! of what is stored are strangers' bytes, and a checksum that is no cryptographic one does not tell
//! a torn page from one that was made to look whole.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use polymath_types::{ErrorKind, Failure, PeerId};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableDefinition, TableError, backends::FileBackend,
};

use crate::home::{create_folder, io_failure};

const FILE: &str = "records.redb";
/// Lies beside it once somebody else's offer was stored: who asks need not open a store that a daemon holds.
const MET: &str = "met";
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// The catalog holds in memory what it needs; pages are read at the start only.
const CACHE_BYTES: usize = 4 << 20;

/// By name; `None` is to be removed.
pub(crate) type Changes = BTreeMap<String, Option<Arc<[u8]>>>;
/// By name, as they were stored.
pub(crate) type Records = Vec<(String, Vec<u8>)>;
/// A file smaller than this is left as it is.
const SMALL: u64 = 8 << 20;
/// A file this many times larger than what is in it is made smaller when it is opened.
const SLACK: u64 = 4;
/// Damaged files that are kept; beyond them the first is overwritten.
const MOST_ASIDE: usize = 8;
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// An open store.
pub struct RecordStore {
    open: Opener,
    /// None after a failure: what the file holds is then known only when it is opened anew.
    database: Option<Database>,
    /// Moves what the disk holds out of the way.
    aside: Option<Box<dyn Fn() -> io::Result<()> + Send>>,
    /// Where to mark that others were met, and what is this node's own; nothing once that is done.
    met: Option<(PathBuf, String)>,
}

/// Name of the record that holds a peer's offer.
fn offer_of(peer: &PeerId) -> String {
    format!("offer-{peer}")
}

fn is_anothers(name: &str, own: &str) -> bool {
    name.starts_with("offer-") && name != own
}

impl RecordStore {
    /// Opens the store in `dir` and reads everything in it. What cannot be read as a store is set
    /// aside: all of it comes back from peers, and this node's offer starts a new epoch. Records of
    /// builds that kept a file each are moved into it.
    pub fn open(dir: &Path) -> Result<(Self, Records), Failure> {
        create_folder(dir).map_err(|e| io_failure("create", dir, &e))?;
        let path = dir.join(FILE);
        let mut store = Self::at(&path);
        let mut records = match store.read() {
            Ok(records) => records,
            Err(e) if is_damaged(&e) => {
                tracing::warn!("the catalog's store is damaged and starts empty: {e}");
                store
                    .set_aside()
                    .map_err(|e| io_failure("move", &path, &e))?;
                store.read().map_err(|e| failure(&path, &e))?
            }
            Err(e) => return Err(failure(&path, &e)),
        };
        let known: HashSet<&String> = records.iter().map(|(name, _)| name).collect();
        let old = earlier_files(dir)?;
        // What is in the store is newer: a start that was broken off here has moved all of them.
        let moved: Vec<_> = old
            .iter()
            .filter(|(name, _)| !known.contains(name))
            .cloned()
            .collect();
        let changes = moved.iter().cloned().map(|(n, b)| (n, Some(b.into())));
        store
            .write(&changes.collect())
            .map_err(|e| failure(&path, &e))?;
        // The file's name too must outlast a power cut, before anything that it holds is told to others.
        let synced = File::open(dir).and_then(|folder| folder.sync_all());
        synced.map_err(|e| io_failure("write", dir, &e))?;
        for (name, _) in old {
            let _ = fs::remove_file(dir.join(name));
        }
        records.extend(moved);
        store.compact(&path, &records);
        Ok((store, records))
    }

    fn at(path: &Path) -> Self {
        let mut store = Self::on(opener(path.to_owned()));
        let path = path.to_owned();
        store.aside = Some(Box::new(move || {
            // One that was set aside before may be the only copy of what an admin laid down.
            let names = (1..).map(|n| match n {
                1 => path.with_extension("damaged"),
                _ => path.with_extension(format!("damaged-{n}")),
            });
            let aside = names.take(MOST_ASIDE).find(|p| !p.exists());
            let aside = aside.unwrap_or_else(|| path.with_extension("damaged"));
            tracing::warn!("the damaged store was moved to {}", aside.display());
            fs::rename(&path, aside)
        }));
        store
    }

    /// Begins an empty store; what the damaged one holds is kept beside it.
    pub(crate) fn set_aside(&mut self) -> io::Result<()> {
        self.database = None;
        self.aside.as_ref().map_or(Ok(()), |aside| aside())
    }

    /// Gives back the room that a flood once took, if that is most of the file. What fails is left to
    /// the next start.
    fn compact(&mut self, path: &Path, records: &Records) {
        let held: usize = records.iter().map(|(n, b)| n.len() + b.len()).sum();
        let before = fs::metadata(path).map_or(0, |m| m.len());
        if before < SMALL || before / SLACK < held as u64 {
            return;
        }
        let opened = self.database().map(|_| ());
        let compacted = opened.and_then(|()| match &mut self.database {
            Some(database) => Ok(database.compact()?),
            None => Ok(false),
        });
        match compacted {
            Ok(_) => {
                let after = fs::metadata(path).map_or(0, |m| m.len());
                tracing::info!("the catalog's store was made smaller: {before} bytes, now {after}");
            }
            Err(e) => {
                self.database = None;
                tracing::warn!("the catalog's store could not be made smaller: {e}");
            }
        }
    }

    /// Reads the store in `dir` and leaves it as it is, even if it is damaged.
    pub(crate) fn look(dir: &Path) -> Result<Records, Failure> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(Records::new());
        }
        Self::at(&path).read().map_err(|e| {
            if !is_damaged(&e) {
                return failure(&path, &e);
            }
            let what = format!(
                "the catalog's store {} is damaged: {e}; the next start sets it aside, and peers bring what was in it",
                path.display()
            );
            Failure::new(ErrorKind::DataLoss, what)
        })
    }

    fn on(open: Opener) -> Self {
        Self {
            open,
            database: None,
            aside: None,
            met: None,
        }
    }

    /// Marks in `dir` when offers of others than `own` are stored, or were.
    pub(crate) fn marking(mut self, dir: &Path, own: &PeerId, records: &Records) -> Self {
        self.met = Some((dir.join(MET), offer_of(own)));
        self.mark(records.iter().map(|(name, _)| name));
        self
    }

    fn mark<'a>(&mut self, mut stored: impl Iterator<Item = &'a String>) {
        if let Some((path, own)) = &self.met
            && stored.any(|name| is_anothers(name, own))
            && File::create(path).is_ok()
        {
            self.met = None;
        }
    }

    fn database(&mut self) -> Result<&Database, redb::Error> {
        let database = match self.database.take() {
            Some(open) => open,
            None => (self.open)()?,
        };
        Ok(self.database.insert(database))
    }

    /// Every record.
    pub(crate) fn read(&mut self) -> Result<Records, redb::Error> {
        let reading = self.database()?.begin_read()?;
        let table = match reading.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut records = Vec::new();
        for entry in table.iter()? {
            let (name, bytes) = entry?;
            records.push((name.value().to_owned(), bytes.value().to_vec()));
        }
        Ok(records)
    }

    /// Makes all of it durable, or nothing.
    pub fn write(&mut self, changes: &Changes) -> Result<(), redb::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        // Before: a mark too many does no harm.
        self.mark(changes.iter().filter(|(_, b)| b.is_some()).map(|(n, _)| n));
        let written = self
            .database()
            .and_then(|database| commit(database, changes));
        if written.is_err() {
            self.database = None;
        }
        written
    }
}

impl std::fmt::Debug for RecordStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordStore")
            .field("open", &self.database.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether offers of others than `own` were ever stored in `dir`. What cannot be read counts as some.
pub(crate) fn has_met_others(dir: &Path, own: &PeerId) -> bool {
    let own = offer_of(own);
    let is_old = |entry: io::Result<fs::DirEntry>| {
        entry.map_or(true, |e| {
            is_anothers(&e.file_name().to_string_lossy(), &own)
        })
    };
    match fs::read_dir(dir) {
        Ok(mut files) => dir.join(MET).exists() || files.any(is_old),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

fn commit(database: &Database, changes: &Changes) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Commits in two phases, and writes down what a start after a crash would else search for.
    transaction.set_quick_repair(true);
    {
        let mut table = transaction.open_table(RECORDS)?;
        for (name, bytes) in changes {
            match bytes {
                Some(bytes) => table.insert(name.as_str(), bytes.as_ref())?,
                None => table.remove(name.as_str())?,
            };
        }
    }
    Ok(transaction.commit()?)
}

fn opener(path: PathBuf) -> Opener {
    Box::new(move || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path)?;
        database(FileBackend::new(file)?)
    })
}

/// Opens the database on a disk, every page checked: a file that was altered must not be trusted.
fn database(disk: impl StorageBackend) -> Result<Database, DatabaseError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(disk)
    }));
    opened.unwrap_or_else(|_| {
        let why = "reading it failed".to_owned();
        Err(DatabaseError::Storage(StorageError::Corrupted(why)))
    })
}

pub(crate) fn is_damaged(e: &redb::Error) -> bool {
    match e {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(e) => {
            use std::io::ErrorKind::{InvalidData, UnexpectedEof};
            matches!(e.kind(), InvalidData | UnexpectedEof)
        }
        _ => false,
    }
}

fn failure(path: &Path, e: &redb::Error) -> Failure {
    if let redb::Error::Io(e) = e {
        return io_failure("open", path, e);
    }
    Failure::new(
        ErrorKind::Config,
        format!(
            "cannot open {}: {e}; move it away to start with an empty catalog",
            path.display()
        ),
    )
}

/// Records as builds before the store kept them: a file each, in the same folder.
fn earlier_files(dir: &Path) -> Result<Records, Failure> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_failure("read", dir, &e))? {
        let path = entry.map_err(|e| io_failure("read", dir, &e))?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let Some(name) = name.filter(|n| n.starts_with("offer-") || n.starts_with("card-")) else {
            continue;
        };
        if name.ends_with(".tmp") {
            let _ = fs::remove_file(&path);
        } else if path.is_file() {
            let bytes = fs::read(&path).map_err(|e| io_failure("read", &path, &e))?;
            records.push((name.to_owned(), bytes));
        }
    }
    Ok(records)
}

#[cfg(test)]
pub(crate) mod faulty_disk;
#[cfg(test)]
mod tests;
