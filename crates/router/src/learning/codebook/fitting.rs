//! How a codebook is fitted: spherical k-means with balanced assignment.
//!
//! Plain k-means on texts lets a few clusters take all; here each round assigns by entropic optimal
//! transport with equal shares (Cuturi 2013, "Sinkhorn Distances"; Asano et al. 2020 for clustering), so that
//! no cluster starves and counts are spread.

use super::{Codebook, CodebookError, Space};
use crate::learning::Sparse;

/// Constants of a fit.
#[derive(Debug, Clone, Copy)]
pub struct Fit {
    /// How many clusters.
    pub clusters: usize,
    /// What points are made of.
    pub space: Space,
    /// Rounds of assignment and averaging.
    pub rounds: usize,
    /// Temperature of the transport, over cosines: lower is harder.
    pub temperature: f32,
    /// How strongly shares are evened out, 0 (not at all) to 1 (equal).
    pub balance: f32,
    /// Where it begins.
    pub seed: u64,
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            clusters: 32,
            space: Space {
                width: 1024,
                cues: 16,
                cue_scale: 0.1,
            },
            rounds: 25,
            temperature: 0.01,
            balance: 0.5,
            seed: 1,
        }
    }
}

/// Passes of row and column scaling in a round.
const SCALINGS: usize = 8;

/// Fits a book to `texts` under `encoder`. Equal input gives equal bytes on one machine; the bytes, not
/// the recipe, are what the id stands for.
pub fn fit(
    encoder: &str,
    texts: &[(Sparse, Vec<f32>)],
    fit: &Fit,
) -> Result<Codebook, CodebookError> {
    let mut rows: Vec<Vec<f32>> = texts
        .iter()
        .map(|(v, cues)| fit.space.point(v, cues))
        .collect();
    let dimensions = fit.space.dimensions();
    let mut mean = vec![0f32; dimensions];
    for row in &rows {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, r)| *m += r / rows.len() as f32);
    }
    for row in &mut rows {
        row.iter_mut().zip(&mean).for_each(|(r, m)| *r -= m);
        normalise(row);
    }
    let mut centroids = spread(&rows, fit);
    for _ in 0..fit.rounds {
        let shares = transport(&rows, &centroids, fit);
        for (k, centroid) in centroids.iter_mut().enumerate() {
            let mut sum = vec![0f32; centroid.len()];
            for (row, share) in rows.iter().zip(&shares) {
                if share[k] > 1e-3 {
                    sum.iter_mut()
                        .zip(row)
                        .for_each(|(s, r)| *s += share[k] * r);
                }
            }
            normalise(&mut sum);
            *centroid = sum;
        }
    }
    Codebook::write(encoder, fit.space, &mean, &centroids)
}

/// k-means++ beginnings: each next one is drawn in proportion to its squared distance from the others.
fn spread(rows: &[Vec<f32>], fit: &Fit) -> Vec<Vec<f32>> {
    let mut random = crate::random::Random::new(fit.seed);
    let mut centroids: Vec<Vec<f32>> = Vec::new();
    let mut distances = vec![1f32; rows.len()];
    while centroids.len() < fit.clusters.min(rows.len()) {
        let mut at = random.unit() as f32 * distances.iter().sum::<f32>();
        let chosen = distances.iter().position(|d| {
            at -= d;
            at <= 0.0
        });
        let row = rows[chosen.unwrap_or(rows.len() - 1)].clone();
        for (distance, other) in distances.iter_mut().zip(rows) {
            *distance = distance.min((1.0 - product(&row, other)).max(0.0));
        }
        centroids.push(row);
    }
    centroids
}

/// For each row its shares of all clusters, which add up to 1.
fn transport(rows: &[Vec<f32>], centroids: &[Vec<f32>], fit: &Fit) -> Vec<Vec<f32>> {
    let mut shares: Vec<Vec<f32>> = rows
        .iter()
        .map(|row| {
            let cosines: Vec<f32> = centroids.iter().map(|c| product(row, c)).collect();
            let best = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            cosines
                .iter()
                .map(|c| ((c - best) / fit.temperature).exp())
                .collect()
        })
        .collect();
    let even = rows.len() as f32 / centroids.len() as f32;
    for _ in 0..SCALINGS {
        for row in &mut shares {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|s| *s /= sum);
        }
        let mut totals = vec![0f32; centroids.len()];
        for row in &shares {
            totals.iter_mut().zip(row).for_each(|(t, s)| *t += s);
        }
        for row in &mut shares {
            for (share, total) in row.iter_mut().zip(&totals) {
                *share *= (even / total.max(1e-3)).powf(fit.balance);
            }
        }
    }
    for row in &mut shares {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|s| *s /= sum);
    }
    shares
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest = a.len() - a.len() % 8;
    let tail: f32 = a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

fn normalise(row: &mut [f32]) {
    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v /= norm);
    }
}
