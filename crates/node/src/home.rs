//! The home directory: everything one node keeps, in one place, owned by one process at a time.
//!
//! ```text
//! identity.key     the node's key, mode 0600
//! incarnation      how often a node has run on it, or has stepped over what others held of it
//! mesh.json        which mesh the home belongs to, addresses that led into it, and the secret of a
//!                  closed one; mode 0600
//! config.toml      optional settings
//! experts/         definitions of the operator's own experts, one file each
//! paused           there while the node answers no peer; empty
//! lock             held by the process that runs on this home; says its pid
//! control.sock     the running daemon's API; a link to it if this path is too long for a socket
//! models/          the model store (unless models.dir points elsewhere)
//! mesh/<id>/       what is kept of one mesh, also after it was left: the catalog, the list of
//!                  anchors, remembered addresses, the ledger of invites
//! ```

mod identity;
mod private_folder;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub use identity::IdentityView;
use polymath_types::{
    Access, ErrorKind, Failure, Format, Genesis, Invite, MeshId, MeshSecret, NodeKey,
};
use serde::{Deserialize, Serialize};

/// Longest path of a Unix socket on Linux and the BSDs, with room to spare.
const LONGEST_SOCKET_PATH: usize = 100;
/// Addresses remembered that once led into the mesh.
const MOST_BOOTSTRAP: usize = 32;

/// One node's directory.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// Proof that this process alone runs on the home; released when dropped.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// Which mesh a home belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The mesh's foundation.
    pub genesis: Genesis,
    /// Whether the home came to the mesh by `join`; otherwise it founded it.
    pub joined: bool,
    /// Addresses that led into the mesh, newest first.
    pub bootstrap: Vec<String>,
    /// The port this node listens on unless told otherwise; chosen at first start so that the
    /// addresses it hands out stay good.
    pub port: u16,
    /// What lets a member of a closed mesh in.
    pub key: MeshKey,
}

