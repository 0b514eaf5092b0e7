//! Integer dot products of packed weights and rounded activations.

use std::{array::from_fn, ops::Range};

use pulp::{Arch, Simd, WithSimd};

use super::{Activations, BLOCK, activations::GROUP};

/// Which arithmetic this machine runs; part of the engine's fingerprint because sums differ in
/// their last bits between classes.
pub(crate) fn kernel_class() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if pulp::x86::V3::try_new().is_some() {
        return "avx2";
    }
    "portable"
}

/// A slice of one product: weight rows `first`, activation rows `x_rows`. The element for the
/// r-th and i-th of them goes to `out[r * weight_stride + i * x_stride]`.
pub(super) struct Job<'a, W> {
    pub(super) weights: W,
    pub(super) x: &'a Activations,
    pub(super) first: Range<usize>,
    pub(super) x_rows: Range<usize>,
    pub(super) weight_stride: usize,
    pub(super) x_stride: usize,
    pub(super) out: &'a mut [f32],
}

impl<W: Weights> Job<'_, W> {
    pub(super) fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            Simd::vectorize(
                v3,
                With {
                    job: self,
                    isa: avx2::Avx2(v3),
                },
            );
            return;
        }
        Arch::new().dispatch(With {
            job: self,
            isa: Portable,
        });
    }
}

struct With<'a, W, I> {
    job: Job<'a, W>,
    isa: I,
}

impl<W: Weights, I: Isa> WithSimd for With<'_, W, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { mut job, isa } = self;
        if job.x.rows == 1 {
            job.rows::<I, 1>(isa)
        } else {
            job.rows::<I, GROUP>(isa)
        }
    }
}

impl<W: Weights> Job<'_, W> {
    /// Weights are read once, front to back, as the prefetcher likes them; each row meets all
    /// groups of `G` activation rows in turn.
    #[inline(always)]
    fn rows<I: Isa, const G: usize>(&mut self, isa: I) {
        let blocks = self.x.cols / BLOCK;
        for row in self.first.clone() {
            let weights = self.weights.row(row);
            let at = (row - self.first.start) * self.weight_stride;
            let mut x_row = self.x_rows.start;
            while x_row < self.x_rows.end {
                let group = x_row / G * blocks * G..(x_row / G + 1) * blocks * G;
                let (quants, _) = self.x.quants[group.clone()].as_chunks::<G>();
                let (scales, _) = self.x.scales[group.clone()].as_chunks::<G>();
                let (sums, _) = self.x.sums[group].as_chunks::<G>();
                let products = products::<W, I, G>(isa, weights, quants, scales, sums);
                for (i, product) in products.iter().enumerate().take(self.x_rows.end - x_row) {
                    self.out[at + (x_row + i - self.x_rows.start) * self.x_stride] = *product;
                }
                x_row += G;
            }
        }
    }
}

/// One weight row against `G` activation rows. Two accumulators each hide the latency of an
/// addition; even blocks go to the first.
#[inline(always)]
fn products<W: Weights, I: Isa, const G: usize>(
    isa: I,
    weights: W::Row,
    quants: &[[[i16; BLOCK]; G]],
    scales: &[[f32; G]],
    sums: &[[f32; G]],
) -> [f32; G] {
    let mut even = [isa.zero(); G];
    let mut odd = [isa.zero(); G];
    let mut blocks = W::blocks(weights).zip(quants.iter().zip(scales));
    while let Some((w, x)) = blocks.next() {
        step::<W, I, G>(isa, w, x, &mut even);
        let Some((w, x)) = blocks.next() else { break };
        step::<W, I, G>(isa, w, x, &mut odd);
    }
    let mut out = W::offset::<G>(weights, sums);
    for i in 0..G {
        out[i] += isa.sum(even[i], odd[i]);
    }
    out
}

