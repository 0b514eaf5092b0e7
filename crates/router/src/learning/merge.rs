//! What is believed of counts that others report.
//!
//! Anybody can write any counts, so three things bound a liar:
//!
//! * **caps**: a cell of one reporter counts for at most [`Trust::most_per_cell`], all of a reporter's cells
//!   together for at most twice what the median reporter brings, and what is said of an expert by whoever
//!   serves it counts for nothing;
//! * **agreement**: a reporter is weighed by `exp(−(d/σ)²)`, d being how far its means are from what most
//!   others, and this node itself, have measured (beyond what chance explains): once over all experts, and
//!   once for each expert, so that one lie among truths is found too. The reference is a weighted median,
//!   which a minority cannot move far;
//! * **the total** of a cell is capped, so that own evidence always outgrows it.
//!
//! Without a cost of identities none of this holds against a majority.

use std::collections::{BTreeMap, HashSet};

use polymath_types::ExpertId;

/// One cell of a report: counts of an expert in a book's cluster, or in all of them (`None`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reported {
    /// Place of the book among the estimator's.
    pub book: usize,
    /// Which cluster.
    pub cluster: Option<u16>,
    /// Which expert.
    pub expert: ExpertId,
    /// How many answers were graded.
    pub count: f32,
    /// Sum of the grades, each 0 to 1.
    pub reward: f32,
}

/// All that one peer reports.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Its cells.
    pub cells: Vec<Reported>,
    /// What it serves itself.
    pub serves: HashSet<ExpertId>,
    /// Weight before agreement, 0 to 1: a vouched member's is 1, a stranger's less.
    pub trust: f32,
}

/// Constants of the merge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trust {
    /// Most that a cell of one reporter counts for.
    pub most_per_cell: f32,
    /// Most that a merged cell counts for.
    pub most_in_all: f32,
    /// Disagreement at which a reporter counts for 1/e.
    pub tolerance: f32,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            most_per_cell: 100.0,
            most_in_all: 400.0,
            tolerance: 0.15,
        }
    }
}

/// Counts an expert needs of a reporter before its mean says anything.
const TELLING: f32 = 3.0;
/// Counts beyond which a reporter weighs no more in the reference: it is a vote by heads, not by volume.
const MOST_HEARD: f32 = 6.0;
/// Deviations by chance, squared, that are no disagreement.
const CHANCE: f32 = 4.0;
/// Rounds of reference and weights.
const ROUNDS: usize = 3;

/// Merges reports; `own` are this node's counts in the same form, which are part of the reference and not of
/// the result. Cells that are negative, not finite or more reward than count are dropped. The result does not
/// depend on the order of the reports.
pub fn merge(reports: &[Report], own: &[Reported], trust: &Trust) -> Vec<Reported> {
    let cleaned: Vec<Vec<Reported>> = reports.iter().map(|r| clean(r, trust)).collect();
    let weights = agreement(&cleaned, own, reports, trust);
    let mut merged: BTreeMap<(usize, Option<u16>, ExpertId), (f64, f64)> = BTreeMap::new();
    // Summed in an order of values, so that floats round alike whoever came first.
    let mut all: Vec<(Reported, f32)> = Vec::new();
    for (cells, weights) in cleaned.iter().zip(&weights) {
        all.extend(
            cells
                .iter()
                .map(|c| (*c, weights.get(&c.expert).copied().unwrap_or(0.0))),
        );
    }
    all.sort_by(|(a, v), (b, w)| {
        a.count
            .total_cmp(&b.count)
            .then(a.reward.total_cmp(&b.reward))
            .then(v.total_cmp(w))
    });
    for (cell, weight) in all {
        let sum = merged
            .entry((cell.book, cell.cluster, cell.expert))
            .or_default();
        sum.0 += f64::from(cell.count * weight);
        sum.1 += f64::from(cell.reward * weight);
    }
    merged
        .into_iter()
        .filter(|(_, (count, _))| *count > 0.0)
        .map(|((book, cluster, expert), (count, reward))| {
            let scale = (f64::from(trust.most_in_all) / count).min(1.0);
            let (count, reward) = ((count * scale) as f32, (reward * scale) as f32);
            Reported {
                book,
                cluster,
                expert,
                count,
                reward,
            }
        })
        .collect()
}

