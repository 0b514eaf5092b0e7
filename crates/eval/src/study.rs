//! A table made ready for a policy, and how its one free constant is chosen.
//!
//! All of [`EstimatorConfig`] is fixed but the penalty of the regression, which is the variance of an outcome
//! over that of what words explain, and differs from set to set. It is chosen among [`PENALTIES`] by
//! cross-validation inside the training rows. The other defaults were found the same way on training
//! questions of LLMRouter and on [`DEVELOPMENT`] rows of RouteLLM's MMLU and of MMLU-Pro, which no test uses.

use std::sync::Arc;

use polymath_router::{
    Policy, Question, Random,
    learning::{Codebook, Estimator, EstimatorConfig, Seen, Sparse},
};
use polymath_types::ExpertId;

use crate::{
    Table,
    baseline::argmax,
    policies::{Entry, LEARNED},
};

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

/// A text as policies see it.
#[derive(Debug, Clone)]
struct Encoded {
    vector: Sparse,
    cues: Vec<f32>,
}

impl Encoded {
    fn new(text: &str) -> Self {
        let encoding = polymath_encoder::encode(text);
        Self {
            vector: Sparse::new(&encoding.places, &encoding.values),
            cues: encoding.cues.to_vec(),
        }
    }

    fn question(&self) -> Question<'_> {
        Question {
            vector: &self.vector,
            cues: &self.cues,
        }
    }
}

/// A table, its experts' ids, its queries as they are seen, and the policy that learns from it.
#[derive(Debug)]
pub struct Study {
    /// The graded answers.
    pub table: Table,
    /// In the order of the table's experts.
    pub ids: Vec<ExpertId>,
    /// In the order of the table's rows, for an estimator with the default books.
    pub seen: Vec<Arc<Seen>>,
    encoded: Vec<Encoded>,
    policy: Entry,
}

impl Study {
    /// Encodes a table for the learned policy.
    pub fn new(table: Table) -> Self {
        Self::with(table, LEARNED)
    }

    /// Encodes a table.
    pub fn with(table: Table, policy: Entry) -> Self {
        let e = estimator(EstimatorConfig::default(), 0);
        let rows = table.rows.iter();
        let encoded: Vec<Encoded> = rows.map(|r| Encoded::new(&r.query)).collect();
        let seen = encoded.iter().map(|e| (&e.vector, &e.cues));
        Self {
            ids: table.experts.iter().map(|n| expert_id(n)).collect(),
            seen: seen.map(|(v, cues)| Arc::new(e.see(v, cues))).collect(),
            encoded,
            policy,
            table,
        }
    }

    /// Lets the policy learn every expert's grade of the given rows.
    pub fn fit(&self, penalty: f32, rows: &[usize]) -> Box<dyn Policy> {
        let mut policy = (self.policy.make)(penalty);
        for row in rows {
            let scores = self.table.rows[*row].scores.iter();
            let graded = self.ids.iter().zip(scores);
            let graded: Vec<_> = graded.map(|(id, score)| ((*id, PRIOR), *score)).collect();
            policy.observe_all(self.encoded[*row].question(), &graded);
        }
        policy.settle(PASSES);
        policy
    }

    /// The same for the estimator by itself.
    pub fn estimator(&self, penalty: f32, rows: &[usize]) -> Estimator {
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
    pub fn scores(&self, policy: &dyn Policy, row: usize) -> Vec<f64> {
        let experts: Vec<_> = self.ids.iter().map(|id| (*id, PRIOR)).collect();
        let estimates = policy.estimate(self.encoded[row].question(), &experts);
        // Whatever a policy leaves out comes last.
        let mut scores = vec![f64::NEG_INFINITY; experts.len()];
        let known = scores.iter_mut().zip(&estimates);
        known.for_each(|(score, e)| *score = e.unbounded());
        scores
    }

    /// The same by an estimator.
    pub fn estimated(&self, e: &Estimator, row: usize) -> Vec<f64> {
        self.ids
            .iter()
            .map(|id| e.score(id, &self.seen[row], PRIOR))
            .collect()
    }

    /// The penalty under which held-out parts of `rows` score best; `objective` grades an estimator on them.
    pub fn penalty(&self, rows: &[usize], objective: impl Fn(&dyn Policy, &[usize]) -> f64) -> f32 {
        let first = self.policy.penalties.first().copied();
        let mut best = (f64::NEG_INFINITY, first.unwrap_or_default());
        if self.policy.penalties.len() < 2 {
            return best.1;
        }
        for penalty in self.policy.penalties.iter().copied() {
            let grades = folds(rows, INNER, 17)
                .into_iter()
                .map(|(train, held)| objective(&*self.fit(penalty, &train), &held));
            let sum: f64 = grades.sum();
            if sum > best.0 {
                best = (sum, penalty);
            }
        }
        best.1
    }

    /// Mean reward when each row goes to the expert expected to be best.
    pub fn routed(&self, policy: &dyn Policy, rows: &[usize]) -> f64 {
        self.routes(policy, rows).iter().sum::<f64>() / rows.len().max(1) as f64
    }

    /// The same, row by row.
    pub fn routes(&self, policy: &dyn Policy, rows: &[usize]) -> Vec<f64> {
        rows.iter()
            .map(|r| self.table.rows[*r].scores[argmax(&self.scores(policy, *r))])
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
