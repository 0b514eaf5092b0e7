//! Chance: every draw is a function of the seed, of what it is for, and of its place.
//!
//! Draws do not depend on each other, so two policies in one scenario meet the same world however
//! differently they act in it.

/// What a draw is for; draws for different things are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Key = 1,
    Latency,
    Link,
    Mend,
    Tick,
    Leave,
    Entry,
    Side,
    Change,
    Speed,
    Service,
    Kill,
    Order,
    Pause,
    Arrival,
}

/// A counter-based generator: SplitMix64's finaliser (Steele, Lea, Flood 2014) over the words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn word(self, what: For, place: &[u64]) -> u64 {
        place.iter().fold(mix(self.0 ^ what as u64), |state, word| {
            mix(state ^ mix(*word))
        })
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(self, what: For, place: &[u64]) -> f64 {
        (self.word(what, place) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [from, to).
    pub(crate) fn between(self, from: f64, to: f64, what: For, place: &[u64]) -> f64 {
        from + (to - from) * self.unit(what, place)
    }

    /// Uniform below `n`; `n` is positive and far below 2^32, so that the bias is nothing.
    pub(crate) fn below(self, n: usize, what: For, place: &[u64]) -> usize {
        let high = self.word(what, place) >> 32;
        ((high * n as u64) >> 32) as usize
    }

    /// About standard normal: the sum of twelve uniform draws less six, so within ±6.
    pub(crate) fn normal(self, what: For, place: &[u64]) -> f64 {
        let root = Self(self.word(what, place));
        (0..12).map(|i| root.unit(what, &[i])).sum::<f64>() - 6.0
    }

    /// The numbers below `n` in random order (Fisher and Yates).
    pub(crate) fn shuffled(self, n: usize, what: For, place: &[u64]) -> Vec<usize> {
        let root = Self(self.word(what, place));
        let mut numbers: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            numbers.swap(last, root.below(last + 1, what, &[last as u64]));
        }
        numbers
    }
}

fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_as_they_should() {
        let chance = Chance::new(3);
        let mean = |f: &dyn Fn(u64) -> f64| (0..10_000).map(f).sum::<f64>() / 10_000.0;
        assert!((mean(&|i| chance.unit(For::Kill, &[i])) - 0.5).abs() < 0.02);
        assert!(mean(&|i| chance.normal(For::Kill, &[i])).abs() < 0.05);
        let variance = mean(&|i| chance.normal(For::Kill, &[i]).powi(2));
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        let mut order = chance.shuffled(100, For::Order, &[]);
        assert_ne!(order, chance.shuffled(100, For::Order, &[1]));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }
}
