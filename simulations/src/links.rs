//! How long a message takes from one node to another.

use std::time::Duration;

use crate::chance::{Chance, For};

/// Bounds of the one-way latency, microseconds.
const LEAST_US: f64 = 25_000.0;
const MOST_US: f64 = 50_000.0;
/// The same, for reports.
pub(crate) const SPREAD: &str = "25 to 50, uniform, one draw a pair";

/// How far nodes are from each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Distance {
    /// Drawn for each pair.
    Drawn,
    /// One way between any two.
    Equal(Duration),
}

impl Distance {
    /// One way between two nodes, the same in both directions.
    pub(crate) fn one_way(self, chance: Chance, a: usize, b: usize) -> Duration {
        match self {
            Self::Equal(time) => time,
            Self::Drawn => {
                let pair = [a.min(b) as u64, a.max(b) as u64];
                let us = chance.between(LEAST_US, MOST_US, For::Latency, &pair);
                Duration::from_micros(us as u64)
            }
        }
    }
}
