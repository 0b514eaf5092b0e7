//! Whom to ask when it is not certain who is best: Thompson sampling within a budget.
//!
//! Each expert's posterior is sampled once and the best sample wins (Thompson 1933), so experts are asked in
//! proportion to the chance that they are the best one. Asking any but the expected best costs a token; a
//! share of decisions earns one, so what exploration can cost is bounded.

use super::Estimate;
use crate::Random;

/// A choice among estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Place of the chosen one.
    pub chosen: usize,
    /// Place of the one expected to be best.
    pub expected: usize,
}

/// Chooses, and counts what it spent on exploration.
#[derive(Debug, Clone)]
pub struct Explorer {
    share: f64,
    tokens: f64,
    burst: f64,
    random: Random,
}

impl Explorer {
    /// `share` of decisions may explore, `burst` of them in a row; equal seeds choose alike.
    pub const fn new(share: f64, burst: f64, seed: u64) -> Self {
        Self {
            share,
            tokens: 0.0,
            burst,
            random: Random::new(seed),
        }
    }

    /// Chooses; `None` of no estimates. `utility` turns a quality into what is maximised.
    pub fn pick(
        &mut self,
        estimates: &[Estimate],
        utility: impl Fn(usize, f64) -> f64,
    ) -> Option<Pick> {
        let (mut expected, mut sampled) = (None, None);
        for (at, estimate) in estimates.iter().enumerate() {
            let sample = estimate.mean + estimate.deviation() * self.random.normal();
            for (best, quality) in [(&mut expected, estimate.mean), (&mut sampled, sample)] {
                let value = utility(at, quality);
                if best.is_none_or(|(_, other)| value > other) {
                    *best = Some((at, value));
                }
            }
        }
        let (expected, sampled) = (expected?.0, sampled?.0);
        self.tokens = (self.tokens + self.share).min(self.burst);
        let explores = sampled != expected && self.tokens >= 1.0;
        if explores {
            self.tokens -= 1.0;
        }
        Some(Pick {
            chosen: if explores { sampled } else { expected },
            expected,
        })
    }

    /// With what chance each would be chosen now: by sampling, so within some hundredths.
    pub fn chances(&self, estimates: &[Estimate], utility: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        const DRAWS: usize = 64;
        let mut trial = self.clone();
        trial.tokens = self.tokens + self.share;
        let mut chosen = vec![0.0; estimates.len()];
        for _ in 0..DRAWS {
            let tokens = trial.tokens;
            if let Some(pick) = trial.pick(estimates, &utility) {
                chosen[pick.chosen] += 1.0 / DRAWS as f64;
            }
            trial.tokens = tokens;
        }
        chosen
    }

    /// Something changed: the whole burst may be spent again.
    pub const fn refill(&mut self) {
        self.tokens = self.burst;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, mass: f64) -> Estimate {
        Estimate {
            mean,
            mass,
            levels: Vec::new(),
            local: 0.0,
        }
    }

    #[test]
    fn the_uncertain_are_tried_and_the_budget_holds() {
        let mut explorer = Explorer::new(0.05, 10.0, 1);
        let unsure = [estimate(0.5, 4.0), estimate(0.49, 4.0)];
        let picks = (0..1000).filter_map(|_| explorer.pick(&unsure, |_, q| q));
        let explored = picks.filter(|p| p.chosen != p.expected).count();
        assert!((40..=60).contains(&explored), "{explored}");
        let sure = [estimate(0.9, 1000.0), estimate(0.2, 1000.0)];
        let picks: Vec<_> = (0..1000)
            .filter_map(|_| explorer.pick(&sure, |_, q| q))
            .collect();
        assert!(picks.iter().all(|p| p.chosen == 0));
        assert_eq!(explorer.pick(&[], |_, q| q), None);
    }
}