/// How a home gets past the door of its mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MeshKey {
    /// The mesh is open.
    #[default]
    None,
    /// By the secret.
    Secret(MeshSecret),
    /// By an invite, until a member has handed out the secret for it.
    Invite(Box<Invite>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipFile {
    version: u32,
    genesis: String,
    joined: bool,
    bootstrap: Vec<String>,
    port: u16,
    /// Of a closed mesh, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// Into a closed mesh, not redeemed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invite: Option<String>,
}

impl Home {
    /// `--home` or `POLYMATH_HOME` if given, else `polymath` under the XDG data directory.
    pub fn locate(given: Option<&Path>) -> Result<PathBuf, Failure> {
        if let Some(dir) = given {
            return std::path::absolute(dir).map_err(|e| io_failure("use the home", dir, &e));
        }
        if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|d| Path::new(d).is_absolute())
        {
            return Ok(Path::new(&data).join("polymath"));
        }
        match std::env::var_os("HOME") {
            Some(home) if !home.is_empty() => Ok(Path::new(&home).join(".local/share/polymath")),
            _ => Err(Failure::new(
                ErrorKind::Config,
                "neither XDG_DATA_HOME nor HOME is set: say where to keep state with --home DIR",
            )),
        }
    }

    /// Opens the directory, creating it (mode 0700) if it is new; one that is there is not changed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Failure> {
        let dir = dir.into();
        // What is private in a home is private file by file; a folder that was there keeps its mode.
        create_folder(&dir).map_err(|e| io_failure("create the home", &dir, &e))?;
        Ok(Self { dir })
    }

    /// The directory as it is, or is not: for those who only look.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Where models are kept when `models.dir` is not set.
    pub fn models_dir(&self) -> PathBuf {
        self.dir.join("models")
    }

    /// What is kept of one mesh.
    pub fn mesh_dir(&self, mesh: MeshId) -> PathBuf {
        self.dir.join("mesh").join(mesh.short())
    }

    /// The daemon's socket. A home whose path is too long for a socket has it elsewhere, named by
    /// the home's hash: in `XDG_RUNTIME_DIR`, or in a folder of this user's own below the temporary
    /// one. No folder is used that others could have put a socket in.
    pub fn control_socket(&self) -> Result<PathBuf, Failure> {
        let usual = self.dir.join("control.sock");
        if usual.as_os_str().len() <= LONGEST_SOCKET_PATH {
            return Ok(usual);
        }
        // The daemon may have been started in another environment than this process.
        if let Ok(elsewhere) = fs::read_link(&usual)
            && elsewhere
                .parent()
                .is_some_and(|folder| private_folder::check(folder).is_ok())
        {
            return Ok(elsewhere);
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let folder = private_folder::choose(runtime.as_deref(), &std::env::temp_dir())?;
        let hash = blake3::hash(self.dir.as_os_str().as_encoded_bytes());
        Ok(folder.join(format!("polymath-{}.sock", &hash.to_hex()[..24])))
    }

    /// Leaves a link to a socket that lies elsewhere.
    pub(crate) fn point_to(&self, socket: &Path) -> Result<(), Failure> {
        let usual = self.dir.join("control.sock");
        if socket == usual {
            return Ok(());
        }
        std::os::unix::fs::symlink(socket, &usual).map_err(|e| io_failure("create", &usual, &e))
    }

    /// Removes that link.
    pub(crate) fn point_nowhere(&self) {
        let _ = fs::remove_file(self.dir.join("control.sock"));
    }

    /// Whether whoever runs the home wants no peer answered.
    pub fn is_paused(&self) -> bool {
        self.paused().exists()
    }

    /// Remembers it: a pause must outlive a crash, and the restart that follows a `join`.
    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), Failure> {
        let path = self.paused();
        let done = if paused {
            File::create(&path).map(drop)
        } else {
            match fs::remove_file(&path) {
                Err(e) if e.kind() == IoKind::NotFound => Ok(()),
                done => done,
            }
        };
        let doing = if paused { "create" } else { "remove" };
        done.map_err(|e| io_failure(doing, &path, &e))
    }

    fn paused(&self) -> PathBuf {
        self.dir.join("paused")
    }

    /// Takes the home for this process, or says who has it.
    pub fn lock(&self) -> Result<HomeLock, Failure> {
        let path = self.dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io_failure("open the lock", &path, &e))?;
        file.try_lock().map_err(|e| self.not_locked(&path, e))?;
        let written = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| write!(file, "{}", std::process::id()));
        written.map_err(|e| io_failure("write the lock", &path, &e))?;
        Ok(HomeLock { _file: file })
    }

    fn not_locked(&self, lock: &Path, error: TryLockError) -> Failure {
        match error {
            TryLockError::WouldBlock => Failure::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "another polymath process (pid {}) runs on {}: stop it with `polymath down`, or give this one its own --home",
                    self.holder().trim(),
                    self.dir.display()
                ),
            ),
            // A network file system without locks, for one.
            TryLockError::Error(e) => io_failure("lock", lock, &e),
        }
    }

    /// The process id in the lock, for people.
    pub(crate) fn holder(&self) -> String {
        let mut pid = String::new();
        if let Ok(file) = File::open(self.dir.join("lock")) {
            let _ = file.take(32).read_to_string(&mut pid);
        }
        pid
    }

    /// The node's key; a fresh one at the first call.
    pub fn identity(&self, _lock: &HomeLock) -> Result<NodeKey, Failure> {
        let path = self.dir.join("identity.key");
        let config = |what: String| Failure::new(ErrorKind::Config, what);
        match self.identity_file()? {
            Some((_, mode)) if mode & 0o077 != 0 => Err(config(format!(
                "{} can be read by others (mode {mode:o}): whoever has it is this node. Run `chmod 600 {}`, or delete it to become a new node",
                path.display(),
                path.display()
            ))),
            Some((key, _)) => Ok(key),
            None => {
                let key = NodeKey::generate();
                let text = key.to_text().map_err(|e| config(e.to_string()))?;
                write_atomic(&path, text.as_bytes())?;
                Ok(key)
            }
        }
    }

    /// The key in the home, if there is one, and the permissions of its file.
    pub(crate) fn identity_file(&self) -> Result<Option<(NodeKey, u32)>, Failure> {
        let path = self.dir.join("identity.key");
        match fs::read(&path) {
            Ok(bytes) => {
                let mode = fs::metadata(&path)
                    .map(|m| m.permissions().mode() & 0o777)
                    .unwrap_or(0o600);
                let key = NodeKey::from_text(&String::from_utf8_lossy(&bytes));
                let key = key.map_err(|e| match e {
                    polymath_types::IdentityError::Version(v) => Failure::new(
                        ErrorKind::VersionMismatch,
                        format!("{}: {v}", path.display()),
                    ),
                    _ => Failure::new(
                        ErrorKind::DataLoss,
                        format!(
                            "{} is damaged: restore it from a backup, or delete it to become a new node",
                            path.display()
                        ),
                    ),
                })?;
                Ok(Some((key, mode)))
            }
            Err(e) if e.kind() == IoKind::NotFound => Ok(None),
            Err(e) => Err(io_failure("read the identity", &path, &e)),
        }
    }

    /// The mesh the home belongs to, if it has one yet.
    pub fn membership(&self) -> Result<Option<Membership>, Failure> {
        let path = self.dir.join("mesh.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == IoKind::NotFound => return Ok(None),
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: String| {
            Failure::new(
                ErrorKind::DataLoss,
                format!(
                    "{} is damaged ({e}): move it away and join the mesh again",
                    path.display()
                ),
            )
        };
        let found: Versioned = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        Format::Genesis.check(found.version).map_err(|e| {
            Failure::new(
                ErrorKind::VersionMismatch,
                format!("{}: {e}", path.display()),
            )
        })?;
        let file: MembershipFile =
            serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        let genesis =
            Genesis::from_bytes(file.genesis.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let key = file.key(&genesis).map_err(damaged)?;
        if key != MeshKey::None {
            private(&path, "enters the mesh", "leave the mesh and join it anew")?;
        }
        Ok(Some(Membership {
            genesis,
            joined: file.joined,
            bootstrap: file.bootstrap,
            port: file.port,
            key,
        }))
    }

    /// Writes which mesh the home belongs to.
    pub fn save_membership(&self, membership: &Membership) -> Result<(), Failure> {
        let file = MembershipFile {
            version: Format::Genesis.current(),
            genesis: String::from_utf8(membership.genesis.to_bytes()).unwrap_or_default(),
            joined: membership.joined,
            bootstrap: membership
                .bootstrap
                .iter()
                .take(MOST_BOOTSTRAP)
                .cloned()
                .collect(),
            port: membership.port,
            secret: match &membership.key {
                MeshKey::Secret(secret) => Some(
                    blake3::Hash::from_bytes(*secret.as_bytes())
                        .to_hex()
                        .to_string(),
                ),
                _ => None,
            },
            invite: match &membership.key {
                MeshKey::Invite(invite) => Some(invite.to_string()),
                _ => None,
            },
        };
        let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        write_atomic(&self.dir.join("mesh.json"), &text)
    }

    /// Makes the home belong to no mesh. Its key stays, and so does what was kept of the mesh:
    /// who comes back must go on where it stopped, or it would say two things under one number.
    pub fn forget_membership(&self, _lock: &HomeLock) -> Result<(), Failure> {
        let path = self.dir.join("mesh.json");
        fs::remove_file(&path).map_err(|e| io_failure("remove", &path, &e))
    }
}

impl MembershipFile {
    /// What lets the home into its mesh; there must be something for a closed one.
    fn key(&self, genesis: &Genesis) -> Result<MeshKey, String> {
        let key = match (&self.secret, &self.invite) {
            (None, None) => MeshKey::None,
            (Some(secret), _) => {
                let secret =
                    blake3::Hash::from_hex(secret).map_err(|_| "its secret is no secret")?;
                MeshKey::Secret(MeshSecret::from_bytes(*secret.as_bytes()))
            }
            (None, Some(invite)) => {
                let invite: Invite = invite.parse().map_err(|e| format!("{e}"))?;
                invite.leads_into(genesis.id()).map_err(|e| e.to_string())?;
                MeshKey::Invite(Box::new(invite))
            }
        };
        match (genesis.access(), &key) {
            (Access::Closed, MeshKey::None) => {
                Err("the mesh is closed, and its secret is missing".into())
            }
            (Access::Open, MeshKey::Secret(_) | MeshKey::Invite(_)) => {
                Err("the mesh is open, and there is a secret".into())
            }
            _ => Ok(key),
        }
    }
}

/// Refuses a file that others may read: whoever has it `can`; `else_` is the way out beside chmod.
fn private(path: &Path, can: &str, else_: &str) -> Result<(), Failure> {
    let mode = fs::metadata(path)
        .map(|m| m.permissions().mode() & 0o777)
        .unwrap_or(0o600);
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        ErrorKind::Config,
        format!(
            "{} can be read by others (mode {mode:o}): whoever has it {can}. Run `chmod 600 {}`, or {else_}",
            path.display(),
            path.display()
        ),
    ))
}

