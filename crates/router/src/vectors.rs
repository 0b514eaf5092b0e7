//! Vectors as small integers: a quarter of the memory of floats, which is what many products cost.
//!
//! A row has one signed byte for each dimension and a scale, a query twelve bits. Sums are of integers, so they
//! are the same in whatever order and on whatever machine they are made. A cosine is off by less than a
//! hundredth at worst, by some ten-thousandths where hundreds of dimensions share the rounding.

mod kernel;

/// Largest value of a row, and of a query.
const ROW: f32 = 127.0;
const QUERY: f32 = 2047.0;
/// Sums of so many products of these fit 32 bits.
const CHUNK: usize = 4096;
/// Rows and queries are filled up with zeros to a multiple of so many.
const LANES: usize = 32;
/// Longer vectors are folded to so many dimensions before many are compared.
const FOLDED: usize = 512;

/// A query's vector.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    dimensions: usize,
    values: Vec<i16>,
    scale: f32,
}

impl Probe {
    /// Nothing of a vector that is not finite.
    fn new(vector: &[f32]) -> Option<Self> {
        let scale = scale(vector, QUERY)?;
        let inverse = inverse(scale);
        let values = vector.iter().map(|v| rounded(v * inverse) as i16);
        let mut values: Vec<i16> = values.collect();
        values.resize(padded(vector.len()), 0);
        Some(Self {
            dimensions: vector.len(),
            values,
            scale,
        })
    }

    pub(crate) const fn dimensions(&self) -> usize {
        self.dimensions
    }
}

/// The same whole, and folded as [`fold`] does.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    pub(crate) whole: Probe,
    /// Where it differs.
    folded: Option<Probe>,
}

impl Probes {
    /// Nothing of an empty vector, or one that is not finite.
    pub(crate) fn new(vector: &[f32]) -> Option<Self> {
        if vector.is_empty() {
            return None;
        }
        let folded = (vector.len() > FOLDED).then(|| fold(vector));
        Some(Self {
            whole: Probe::new(vector)?,
            folded: match folded {
                Some(folded) => Some(Probe::new(&folded)?),
                None => None,
            },
        })
    }

    pub(crate) fn folded(&self) -> &Probe {
        self.folded.as_ref().unwrap_or(&self.whole)
    }
}

fn scale(vector: &[f32], most: f32) -> Option<f32> {
    let largest = vector.iter().fold(0f32, |m, v| m.max(v.abs()));
    // A maximum passes over what is not a number.
    let finite = vector.iter().all(|v| v.is_finite());
    finite.then_some(largest / most)
}

fn inverse(scale: f32) -> f32 {
    if scale > f32::MIN_POSITIVE {
        1.0 / scale
    } else {
        0.0
    }
}

/// To the nearest whole number, of values below 2^22, without a call.
fn rounded(value: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    value + ROUND - ROUND
}

/// How long a row of so many dimensions is.
pub(crate) const fn padded(dimensions: usize) -> usize {
    dimensions.next_multiple_of(LANES)
}

/// To at most [`FOLDED`] dimensions with signs by hash, so that products are kept in expectation (Weinberger et
/// al. 2009).
pub(crate) fn fold(vector: &[f32]) -> Vec<f32> {
    let mut folded = vec![0f32; vector.len().min(FOLDED)];
    for (place, value) in vector.iter().enumerate() {
        let mixed = (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sign = if place < FOLDED || mixed >> 63 == 0 {
            1.0
        } else {
            -1.0
        };
        folded[place % FOLDED] += sign * value;
    }
    folded
}

/// Appends a row's values; its scale. A row that is not finite counts as zero.
pub(crate) fn push_row(rows: &mut Vec<i8>, row: &[f32]) -> f32 {
    let scale = scale(row, ROW).unwrap_or(0.0);
    let inverse = inverse(scale);
    let end = rows.len() + padded(row.len());
    rows.extend(row.iter().map(|v| rounded(v * inverse) as i8));
    rows.resize(end, 0);
    scale
}

/// Products of a query with rows of its length, one behind the other, each with its scale.
pub(crate) fn products(rows: &[i8], scales: &[f32], probe: &Probe, out: &mut [f32]) {
    const MANY: usize = 64;
    let width = probe.values.len().max(LANES);
    let mut sums = [0i32; MANY];
    if width > CHUNK {
        // Such long vectors nobody has.
        for ((row, scale), out) in rows.chunks_exact(width).zip(scales).zip(out) {
            let parts = row.chunks(CHUNK).zip(probe.values.chunks(CHUNK));
            let sum = parts.map(|(row, query)| {
                kernel::sums(row, query, &mut sums[..1]);
                sums[0] as f32
            });
            *out = sum.sum::<f32>() * (scale * probe.scale);
        }
        return;
    }
    let blocks = rows.chunks(MANY * width).zip(scales.chunks(MANY));
    for ((rows, scales), out) in blocks.zip(out.chunks_mut(MANY)) {
        kernel::sums(rows, &probe.values, &mut sums);
        for ((sum, scale), out) in sums.iter().zip(scales).zip(out) {
            *out = *sum as f32 * (scale * probe.scale);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Random;

    fn product(row: &[f32], query: &[f32]) -> f32 {
        let mut rows = Vec::new();
        let scale = push_row(&mut rows, row);
        let mut out = [f32::NAN];
        products(&rows, &[scale], &Probe::new(query).unwrap(), &mut out);
        out[0]
    }

    #[test]
    fn products_are_those_of_floats_but_for_the_rounding() {
        let mut random = Random::new(1);
        for length in [1, 2, 3, 37, 384, 1024, 9000] {
            let mut vector = || {
                let raw: Vec<f32> = (0..length).map(|_| random.normal() as f32).collect();
                let norm = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
                raw.iter().map(|v| v / norm).collect::<Vec<f32>>()
            };
            let (row, query) = (vector(), vector());
            let exact: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
            let ours = product(&row, &query);
            assert!((ours - exact).abs() < 0.01, "{length}: {ours}, not {exact}");
        }
        assert_eq!(product(&[0.0; 3], &[1.0, 0.0, 0.0]), 0.0);
        assert_eq!(product(&[f32::NAN, 1.0], &[1.0, 1.0]), 0.0);
        let most = [1.0; 20_000];
        assert!(
            (product(&most, &most) / 20_000.0 - 1.0).abs() < 1e-3,
            "no overflow"
        );
    }

    #[test]
    fn what_is_folded_keeps_its_products_in_expectation() {
        let mut random = Random::new(2);
        let (mut folded, mut whole) = (0.0, 0.0);
        for _ in 0..200 {
            let a: Vec<f32> = (0..1024).map(|_| random.normal() as f32).collect();
            let b: Vec<f32> = a.iter().map(|v| v + random.normal() as f32).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            whole += dot(&a, &b);
            folded += dot(&fold(&a), &fold(&b));
        }
        assert!((folded / whole - 1.0f32).abs() < 0.02);
        assert_eq!(fold(&[1.0, 2.0]), [1.0, 2.0]);
        assert!(Probes::new(&[]).is_none() && Probes::new(&[f32::INFINITY]).is_none());
    }
}
