//! The policies that can be measured, by name: those of daemons.
//!
//! Whatever implements [`Policy`] can: an [`Entry`] says how one is made, and [`evaluate`](crate::evaluate)
//! takes any.

use polymath_router::{
    Likeness, Policy, Question,
    learning::{Estimate, Estimator},
};
use polymath_types::ExpertId;

use crate::study::{PENALTIES, estimator, whole};

/// A policy, and how it is made.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// As `--policy` names it.
    pub name: &'static str,
    /// What its one free constant is chosen among, by cross-validation inside training rows; may be empty.
    pub penalties: &'static [f32],
    /// With nothing learnt, and that constant.
    pub make: fn(penalty: f32) -> Box<dyn Policy>,
}

/// What daemons decide with, but that everything is kept and nothing is discounted.
pub const LEARNED: Entry = Entry {
    name: "learned",
    penalties: &PENALTIES,
    make: |penalty| Box::new(Whole(estimator(whole(penalty), 1))),
};

/// All of them, as [`polymath_router::POLICIES`] names them.
pub const POLICIES: [Entry; 4] = [
    LEARNED,
    Entry {
        name: "likeness",
        penalties: &[],
        make: |_| plain("likeness"),
    },
    Entry {
        name: "best-single",
        penalties: &[],
        make: |_| plain("best-single"),
    },
    Entry {
        name: "random",
        penalties: &[],
        make: |_| plain("random"),
    },
];

/// As a daemon has it.
fn plain(name: &str) -> Box<dyn Policy> {
    polymath_router::by_name(name, 1).unwrap_or_else(|| Box::new(Likeness))
}

/// The policy of a name.
pub fn by_name(name: &str) -> Option<Entry> {
    POLICIES.into_iter().find(|p| p.name == name)
}

/// The estimator on data read as a whole: no exploration, and no alarm about experts that change.
#[derive(Debug)]
struct Whole(Estimator);

impl Policy for Whole {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let seen = self.0.see(question.vector, question.cues);
        let experts = experts.iter();
        experts
            .map(|(id, prior)| self.0.estimate(id, &seen, *prior))
            .collect()
    }

    fn observe(&mut self, question: Question<'_>, expert: (ExpertId, f64), reward: f64) {
        self.observe_all(question, &[(expert, reward)]);
    }

    fn observe_all(&mut self, question: Question<'_>, graded: &[((ExpertId, f64), f64)]) {
        let seen = self.0.see(question.vector, question.cues).into();
        for ((expert, prior), reward) in graded {
            self.0.observe(*expert, &seen, *prior, *reward);
        }
    }

    fn settle(&mut self, passes: usize) {
        self.0.settle(passes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_same_policy_to_daemons_and_to_the_evaluation() {
        assert_eq!(POLICIES.map(|p| p.name), polymath_router::POLICIES);
        for entry in POLICIES {
            assert_eq!((entry.make)(1.0).name(), entry.name);
        }
    }
}
