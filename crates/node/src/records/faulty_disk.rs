//! A disk for tests that loses power: what was not synced is lost, or torn, or there.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::StorageBackend;

use super::{RecordStore, database};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Unsynced {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Write(offset, bytes) => {
                // After a resize that was lost.
                let end = offset + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(bytes);
            }
        }
    }

    /// Parts of which a disk may write some and not others.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Write(offset, bytes) => {
                let mut parts = Vec::new();
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes
                        .len()
                        .min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
                    parts.push(Self::Write(offset + at, bytes[at..end].to_vec()));
                    at = end;
                }
                parts
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// What survives.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Operations until the power fails.
    left: Option<usize>,
}

/// Copies share the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Inner>>);

impl FaultyDisk {
    pub(crate) fn store(&self) -> RecordStore {
        let disk = self.clone();
        let mut store = RecordStore::on(Box::new(move || database(disk.clone())));
        let disk = self.clone();
        store.aside = Some(Box::new(move || {
            let mut inner = disk.0.lock().unwrap();
            (inner.durable, inner.seen) = Default::default();
            inner.unsynced.clear();
            Ok(())
        }));
        store
    }

    /// After so many more writes, syncs and resizes every one of them fails; `None`: never.
    pub(crate) fn fail_after(&self, operations: Option<usize>) {
        self.0.lock().unwrap().left = operations;
    }

    /// Bytes in the middle of what is there are others now.
    pub(crate) fn damage(&self) {
        let mut inner = self.0.lock().unwrap();
        let len = inner.seen.len();
        inner.seen[64..len / 2].fill(0x5a);
    }

    /// The power is gone: of what was not synced `keeps` tells which sectors survive. The disk
    /// works again.
    pub(crate) fn lose_power(&self, mut keeps: impl FnMut() -> bool) {
        let mut inner = self.0.lock().unwrap();
        let mut image = std::mem::take(&mut inner.durable);
        for part in inner.unsynced.iter().flat_map(Unsynced::sectors) {
            if keeps() {
                part.apply(&mut image);
            }
        }
        *inner = Inner {
            durable: image.clone(),
            seen: image,
            ..Inner::default()
        };
    }

    fn operate(&self, change: Option<Unsynced>) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if let Some(left) = &mut inner.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the power is gone"))?;
        }
        match change {
            Some(change) => {
                change.apply(&mut inner.seen);
                inner.unsynced.push(change);
            }
            None => {
                inner.durable = inner.seen.clone();
                inner.unsynced.clear();
            }
        }
        Ok(())
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let offset = offset as usize;
        let bytes = inner.seen.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(Some(Unsynced::Length(len as usize)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(Some(Unsynced::Write(offset as usize, data.to_vec())))
    }
}
