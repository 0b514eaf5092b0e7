//! Elementwise arithmetic on rows of floats, compiled for the machine's vector unit at run time.

use std::array::from_fn;

/// Defines functions whose bodies, with all that is `inline(always)` in them, are compiled once a
/// vector unit and chosen at run time. (A closure given to `pulp::Arch::dispatch` would do the
/// same only where the compiler happens to inline it.)
macro_rules! vectorised {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        $visibility fn $name<'a>($($argument: $type),*) {
            struct Op<'a> { $($argument: $type),* }
            impl<'a> pulp::WithSimd for Op<'a> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Self { $($argument),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Op { $($argument),* });
        }
    )*};
}
pub(crate) use vectorised;

/// Scalar product in 8 lanes, summed in a fixed order.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        lanes = from_fn(|i| lanes[i] + a[i] * b[i]);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6]))
        + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
        + rest
}

/// `out += a * x`.
#[inline(always)]
pub(crate) fn add_scaled(out: &mut [f32], a: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += a * x;
    }
}

/// e^x for x ≤ 0 and moderate x above, within 2 ulp of single precision: x = n ln 2 + r, a
/// polynomial of degree 6 in r (Cephes `expf`), times 2^n.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    // The low bits of `shifted` hold n; moved into the exponent they multiply by 2^n.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Softmax in place.
#[inline(always)]
pub(crate) fn softmax(x: &mut [f32]) {
    let max = x
        .iter()
        .fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m });
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = exp(*v - max);
    }
    for v in x.iter() {
        sum += v;
    }
    let scale = 1.0 / sum;
    for v in x.iter_mut() {
        *v *= scale;
    }
}

vectorised! {
    /// `out += x`.
    pub(crate) fn add(out: &'a mut [f32], x: &'a [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += x;
        }
    }

    /// Root-mean-square normalisation of each row (Zhang and Sennrich 2019).
    pub(crate) fn rms_norm(x: &'a [f32], weight: &'a [f32], eps: f32, out: &'a mut [f32]) {
        let d = weight.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let scale = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                *o = x * scale * w;
            }
        }
    }

    /// `gate = silu(gate) * up`: the SwiGLU unit (Shazeer 2020).
    pub(crate) fn swiglu(gate: &'a mut [f32], up: &'a [f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }

    /// `x = e^((x - max) * scale)`.
    pub(crate) fn exp_scaled(x: &'a mut [f32], max: f32, scale: f32) {
        for v in x.iter_mut() {
            *v = exp((*v - max) * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        for i in -8600..=8700 {
            let x = i as f32 / 100.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                ((ours - exact) / exact).abs() < 4e-7,
                "exp({x}) = {ours}, not {exact}"
            );
        }
        assert!(exp(-1e9) < 1e-37);
        assert!(exp(1e9).is_finite());
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_the_order() {
        let mut x = vec![1.0, 3.0, -200.0, 2.0];
        softmax(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(x[1] > x[3] && x[3] > x[0] && x[0] > x[2]);
    }
}
