//! Why a simulation has no report.

use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A setting outside its range.
    #[error("{setting} must be {least} to {most}, not {found}")]
    Setting {
        /// Its name on the command line.
        setting: &'static str,
        /// What was given.
        found: String,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// The catalogs did not become equal; a fault of the catalog, or of the scenario.
    #[error("{phase}: {behind} nodes still lack something after {} s of virtual time", limit.as_secs())]
    NotEqual {
        /// What was being waited for.
        phase: &'static str,
        /// How many nodes.
        behind: usize,
        /// How long was waited.
        limit: Duration,
    },
    /// Every node has every offer, and yet two indexes differ.
    #[error("{phase}: two nodes have every offer, and their indexes differ")]
    Differ {
        /// What had been waited for.
        phase: &'static str,
    },
    /// An honest node refused another honest node's data, or its own.
    #[error("node {node} refused what it should take: {why}")]
    Refused {
        /// Its number.
        node: usize,
        /// In its own words.
        why: String,
    },
}

impl Fault {
    pub(crate) fn check(
        setting: &'static str,
        found: u64,
        least: u64,
        most: u64,
    ) -> Result<(), Self> {
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(Self::Setting {
            setting,
            found: found.to_string(),
            least,
            most,
        })
    }
}
