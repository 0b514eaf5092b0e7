//! Strong or weak model: RouteLLM's measures (Ong et al. 2024, "RouteLLM").
//!
//! A router ranks queries by how much the strong model is expected to gain; the curve of accuracy over the
//! share of strong calls is scaled so that 0 is the weak and 1 the strong model. APGR is its mean over
//! shares, CPT(x) the least share that recovers x of the gap, interpolated as there.

/// APGR, CPT50 and CPT80.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Recovered {
    /// Average performance gap recovered, 0 to 1.
    pub apgr: f64,
    /// Share of strong calls that recovers half the gap, %.
    pub cpt50: f64,
    /// The same for 80 %.
    pub cpt80: f64,
}

/// Ranks `rows` of (expected gain, weak score, strong score).
pub fn recovered(rows: &[(f64, f64, f64)]) -> Recovered {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| rows[*b].0.total_cmp(&rows[*a].0));
    let n = rows.len() as f64;
    let weak = rows.iter().map(|r| r.1).sum::<f64>() / n;
    let strong = rows.iter().map(|r| r.2).sum::<f64>() / n;
    // Accuracy with the first k queries sent to the strong model, as the share of the gap.
    let mut curve = Vec::with_capacity(rows.len() + 1);
    let mut accuracy = weak;
    curve.push(0.0);
    for at in order {
        accuracy += (rows[at].2 - rows[at].1) / n;
        curve.push((accuracy - weak) / (strong - weak));
    }
    let share = |goal: f64| {
        let reached = curve.iter().position(|g| *g >= goal).unwrap_or(rows.len());
        100.0 * reached as f64 / n
    };
    // Ten thresholds, as RouteLLM's code takes them, give the mean of the curve; here all of them.
    let apgr = curve.windows(2).map(|w| (w[0] + w[1]) / 2.0).sum::<f64>() / n;
    Recovered {
        apgr,
        cpt50: share(0.5),
        cpt80: share(0.8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_ranking_recovers_more_than_a_random_one_and_a_wrong_one_less() {
        let rows = |sign: f64| -> Vec<(f64, f64, f64)> {
            (0..100)
                .map(|i| {
                    let gains = i % 4 == 0;
                    (
                        sign * f64::from(u8::from(gains)),
                        f64::from(u8::from(!gains)),
                        1.0,
                    )
                })
                .collect()
        };
        let (good, bad) = (recovered(&rows(1.0)), recovered(&rows(-1.0)));
        assert!((good.apgr - 0.875).abs() < 1e-9 && (bad.apgr - 0.125).abs() < 1e-9);
        assert!(good.cpt50 < 14.0 && bad.cpt50 > 86.0);
    }
}