/// Without nonsense and self-praise, each cell within its cap.
fn clean(report: &Report, trust: &Trust) -> Vec<Reported> {
    let sane = |c: &&Reported| {
        c.count.is_finite() && c.count > 0.0 && c.reward >= 0.0 && c.reward <= c.count
    };
    let cells = report
        .cells
        .iter()
        .filter(sane)
        .filter(|c| !report.serves.contains(&c.expert));
    cells
        .map(|c| scaled(c, (trust.most_per_cell / c.count).min(1.0)))
        .collect()
}

fn scaled(cell: &Reported, factor: f32) -> Reported {
    Reported {
        count: cell.count * factor,
        reward: cell.reward * factor,
        ..*cell
    }
}

/// Count and mean of each expert, by the widest cells a reporter has of it.
fn means(cells: &[Reported]) -> BTreeMap<ExpertId, (f32, f32)> {
    let mut by_book: BTreeMap<(ExpertId, usize), (f32, f32)> = BTreeMap::new();
    for cell in cells {
        // The cell of all clusters stands before those of single ones.
        let level = if cell.cluster.is_none() {
            0
        } else {
            cell.book + 1
        };
        let sum = by_book.entry((cell.expert, level)).or_default();
        sum.0 += cell.count;
        sum.1 += cell.reward;
    }
    let mut means = BTreeMap::new();
    for ((expert, _), (count, reward)) in by_book {
        means
            .entry(expert)
            .or_insert((count, reward / count.max(f32::MIN_POSITIVE)));
    }
    means
}

/// For each reporter the weight of what it says of each expert, its share of the volume included.
fn agreement(
    cleaned: &[Vec<Reported>],
    own: &[Reported],
    reports: &[Report],
    trust: &Trust,
) -> Vec<BTreeMap<ExpertId, f32>> {
    let told: Vec<BTreeMap<ExpertId, (f32, f32)>> = cleaned.iter().map(|c| means(c)).collect();
    let own = means(own);
    let volumes: Vec<f32> = told
        .iter()
        .map(|t| t.values().map(|(n, _)| n).sum())
        .collect();
    let mut sorted: Vec<f32> = volumes.iter().copied().filter(|v| *v > 0.0).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let most = 2.0 * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let share: Vec<f32> = volumes
        .iter()
        .map(|v| (most / v.max(f32::MIN_POSITIVE)).min(1.0))
        .collect();

    let start = |(at, told): (usize, &BTreeMap<ExpertId, (f32, f32)>)| {
        let weight = reports[at].trust.clamp(0.0, 1.0);
        told.keys()
            .map(|e| (*e, weight))
            .collect::<BTreeMap<_, _>>()
    };
    let mut weights: Vec<BTreeMap<ExpertId, f32>> = told.iter().enumerate().map(start).collect();
    for _ in 0..ROUNDS {
        let reference = reference(&told, &own, &weights, &share);
        for (at, told) in told.iter().enumerate() {
            let excess = |n: f32, mean: f32, expert: &ExpertId| {
                let middle = reference.get(expert)?;
                (n >= TELLING).then(|| {
                    let chance = (middle * (1.0 - middle)).max(0.04) / n;
                    (n, ((mean - middle).powi(2) - CHANCE * chance).max(0.0))
                })
            };
            let (mut sum, mut total) = (0.0, 0.0);
            for (expert, (n, mean)) in told {
                if let Some((n, excess)) = excess(*n, *mean, expert) {
                    let n = n.sqrt();
                    (sum, total) = (sum + n * excess, total + n);
                }
            }
            let square = trust.tolerance * trust.tolerance;
            let overall = if total > 0.0 {
                (-sum / total / square).exp()
            } else {
                1.0
            };
            for (expert, (n, mean)) in told {
                let here = excess(*n, *mean, expert).map_or(1.0, |(_, e)| (-e / square).exp());
                let base = reports[at].trust.clamp(0.0, 1.0);
                weights[at].insert(*expert, base * overall * here);
            }
        }
    }
    for (weights, share) in weights.iter_mut().zip(share) {
        weights.values_mut().for_each(|w| *w *= share);
    }
    weights
}

