//! Which token comes next.
//!
//! The only randomness is a number in [0, 1) that is a function of (seed, position in the answer).
//! An answer carried on elsewhere from its first K tokens therefore draws the same numbers.

use std::{cmp::Ordering, collections::BinaryHeap};

use polymath_types::{Sampling, SamplingOverrides};

use crate::vector;

/// Below this temperature sampling is greedy: its scale would leave the range of a float.
const COLDEST: f64 = 1e-6;
/// Most stop strings, the expert's and the caller's together.
const MAX_STOPS: usize = 16;
/// Longest stop string, bytes.
const MAX_STOP: usize = 64;

/// How one answer is sampled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) max_tokens: u32,
    pub(crate) seed: u64,
    pub(crate) stop: Vec<String>,
    temperature: f64,
    top_p: f64,
    top_k: u32,
    repeat_penalty: f64,
}

impl Plan {
    /// An expert's defaults with a caller's changes; the stop strings of both apply.
    /// Errors are one line for the caller.
    pub(crate) fn new(
        defaults: &Sampling,
        overrides: &SamplingOverrides,
        seed: impl FnOnce() -> u64,
    ) -> Result<Self, String> {
        let plan = Self {
            max_tokens: overrides.max_tokens.unwrap_or(defaults.max_tokens),
            seed: overrides.seed.unwrap_or_else(seed),
            stop: defaults
                .stop
                .iter()
                .chain(&overrides.stop)
                .cloned()
                .collect(),
            temperature: overrides.temperature.unwrap_or(defaults.temperature),
            top_p: overrides.top_p.unwrap_or(defaults.top_p),
            top_k: overrides.top_k.unwrap_or(defaults.top_k),
            repeat_penalty: defaults.repeat_penalty,
        };
        if plan.max_tokens == 0 {
            return Err("max_tokens must be at least 1".into());
        }
        if !(0.0..=5.0).contains(&plan.temperature) {
            return Err(format!(
                "temperature must be between 0 and 5, not {}",
                plan.temperature
            ));
        }
        if !(plan.top_p > 0.0 && plan.top_p <= 1.0) {
            return Err(format!(
                "top_p must be above 0 and at most 1, not {}",
                plan.top_p
            ));
        }
        if plan.stop.len() > MAX_STOPS
            || plan.stop.iter().any(|s| s.is_empty() || s.len() > MAX_STOP)
        {
            return Err(format!(
                "at most {MAX_STOPS} stop strings of 1 to {MAX_STOP} bytes each, none of them empty"
            ));
        }
        Ok(plan)
    }

    /// The token at `position` of the answer (the forced prefix counts), given the model's
    /// `logits` and the tokens already `said`. Ties go to the lowest id.
    pub(crate) fn next(&self, logits: &mut [f32], said: &[u32], position: u64) -> u32 {
        self.penalise(logits, said);
        if self.temperature < COLDEST {
            return likeliest(logits);
        }
        let max = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let scale = (1.0 / self.temperature) as f32;
        vector::exp_scaled(logits, max, scale);
        let draw = uniform(self.seed, position);
        if self.top_k == 0 && self.top_p >= 1.0 {
            let total: f64 = logits.iter().map(|w| f64::from(*w)).sum();
            return pick((0u32..).zip(logits.iter().copied()), draw * total);
        }
        let kept = self.nucleus(logits);
        let total: f64 = kept.iter().map(|c| f64::from(c.weight)).sum();
        pick(kept.iter().map(|c| (c.id, c.weight)), draw * total)
    }

    /// The `top_k` likeliest, in falling order, cut off where `top_p` of their mass is reached.
    fn nucleus(&self, weights: &[f32]) -> Vec<Candidate> {
        let mut heap: BinaryHeap<Candidate> = (0u32..)
            .zip(weights)
            .map(|(id, weight)| Candidate {
                weight: *weight,
                id,
            })
            .collect();
        let mut falling = std::iter::from_fn(|| heap.pop());
        let shortlist: Option<Vec<_>> =
            (self.top_k > 0).then(|| falling.by_ref().take(self.top_k as usize).collect());
        let total: f64 = match &shortlist {
            Some(list) => list.iter().map(|c| f64::from(c.weight)).sum(),
            None => weights.iter().map(|w| f64::from(*w)).sum(),
        };
        let mut kept = Vec::new();
        let mut mass = 0.0;
        for candidate in shortlist.into_iter().flatten().chain(falling) {
            mass += f64::from(candidate.weight);
            kept.push(candidate);
            if mass >= self.top_p * total || kept.len() == self.top_k as usize {
                break;
            }
        }
        kept
    }

