//! What a policy is: it says how good each expert's answer will be, and is told how good it was.
//!
//! Filters, replicas, breakers and the order of candidates are the router's own; a policy fills in quality
//! alone, so that one of another make can take the place of [`Learner`] without knowing of peers.
//! `examples/own_policy.rs` is one that lives outside this crate.

use std::fmt::Debug;

use polymath_types::ExpertId;

use crate::learning::{Estimate, Learner, Sparse};

/// A query as a policy sees it: no text.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The encoder's vector, of length 1; empty where there is none.
    pub vector: &'a Sparse,
    /// The encoder's cues.
    pub cues: &'a [f32],
}

/// See the module. Calls are made under the router's lock: none may wait or take long.
pub trait Policy: Debug + Send {
    /// As `--policy` names it.
    fn name(&self) -> &'static str;

    /// What is expected of each expert, in their order. With each comes its prior: what is thought of it
    /// without any outcome, 0 to 1.
    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate>;

    /// Which of `experts` to ask, where exploring is allowed: its place. The default asks the best.
    fn choose(&mut self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Option<usize> {
        let estimates = self.estimate(question, experts);
        let best = estimates
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
        best.map(|(at, _)| at)
    }

    /// An expert's answer was graded, 0 to 1.
    fn observe(&mut self, question: Question<'_>, expert: (ExpertId, f64), reward: f64);
}

impl Policy for Learner {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let seen = self.estimator().see(question.vector, question.cues);
        experts
            .iter()
            .map(|(id, prior)| self.estimator().estimate(id, &seen, *prior))
            .collect()
    }

    fn choose(&mut self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Option<usize> {
        let seen = self.estimator().see(question.vector, question.cues);
        self.pick(experts, &seen).map(|p| p.chosen)
    }

    fn observe(&mut self, question: Question<'_>, (expert, prior): (ExpertId, f64), reward: f64) {
        let seen = self.estimator().see(question.vector, question.cues).into();
        Self::observe(self, expert, &seen, prior, reward);
    }
}
