//! What the operator lets this node take: memory, calls at once, upload, disk.

use std::fmt;

use polymath_types::Failure;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::bad;

/// Less holds no node at all, with one small model.
const LEAST_MEMORY: u64 = 128 << 20;
/// With less, the catalog and the calls of one peer already stand still.
const LEAST_UPLOAD: u64 = 16 << 10;
/// Most calls of peers at once that make sense: the most slots.
const MOST_CONCURRENT: usize = 256;

/// Bounds on what this node takes of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of the whole process: experts that would pass it are not loaded, and answers wait for
    /// room for their KV cache.
    pub memory: Size,
    /// Calls of peers answered at once; 0: all places of the engine but one, which is this machine's
    /// own user's.
    pub concurrent: usize,
    /// Bytes a second written to peers, for answers and for relaying.
    pub upload: Size,
    /// Disk that home and model store take together: what would pass it is not pulled or imported.
    pub disk: Size,
}

/// A number of bytes as people write it: `512MiB`, `4GB`, `1048576`; `none` for no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(String);

impl Default for Size {
    fn default() -> Self {
        Self("none".into())
    }
}

impl Size {
    /// Bytes; `None` for no limit. What [`Limits::check`] has passed is never an error.
    fn parse(&self) -> Result<Option<u64>, String> {
        let text = self.0.trim();
        if text.is_empty() || text == "none" {
            return Ok(None);
        }
        let wrong = || {
            format!(
                "\"{}\" is no size: write it like 512MiB, 4GB, a number of bytes, or none",
                self.0
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(factor).ok_or_else(wrong)?;
        Ok(Some(bytes))
    }

    /// Bytes; `None` for no limit.
    pub fn bytes(&self) -> Option<u64> {
        self.parse().ok().flatten()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512MiB\", or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Ok(Size(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                Ok(Size(bytes.to_string()))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes.to_string()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), Failure> {
        let sizes = [
            ("limits.memory", &self.memory, LEAST_MEMORY, "128MiB"),
            ("limits.upload", &self.upload, LEAST_UPLOAD, "16KiB"),
            ("limits.disk", &self.disk, 1, "one byte"),
        ];
        for (key, size, least, said) in sizes {
            let bytes = size.parse().map_err(|e| bad(format!("{key} = {e}")))?;
            if bytes.is_some_and(|b| b < least) {
                return Err(bad(format!(
                    "{key} = \"{size}\" is too little: allow at least {said}, or none for no limit"
                )));
            }
        }
        if self.concurrent > MOST_CONCURRENT {
            return Err(bad(format!(
                "limits.concurrent = {}: use 1 to {MOST_CONCURRENT}, or 0 for all places but one; `polymath pause` answers no peer at all",
                self.concurrent
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let bytes = |text: &str| Size(text.into()).parse();
        for (text, expected) in [
            ("none", None),
            ("", None),
            ("1048576", Some(1 << 20)),
            ("512MiB", Some(512 << 20)),
            ("4GB", Some(4_000_000_000)),
            ("20 gib", Some(20 << 30)),
            ("7B", Some(7)),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "many",
            "-1",
            "1.5GiB",
            "MiB",
            "4G",
            "10MiB/s",
            "99999999999TiB",
            "5 potatoes",
        ] {
            let why = bytes(text).unwrap_err();
            assert!(why.contains(text) && why.contains("512MiB"), "{why}");
        }
    }

    #[test]
    fn limits_that_hold_no_node_are_refused_by_name() {
        let check = |text: &str| toml::from_str::<Limits>(text).unwrap().check();
        assert!(check("memory = \"4GiB\"\nconcurrent = 2\nupload = 20000\n").is_ok());
        for (text, key) in [
            ("memory = \"1MiB\"", "limits.memory"),
            ("upload = 100", "limits.upload"),
            ("disk = 0", "limits.disk"),
            ("disk = \"lots\"", "limits.disk"),
            ("concurrent = 1000", "limits.concurrent"),
        ] {
            let why = check(text).unwrap_err();
            assert!(why.message.contains(key), "{why}");
        }
    }
}
