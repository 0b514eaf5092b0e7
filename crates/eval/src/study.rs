//! A table made ready for the router's estimator, and how its one free constant is chosen.
//!
//! All of [`EstimatorConfig`] is fixed but the penalty of the regression, which is the variance of an outcome
//! over that of what words explain, and differs from set to set. It is chosen among [`PENALTIES`] by
//! cross-validation inside the training rows. The other defaults were found the same way on training
//! questions of LLMRouter and on [`DEVELOPMENT`] rows of RouteLLM's MMLU and of MMLU-Pro, which no test uses.

use std::sync::Arc;

use polymath_router::{
    Random,
    learning::{Codebook, Estimator, EstimatorConfig, Seen, Sparse},
};
use polymath_types::ExpertId;

use crate::Table;

/// What the penalty is chosen among.
pub const PENALTIES: [f32; 6] = [0.5, 2.0, 5.0, 15.0, 50.0, 150.0];
/// Rows of MMLU and of MMLU-Pro on which methods were compared; they are never tested on.
pub const DEVELOPMENT: usize = 3000;
/// Folds inside the training rows.
const INNER: usize = 4;
/// Passes of the regression over all rows.
const PASSES: usize = 12;
/// What is expected of an expert before any outcome.
pub const PRIOR: f64 = 0.5;

/// A text as an estimator with the default books sees it.
pub fn see(estimator: &Estimator, text: &str) -> Arc<Seen> {
    let encoding = polymath_encoder::encode(text);
    let vector = Sparse::new(&encoding.places, &encoding.values);
    Arc::new(estimator.see(&vector, &encoding.cues))
}

/// The id an expert of a data set goes by.
pub fn expert_id(name: &str) -> ExpertId {
    ExpertId::from_bytes(*blake3::hash(name.as_bytes()).as_bytes())
}

/// For data read as a whole: everything is kept, nothing is discounted, and passes come at the end.
pub fn whole(penalty: f32) -> EstimatorConfig {
    EstimatorConfig {
        penalty,
        max_observations: usize::MAX,
        max_experts: usize::MAX,
        revisits: 0,
        discount: 1.0,
        ..EstimatorConfig::default()
    }
}

/// An estimator with the default books.
pub fn estimator(config: EstimatorConfig, seed: u64) -> Estimator {
    Estimator::new(config, Codebook::defaults().into(), seed)
}

/// A table, its experts' ids and its queries as they are seen.
#[derive(Debug)]
pub struct Study {
    /// The graded answers.
    pub table: Table,
    /// In the order of the table's experts.
    pub ids: Vec<ExpertId>,
    /// In the order of the table's rows.
    pub seen: Vec<Arc<Seen>>,
}

impl Study {
    /// Encodes a table.
    pub fn new(table: Table) -> Self {
        let e = estimator(EstimatorConfig::default(), 0);
        Self {
            ids: table.experts.iter().map(|n| expert_id(n)).collect(),
            seen: table.rows.iter().map(|r| see(&e, &r.query)).collect(),
            table,
        }
    }

    /// Learns every expert's grade of the given rows.
    pub fn fit(&self, penalty: f32, rows: &[usize]) -> Estimator {
        let mut e = estimator(whole(penalty), 1);
        for row in rows {
            for (id, score) in self.ids.iter().zip(&self.table.rows[*row].scores) {
                e.observe(*id, &self.seen[*row], PRIOR, *score);
            }
        }
        e.settle(PASSES);
        e
    }

    /// What is expected of each expert for a row, for ranking.
    pub fn scores(&self, e: &Estimator, row: usize) -> Vec<f64> {
        self.ids
            .iter()
            .map(|id| e.score(id, &self.seen[row], PRIOR))
            .collect()
    }

    /// The penalty under which held-out parts of `rows` score best; `objective` grades an estimator on them.
    pub fn penalty(&self, rows: &[usize], objective: impl Fn(&Estimator, &[usize]) -> f64) -> f32 {
        let mut best = (f64::NEG_INFINITY, PENALTIES[0]);
        for penalty in PENALTIES {
            let grades = folds(rows, INNER, 17)
                .into_iter()
                .map(|(train, held)| objective(&self.fit(penalty, &train), &held));
            let sum: f64 = grades.sum();
            if sum > best.0 {
                best = (sum, penalty);
            }
        }
        best.1
    }

    /// Mean reward when each row goes to the expert expected to be best.
    pub fn routed(&self, e: &Estimator, rows: &[usize]) -> f64 {
        self.routes(e, rows).iter().sum::<f64>() / rows.len().max(1) as f64
    }

    /// The same, row by row.
    pub fn routes(&self, e: &Estimator, rows: &[usize]) -> Vec<f64> {
        rows.iter()
            .map(|r| self.table.rows[*r].scores[crate::baseline::argmax(&self.scores(e, *r))])
            .collect()
    }
}

/// `k` pairs of (others, fold) of shuffled rows.
pub fn folds(rows: &[usize], k: usize, seed: u64) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut rows = rows.to_vec();
    Random::new(seed).shuffle(&mut rows);
    (0..k)
        .map(|fold| {
            let (mut others, mut held) = (Vec::new(), Vec::new());
            for (i, row) in rows.iter().enumerate() {
                if i % k == fold {
                    &mut held
                } else {
                    &mut others
                }
                .push(*row);
            }
            (others, held)
        })
        .collect()
}

/// All rows but the first `development` of a fixed shuffle; those come second.
pub fn reserve(rows: usize, development: usize) -> (Vec<usize>, Vec<usize>) {
    let mut all: Vec<usize> = (0..rows).collect();
    Random::new(99).shuffle(&mut all);
    let rest = all.split_off(development.min(rows));
    (rest, all)
}
