//! Notices that an expert is no longer what it was.
//!
//! Two cumulative sums of standardised surprises (Page 1954, "Continuous Inspection Schemes"), one for better
//! and one for worse. Discounting alone forgets what still holds; this forgets when there is reason to.

/// Drift that is no matter, in standard deviations of one outcome.
const SLACK: f64 = 0.25;
/// Sum at which it is believed. By Siegmund's approximation a stable expert gives a false alarm once in
/// some 5,700 outcomes; a change by one deviation is noticed after about 16.
const LIMIT: f64 = 12.0;

/// What is summed of one expert.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Drift {
    better: f64,
    worse: f64,
}

impl Drift {
    /// An outcome against what was expected of it; true when the expert has changed, which also begins anew.
    pub fn observe(&mut self, expected: f64, reward: f64) -> bool {
        let spread = (expected * (1.0 - expected)).max(0.04).sqrt();
        let surprise = (reward - expected) / spread;
        if !surprise.is_finite() {
            return false;
        }
        self.better = (self.better + surprise - SLACK).max(0.0);
        self.worse = (self.worse - surprise - SLACK).max(0.0);
        let changed = self.better > LIMIT || self.worse > LIMIT;
        if changed {
            *self = Self::default();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    #[test]
    fn a_change_is_noticed_soon_and_stability_rarely_taken_for_one() {
        let (mut drift, mut random) = (Drift::default(), Random::new(1));
        let mut outcome = |good: f64| f64::from(u8::from(random.unit() < good));
        let alarms = (0..5000)
            .filter(|_| drift.observe(0.7, outcome(0.7)))
            .count();
        assert!(alarms <= 3, "{alarms} false alarms");
        let noticed = (1..).find(|_| drift.observe(0.7, outcome(0.2)));
        assert!(noticed.is_some_and(|n| n < 60), "{noticed:?}");
    }
}
