//! What to expect of an expert that nobody has asked: from its description and its price.
//!
//! Experts whose descriptions and prices are alike do alike: the expectation is the mean of what is expected
//! of the known ones for this very query, weighed by likeness and shrunk towards the mean of all. It is a
//! prior of little mass, so the first outcomes outgrow it.

use super::Sparse;

/// What likeness is judged by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Newcomer {
    /// Encoded description.
    pub description: Sparse,
    /// Price of a million tokens, in any one currency; 0 where there is none.
    pub price: f64,
}

/// How fast likeness falls with cosine, and with the logarithm of the ratio of prices.
const SHARPNESS: f64 = 8.0;
const PRICE: f64 = 0.7;
/// Weight of the mean of all, against weights of likeness that are at most 1.
const SHRINK: f64 = 0.2;

impl Newcomer {
    /// How alike two are, 0 to 1.
    pub fn likeness(&self, other: &Self) -> f64 {
        let mut dense = vec![
            0f32;
            self.description
                .iter()
                .map(|(p, _)| p + 1)
                .max()
                .unwrap_or(0)
        ];
        self.description.add_to(&mut dense, 1.0);
        let cosine = f64::from(other.description.dot(&dense)).clamp(0.0, 1.0);
        let prices = (self.price.max(1e-6) / other.price.max(1e-6)).ln().abs();
        (SHARPNESS * (cosine - 1.0)).exp() * (-prices * PRICE).exp()
    }

    /// Expected reward for the query that `known` are expected to answer so well; `likeness` as by
    /// [`Self::likeness`], in the same order. Nothing known: one half.
    pub fn prior(likeness: &[f64], known: &[f64]) -> f64 {
        if known.is_empty() {
            return 0.5;
        }
        let all = known.iter().sum::<f64>() / known.len() as f64;
        let (mut sum, mut total) = (SHRINK * all, SHRINK);
        for (weight, mean) in likeness.iter().zip(known) {
            (sum, total) = (sum + weight * mean, total + weight);
        }
        sum / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_is_expected_to_do_as_those_like_it() {
        let expert = |text: &[f32], price| Newcomer {
            description: Sparse::dense(text),
            price,
        };
        let new = expert(&[1.0, 0.0], 1.0);
        let (like, unlike) = (expert(&[1.0, 0.0], 1.0), expert(&[0.0, 1.0], 0.1));
        let likeness = [new.likeness(&like), new.likeness(&unlike)];
        assert!((likeness[0] - 1.0).abs() < 1e-9 && likeness[1] < 0.01);
        assert!(Newcomer::prior(&likeness, &[0.9, 0.1]) > 0.8);
        assert!((Newcomer::prior(&[], &[]) - 0.5).abs() < 1e-9);
    }
}
