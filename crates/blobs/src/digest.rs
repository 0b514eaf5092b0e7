//! The two digests of a file, computed in the one pass that reads (and writes) it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{StoreError, cancel::Job};

/// Large enough that hashing and not the system calls takes the time; small enough that a cancel is
/// heard at once.
const BUFFER: usize = 256 * 1024;

/// Length and digests (hexadecimal) of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) blake3: String,
}

/// Which digests a pass needs; BLAKE3 alone is enough to know whether our own blob is intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Blake3,
    Both,
}

/// Why a pass ended early.
#[derive(Debug)]
pub(crate) enum PumpError {
    Read(io::Error),
    Write(io::Error),
    /// There are more bytes than the limit.
    TooLong,
    Cancelled,
}

/// Reads to the end, at most `limit` bytes, writing to `out` if given. Advances the progress.
pub(crate) fn pump(
    from: &mut dyn Read,
    mut out: Option<&mut File>,
    limit: u64,
    need: Need,
    job: Job<'_>,
) -> Result<Digests, PumpError> {
    let mut sha256 = Sha256::new();
    let mut blake3 = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        if job.cancel.is_cancelled() {
            return Err(PumpError::Cancelled);
        }
        let n = fill(from, &mut buffer).map_err(PumpError::Read)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if size > limit {
            return Err(PumpError::TooLong);
        }
        let bytes = &buffer[..n];
        blake3.update(bytes);
        if need == Need::Both {
            sha256.update(bytes);
        }
        if let Some(out) = &mut out {
            out.write_all(bytes).map_err(PumpError::Write)?;
        }
        job.progress.advance(n as u64);
    }
    Ok(Digests {
        size,
        sha256: if need == Need::Both {
            hex(&sha256.finalize())
        } else {
            String::new()
        },
        blake3: blake3.finalize().to_hex().to_string(),
    })
}

/// Reads until the buffer is full or all is read: unpacking yields small pieces, and hashing is
/// fastest on large ones.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Digests of a file that lies on disk.
pub(crate) fn digest_file(path: &Path, need: Need, job: Job<'_>) -> Result<Digests, StoreError> {
    let mut file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
    pump(&mut file, None, u64::MAX, need, job).map_err(|e| match e {
        PumpError::Cancelled => StoreError::Cancelled,
        PumpError::Read(e) | PumpError::Write(e) => StoreError::io("read", path, e),
        PumpError::TooLong => StoreError::io("read", path, io::ErrorKind::FileTooLarge.into()),
    })
}

/// Whether this is a digest of 32 bytes in lower-case hexadecimal, and so safe as a file name.
pub(crate) fn is_hex64(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
}
