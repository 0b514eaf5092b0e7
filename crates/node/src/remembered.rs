//! The address book: where members were that this node reached directly, for its next start.
//!
//! A hint and no more: whoever answers at an address proves who it is. Bounded; the one of which nothing
//! new was learned for longest goes first.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use polymath_net::{Multiaddr, worth_telling};
use polymath_types::{Failure, Format, PeerId};
use serde::{Deserialize, Serialize};

use crate::home::write_atomic;

/// Members remembered.
const MOST: usize = 64;
/// Addresses of each.
const MOST_ADDRESSES: usize = 4;
/// Largest file: every member with the longest addresses.
const MAX_BYTES: u64 = 128 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    version: u32,
    /// Newest knowledge comes first.
    members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    peer: String,
    addresses: Vec<String>,
}

/// Where members were.
#[derive(Debug)]
pub(crate) struct Remembered {
    file: PathBuf,
    /// And whether the file lags behind.
    book: Mutex<(Book, bool)>,
}

impl Remembered {
    /// What is remembered in `dir`. A file that cannot be read is an empty one: it holds only what
    /// can be found out anew.
    pub(crate) fn open(dir: &Path) -> Self {
        let file = dir.join("peers.json");
        let book = match read(&file) {
            Ok(book) => book,
            Err(e) => {
                if file.exists() {
                    tracing::warn!("{} is not used: {e}", file.display());
                }
                Book::default()
            }
        };
        Self {
            file,
            book: Mutex::new((book, false)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Book, bool)> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a member that was reached directly says it is.
    pub(crate) fn met(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let addresses: Vec<String> = worth_telling(addresses, MOST_ADDRESSES)
            .iter()
            .map(ToString::to_string)
            .filter(|a| a.len() <= 256)
            .collect();
        if addresses.is_empty() {
            return;
        }
        let member = Member {
            peer: peer.to_string(),
            addresses,
        };
        let (book, behind) = &mut *self.lock();
        if book.members.contains(&member) {
            return;
        }
        book.members.retain(|m| m.peer != member.peer);
        book.members.insert(0, member);
        book.members.truncate(MOST);
        *behind = true;
    }

    /// Writes what is new.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let bytes = {
            let (book, behind) = &mut *self.lock();
            if !std::mem::take(behind) {
                return Ok(());
            }
            book.version = Format::AddressBook.current();
            serde_json::to_vec_pretty(book).unwrap_or_default()
        };
        write_atomic(&self.file, &bytes)
    }

    /// Everybody remembered and where, newest knowledge first.
    pub(crate) fn members(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let parsed = |m: &Member| {
            let addresses = m.addresses.iter().filter_map(|a| a.parse().ok());
            Some((m.peer.parse().ok()?, addresses.collect()))
        };
        self.lock().0.members.iter().filter_map(parsed).collect()
    }
}

fn read(file: &Path) -> Result<Book, String> {
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(|e| e.to_string())?;
    opened
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    let mut book: Book = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    Format::AddressBook
        .check(book.version)
        .map_err(|e| e.to_string())?;
    book.members.truncate(MOST);
    Ok(book)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(port: usize) -> Vec<Multiaddr> {
        vec![format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()]
    }

    #[test]
    fn members_are_remembered_over_a_restart_and_their_number_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let book = Remembered::open(dir.path());
        let peers: Vec<PeerId> = (0..MOST + 5).map(|_| PeerId::random()).collect();
        for (i, peer) in peers.iter().enumerate() {
            book.met(*peer, at(i + 1));
        }
        book.save().unwrap();
        let again = Remembered::open(dir.path()).members();
        assert_eq!(again.len(), MOST);
        assert_eq!(again[0], (peers[MOST + 4], at(MOST + 5)));
        std::fs::write(dir.path().join("peers.json"), "{").unwrap();
        assert!(Remembered::open(dir.path()).members().is_empty());
    }

    #[test]
    fn the_book_of_version_1_is_read_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let peer = "12D3KooWJ8vTBuWDLGMLsWv5jhxaYHu4VLJxLgk6ZxpdgmCkXi5J";
        let text = format!(
            r#"{{"version":1,"members":[{{"peer":"{peer}","addresses":["/ip4/192.0.2.1/tcp/7"]}}]}}"#
        );
        let file = dir.path().join("peers.json");
        std::fs::write(&file, &text).unwrap();
        let read = Remembered::open(dir.path()).members();
        assert_eq!(read, [(peer.parse().unwrap(), at(7))]);
        std::fs::write(&file, text.replace(":1,", ":2,")).unwrap();
        assert!(Remembered::open(dir.path()).members().is_empty());
    }
}
