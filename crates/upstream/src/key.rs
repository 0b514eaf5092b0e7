//! The key that a server asks for: read anew for each call, shown to nobody.

use std::{fmt, path::PathBuf};

use hyper::header::HeaderValue;
use polymath_types::{ErrorKind, Failure};
use tokio::io::AsyncReadExt;

/// Longest key, bytes.
const LONGEST: u64 = 4096;

/// Where a key is. The key itself is in no definition, card or log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeySource {
    /// The server asks for none.
    #[default]
    None,
    /// In this file.
    File(PathBuf),
    /// In this environment variable of the node.
    Env(String),
}

/// A key.
pub(crate) struct Key(String);

impl Key {
    /// As the `Authorization` header has it.
    pub(crate) fn header(&self) -> Result<HeaderValue, Failure> {
        let value = HeaderValue::from_str(&format!("Bearer {}", self.0));
        let mut value = value.map_err(|_| bad("it holds characters that no header may".into()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// A text of the server's without this key.
    pub(crate) fn hide(&self, text: &str) -> String {
        text.replace(&self.0, "(the key)")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

fn bad(why: String) -> Failure {
    Failure::new(
        ErrorKind::Config,
        format!("the API key of this expert's server cannot be used: {why}"),
    )
}

impl KeySource {
    /// Whether there is a key that can be sent, for whoever runs the node: an error names its file or variable.
    ///
    /// # Errors
    /// `Config`.
    pub async fn check(&self) -> Result<(), Failure> {
        match self.read().await? {
            Some(key) => key.header().map(drop),
            None => Ok(()),
        }
    }

    /// Reads the key.
    pub(crate) async fn read(&self) -> Result<Option<Key>, Failure> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Env(name) => std::env::var(name)
                .map_err(|_| bad(format!("the environment variable {name} is not set")))?,
            Self::File(path) => {
                let unread = |e: std::io::Error| {
                    bad(format!("its file {} cannot be read: {e}", path.display()))
                };
                let file = tokio::fs::File::open(path).await.map_err(unread)?;
                let mut text = String::new();
                let read = file.take(LONGEST + 1).read_to_string(&mut text).await;
                read.map_err(unread)?;
                text
            }
        };
        let key = text.trim();
        if key.is_empty() || key.len() as u64 > LONGEST {
            return Err(bad(format!("it must have 1 to {LONGEST} bytes")));
        }
        Ok(Some(Key(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_read_from_its_file_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, " sk-secret\n").unwrap();
        let source = KeySource::File(path.clone());
        let key = source.read().await.unwrap().unwrap();
        let header = key.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer sk-secret");
        assert!(!format!("{header:?} {key:?} {source:?}").contains("sk-secret"));
        assert_eq!(key.hide("bad key sk-secret!"), "bad key (the key)!");
        for text in ["", "\n", "a\u{7}b", &"k".repeat(5000)] {
            std::fs::write(&path, text).unwrap();
            let read = source.read().await;
            assert!(read.is_err() || read.unwrap().unwrap().header().is_err());
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.read().await.unwrap_err().kind, ErrorKind::Config);
        let unset = KeySource::Env("POLYMATH_NO_SUCH_VARIABLE".into())
            .read()
            .await;
        assert!(
            unset
                .unwrap_err()
                .message
                .contains("POLYMATH_NO_SUCH_VARIABLE")
        );
    }
}
