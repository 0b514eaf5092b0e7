//! What an expert can do beyond its kind, as its card states it.
//!
//! Names with a meaning are few; a card may state others, which say something to whoever knows them. They
//! are taken at its word: an expert that cannot do what it states fails at it, and is graded for that.

use std::fmt;

use super::{CardError, ExpertCard, excerpt};

/// A capability whose name has a meaning everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// It answers in JSON when told to (`response_format`).
    Json,
    /// It is told of functions, and answers with calls of them (`tools`).
    Tools,
    /// It reads pictures.
    Vision,
}

impl Capability {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Json, Self::Tools, Self::Vision];
    /// Capabilities of one card.
    pub const MOST: usize = 16;
    /// A name, bytes.
    pub const NAME_BYTES: usize = 32;

    /// Its name, as in cards.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Tools => "tools",
            Self::Vision => "vision",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an expert that another server computes cannot promise, as its card states it: an answer of it has no
/// token ids, cannot be carried on elsewhere, and is not equal to another's by a fingerprint.
pub const NOT_PROMISED: [&str; 3] = ["no-fingerprint", NO_RESUME, NO_TOKEN_IDS];
const NO_RESUME: &str = "no-resume";
const NO_TOKEN_IDS: &str = "no-token-ids";

impl ExpertCard {
    /// Whether its answers come as tokens with ids, so that another replica can carry them on.
    pub fn can_be_carried_on(&self) -> bool {
        !self.can(NO_RESUME) && !self.can(NO_TOKEN_IDS)
    }

    /// The version of a card that states these capabilities: one that states none is what it was before
    /// cards could, byte for byte.
    pub const fn version_with(capabilities: &[String]) -> u32 {
        if capabilities.is_empty() { 1 } else { 2 }
    }

    /// Whether its card states a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|stated| stated == capability)
    }

    pub(super) fn check_capabilities(&self) -> Result<(), CardError> {
        let fail = |what: String| Err(CardError::Malformed(what));
        let version = Self::version_with(&self.capabilities);
        if self.version != version {
            return fail(format!(
                "a card with {} capabilities has version {version}, not {}",
                self.capabilities.len(),
                self.version
            ));
        }
        if self.capabilities.len() > Capability::MOST {
            return fail(format!("at most {} capabilities", Capability::MOST));
        }
        let is_name = |name: &&String| {
            (1..=Capability::NAME_BYTES).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if let Some(bad) = self.capabilities.iter().find(|name| !is_name(name)) {
            return fail(format!(
                "the capability '{}' must be 1 to {} lower-case letters, digits or '-'",
                excerpt(bad),
                Capability::NAME_BYTES
            ));
        }
        if !self.capabilities.is_sorted_by(|a, b| a < b) {
            return fail("capabilities are sorted, each once".into());
        }
        Ok(())
    }
}
