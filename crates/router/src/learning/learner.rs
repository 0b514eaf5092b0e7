//! The loop of learning: whom to ask, what the answer teaches, and what to do when an expert changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use polymath_types::ExpertId;

use super::{Codebook, Drift, Estimator, EstimatorConfig, Explorer, Pick, Seen, Sparse};
use crate::Question;

/// Share of decisions that may explore, and how many in a row.
const EXPLORED: f64 = 0.05;
const BURST: f64 = 20.0;
/// What still counts of an expert that changed.
const KEPT: f32 = 0.05;
/// What still counts of all others then: what changed one may have changed another, which is asked so
/// rarely that its own change would be found late.
const KEPT_OF_OTHERS: f32 = 0.3;

/// A question's vector and cues, and the same prepared.
type Last = (Sparse, Vec<f32>, Arc<Seen>);

/// Estimator, exploration and drift in one.
#[derive(Debug)]
pub struct Learner {
    estimator: Estimator,
    explorer: Explorer,
    drifts: HashMap<ExpertId, Drift>,
    most: usize,
    last: Mutex<Option<Last>>,
}

impl Learner {
    /// With nothing learnt; equal seeds and histories decide alike.
    pub fn new(config: EstimatorConfig, books: Arc<[Codebook]>, seed: u64) -> Self {
        Self {
            most: config.max_experts.max(1),
            estimator: Estimator::new(config, books, seed),
            explorer: Explorer::new(EXPLORED, BURST, seed),
            drifts: HashMap::new(),
            last: Mutex::default(),
        }
    }

    /// What it knows.
    pub const fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// The same, to be given what others reported.
    pub const fn estimator_mut(&mut self) -> &mut Estimator {
        &mut self.estimator
    }

    /// A question prepared: the last one is kept, since it is often asked of twice.
    pub(crate) fn see(&self, question: Question<'_>) -> Arc<Seen> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((vector, cues, seen)) = &*last
            && vector == question.vector
            && cues == question.cues
        {
            return Arc::clone(seen);
        }
        let seen = Arc::new(self.estimator.see(question.vector, question.cues));
        let cues = question.cues.to_vec();
        *last = Some((question.vector.clone(), cues, Arc::clone(&seen)));
        seen
    }

    /// Chooses among `experts`, each with its prior, by quality alone.
    pub fn pick(&mut self, experts: &[(ExpertId, f64)], seen: &Seen) -> Option<Pick> {
        let estimates = self.estimator.estimates(experts, seen);
        self.explorer.pick(&estimates, |_, quality| quality)
    }

    /// The same, with what chance each is chosen.
    pub fn draw(&mut self, experts: &[(ExpertId, f64)], seen: &Seen) -> Option<(Pick, Vec<f64>)> {
        let estimates = self.estimator.estimates(experts, seen);
        let chances = self.explorer.chances(&estimates, |_, quality| quality);
        let pick = self.explorer.pick(&estimates, |_, quality| quality)?;
        Some((pick, chances))
    }

    /// An answer was graded, 0 to 1. Says whether the expert is found to have changed.
    pub fn observe(&mut self, expert: ExpertId, seen: &Arc<Seen>, prior: f64, reward: f64) -> bool {
        let expected = self.estimator.estimate(&expert, seen, prior).mean;
        if self.drifts.len() >= self.most && !self.drifts.contains_key(&expert) {
            self.drifts.clear();
        }
        let changed = self
            .drifts
            .entry(expert)
            .or_default()
            .observe(expected, reward);
        if changed {
            self.estimator.doubt(KEPT_OF_OTHERS);
            self.estimator.soften(&expert, KEPT);
            self.explorer.refill();
        }
        self.estimator.observe(expert, seen, prior, reward);
        changed
    }
}
