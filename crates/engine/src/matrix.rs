//! Weight matrices and the one operation that costs time: `y = W x`.
//!
//! Decides how weights lie in memory: blocks of 32 along the input, either 4 bits with scale and
//! minimum ([`Packed::Affine4`]: Q4_0, Q4_1 and Q4_K without loss) or 8 bits with a scale
//! ([`Packed::Signed8`]: Q8_0 without loss, every other type by rounding). Activations are rounded
//! to 16 bits a block, so that dot products run on integers and lose next to nothing.
//!
//! candle's own kernels are not used here: on AVX2 they fall to scalar loops for Q4_1, Q5_0 and
//! Q5_1, and their thread pool takes its size from the environment alone.
//!
//! Each output is summed in the same order whatever the batch, the tile and the thread count, so
//! a token's logits do not depend on who else is being served.

mod activations;
mod kernel;
mod pack;

pub(crate) use activations::Activations;
pub(crate) use kernel::kernel_class;
use rayon::prelude::*;

use activations::GROUP;
use kernel::{Job, Weights};

/// Weights a block holds.
pub(crate) const BLOCK: usize = 32;

/// Up to this many rows of activations the work is split by weight rows, above by activation rows.
const SPLIT_BY_WEIGHTS: usize = 16;

/// A `rows` × `cols` matrix in packed blocks.
#[derive(Debug)]
pub(crate) struct Matrix {
    rows: usize,
    cols: usize,
    packed: Packed,
}

/// Block formats, row-major.
#[derive(Debug)]
enum Packed {
    /// weight = scale · nibble + min; byte `j` holds weight `j` (low) and `j + 16` (high).
    Affine4 {
        quants: Vec<[u8; BLOCK / 2]>,
        scales: Vec<f32>,
        mins: Vec<f32>,
    },
    /// weight = scale · quant.
    Signed8 {
        quants: Vec<[i8; BLOCK]>,
        scales: Vec<f32>,
    },
}

