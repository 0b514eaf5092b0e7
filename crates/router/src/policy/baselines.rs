//! Policies that do not look at the question: a floor, and a ceiling of what needs no look at it.

use std::collections::HashMap;

use polymath_types::ExpertId;

use super::{Policy, Question};
use crate::{Random, learning::Estimate};

/// Experts of whom [`BestSingle`] keeps a mean.
const MOST_EXPERTS: usize = 4096;

/// Every expert's mean grade, whatever the question.
#[derive(Debug, Default)]
pub(super) struct BestSingle(HashMap<ExpertId, (f64, f64)>);

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
        if self.0.len() >= MOST_EXPERTS && !self.0.contains_key(&expert) {
            self.0.clear();
        }
        let known = self.0.entry(expert).or_default();
        *known = (known.0 + 1.0, known.1 + reward);
    }
}

/// A different expert for every question, the same one again for the same question.
#[derive(Debug)]
pub(super) struct Dice;

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
