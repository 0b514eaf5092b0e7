//! Observations documents, as `ls` and `show` print them.

use std::collections::BTreeSet;

use polymath_node::Inspected;
use polymath_proto::v1::SignedChange;
use polymath_types::{ExpertId, Failure, Observations};
use serde_json::{Value, json};

use super::{Known, ambiguous};
use crate::output;

/// What a peer has seen of experts, as it says.
pub(super) struct Observed<'a> {
    pub(super) author: String,
    said: &'a Observations,
    last: &'a SignedChange,
    pub(super) changes: usize,
}

impl Known {
    pub(super) fn observations(&self) -> impl Iterator<Item = Observed<'_>> {
        self.whole.iter().filter_map(|record| match record {
            Inspected::Observations(author, said, changes) => Some(Observed {
                author: author.to_string(),
                said,
                last: changes.last()?,
                changes: changes.len(),
            }),
            _ => None,
        })
    }

    /// The one of all whose author ends in `peer`, or none.
    pub(super) fn observed_by(&self, peer: &str) -> Result<Option<Observed<'_>>, Failure> {
        let mut named = self
            .observations()
            .filter(|o| !peer.is_empty() && o.author.ends_with(peer));
        let found = named.next();
        if named.next().is_some() {
            return Err(ambiguous(peer));
        }
        Ok(found)
    }
}

impl Observed<'_> {
    fn version(&self) -> String {
        format!("{}.{}", self.last.epoch, self.last.sequence)
    }

    pub(super) fn summary(&self) -> Value {
        json!({
            "peer": self.author, "epoch": self.last.epoch, "sequence": self.last.sequence,
            "cells": self.said.len(),
        })
    }

    pub(super) fn json(&self, known: &Known) -> Value {
        let cells = self.said.iter().map(|(cell, evidence)| {
            json!({
                "codebook": cell.codebook.to_string(), "expert": cell.expert.to_string(),
                "name": known.names.get(&cell.expert), "cluster": cell.cluster,
                "count": evidence.count, "reward": f64::from(evidence.reward) / 1000.0,
            })
        });
        json!({
            "epoch": self.last.epoch, "sequence": self.last.sequence,
            "cells": cells.collect::<Vec<_>>(),
        })
    }

    /// One line a codebook and expert, below a heading.
    pub(super) fn lines(&self, known: &Known) -> Vec<String> {
        let version = self.version();
        let mut lines = vec![format!("observed   {version}")];
        lines.extend(self.said.seen().iter().map(|seen| {
            let count: u64 = seen.cells.iter().map(|(_, e)| u64::from(e.count)).sum();
            let reward: u64 = seen.cells.iter().map(|(_, e)| u64::from(e.reward)).sum();
            #[allow(clippy::cast_precision_loss)] // at most 2^41
            let mean = reward as f64 / (1000.0 * count.max(1) as f64);
            format!(
                "           {}: {count} outcomes in {} clusters of {}, {mean:.2} on average",
                known.name(&seen.expert),
                seen.cells.len(),
                seen.codebook.short()
            )
        }));
        lines
    }
}

/// All observers, or nothing if there is none.
pub(super) fn table(known: &Known) -> Option<String> {
    let rows = known.observations().map(|o| {
        let experts: BTreeSet<&ExpertId> = o.said.seen().iter().map(|s| &s.expert).collect();
        let numbers = [o.said.len(), experts.len()].map(|n| n.to_string());
        [vec![o.author.clone(), o.version()], numbers.to_vec()].concat()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let heads = ["OBSERVER", "VERSION", "CELLS", "EXPERTS"];
    (!rows.is_empty()).then(|| output::table(&heads, &rows))
}