#[inline(always)]
fn step<W: Weights, I: Isa, const G: usize>(
    isa: I,
    w: W::Block,
    x: (&[[i16; BLOCK]; G], &[f32; G]),
    acc: &mut [I::Acc; G],
) {
    let (quants, scale) = W::widen(isa, w);
    for (acc, (xq, xs)) in acc.iter_mut().zip(x.0.iter().zip(x.1)) {
        *acc = isa.dot(quants, xq, scale * xs, *acc);
    }
}

/// A block format.
pub(super) trait Weights: Copy + Send + Sync {
    type Row: Copy;
    type Block: Copy;
    fn row(&self, row: usize) -> Self::Row;
    fn blocks(row: Self::Row) -> impl Iterator<Item = Self::Block>;
    fn widen<I: Isa>(isa: I, block: Self::Block) -> ([I::Ints; 2], f32);
    /// What the blocks' minima add, given the sums of the activations' blocks.
    fn offset<const G: usize>(row: Self::Row, sums: &[[f32; G]]) -> [f32; G];
}

#[derive(Clone, Copy)]
pub(super) struct Affine4<'a> {
    pub(super) quants: &'a [[u8; 16]],
    pub(super) scales: &'a [f32],
    pub(super) mins: &'a [f32],
    pub(super) blocks: usize,
}

impl<'a> Weights for Affine4<'a> {
    type Row = (&'a [[u8; 16]], &'a [f32], &'a [f32]);
    type Block = (&'a [u8; 16], &'a f32);

    #[inline(always)]
    fn row(&self, row: usize) -> Self::Row {
        let at = row * self.blocks..(row + 1) * self.blocks;
        (
            &self.quants[at.clone()],
            &self.scales[at.clone()],
            &self.mins[at],
        )
    }

    #[inline(always)]
    fn blocks(row: Self::Row) -> impl Iterator<Item = Self::Block> {
        row.0.iter().zip(row.1)
    }

    #[inline(always)]
    fn widen<I: Isa>(isa: I, block: Self::Block) -> ([I::Ints; 2], f32) {
        (isa.widen4(block.0), *block.1)
    }

    #[inline(always)]
    fn offset<const G: usize>(row: Self::Row, sums: &[[f32; G]]) -> [f32; G] {
        // Two sums in turn, as in `products`; on the stack they would cost a store each.
        let (mut even, mut odd) = ([0f32; G], [0f32; G]);
        let mut pairs = row.2.iter().zip(sums);
        while let Some((min, sum)) = pairs.next() {
            for i in 0..G {
                even[i] += min * sum[i];
            }
            let Some((min, sum)) = pairs.next() else {
                break;
            };
            for i in 0..G {
                odd[i] += min * sum[i];
            }
        }
        for i in 0..G {
            even[i] += odd[i];
        }
        even
    }
}

#[derive(Clone, Copy)]
pub(super) struct Signed8<'a> {
    pub(super) quants: &'a [[i8; 32]],
    pub(super) scales: &'a [f32],
    pub(super) blocks: usize,
}

impl<'a> Weights for Signed8<'a> {
    type Row = (&'a [[i8; 32]], &'a [f32]);
    type Block = (&'a [i8; 32], &'a f32);

    #[inline(always)]
    fn row(&self, row: usize) -> Self::Row {
        let at = row * self.blocks..(row + 1) * self.blocks;
        (&self.quants[at.clone()], &self.scales[at])
    }

    #[inline(always)]
    fn blocks(row: Self::Row) -> impl Iterator<Item = Self::Block> {
        row.0.iter().zip(row.1)
    }

    #[inline(always)]
    fn widen<I: Isa>(isa: I, block: Self::Block) -> ([I::Ints; 2], f32) {
        (isa.widen8(block.0), *block.1)
    }

    #[inline(always)]
    fn offset<const G: usize>(_: Self::Row, _: &[[f32; G]]) -> [f32; G] {
        [0.0; G]
    }
}