/// The weighted median of each expert's means; a reporter's weight is its trust, not its volume beyond a few.
fn reference(
    told: &[BTreeMap<ExpertId, (f32, f32)>],
    own: &BTreeMap<ExpertId, (f32, f32)>,
    weights: &[BTreeMap<ExpertId, f32>],
    share: &[f32],
) -> BTreeMap<ExpertId, f32> {
    let mut by_expert: BTreeMap<ExpertId, Vec<(f32, f32)>> = BTreeMap::new();
    for ((told, weights), share) in told.iter().zip(weights).zip(share) {
        for (expert, (n, mean)) in told {
            let weight = weights.get(expert).copied().unwrap_or(0.0) * (n * share).min(MOST_HEARD);
            by_expert.entry(*expert).or_default().push((*mean, weight));
        }
    }
    for (expert, (n, mean)) in own {
        by_expert
            .entry(*expert)
            .or_default()
            .push((*mean, n.min(100.0)));
    }
    by_expert
        .into_iter()
        .filter_map(|(expert, mut means)| {
            means.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            let half = means.iter().map(|m| m.1).sum::<f32>() / 2.0;
            let mut sum = 0.0;
            let middle = means.iter().find(|m| {
                sum += m.1;
                sum >= half
            });
            middle.map(|m| (expert, m.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: ExpertId = ExpertId::from_bytes([1; 32]);
    const BAD: ExpertId = ExpertId::from_bytes([2; 32]);

    fn cell(expert: ExpertId, count: f32, mean: f32) -> Reported {
        Reported {
            book: 0,
            cluster: None,
            expert,
            count,
            reward: count * mean,
        }
    }

    fn report(cells: Vec<Reported>) -> Report {
        Report {
            cells,
            serves: HashSet::new(),
            trust: 1.0,
        }
    }

    fn mean(merged: &[Reported], expert: ExpertId) -> f32 {
        let cell = merged.iter().find(|c| c.expert == expert).copied();
        cell.map_or(f32::NAN, |c| c.reward / c.count)
    }

    #[test]
    fn a_loud_minority_of_liars_moves_little() {
        let honest = report(vec![cell(GOOD, 20.0, 0.8), cell(BAD, 20.0, 0.2)]);
        let liar = report(vec![cell(GOOD, 1000.0, 0.0), cell(BAD, 1000.0, 1.0)]);
        let mut reports = vec![honest; 14];
        reports.extend(vec![liar; 6]);
        let merged = merge(&reports, &[], &Trust::default());
        assert!(
            mean(&merged, GOOD) > 0.79 && mean(&merged, BAD) < 0.21,
            "{merged:?}"
        );
    }

    #[test]
    fn one_lie_among_truths_is_found_too() {
        let others: Vec<ExpertId> = (10..18).map(|n| ExpertId::from_bytes([n; 32])).collect();
        let with = |bad: f32| {
            let mut cells: Vec<_> = others.iter().map(|e| cell(*e, 20.0, 0.5)).collect();
            cells.push(cell(BAD, 20.0, bad));
            report(cells)
        };
        let mut reports = vec![with(0.2); 14];
        reports.extend(vec![with(1.0); 6]);
        assert!(mean(&merge(&reports, &[], &Trust::default()), BAD) < 0.25);
    }

    #[test]
    fn praise_of_what_one_serves_and_nonsense_count_nothing_and_order_does_not_matter() {
        let mut praise = report(vec![cell(BAD, 50.0, 1.0)]);
        praise.serves.insert(BAD);
        let nonsense = report(vec![
            cell(BAD, f32::NAN, 0.5),
            cell(BAD, -5.0, 0.5),
            cell(BAD, 5.0, 7.0),
        ]);
        let honest = report(vec![cell(BAD, 10.0, 0.2), cell(GOOD, 5000.0, 0.9)]);
        let forth = merge(
            &[praise.clone(), nonsense.clone(), honest.clone()],
            &[],
            &Trust::default(),
        );
        assert!((mean(&forth, BAD) - 0.2).abs() < 1e-5);
        assert!(
            forth
                .iter()
                .all(|c| c.count <= Trust::default().most_per_cell)
        );
        assert_eq!(
            merge(&[honest, praise, nonsense], &[], &Trust::default()),
            forth
        );
    }
}