impl Matrix {
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub(crate) const fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Affine4 {
                quants,
                scales,
                mins,
            } => quants.len() * 16 + (scales.len() + mins.len()) * 4,
            Packed::Signed8 { quants, scales } => quants.len() * 32 + scales.len() * 4,
        }
    }

    /// Writes row `row` as floats: an embedding look-up.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let blocks = self.cols / BLOCK;
        for (b, out) in out.chunks_exact_mut(BLOCK).take(blocks).enumerate() {
            let at = row * blocks + b;
            match &self.packed {
                Packed::Affine4 {
                    quants,
                    scales,
                    mins,
                } => {
                    for (j, q) in quants[at].iter().enumerate() {
                        out[j] = scales[at] * f32::from(q & 15) + mins[at];
                        out[j + 16] = scales[at] * f32::from(q >> 4) + mins[at];
                    }
                }
                Packed::Signed8 { quants, scales } => {
                    for (o, q) in out.iter_mut().zip(&quants[at]) {
                        *o = scales[at] * f32::from(*q);
                    }
                }
            }
        }
    }

    /// `out[i] = W x[i]` for each row `i` of `x`; `out` has `x.rows() * self.rows()` elements.
    /// Runs on the calling thread's rayon pool.
    pub(crate) fn forward(&self, x: &Activations, out: &mut [f32]) {
        debug_assert_eq!(x.cols(), self.cols);
        debug_assert_eq!(out.len(), x.rows() * self.rows);
        match &self.packed {
            Packed::Affine4 {
                quants,
                scales,
                mins,
            } => {
                self.run(
                    kernel::Affine4 {
                        quants,
                        scales,
                        mins,
                        blocks: self.cols / BLOCK,
                    },
                    x,
                    out,
                );
            }
            Packed::Signed8 { quants, scales } => {
                self.run(
                    kernel::Signed8 {
                        quants,
                        scales,
                        blocks: self.cols / BLOCK,
                    },
                    x,
                    out,
                );
            }
        }
    }

    fn run<W: Weights>(&self, weights: W, x: &Activations, out: &mut [f32]) {
        let (n, m) = (self.rows, x.rows());
        let threads = rayon::current_num_threads();
        if m > SPLIT_BY_WEIGHTS {
            // Tasks of whole activation rows write straight into place.
            let rows = m
                .div_ceil(threads)
                .next_multiple_of(GROUP)
                .min(SPLIT_BY_WEIGHTS);
            out.par_chunks_mut(rows * n)
                .enumerate()
                .for_each(|(i, out)| {
                    let x_rows = i * rows..i * rows + out.len() / n;
                    Job {
                        weights,
                        x,
                        first: 0..n,
                        x_rows,
                        weight_stride: 1,
                        x_stride: n,
                        out,
                    }
                    .run();
                });
            return;
        }
        // A few chunks a thread even out a busy core; multiples of 4 keep tiles whole.
        let chunk = n.div_ceil(threads * 4).next_multiple_of(4);
        let split = |out: &mut [f32]| {
            out.par_chunks_mut(chunk * m)
                .enumerate()
                .for_each(|(i, out)| {
                    let first = i * chunk;
                    let rows = first..first + out.len() / m;
                    Job {
                        weights,
                        x,
                        first: rows,
                        x_rows: 0..m,
                        weight_stride: m,
                        x_stride: 1,
                        out,
                    }
                    .run();
                });
        };
        if threads == 1 {
            Job {
                weights,
                x,
                first: 0..n,
                x_rows: 0..m,
                weight_stride: 1,
                x_stride: n,
                out,
            }
            .run();
        } else if m == 1 {
            split(out);
        } else {
            let mut transposed = vec![0.0; n * m];
            split(&mut transposed);
            for (i, row) in out.chunks_exact_mut(n).enumerate() {
                for (o, column) in row.iter_mut().zip(transposed.chunks_exact(m)) {
                    *o = column[i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{
        Device, Tensor,
        quantized::{GgmlDType, QTensor},
    };

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn quantised(dtype: GgmlDType, rows: usize, cols: usize) -> (Matrix, Vec<f32>) {
        let source = Tensor::from_vec(noise(rows * cols, 7), (rows, cols), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&source, dtype).unwrap();
        let floats = tensor
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        (Matrix::from_tensor(&tensor).unwrap(), floats)
    }

    #[test]
    fn every_type_multiplies_as_its_floats_do() {
        for (dtype, tolerance) in [
            (GgmlDType::Q4_0, 1e-4),
            (GgmlDType::Q4_1, 1e-4),
            (GgmlDType::Q4K, 1e-3),
            (GgmlDType::Q8_0, 1e-4),
            (GgmlDType::Q5_1, 5e-3),
            (GgmlDType::Q6K, 5e-3),
            (GgmlDType::F32, 5e-3),
        ] {
            let (rows, cols) = (70, 512);
            let (matrix, floats) = quantised(dtype, rows, cols);
            for m in [1, 3, 5, 40] {
                let x = noise(m * cols, 3);
                let mut out = vec![0.0; m * rows];
                matrix.forward(&Activations::round(&x, cols), &mut out);
                for i in 0..m {
                    for r in 0..rows {
                        let exact: f64 = (0..cols)
                            .map(|c| f64::from(floats[r * cols + c]) * f64::from(x[i * cols + c]))
                            .sum();
                        let error =
                            (f64::from(out[i * rows + r]) - exact).abs() / (cols as f64).sqrt();
                        assert!(
                            error < tolerance,
                            "{dtype:?} m={m} [{i},{r}]: off by {error}"
                        );
                    }
                }
            }
            let mut row = vec![0.0; cols];
            matrix.row(5, &mut row);
            let gap = row
                .iter()
                .zip(&floats[5 * cols..])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                f64::from(gap) < tolerance,
                "{dtype:?}: row differs by {gap}"
            );
        }
    }

    #[test]
    fn a_row_comes_out_the_same_in_any_batch_and_on_any_number_of_threads() {
        let cols = 576;
        for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0] {
            let (matrix, _) = quantised(dtype, 193, cols);
            let x = noise(37 * cols, 11);
            let batch = |threads: usize, rows: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let mut out = vec![0.0; rows * matrix.rows()];
                pool.install(|| {
                    matrix.forward(&Activations::round(&x[..rows * cols], cols), &mut out)
                });
                out[..matrix.rows()]
                    .iter()
                    .map(|v| v.to_bits())
                    .collect::<Vec<_>>()
            };
            let alone = batch(1, 1);
            for (threads, rows) in [(1, 3), (1, 37), (2, 1), (2, 4), (2, 37), (3, 16)] {
                assert_eq!(
                    alone,
                    batch(threads, rows),
                    "{dtype:?}: {threads} threads, {rows} rows"
                );
            }
        }
    }
}