/// Sums 8 lanes pairwise, the one order every class uses.
#[inline(always)]
fn add_lanes(l: [f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// The few vector operations a kernel class provides.
pub(super) trait Isa: Copy + Send + Sync {
    /// 16 integers of 16 bits.
    type Ints: Copy;
    /// 8 partial sums.
    type Acc: Copy;
    fn zero(self) -> Self::Acc;
    fn widen4(self, quants: &[u8; 16]) -> [Self::Ints; 2];
    fn widen8(self, quants: &[i8; 32]) -> [Self::Ints; 2];
    /// `acc + scale * (w · x)`, lane by lane.
    fn dot(self, w: [Self::Ints; 2], x: &[i16; BLOCK], scale: f32, acc: Self::Acc) -> Self::Acc;
    fn sum(self, a: Self::Acc, b: Self::Acc) -> f32;
}

#[derive(Clone, Copy)]
struct Portable;

impl Isa for Portable {
    type Ints = [i16; 16];
    type Acc = [f32; 8];

    #[inline(always)]
    fn zero(self) -> Self::Acc {
        [0.0; 8]
    }

    #[inline(always)]
    fn widen4(self, quants: &[u8; 16]) -> [Self::Ints; 2] {
        [
            quants.map(|q| i16::from(q & 15)),
            quants.map(|q| i16::from(q >> 4)),
        ]
    }

    #[inline(always)]
    fn widen8(self, quants: &[i8; 32]) -> [Self::Ints; 2] {
        [
            from_fn(|i| i16::from(quants[i])),
            from_fn(|i| i16::from(quants[16 + i])),
        ]
    }

    #[inline(always)]
    fn dot(self, w: [Self::Ints; 2], x: &[i16; BLOCK], scale: f32, acc: Self::Acc) -> Self::Acc {
        from_fn(|l| {
            let pair = |h: usize| {
                i32::from(w[h][2 * l]) * i32::from(x[16 * h + 2 * l])
                    + i32::from(w[h][2 * l + 1]) * i32::from(x[16 * h + 2 * l + 1])
            };
            acc[l] + scale * (pair(0) + pair(1)) as f32
        })
    }

    #[inline(always)]
    fn sum(self, a: Self::Acc, b: Self::Acc) -> f32 {
        add_lanes(from_fn(|i| a[i] + b[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128i, __m256, __m256i};

    use pulp::{cast, x86::V3};

    use super::{BLOCK, Isa, add_lanes};

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(pub(super) V3);

    impl Isa for Avx2 {
        type Ints = __m256i;
        type Acc = __m256;

        #[inline(always)]
        fn zero(self) -> Self::Acc {
            self.0.avx._mm256_setzero_ps()
        }

        #[inline(always)]
        fn widen4(self, quants: &[u8; 16]) -> [Self::Ints; 2] {
            let bytes = self
                .0
                .avx2
                ._mm256_cvtepu8_epi16(cast::<[u8; 16], __m128i>(*quants));
            let low = self
                .0
                .avx2
                ._mm256_and_si256(bytes, self.0.avx._mm256_set1_epi16(15));
            [low, self.0.avx2._mm256_srli_epi16::<4>(bytes)]
        }

        #[inline(always)]
        fn widen8(self, quants: &[i8; 32]) -> [Self::Ints; 2] {
            let halves: [__m128i; 2] = cast(*quants);
            halves.map(|h| self.0.avx2._mm256_cvtepi8_epi16(h))
        }

        #[inline(always)]
        fn dot(
            self,
            w: [Self::Ints; 2],
            x: &[i16; BLOCK],
            scale: f32,
            acc: Self::Acc,
        ) -> Self::Acc {
            let x: [__m256i; 2] = cast(*x);
            let pairs = self.0.avx2._mm256_add_epi32(
                self.0.avx2._mm256_madd_epi16(w[0], x[0]),
                self.0.avx2._mm256_madd_epi16(w[1], x[1]),
            );
            let floats = self.0.avx._mm256_cvtepi32_ps(pairs);
            self.0
                .fma
                ._mm256_fmadd_ps(floats, self.0.avx._mm256_set1_ps(scale), acc)
        }

        #[inline(always)]
        fn sum(self, a: Self::Acc, b: Self::Acc) -> f32 {
            add_lanes(cast(self.0.avx._mm256_add_ps(a, b)))
        }
    }
}
