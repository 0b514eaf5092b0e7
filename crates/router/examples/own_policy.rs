//! A policy of another make, held against the router's own on a made-up stream:
//! `cargo run --release -p polymath-router --example own_policy`.
//!
//! Two subjects, two experts, each good at one of them. The policy below keeps a running mean for each expert
//! and knows nothing of subjects, so it cannot be right more often than not; the learned one can.

use std::collections::HashMap;

use polymath_router::{
    Policy, Question, Random,
    learning::{Codebook, Estimate, EstimatorConfig, Learner, Sparse},
};
use polymath_types::ExpertId;

/// Counts and sums of rewards.
#[derive(Debug, Default)]
struct RunningMean(HashMap<ExpertId, (f64, f64)>);

impl Policy for RunningMean {
    fn name(&self) -> &'static str {
        "running-mean"
    }

    fn estimate(&self, _: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let one = |(id, prior): &(ExpertId, f64)| {
            let (count, sum) = self.0.get(id).copied().unwrap_or_default();
            let mean = (sum + prior) / (count + 1.0);
            Estimate {
                mean,
                mass: count + 1.0,
                levels: vec![mean],
                local: 0.0,
            }
        };
        experts.iter().map(one).collect()
    }

    fn observe(&mut self, _: Question<'_>, (expert, _): (ExpertId, f64), reward: f64) {
        let known = self.0.entry(expert).or_default();
        *known = (known.0 + 1.0, known.1 + reward);
    }
}

fn main() {
    let learner = Learner::new(EstimatorConfig::default(), Codebook::defaults().into(), 1);
    let policies: [Box<dyn Policy>; 2] = [Box::<RunningMean>::default(), Box::new(learner)];
    for mut policy in policies {
        let experts = [1, 2].map(|n| (ExpertId::from_bytes([n; 32]), 0.5));
        let mut random = Random::new(7);
        let mut earned = 0.0;
        for _ in 0..2000 {
            let subject = random.below(2);
            let first = subject as u32 * 1000;
            let word = first + random.below(40) as u32 + 1;
            let vector = Sparse::new(&[first, word], &[0.8, 0.6]);
            let question = Question {
                vector: &vector,
                cues: &[],
            };
            let Some(choice) = policy.choose(question, &experts) else {
                continue;
            };
            let at = choice.chosen;
            let reward = f64::from(u8::from(
                random.unit() < if at == subject { 0.9 } else { 0.3 },
            ));
            policy.observe(question, experts[at], reward);
            earned += reward;
        }
        println!("{}: {:.3} of 1 a question", policy.name(), earned / 2000.0);
    }
}
