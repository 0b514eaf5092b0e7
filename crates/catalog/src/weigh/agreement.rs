//! How far what one observer says is from what is known otherwise.
//!
//! Means of few outcomes differ by chance. What is held against an observer is how much more they
//! differ than chance explains: of the mean squared difference, the variances of both sides are taken
//! away, and some standard errors besides. So an honest observer that has seen little keeps its word, and
//! one that lies in many cells does not, however small the lie in each.

use std::iter::Sum;

use polymath_types::Evidence;

/// σ of the weight exp(-(d/σ)²): a tenth of a point off costs a third.
const SIGMA: f64 = 0.15;
/// Standard errors by which the excess may pass what chance explains. Every observer is judged in many cells,
/// of which the least agreeing counts: with one, the honest lose so much of their word by chance that it costs a
/// third of what sharing gains, with two a sixth (training rows, `choose_sharing` in `crates/eval/examples`).
/// With three, six of twenty that say anything at all do harm where this node has seen nothing.
const LENIENCE: f64 = 2.0;
/// Own outcomes in a cell from which they are held against others.
const OWN_LEAST: u32 = 5;
/// Outcomes compared with own evidence that prove an observer, and the weight it must have.
const PROOF: u32 = 20;
const PROOF_OF_THOUSAND: u16 = 500;
/// What chance explains of the squared difference of two means, in variances, and one standard error of it.
const EXCUSED: f64 = 1.0 + std::f64::consts::SQRT_2;
/// Variance of the middle of the votes: of one however many there are, and divided among them. Keys
/// cost nothing, so a crowd is never surer than some 25 outcomes.
const CROWD: f64 = 0.01;
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
    /// Holds what was said of a cell against own evidence; if that is little, nothing is known of it.
    pub(super) fn with_own(said: Evidence, own: Option<Evidence>) -> Self {
        let Some(own) = own.filter(|own| own.count >= OWN_LEAST) else {
            return Self::default();
        };
        let compared = said.count.min(own.count).min(super::MASS);
        Self::between(said, own.mean(), variance(own), compared)
    }

    /// The same, against the middle of so many votes where own evidence is little. Where it is not, it
    /// alone judges: a crowd that lies would else damn those who say what this node has seen itself.
    pub(super) fn in_cell(
        said: Evidence,
        own: Option<Evidence>,
        crowd: Option<(f64, u32)>,
    ) -> Self {
        if own.is_some_and(|own| own.count >= OWN_LEAST) {
            return Self::with_own(said, own);
        }
        let Some((mean, votes)) = crowd else {
            return Self::default();
        };
        Self::between(said, mean, CROWD + VOTE / f64::from(votes.max(1)), 0)
    }

    fn between(said: Evidence, mean: f64, of_mean: f64, own: u32) -> Self {
        let chance = variance(said) + of_mean;
        let weight = 1.0 / chance;
        Self {
            weight,
            excess: weight * ((said.mean() - mean).powi(2) - chance),
            // A squared normal variable has twice the squared variance.
            variance: 2.0 * (weight * chance).powi(2),
            own,
        }
    }

    /// The weight: exp(-(d/σ)²), of 1000. Of whom nothing is known it is 1000.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1000
    pub(super) fn of_thousand(&self) -> u16 {
        if self.weight <= 0.0 {
            return 1000;
        }
        let squared = ((self.excess - LENIENCE * self.variance.sqrt()) / self.weight).max(0.0);
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

/// What many say together of a cell: the mean of so many outcomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pooled {
    pub(super) count: f64,
    pub(super) mean: f64,
}

impl Pooled {
    /// What one node has seen, if it is enough to be held against others.
    pub(super) fn own(own: Option<Evidence>) -> Option<Self> {
        let own = own.filter(|own| own.count >= OWN_LEAST)?;
        Some(Self {
            count: own.count.into(),
            mean: own.mean(),
        })
    }

    /// The same, if it is enough.
    pub(super) fn enough(self) -> Option<Self> {
        (self.count >= f64::from(OWN_LEAST)).then_some(self)
    }

    /// The variance of one outcome, of one more success and failure.
    fn of_one(&self) -> f64 {
        let n = self.count.max(1.0);
        let p = (self.mean * n + 1.0) / (n + 2.0);
        p * (1.0 - p)
    }

    /// How many outcomes these are worth, if their source is so far (squared) from what is known better:
    /// the variance between two sources is added to that of the mean, however many the outcomes are.
    pub(super) fn worth(&self, apart: f64) -> f64 {
        self.count / (1.0 + apart * self.count / self.of_one())
    }
}

/// How far what many say together is from what is known better, over one cell or many. Each of them may
/// be off by what chance explains of a few outcomes; all of them together may not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Apart {
    /// Of the differences' inverse variances.
    weight: f64,
    /// Differences, with their signs, by weight.
    sum: f64,
}

impl Apart {
    pub(super) fn between(said: Pooled, known: Pooled) -> Self {
        let chance = said.of_one() / said.count.max(1.0) + known.of_one() / known.count.max(1.0);
        let weight = 1.0 / chance;
        Self {
            weight,
            sum: weight * (said.mean - known.mean),
        }
    }

    /// The variance between both sources: the squared difference without what chance explains (DerSimonian
    /// and Laird 1986), and one standard error besides, or a third of those who are honest would lose their
    /// word in a cell.
    pub(super) fn squared(&self) -> f64 {
        if self.weight <= 0.0 {
            return 0.0;
        }
        ((self.sum / self.weight).powi(2) - EXCUSED / self.weight).max(0.0)
    }
}

impl Sum for Apart {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            weight: sum.weight + one.weight,
            sum: sum.sum + one.sum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_say_it_what_contradicts_is_worth_few_outcomes() {
        let known = Pooled {
            count: 30.0,
            mean: 0.6,
        };
        let said = |count, mean| Pooled { count, mean };
        let worth = |count, mean| {
            let said = said(count, mean);
            said.worth(Apart::between(said, known).squared())
        };
        assert!(worth(100.0, 0.65) > 99.0);
        assert!(worth(100.0, 0.3) < 5.0 && worth(100_000.0, 0.3) < 5.0);
        // What is small in each cell is not in all of them.
        let small = said(100.0, 0.68);
        assert!(Apart::between(small, known).squared() < 0.001);
        let many: Apart = (0..20).map(|_| Apart::between(small, known)).sum();
        assert!(many.squared() > 0.004, "{many:?}");
    }

    fn evidence(count: u32, mean: f64) -> Evidence {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let reward = (f64::from(count) * mean * 1000.0) as u32;
        Evidence { count, reward }
    }

    fn against_own(said: Evidence, own: Evidence) -> Agreement {
        Agreement::with_own(said, Some(own))
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
    fn no_crowd_judges_where_there_is_own_evidence() {
        let (lie, true_word, own) = (evidence(100, 0.9), evidence(10, 0.3), evidence(5, 0.2));
        let crowd = Some((0.9, 16_000));
        let weight = |said| Agreement::in_cell(said, Some(own), crowd).of_thousand();
        assert!(weight(lie) < 5);
        assert_eq!(weight(true_word), 1000);
        let weight = |said| Agreement::in_cell(said, None, crowd).of_thousand();
        assert_eq!(weight(lie), 1000);
        assert!(weight(true_word) < 5);
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
