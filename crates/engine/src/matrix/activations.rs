//! Activations rounded to 16 bits a block.

use rayon::prelude::*;

use super::BLOCK;
use crate::vector::vectorised;

/// Largest magnitude of a rounded activation. 4 products with an 8-bit weight stay below 2^24,
/// so sums are exact in a float.
const MAX: f32 = 32767.0;
/// Adding 1.5 · 2^23 leaves the rounded integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

/// Rows that meet a block of weights while it is in registers.
pub(super) const GROUP: usize = 4;

/// `rows` × `cols` activations: 32 quants, a scale, and the sum of what they stand for, a block.
/// A single row lies plain; more are grouped by [`GROUP`], the last group filled up with zeros,
/// blocks of a group's rows side by side.
#[derive(Debug)]
pub(crate) struct Activations {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) quants: Vec<[i16; BLOCK]>,
    pub(super) scales: Vec<f32>,
    pub(super) sums: Vec<f32>,
}

impl Activations {
    /// Rounds `x`, rows of `cols` (a multiple of [`BLOCK`]) floats.
    pub(crate) fn round(x: &[f32], cols: usize) -> Self {
        let rows = x.len() / cols;
        let group = if rows == 1 { 1 } else { GROUP };
        let blocks = rows.next_multiple_of(group) * (cols / BLOCK);
        let mut new = Self {
            rows,
            cols,
            quants: vec![[0; BLOCK]; blocks],
            scales: vec![0.0; blocks],
            sums: vec![0.0; blocks],
        };
        let each = group * cols / BLOCK;
        (
            new.quants.par_chunks_mut(each),
            new.scales.par_chunks_mut(each),
            new.sums.par_chunks_mut(each),
        )
            .into_par_iter()
            .zip(x.par_chunks(group * cols))
            // Small inputs are not worth waking another thread for.
            .with_min_len(32 * 1024 / (group * cols) + 1)
            .for_each(|((quants, scales, sums), x)| {
                round_rows(x, cols, group, quants, scales, sums);
            });
        new
    }

    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) const fn cols(&self) -> usize {
        self.cols
    }
}

vectorised! {
    fn round_rows(
        x: &'a [f32],
        cols: usize,
        group: usize,
        quants: &'a mut [[i16; BLOCK]],
        scales: &'a mut [f32],
        sums: &'a mut [f32],
    ) {
        for (i, row) in x.chunks_exact(cols).enumerate() {
            for (b, x) in row.chunks_exact(BLOCK).enumerate() {
                let at = b * group + i;
                (scales[at], sums[at]) = round_block(x, &mut quants[at]);
            }
        }
    }
}

#[inline(always)]
fn round_block(x: &[f32], quants: &mut [i16; BLOCK]) -> (f32, f32) {
    let mut largest = [0f32; 8];
    for x in x.chunks_exact(8) {
        for (l, x) in largest.iter_mut().zip(x) {
            let x = x.abs();
            *l = if x > *l { x } else { *l };
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let scale = largest / MAX;
    let inverse = if largest > 0.0 { MAX / largest } else { 0.0 };
    let mut total = 0i32;
    for (q, x) in quants.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits() as i16;
        total += i32::from(*q);
    }
    (scale, total as f32 * scale)
}