/// Creates a folder and those above it that are missing, mode 0700, each synced into the one that
/// holds it: else a crash could take what was written below with it.
pub(crate) fn create_folder(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = match dir.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    create_folder(above)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == IoKind::AlreadyExists && dir.is_dir() => {}
        created => created?,
    }
    match File::open(above) {
        Ok(above) => above.sync_all(),
        // One may create things in a folder without being allowed to read it.
        Err(e) if e.kind() == IoKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

/// Writes a file so that a crash leaves either the old or the new content: temporary file (mode
/// 0600), fsync, rename, fsync of the folder.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |e: std::io::Error| io_failure("write", path, &e);
    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(folder).map_err(fail)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    File::open(folder).and_then(|d| d.sync_all()).map_err(fail)
}

pub(crate) fn io_failure(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    let (kind, advice) = match e.kind() {
        IoKind::PermissionDenied => (ErrorKind::PermissionDenied, ": check its owner and mode"),
        IoKind::NotADirectory | IoKind::AlreadyExists => (
            ErrorKind::Config,
            ": something else has that name, choose another",
        ),
        IoKind::StorageFull | IoKind::QuotaExceeded => {
            (ErrorKind::ResourceExhausted, ": free some space")
        }
        _ => (ErrorKind::Config, ""),
    };
    Failure::new(
        kind,
        format!("cannot {what} {}: {e}{advice}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_lock_that_is_held_is_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let path = dir.path().join("lock");
        let held = home.not_locked(&path, TryLockError::WouldBlock);
        assert_eq!(held.kind, ErrorKind::FailedPrecondition);
        let cause = std::io::Error::other("no locks available");
        let failed = home.not_locked(&path, TryLockError::Error(cause));
        assert_ne!(failed.kind, ErrorKind::FailedPrecondition);
        assert!(failed.message.contains("no locks available"), "{failed}");
        assert!(!failed.message.contains("another"), "{failed}");
    }
}
