//! What observers have seen of experts: counts of outcomes by codebook, cluster and expert, and nothing
//! of the questions.

use std::collections::BTreeMap;

use crate::{ExpertId, card::digest_id};

digest_id!(
    /// The content id of a codebook: clusters of two codebooks have nothing to do with each other.
    CodebookId
);

/// Where an outcome belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Which codebook numbers the clusters.
    pub codebook: CodebookId,
    /// Who answered.
    pub expert: ExpertId,
    /// What the question was near to.
    pub cluster: u16,
}

/// How often an expert was tried in a cluster, and how well that went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Outcomes.
    pub count: u32,
    /// The sum of their rewards, each 0 to 1, in thousandths.
    pub reward: u32,
}

impl Evidence {
    /// The highest count: its rewards still fit.
    pub const MOST: u32 = 1_000_000;

    /// Whether there can be such: some outcomes, and none better than perfect.
    pub fn is_possible(self) -> bool {
        (1..=Self::MOST).contains(&self.count)
            && u64::from(self.reward) <= 1000 * u64::from(self.count)
    }

    /// The mean reward, 0 to 1; of nothing it is 0.
    pub fn mean(self) -> f64 {
        f64::from(self.reward) / (1000.0 * f64::from(self.count.max(1)))
    }
}

/// What one observer has seen of one expert under one codebook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which codebook numbers the clusters.
    pub codebook: CodebookId,
    /// The expert.
    pub expert: ExpertId,
    /// By cluster, in order; not empty.
    pub cells: Box<[(u16, Evidence)]>,
}

/// What one observer has seen, by codebook and expert in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observations(Box<[Seen]>);

impl Observations {
    /// By codebook and expert.
    pub fn seen(&self) -> &[Seen] {
        &self.0
    }

    /// Every cell, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cell, Evidence)> + '_ {
        self.0.iter().flat_map(|seen| {
            seen.cells.iter().map(|(cluster, evidence)| {
                let cell = Cell {
                    codebook: seen.codebook,
                    expert: seen.expert,
                    cluster: *cluster,
                };
                (cell, *evidence)
            })
        })
    }

    /// What was seen of an expert under a codebook.
    pub fn of(&self, codebook: &CodebookId, expert: &ExpertId) -> &[(u16, Evidence)] {
        let place = (codebook, expert);
        let found = self
            .0
            .binary_search_by_key(&place, |s| (&s.codebook, &s.expert));
        found.map_or(&[], |at| &self.0[at].cells)
    }

    /// One cell.
    pub fn get(&self, cell: &Cell) -> Option<Evidence> {
        let cells = self.of(&cell.codebook, &cell.expert);
        let found = cells.binary_search_by_key(&cell.cluster, |(cluster, _)| *cluster);
        found.ok().map(|at| cells[at].1)
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|seen| seen.cells.len()).sum()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Cell, Evidence)> for Observations {
    /// Of two that are about one cell the later one stays.
    fn from_iter<I: IntoIterator<Item = (Cell, Evidence)>>(cells: I) -> Self {
        let cells: BTreeMap<Cell, Evidence> = cells.into_iter().collect();
        let cells: Vec<(Cell, Evidence)> = cells.into_iter().collect();
        let groups =
            cells.chunk_by(|(a, _), (b, _)| (a.codebook, a.expert) == (b.codebook, b.expert));
        let seen = groups.filter_map(|group| {
            let (first, _) = group.first()?;
            Some(Seen {
                codebook: first.codebook,
                expert: first.expert,
                cells: group.iter().map(|(cell, e)| (cell.cluster, *e)).collect(),
            })
        });
        Self(seen.collect())
    }
}

/// What others have seen of an expert in a cluster, weighed, in thousandths of an observation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weighed {
    /// As many outcomes this is worth.
    pub mass: u32,
    /// The sum of their rewards.
    pub reward: u32,
}

impl Weighed {
    /// As many outcomes this is worth.
    pub fn count(self) -> f64 {
        f64::from(self.mass) / 1000.0
    }

    /// The mean reward, 0 to 1; of nothing it is 0.
    pub fn mean(self) -> f64 {
        f64::from(self.reward) / f64::from(self.mass.max(1))
    }
}

/// What others have seen of one expert: by codebook, then by cluster, both in order.
pub type WeighedExpert = Vec<(CodebookId, Vec<(u16, Weighed)>)>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cell(codebook: u8, expert: u8, cluster: u16) -> Cell {
        Cell {
            codebook: CodebookId::from_bytes([codebook; 32]),
            expert: ExpertId::from_bytes([expert; 32]),
            cluster,
        }
    }

    fn evidence(count: u32, reward: u32) -> Evidence {
        Evidence { count, reward }
    }

    #[test]
    fn cells_are_found_again_in_whatever_order_they_came() {
        let mut cells = vec![
            (cell(2, 1, 7), evidence(5, 2500)),
            (cell(1, 9, 65535), evidence(6, 0)),
            (cell(1, 9, 0), evidence(7, 7000)),
            (cell(1, 3, 4), evidence(8, 1)),
        ];
        let one: Observations = cells.iter().copied().collect();
        cells.reverse();
        let other: Observations = cells.iter().copied().collect();
        assert_eq!((&one, one.len(), one.seen().len()), (&other, 4, 3));
        for (cell, evidence) in &cells {
            assert_eq!(one.get(cell), Some(*evidence));
        }
        assert_eq!(one.get(&cell(1, 9, 1)), None);
        assert_eq!(one.get(&cell(3, 9, 0)), None);
        assert!(one.iter().is_sorted_by_key(|(cell, _)| cell));
    }

    #[test]
    fn no_outcome_is_better_than_perfect() {
        assert!(evidence(1, 1000).is_possible() && evidence(1, 0).is_possible());
        assert!(!evidence(0, 0).is_possible() && !evidence(1, 1001).is_possible());
        assert!(evidence(Evidence::MOST, 1000 * Evidence::MOST).is_possible());
        assert!(!evidence(Evidence::MOST + 1, 0).is_possible());
        assert!((evidence(4, 3000).mean() - 0.75).abs() < 1e-9);
    }
}
