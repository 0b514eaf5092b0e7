//! Counts as the catalog carries them.
//!
//! The catalog names cells by the codebook's id; what an expert earned over all clusters stands under an id of
//! its own, as a book of one cluster.

use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Weighed};

use super::Estimator;

/// One cell of counts: of an expert in a book's cluster, or in all of them (`None`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reported {
    /// Place of the book among the estimator's.
    pub book: usize,
    /// Which cluster.
    pub cluster: Option<u16>,
    /// Which expert.
    pub expert: ExpertId,
    /// How many answers were graded.
    pub count: f32,
    /// Sum of the grades, each 0 to 1.
    pub reward: f32,
}

/// Names the book of one cluster that holds every query: BLAKE3 of `polymath: every query, version 1`.
pub(crate) fn everything() -> CodebookId {
    CodebookId::from_bytes(*blake3::hash(b"polymath: every query, version 1").as_bytes())
}

impl Estimator {
    /// What its counts stand under.
    pub fn codebooks(&self) -> Vec<CodebookId> {
        let books = self.books().iter().map(super::Codebook::id);
        books.chain([everything()]).collect()
    }

    /// Own counts as the catalog publishes them: whole answers, cells with at least `least` of them.
    pub fn published(&self, least: u32) -> Vec<(Cell, Evidence)> {
        // A discounted count is at most that of the answers behind it, and so is the next whole number.
        let counts = self.own_counts(least.max(1) as f32 - 0.5);
        let cells = counts.iter().filter_map(|told| {
            let codebook = match told.cluster {
                None => everything(),
                Some(_) => self.books().get(told.book)?.id(),
            };
            let cluster = told.cluster.unwrap_or(0);
            let count = told.count.round().min(Evidence::MOST as f32);
            let reward = (1000.0 * told.reward * count / told.count).round();
            let evidence = Evidence {
                count: count as u32,
                reward: reward as u32,
            };
            evidence.is_possible().then_some((
                Cell {
                    codebook,
                    expert: told.expert,
                    cluster,
                },
                evidence,
            ))
        });
        cells.collect()
    }

    /// Takes what others have seen, as the catalog weighed it, in place of what they had said before.
    pub fn share_weighed(&mut self, cells: impl IntoIterator<Item = (Cell, Weighed)>) {
        let books: Vec<CodebookId> = self.books().iter().map(super::Codebook::id).collect();
        let everything = everything();
        let told = cells.into_iter().filter_map(|(cell, weighed)| {
            let (book, cluster) = if cell.codebook == everything {
                (0, None)
            } else {
                (
                    books.iter().position(|b| *b == cell.codebook)?,
                    Some(cell.cluster),
                )
            };
            let expert: ExpertId = cell.expert;
            let (count, reward) = (weighed.mass as f32 / 1000.0, weighed.reward as f32 / 1000.0);
            Some(Reported {
                book,
                cluster,
                expert,
                count,
                reward,
            })
        });
        let told: Vec<Reported> = told.collect();
        self.share(&told);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::learning::{Codebook, EstimatorConfig, Sparse};

    #[test]
    fn what_one_publishes_another_can_use() {
        let new = || Estimator::new(EstimatorConfig::default(), Codebook::defaults().into(), 1);
        let (mut one, mut other) = (new(), new());
        let expert = ExpertId::from_bytes([7; 32]);
        let seen = Arc::new(one.see(&Sparse::new(&[5, 9], &[0.6, 0.8]), &[]));
        for _ in 0..30 {
            one.observe(expert, &seen, 0.5, 1.0);
        }
        let published = one.published(5);
        assert_eq!(published.len(), 1 + Codebook::defaults().len());
        assert!(
            published
                .iter()
                .all(|(_, e)| (25..=30).contains(&e.count) && e.mean() > 0.99)
        );
        let weighed = |e: Evidence| Weighed {
            mass: 1000 * e.count,
            reward: e.reward,
        };
        other.share_weighed(published.into_iter().map(|(cell, e)| (cell, weighed(e))));
        assert!(other.estimate(&expert, &seen, 0.5).mean > 0.85);
        let unknown = Cell {
            codebook: CodebookId::from_bytes([0; 32]),
            expert,
            cluster: 3,
        };
        other.share_weighed([(
            unknown,
            Weighed {
                mass: 9000,
                reward: 0,
            },
        )]);
        assert!((other.estimate(&expert, &seen, 0.5).mean - 0.5).abs() < 1e-6);
    }
}
