//! The policies that can be measured, by name.
//!
//! Whatever implements [`Policy`] can: an [`Entry`] says how one is made, and [`evaluate`](crate::evaluate)
//! takes any. Those here stand for a floor and a ceiling of what needs no look at the question.

use std::collections::HashMap;

use polymath_router::{
    Policy, Question, Random,
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

/// All of them.
pub const POLICIES: [Entry; 3] = [
    LEARNED,
    Entry {
        name: "best-single",
        penalties: &[],
        make: |_| Box::<BestSingle>::default(),
    },
    Entry {
        name: "random",
        penalties: &[],
        make: |_| Box::new(Dice),
    },
];

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

/// Every expert's mean grade, whatever the question.
#[derive(Debug, Default)]
struct BestSingle(HashMap<ExpertId, (f64, f64)>);

impl Policy for BestSingle {
    fn name(&self) -> &'static str {
        "best-single"
    }

    fn estimate(&self, _: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let one = |(id, prior): &(ExpertId, f64)| {
            let (count, sum) = self.0.get(id).copied().unwrap_or_default();
            plain((sum + prior) / (count + 1.0), count + 1.0)
        };
        experts.iter().map(one).collect()
    }

    fn observe(&mut self, _: Question<'_>, (expert, _): (ExpertId, f64), reward: f64) {
        let known = self.0.entry(expert).or_default();
        *known = (known.0 + 1.0, known.1 + reward);
    }
}

/// A different expert for every question, the same one again for the same question.
#[derive(Debug)]
struct Dice;

impl Policy for Dice {
    fn name(&self) -> &'static str {
        "random"
    }

    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let mut hash = blake3::Hasher::new();
        for (place, value) in question.vector.iter() {
            hash.update(&place.to_be_bytes())
                .update(&value.to_be_bytes());
        }
        let digest = hash.finalize();
        let seed = digest.as_bytes()[..8].iter();
        let seed = seed.fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
        let mut random = Random::new(seed);
        experts.iter().map(|_| plain(random.unit(), 1.0)).collect()
    }

    fn observe(&mut self, _: Question<'_>, _: (ExpertId, f64), _: f64) {}
}

fn plain(mean: f64, mass: f64) -> Estimate {
    Estimate {
        mean,
        mass,
        levels: Vec::new(),
        local: 0.0,
    }
}
