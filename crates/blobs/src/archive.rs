//! Files inside a wheel or any other zip archive.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use polymath_types::FileRef;
use zip::{ZipArchive, result::ZipError};

use crate::PullError;

/// Central directories are read whole: the largest pinned wheel has 20 entries.
const MAX_ENTRIES: usize = 100_000;

pub(crate) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

/// Whether the file begins like a zip archive with something in it.
pub(crate) fn is_archive(path: &Path) -> Result<bool, PullError> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|f| f.take(4).read_to_end(&mut magic))
        .map_err(|e| PullError::unreadable(path, e))?;
    Ok(magic == b"PK\x03\x04")
}

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self, PullError> {
        let file = File::open(path).map_err(|e| PullError::unreadable(path, e))?;
        let zip = ZipArchive::new(BufReader::with_capacity(64 * 1024, file))
            .map_err(|e| bad(path, &e))?;
        if zip.len() > MAX_ENTRIES {
            return Err(PullError::BadArchive {
                path: path.to_owned(),
                reason: format!("more than {MAX_ENTRIES} entries"),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            zip,
        })
    }

    /// A stream of the file: at one of the `likely` paths, or wherever one of its name and length
    /// is, or failing that of its name. Nothing when there is none.
    pub(crate) fn find<'a>(
        &'a mut self,
        file: &FileRef,
        likely: &[&str],
    ) -> Result<Option<impl Read + 'a>, PullError> {
        let mut by_name = None;
        let mut by_size = None;
        for i in 0..self.zip.len() {
            let entry = self.zip.by_index_raw(i).map_err(|e| bad(&self.path, &e))?;
            let Ok(path) = entry.name() else { continue };
            if likely.contains(&&*path) {
                by_size = Some(i);
                break;
            }
            if path.rsplit('/').next() == Some(&file.name) {
                by_name = by_name.or(Some(i));
                if entry.size() == file.size {
                    by_size = by_size.or(Some(i));
                }
            }
        }
        match by_size.or(by_name) {
            None => Ok(None),
            Some(i) => self
                .zip
                .by_index(i)
                .map(Some)
                .map_err(|e| bad(&self.path, &e)),
        }
    }
}

fn bad(path: &Path, e: &ZipError) -> PullError {
    PullError::BadArchive {
        path: path.to_owned(),
        reason: e.to_string(),
    }
}
