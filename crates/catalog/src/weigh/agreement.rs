//! How far what one observer says is from what is known otherwise.
//!
//! Means of few outcomes differ by chance. What is held against an observer is how much more they
//! differ than chance explains: of the mean squared difference, the variances of both sides are taken
//! away, and one standard error besides. So an honest observer that has seen little keeps its word, and
//! one that lies in many cells does not, however small the lie in each.

use std::iter::Sum;

use polymath_types::Evidence;

/// σ of the weight exp(-(d/σ)²): a tenth of a point off costs a third.
const SIGMA: f64 = 0.15;
/// Own outcomes in a cell from which they are held against others.
const OWN_LEAST: u32 = 5;
/// Outcomes compared with own evidence that prove an observer, and the weight it must have.
const PROOF: u32 = 20;
const PROOF_OF_THOUSAND: u16 = 500;
/// Variance of the middle of the votes: of one however many there are, and divided among them. Keys
/// cost nothing, so a crowd is never as sure as some twelve own outcomes.
const CROWD: f64 = 0.02;
const VOTE: f64 = 0.08;

/// Sums over cells. They add up: of one expert's cells, of all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Agreement {
    /// Of the cells' weights.
    weight: f64,
    /// Weighted squares of differences, less what chance explains.
    excess: f64,
    /// Variance of that sum.
    variance: f64,
    /// Outcomes that were compared with own evidence.
    own: u32,
}

/// The variance of a mean, of one more success and failure (Laplace), so that it is never 0.
fn variance(evidence: Evidence) -> f64 {
    let n = f64::from(evidence.count.max(1));
    let p = (evidence.mean() * n + 1.0) / (n + 2.0);
    p * (1.0 - p) / n
}

impl Agreement {
    /// Holds what was said of a cell against own evidence and against the middle of so many votes.
    pub(super) fn between(
        said: Evidence,
        own: Option<Evidence>,
        crowd: Option<(f64, u32)>,
    ) -> Self {
        let own = own.filter(|own| own.count >= OWN_LEAST);
        let of_own = own.map(|own| (own.mean(), variance(own)));
        let of_crowd = crowd.map(|(mean, votes)| (mean, CROWD + VOTE / f64::from(votes.max(1))));
        // By inverse variance, as two measurements of one thing.
        let sure: f64 = of_own.iter().chain(&of_crowd).map(|(_, v)| 1.0 / v).sum();
        if sure <= 0.0 {
            return Self::default();
        }
        let mean = of_own
            .iter()
            .chain(&of_crowd)
            .map(|(m, v)| m / v)
            .sum::<f64>()
            / sure;
        let chance = variance(said) + 1.0 / sure;
        let weight = 1.0 / chance;
        Self {
            weight,
            excess: weight * ((said.mean() - mean).powi(2) - chance),
            // A squared normal variable has twice the squared variance.
            variance: 2.0 * (weight * chance).powi(2),
            own: own.map_or(0, |own| said.count.min(own.count).min(super::MASS)),
        }
    }

    /// The weight: exp(-(d/σ)²), of 1000. Of whom nothing is known it is 1000.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1000
    pub(super) fn of_thousand(&self) -> u16 {
        if self.weight <= 0.0 {
            return 1000;
        }
        let squared = ((self.excess - self.variance.sqrt()) / self.weight).max(0.0);
        (1000.0 * (-squared / (SIGMA * SIGMA)).exp()).round() as u16
    }

    /// Whether it shows that the observer's word is good.
    pub(super) fn is_proof(&self) -> bool {
        self.own >= PROOF && self.of_thousand() >= PROOF_OF_THOUSAND
    }
}

impl Sum for Agreement {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            weight: sum.weight + one.weight,
            excess: sum.excess + one.excess,
            variance: sum.variance + one.variance,
            own: sum.own.saturating_add(one.own),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(count: u32, mean: f64) -> Evidence {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let reward = (f64::from(count) * mean * 1000.0) as u32;
        Evidence { count, reward }
    }

    fn against_own(said: Evidence, own: Evidence) -> Agreement {
        Agreement::between(said, Some(own), None)
    }

    #[test]
    fn what_chance_explains_costs_nothing_and_a_plain_lie_all() {
        let own = evidence(50, 0.6);
        assert_eq!(against_own(evidence(5, 0.4), own).of_thousand(), 1000);
        assert!(against_own(evidence(500, 0.1), own).of_thousand() < 5);
        let little = evidence(OWN_LEAST - 1, 0.6);
        assert_eq!(against_own(evidence(500, 0.1), little).of_thousand(), 1000);
    }

    #[test]
    fn small_lies_in_many_cells_add_up() {
        let lie = || against_own(evidence(30, 0.8), evidence(30, 0.6));
        let one = lie().of_thousand();
        let many: Agreement = (0..40).map(|_| lie()).sum();
        assert!(
            one > 600 && many.of_thousand() < one * 2 / 3,
            "{one} {many:?}"
        );
        assert!(!many.is_proof());
    }

    #[test]
    fn own_evidence_outweighs_a_crowd_of_any_size() {
        let (said, own) = (evidence(100, 0.9), evidence(60, 0.3));
        let agreement = Agreement::between(said, Some(own), Some((0.9, 16_000)));
        assert!(agreement.of_thousand() < 100, "{agreement:?}");
    }

    #[test]
    fn who_agreed_with_enough_own_evidence_is_proven() {
        let own = evidence(30, 0.6);
        assert!(against_own(evidence(25, 0.6), own).is_proof());
        assert!(!against_own(evidence(10, 0.6), own).is_proof());
        assert!(!against_own(evidence(1000, 0.0), own).is_proof());
        assert!(!Agreement::default().is_proof());
    }
}