    fn penalise(&self, logits: &mut [f32], said: &[u32]) {
        if self.repeat_penalty == 1.0 {
            return;
        }
        let mut said = said.to_vec();
        said.sort_unstable();
        said.dedup();
        let penalty = self.repeat_penalty as f32;
        for id in said {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    weight: f32,
    id: u32,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.weight
            .total_cmp(&other.weight)
            .then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The first candidate at which the running mass passes `mark`.
fn pick(candidates: impl Iterator<Item = (u32, f32)>, mark: f64) -> u32 {
    let mut mass = 0.0;
    let mut last = 0;
    for (id, weight) in candidates {
        if weight > 0.0 {
            last = id;
            mass += f64::from(weight);
            if mass > mark {
                break;
            }
        }
    }
    last
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0u32, f32::NEG_INFINITY);
    for (id, logit) in (0u32..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}

/// A number in [0, 1), 53 bits, from BLAKE3 over seed and position.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("polymath sampling v1");
    hasher
        .update(&seed.to_le_bytes())
        .update(&position.to_le_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(change: impl FnOnce(&mut SamplingOverrides)) -> Plan {
        let mut overrides = SamplingOverrides {
            seed: Some(1),
            ..SamplingOverrides::default()
        };
        change(&mut overrides);
        Plan::new(&Sampling::default(), &overrides, || 0).unwrap()
    }

    fn counts(plan: &Plan, logits: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        for position in 0..4000 {
            counts[plan.next(&mut logits.to_vec(), &[], position) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(plan(|_| ()).next(&mut [0.0, 2.0, 2.0, 1.0], &[], 0), 1);
    }

    #[test]
    fn the_coldest_temperatures_are_greedy() {
        for temperature in [1e-6, 1e-7, 1e-40, f64::MIN_POSITIVE, 1e-320] {
            let cold = plan(|o| o.temperature = Some(temperature));
            for position in 0..50 {
                let mut logits = [0.0, 2.0, 25.0, 24.9];
                assert_eq!(cold.next(&mut logits, &[], position), 2, "{temperature}");
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [1f32, 2.0, 3.0, 4.0].map(f32::ln);
        let drawn = counts(&plan(|o| o.temperature = Some(1.0)), &logits);
        for (i, n) in drawn.iter().enumerate() {
            let expected = 400.0 * (i + 1) as f64;
            assert!(
                (f64::from(*n) - expected).abs() < 5.0 * expected.sqrt(),
                "{drawn:?}"
            );
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [1f32, 2.0, 3.0, 4.0].map(f32::ln);
        let with = |k, p| {
            counts(
                &plan(|o| {
                    o.temperature = Some(1.0);
                    o.top_k = Some(k);
                    o.top_p = Some(p);
                }),
                &logits,
            )
        };
        assert_eq!(with(2, 1.0)[..2], [0, 0]);
        assert_eq!(with(0, 0.3)[..3], [0, 0, 0]);
        assert_eq!(with(0, 0.6)[..2], [0, 0]);
        assert_eq!(with(3, 0.7)[..2], [0, 0], "4 + 3 of 9 is enough");
        assert!(with(0, 0.6)[2] > 0);
    }

    #[test]
    fn the_penalty_falls_on_what_was_said() {
        let sampling = Sampling {
            repeat_penalty: 2.0,
            ..Sampling::default()
        };
        let plan = Plan::new(&sampling, &SamplingOverrides::default(), || 0).unwrap();
        assert_eq!(plan.next(&mut [1.0, 1.5, -1.0], &[1, 1], 0), 0);
        assert_eq!(plan.next(&mut [-1.0, -1.5], &[0], 0), 1);
    }

    #[test]
    fn numbers_depend_on_seed_and_position_alone() {
        assert_eq!(uniform(1, 2), uniform(1, 2));
        assert_ne!(uniform(1, 2), uniform(2, 1));
        assert_ne!(uniform(0, 1), uniform(0, 2));
        let mean: f64 = (0..4000).map(|i| uniform(9, i)).sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02);
    }

    #[test]
    fn nonsense_is_refused_with_its_range() {
        let refuse = |o: SamplingOverrides| Plan::new(&Sampling::default(), &o, || 0).unwrap_err();
        let o = SamplingOverrides::default;
        assert!(
            refuse(SamplingOverrides {
                temperature: Some(f64::NAN),
                ..o()
            })
            .contains("0 and 5")
        );
        assert!(
            refuse(SamplingOverrides {
                top_p: Some(0.0),
                ..o()
            })
            .contains("top_p")
        );
        assert!(
            refuse(SamplingOverrides {
                max_tokens: Some(0),
                ..o()
            })
            .contains("max_tokens")
        );
        assert!(
            refuse(SamplingOverrides {
                stop: vec![String::new()],
                ..o()
            })
            .contains("stop")
        );
    }
}
