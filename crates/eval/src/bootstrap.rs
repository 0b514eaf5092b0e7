//! How sure a mean is: percentile bootstrap over queries (Efron 1979), with a fixed seed.

use polymath_router::Random;

const RESAMPLES: usize = 2000;

/// A mean and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Below it lie 2.5 % of the resampled means.
    pub low: f64,
    /// Above it lie 2.5 %.
    pub high: f64,
}

/// The mean of `values`, resampled. Of differences it is the paired interval.
pub fn mean(values: &[f64]) -> Interval {
    statistic(values.len(), |sample| {
        sample.iter().map(|i| values[*i]).sum::<f64>() / sample.len() as f64
    })
}

/// Any statistic of resampled rows, given as indices below `rows`.
pub fn statistic(rows: usize, statistic: impl Fn(&[usize]) -> f64) -> Interval {
    resampled(rows, RESAMPLES, statistic)
}

/// The same with fewer resamples, for statistics that sort.
pub fn resampled(rows: usize, resamples: usize, statistic: impl Fn(&[usize]) -> f64) -> Interval {
    let all: Vec<usize> = (0..rows).collect();
    let mean = if rows == 0 { f64::NAN } else { statistic(&all) };
    let mut random = Random::new(0x626f_6f74);
    let mut means: Vec<f64> = (0..if rows == 0 { 0 } else { resamples })
        .map(|_| {
            let sample: Vec<usize> = (0..rows).map(|_| random.below(rows)).collect();
            statistic(&sample)
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let i = (share * means.len() as f64) as usize;
        means
            .get(i.min(means.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    Interval {
        mean,
        low: at(0.025),
        high: at(0.975),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_narrows_with_more_rows() {
        let few: Vec<f64> = (0..20).map(|i| f64::from(i % 2)).collect();
        let many: Vec<f64> = (0..2000).map(|i| f64::from(i % 2)).collect();
        let (few, many) = (mean(&few), mean(&many));
        assert!(few.low < few.mean && few.mean < few.high);
        assert!(many.high - many.low < (few.high - few.low) / 5.0);
        assert!(mean(&[]).mean.is_nan());
    }
}
