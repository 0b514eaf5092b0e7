//! Sums of products of small integers, by the machine's vector unit where it has one.

use super::LANES;

/// The sum of the products of each row with `query`, whose length is that of a row and a multiple of [`LANES`].
/// Sums must fit 32 bits.
pub(super) fn sums(rows: &[i8], query: &[i16], out: &mut [i32]) {
    let job = Job { rows, query, out };
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = pulp::x86::V3::try_new() {
        pulp::Simd::vectorize(v3, avx2::With { job, v3 });
        return;
    }
    pulp::Arch::new().dispatch(job);
}

struct Job<'a> {
    rows: &'a [i8],
    query: &'a [i16],
    out: &'a mut [i32],
}

impl Job<'_> {
    #[inline(always)]
    fn each(self, dot: impl Fn(&[[i8; LANES]], &[[i16; LANES]]) -> i32) {
        let (query, _) = self.query.as_chunks::<LANES>();
        let rows = self.rows.chunks_exact(self.query.len().max(1));
        for (row, out) in rows.zip(self.out) {
            let (row, _) = row.as_chunks::<LANES>();
            *out = dot(row, query);
        }
    }
}

impl pulp::WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.each(|row, query| {
            let pairs = row.as_flattened().iter().zip(query.as_flattened());
            pairs.map(|(r, q)| i32::from(*r) * i32::from(*q)).sum()
        });
    }
}

/// Left to the compiler, these come out in half the vector's width.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::{cast, x86::V3};

    use super::{Job, LANES};

    pub(super) struct With<'a> {
        pub(super) job: Job<'a>,
        pub(super) v3: V3,
    }

    impl pulp::WithSimd for With<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) {
            let v3 = self.v3;
            self.job.each(|row, query| {
                // Two sums, so that no addition waits for the one before.
                let mut sums = [v3.avx._mm256_setzero_si256(); 2];
                for (row, query) in row.iter().zip(query) {
                    let row: [__m128i; 2] = cast::<[i8; LANES], _>(*row);
                    let query: [__m256i; 2] = cast::<[i16; LANES], _>(*query);
                    for i in 0..2 {
                        let wide = v3.avx2._mm256_cvtepi8_epi16(row[i]);
                        let pairs = v3.avx2._mm256_madd_epi16(wide, query[i]);
                        sums[i] = v3.avx2._mm256_add_epi32(sums[i], pairs);
                    }
                }
                let sum = v3.avx2._mm256_add_epi32(sums[0], sums[1]);
                cast::<__m256i, [i32; 8]>(sum).iter().sum()
            });
        }
    }
}
