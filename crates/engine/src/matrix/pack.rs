//! From GGUF's tensor types to packed blocks (layouts: ggml's `ggml-common.h`).

use candle_core::{
    Device,
    quantized::{GgmlDType, QTensor},
};
use rayon::prelude::*;

use super::{BLOCK, Matrix, Packed};

/// Weights in a K-quant super-block.
const SUPER: usize = 256;

impl Matrix {
    /// Bytes that [`BLOCK`] weights of this type take once they are packed, and whether they are packed
    /// as they are read: the others become floats in between.
    pub(crate) const fn packed_block_bytes(dtype: GgmlDType) -> (u64, bool) {
        match dtype {
            GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => (16 + 4 + 4, true),
            GgmlDType::Q8_0 => (32 + 4, true),
            _ => (32 + 4, false),
        }
    }

    /// Packs a rank-2 tensor whose columns are a multiple of [`BLOCK`].
    pub(crate) fn from_tensor(tensor: &QTensor) -> candle_core::Result<Self> {
        let (rows, cols) = tensor.shape().dims2()?;
        if cols == 0 || !cols.is_multiple_of(BLOCK) {
            candle_core::bail!("rows of {cols} weights are not made of blocks of {BLOCK}")
        }
        let packed = match tensor.dtype() {
            GgmlDType::Q4_0 => affine4(
                &tensor.data()?,
                18,
                |block| (half(block, 0), -8.0 * half(block, 0)),
                2,
            ),
            GgmlDType::Q4_1 => affine4(
                &tensor.data()?,
                20,
                |block| (half(block, 0), half(block, 2)),
                4,
            ),
            GgmlDType::Q4K => super_blocks(&tensor.data()?),
            GgmlDType::Q8_0 => {
                let data = tensor.data()?;
                let (quants, scales) = data
                    .chunks_exact(34)
                    .map(|block| (std::array::from_fn(|i| block[2 + i] as i8), half(block, 0)))
                    .unzip();
                Packed::Signed8 { quants, scales }
            }
            _ => {
                let floats: Vec<f32> = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
                let (quants, scales) = floats.par_chunks_exact(BLOCK).map(signed8).unzip();
                Packed::Signed8 { quants, scales }
            }
        };
        let blocks = match &packed {
            Packed::Affine4 { quants, .. } => quants.len(),
            Packed::Signed8 { quants, .. } => quants.len(),
        };
        if blocks * BLOCK != rows * cols {
            candle_core::bail!(
                "{} weights where {rows} x {cols} are declared",
                blocks * BLOCK
            )
        }
        Ok(Self { rows, cols, packed })
    }
}

fn affine4(
    data: &[u8],
    size: usize,
    scale_and_min: impl Fn(&[u8]) -> (f32, f32),
    head: usize,
) -> Packed {
    let blocks = data.len() / size;
    let (mut quants, mut scales, mut mins) = (
        Vec::with_capacity(blocks),
        Vec::with_capacity(blocks),
        Vec::with_capacity(blocks),
    );
    for block in data.chunks_exact(size) {
        let (scale, min) = scale_and_min(block);
        quants.push(std::array::from_fn(|i| block[head + i]));
        scales.push(scale);
        mins.push(min);
    }
    Packed::Affine4 {
        quants,
        scales,
        mins,
    }
}

/// Q4_K: `d`, `dmin`, eight 6-bit scales and minima, then for each pair of sub-blocks 32 bytes
/// with the first in the low and the second in the high nibbles.
fn super_blocks(data: &[u8]) -> Packed {
    const SIZE: usize = 144;
    let blocks = data.len() / SIZE * (SUPER / BLOCK);
    let (mut quants, mut scales, mut mins) = (
        Vec::with_capacity(blocks),
        Vec::with_capacity(blocks),
        Vec::with_capacity(blocks),
    );
    for block in data.chunks_exact(SIZE) {
        let (d, dmin, packed, nibbles) =
            (half(block, 0), half(block, 2), &block[4..16], &block[16..]);
        for sub in 0..SUPER / BLOCK {
            let (scale, min) = if sub < 4 {
                (packed[sub] & 63, packed[sub + 4] & 63)
            } else {
                (
                    packed[sub + 4] & 15 | (packed[sub - 4] >> 6) << 4,
                    packed[sub + 4] >> 4 | (packed[sub] >> 6) << 4,
                )
            };
            let bytes = &nibbles[sub / 2 * BLOCK..][..BLOCK];
            let nibble = |i: usize| {
                if sub % 2 == 0 {
                    bytes[i] & 15
                } else {
                    bytes[i] >> 4
                }
            };
            quants.push(std::array::from_fn(|i| nibble(i) | nibble(i + 16) << 4));
            scales.push(d * f32::from(scale));
            mins.push(-dmin * f32::from(min));
        }
    }
    Packed::Affine4 {
        quants,
        scales,
        mins,
    }
}

fn signed8(weights: &[f32]) -> ([i8; BLOCK], f32) {
    let largest = weights.iter().fold(0f32, |l, w| l.max(w.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    (
        std::array::from_fn(|i| (weights[i] * inverse).round() as i8),
        scale,
    )
}

/// The IEEE 754 half at `at`, little-endian. Scales are never infinite or NaN in a sound file.
fn half(bytes: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}
