//! The home's identity as people handle it: shown, taken elsewhere, brought.
//!
//! Whoever has the key is the node. Moving it means that it runs in one place at a time: two are found out
//! ([`crate::live`]), and the later stops.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind as IoKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use polymath_types::{ErrorKind, Failure, IdentityError, NodeKey, PeerId};

use super::{Home, HomeLock, io_failure, write_atomic};
use crate::live;

/// Longest identity file that is read, bytes.
const MOST_BYTES: u64 = 4096;

/// What there is to show of an identity; nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityView {
    /// The peer id that belongs to the key.
    pub peer: PeerId,
    /// Where the key lies.
    pub file: PathBuf,
    /// The last incarnation, if the home has had one.
    pub incarnation: Option<u64>,
}

impl Home {
    /// The home's identity, without making one.
    pub fn show_identity(&self) -> Result<IdentityView, Failure> {
        let (key, _) = self.identity_file()?.ok_or_else(|| self.nobody())?;
        Ok(IdentityView {
            peer: key.peer_id(),
            file: self.dir.join("identity.key"),
            incarnation: live::last_incarnation(&self.dir),
        })
    }

    /// Writes the key to a new file that only its owner can read.
    pub fn export_identity(&self, file: &Path) -> Result<IdentityView, Failure> {
        let (key, _) = self.identity_file()?.ok_or_else(|| self.nobody())?;
        let text = key
            .to_text()
            .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?;
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(file);
        let mut out = opened.map_err(|e| match e.kind() {
            IoKind::AlreadyExists => Failure::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "{} is there already and is not overwritten: name another file",
                    file.display()
                ),
            ),
            _ => io_failure("create", file, &e),
        })?;
        let written = out.write_all(text.as_bytes()).and_then(|()| out.sync_all());
        if let Err(e) = written {
            let _ = fs::remove_file(file);
            return Err(io_failure("write", file, &e));
        }
        self.show_identity()
    }

    /// Takes the key in `file` as the home's, which must have none.
    pub fn import_identity(&self, file: &Path, _lock: &HomeLock) -> Result<IdentityView, Failure> {
        if let Some((key, _)) = self.identity_file()? {
            return Err(Failure::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "{} has an identity already, {}: import into a fresh --home, or delete its identity.key first",
                    self.dir.display(),
                    key.peer_id()
                ),
            ));
        }
        let size = fs::metadata(file)
            .map_err(|e| io_failure("read", file, &e))?
            .len();
        let wrong = |e: IdentityError| {
            let kind = match e {
                IdentityError::Version(_) => ErrorKind::VersionMismatch,
                _ => ErrorKind::DataLoss,
            };
            Failure::new(kind, format!("{}: {e}", file.display()))
        };
        if size > MOST_BYTES {
            return Err(wrong(IdentityError::Header));
        }
        let bytes = fs::read(file).map_err(|e| io_failure("read", file, &e))?;
        let key = NodeKey::from_text(&String::from_utf8_lossy(&bytes)).map_err(wrong)?;
        let text = key
            .to_text()
            .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?;
        write_atomic(&self.dir.join("identity.key"), text.as_bytes())?;
        self.show_identity()
    }

    fn nobody(&self) -> Failure {
        Failure::new(
            ErrorKind::NotFound,
            format!(
                "{} has no identity yet: `polymath up` makes one, `polymath identity import FILE` brings one",
                self.dir.display()
            ),
        )
    }
}
